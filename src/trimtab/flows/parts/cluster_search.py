"""A whole search as one unit, on the node that it is for."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.flows.events import Event


def search_here(spec: Mapping[str, Any], optimize: Callable[..., Mapping[str, Any]]) -> str:
    """The whole search on this node; returns the digest of its decision. Raises InputError if the run folder is not seen here."""
    if not Path(spec["mark"]).exists():
        raise InputError(
            f"It does not see {Path(spec['mark']).parent}; with --hardware-pools each run is written by a node of its pool, so --out must "
            "be a folder that all nodes see."
        )
    progress = Path(spec["progress"])

    def tell(event: Event) -> None:
        part = progress.with_name(f".{progress.name}.part")
        part.write_text(
            json.dumps({"phase": event.phase, "message": event.message, "done": event.done, "total": event.total}), encoding="utf-8"
        )
        part.replace(progress)

    asked = {**spec["asked"], "out": Path(spec["asked"]["out"])}
    return digest_of(optimize(**asked, on_event=tell))
