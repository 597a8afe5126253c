"""A candidate of a finished run, as a lock: what it takes to build it and judge it again, whatever the run decided about it."""

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trimtab.core.deployment import EngineBuild, Recipe, Settings, parse_spec
from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.engines.registry import engine_names
from trimtab.flows.parts.locked import found_source
from trimtab.flows.parts.opening import open_model, recipe_named
from trimtab.flows.parts.space import user_plans
from trimtab.record.deploy import DeployLock, LockedReference
from trimtab.record.home import cache_dir
from trimtab.record.run import read_decision, read_run
from trimtab.sources.endpoint import is_endpoint

Plain = Mapping[str, Any]


def lock_of_row(folder: Path, name: str, *, source: str = "", offline: bool) -> DeployLock:
    """The lock that the run in `folder` would have written for one of its candidates.

    name: the candidate's id, or words of it that no other has; empty = the first that was certified and did not pass
    source: where the model lies now, if it was moved
    Raises InputError for a run that has no such candidate, or one whose recipe or source is not known any more; MissingError.
    """
    decision = read_decision(folder)
    row = _row(folder, decision, name)
    typed, recipe = _typed(folder, decision["kind"], row)
    opened = open_model(found_source(source or typed, folder / "deploy.toml"), cache_dir=cache_dir(), offline=offline)
    reference, details, machine = decision["reference"], row["details"], decision["machine"]
    return DeployLock(
        id=row["id"],
        verdict=row["verdict"] or "inconclusive",
        decision_sha256=digest_of(decision),
        source=source or typed,
        revision=opened.snapshot.revision,
        format=opened.snapshot.format,
        source_files=opened.snapshot.files,
        source_sha256=opened.snapshot.digest,
        weights_sha256=details["weights_sha256"],
        recipe=recipe,
        template_sha256=opened.template_sha256,
        build=EngineBuild(**details["build"]),
        settings=Settings.parse(row["settings"]),
        policy=decision["policy"]["name"],
        policy_sha256=decision["policy"]["sha256"],
        suite=decision["suite"]["name"],
        suite_sha256=decision["suite"]["digest"],
        workload=decision["workload"]["name"],
        workload_sha256=digest_of(decision["workload"]),
        reference_sha256=reference["deployment_sha256"],
        machine=machine["cpu"],
        machine_sha256=digest_of(machine),
        made=decision["finished"],
        trimtab=version("trimtab"),
        reference=LockedReference.of(reference),
    )


def _row(folder: Path, decision: Plain, name: str) -> Plain:
    """The candidate asked for, or the first that was certified and did not pass: a fail before an inconclusive one."""
    rows: list[Plain] = [row for row in decision["candidates"] if (row.get("details") or {}).get("deployment_sha256")]
    if name:
        found = [row for row in rows if row["id"] == name] or [row for row in rows if is_short_for(name, row["id"])]
        if len(found) == 1:
            return found[0]
        known = ", ".join(repr(row["id"]) for row in found or rows) or "none that was built"
        if found:
            raise InputError(f"The run in {folder} has several candidates that {name!r} may be; give the whole name of one: {known}.")
        raise InputError(f"The run in {folder} has no candidate {name!r}; it has {known}.")
    for verdict in ("fail", "inconclusive"):
        for row in rows:
            if row["status"] == "certified" and row["verdict"] == verdict:
                return row
    raise InputError(f"No candidate of the run in {folder} was certified and did not pass; name one with --candidate.")


def is_short_for(name: str, full: str) -> bool:
    """Whether the words of a name come in a longer one, in the same order: `int4-g64` of `openvino int4-sym-g64`."""
    rest = iter(re.split(r"[\s-]+", full))
    return all(word in rest for word in re.split(r"[\s-]+", name.strip()))


def _typed(folder: Path, kind: str, row: Plain) -> tuple[str, Recipe]:
    """Source and recipe of a candidate, from what was typed. Raises InputError."""
    inputs = read_run(folder)["inputs"]
    if kind == "compare":
        spec = parse_spec(str(inputs["b"]), engine_names())
        if is_endpoint(str(inputs["b"])):
            raise InputError(f"{inputs['b']} is a server: its weights are not at hand.")
        return spec.source, recipe_named(spec.recipe, row["engine"])
    if kind != "optimize":
        raise InputError(f"{folder} is a run of {kind}; give the run of optimize or compare that it judged.")
    for plan in user_plans(inputs["candidates"]):
        if plan.id == row["id"]:
            return plan.source or str(inputs["model"]), plan.recipe
    return str(inputs["model"]), recipe_named(row["recipe"], row["engine"])
