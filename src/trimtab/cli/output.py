"""Results on stdout: one JSON object, or what rich draws. A reader that stops early (`| head`) does not change the exit code."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType

from trimtab.cli.options import Common
from trimtab.core.errors import EXIT_FAILED, EXIT_INCONCLUSIVE, EXIT_PASSED
from trimtab.core.files import to_plain

EXIT_BY_VERDICT = {"pass": EXIT_PASSED, "fail": EXIT_FAILED, "inconclusive": EXIT_INCONCLUSIVE}


def emit(common: Common, value: Any, drawn: Iterable[RenderableType]) -> None:
    """`value` as JSON with --json, else the renderables in order."""
    with until_closed():
        if common.as_json:
            print(json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False))
        else:
            console = Console(no_color=common.no_color or None, highlight=False)
            for renderable in drawn:
                console.print(renderable)
        sys.stdout.flush()


@contextlib.contextmanager
def until_closed() -> Any:
    """Ends the block quietly when nobody reads stdout any more."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
