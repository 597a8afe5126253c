"""What a judgement rests on beside the items of reference and candidate: planted controls, noise, served answers.

Kept for every deployment that was judged, so that its decision can be computed again from files alone (flows/parts/recompute.py).

items/control.<gate>.<deployment>.parquet   outcomes of a gate's planted control                              trimtab.outcomes/1
items/noise.<variant>.<deployment>.parquet  outcomes of the reference under other numerics                    trimtab.outcomes/1
items/served.<deployment>.json              parity probes, and which generated answers were broken; no texts  trimtab.served/1
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.evidence import Evidence, EvidenceUse, GenerationCheck, Outcome, ParityProbe
from trimtab.core.files import canonical_json, write_atomic
from trimtab.record.disk import read_json, sentences
from trimtab.record.outcomes import read_outcomes, write_outcomes

SCHEMA = "trimtab.served/1"
STEM = 16
"""Digits of a deployment's digest in file names."""


def write_observed(folder: Path, deployment_sha256: str, evidence: Evidence) -> None:
    """Write everything of `evidence` but the outcomes of its two sides. Raises InputError or MissingError."""
    stem = deployment_sha256[:STEM]
    for role, runs in (("control", evidence.controls), ("noise", evidence.noise)):
        for name, outcomes in runs.items():
            if outcomes:
                notes = {"role": role, "name": name, "deployment": deployment_sha256}
                write_outcomes(folder / "items" / f"{role}.{_file_part(name)}.{stem}.parquet", outcomes, notes)
    served = {
        "schema": SCHEMA,
        "deployment": deployment_sha256,
        "parity": _probe(evidence.parity),
        "parity_noise": _probe(evidence.parity_noise),
        "parity_controls": {name: _probe(probe) for name, probe in evidence.parity_controls.items()},
        "generation": _check(evidence.generation),
        "generation_reference": _check(evidence.generation_reference),
        "generation_control": _check(evidence.generation_control),
    }
    path = folder / "items" / f"served.{stem}.json"
    with sentences(path, "write"):
        write_atomic(path, canonical_json(served) + "\n")


def read_observed(
    folder: Path, deployment_sha256: str, *, use: EvidenceUse, reference: Sequence[Outcome], candidate: Sequence[Outcome]
) -> Evidence | None:
    """The evidence with these outcomes of the two sides; None if the rest was not kept, as runs of before 0.2 did not.

    Raises InputError or MissingError for damaged files.
    """
    path = folder / "items" / f"served.{deployment_sha256[:STEM]}.json"
    if not path.is_file():
        return None
    served = read_json(path, SCHEMA)
    try:
        return Evidence(
            use=use,
            reference=tuple(reference),
            candidate=tuple(candidate),
            controls=_runs(folder, "control", deployment_sha256),
            noise=_runs(folder, "noise", deployment_sha256),
            parity=_read_probe(served["parity"]),
            parity_noise=_read_probe(served["parity_noise"]),
            parity_controls={name: probe for name, one in served["parity_controls"].items() if (probe := _read_probe(one)) is not None},
            generation=_read_check(served["generation"]),
            generation_reference=_read_check(served["generation_reference"]),
            generation_control=_read_check(served["generation_control"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a whole {SCHEMA} document ({error}).") from error


def _runs(folder: Path, role: str, deployment_sha256: str) -> dict[str, tuple[Outcome, ...]]:
    found = {}
    for path in sorted((folder / "items").glob(f"{role}.*.{deployment_sha256[:STEM]}.parquet")):
        outcomes, notes = read_outcomes(path)
        if notes.get("role") != role or notes.get("deployment") != deployment_sha256 or notes.get("name", "") in found:
            raise InputError(f"{path} holds other outcomes than its name says.")
        found[notes["name"]] = outcomes
    return found


def _file_part(name: str) -> str:
    """A name that is safe in a path; two different names never become one."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
    return safe if safe == name else f"{safe}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _probe(probe: ParityProbe | None) -> dict[str, Any] | None:
    if probe is None:
        return None
    return {"differences": probe.differences, "answers": probe.answers, "n_failed": probe.n_failed, "conditions": probe.conditions}


def _read_probe(plain: Mapping[str, Any] | None) -> ParityProbe | None:
    """A difference that is no number was kept as null."""
    if plain is None:
        return None
    differences = tuple(float("nan") if value is None else float(value) for value in plain["differences"])
    if len(differences) != len(plain["answers"]):
        raise ValueError("a probe has other numbers of differences and answers")
    return ParityProbe(
        differences=differences, answers=tuple(plain["answers"]), n_failed=int(plain["n_failed"]), conditions=plain["conditions"]
    )


def _check(check: GenerationCheck | None) -> dict[str, Any] | None:
    return None if check is None else {"prompts": check.prompts, "broken": check.broken, "why": check.why}


def _read_check(plain: Mapping[str, Any] | None) -> GenerationCheck | None:
    if plain is None:
        return None
    return GenerationCheck(prompts=tuple(plain["prompts"]), broken=tuple(map(bool, plain["broken"])), why=tuple(plain["why"]))
