"""What may be done to a model's traffic while it runs: back to the version before, a canary more or less, a canary made stable.

What was done outlives a restart: it is kept beside what the site's file said at that time, and holds until the file says otherwise.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain, write_atomic
from trimtab.core.site import Rollout, ServedModel, Site
from trimtab.serve.base import Refusal

SCHEMA = "trimtab.traffic/1"
ACTIONS = ("rollback", "promote", "canary", "shadow")


def shifted(model: ServedModel, action: str, percent: Any = None) -> Rollout:
    """The rollout after an action. Raises Refusal (400, 409).

    rollback: no traffic for the canary if there is one, else the version listed before the stable one answers
    promote: the canary becomes the stable version
    canary: it gets `percent` of the requests; without a canary, the version listed after the stable one becomes it
    shadow: it gets copies of `percent` of the requests
    """
    now = model.rollout
    ids = [version.id for version in model.versions]
    place = ids.index(now.stable)
    if action == "rollback":
        if now.canary and now.canary_pct > 0:
            return dataclasses.replace(now, canary_pct=0.0)
        if place == 0:
            raise Refusal(409, f"There is no version of {model.name!r} before {now.stable}.", code="no_earlier_version")
        return dataclasses.replace(now, stable=ids[place - 1], canary="", canary_pct=0.0)
    if action == "promote":
        if not now.canary:
            raise Refusal(409, f"{model.name!r} has no canary.", code="no_canary")
        return dataclasses.replace(now, stable=now.canary, canary="", canary_pct=0.0)
    if action not in ("canary", "shadow"):
        raise Refusal(400, f"Unknown action {action!r}; the actions are {', '.join(ACTIONS)}.", param="action")
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
        raise Refusal(400, f"`percent` must be a number from 0 to 100, not {percent!r}.", param="percent")
    if action == "shadow":
        if not now.shadow:
            raise Refusal(409, f"{model.name!r} has no shadow.", code="no_shadow")
        return dataclasses.replace(now, shadow_pct=float(percent))
    canary = now.canary or (ids[place + 1] if place + 1 < len(ids) else "")
    if not canary:
        raise Refusal(409, f"There is no version of {model.name!r} after {now.stable}.", code="no_later_version")
    return dataclasses.replace(now, canary=canary, canary_pct=float(percent))


def with_rollout(site: Site, name: str, rollout: Rollout) -> Site:
    """The site with another rollout of one model."""
    models = tuple(dataclasses.replace(model, rollout=rollout) if model.name == name else model for model in site.models)
    return dataclasses.replace(site, models=models)


def keep(path: Path, declared: Site, in_force: Site) -> None:
    """Write down what differs from the site's file, atomically."""
    changed = {
        before.name: {"declared": to_plain(before.rollout), "in_force": to_plain(after.rollout)}
        for before, after in zip(declared.models, in_force.models, strict=True)
        if before.rollout != after.rollout
    }
    write_atomic(path, json.dumps({"schema": SCHEMA, "models": changed}, indent=1) + "\n")


def kept(path: Path, declared: Site) -> Site:
    """The site with what was done to its traffic earlier, where its file still says what it said then and has the versions.

    Raises InputError.
    """
    if not path.exists():
        return declared
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        rows: Mapping[str, Any] = document["models"]
        site = declared
        for model in declared.models:
            row = rows.get(model.name)
            if row is not None and row["declared"] == to_plain(model.rollout):
                in_force = Rollout(**row["in_force"])
                if {in_force.stable, in_force.canary, in_force.shadow} <= {"", *(version.id for version in model.versions)}:
                    site = with_rollout(site, model.name, in_force)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove it to have the traffic that the site's file says.") from error
    return site
