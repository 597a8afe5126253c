"""`trimtab compare --logs`: two runs that another tool logged, paired item by item and judged by the same rules."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.core.decision import CandidateResult
from trimtab.core.errors import InputError
from trimtab.core.evidence import Evidence, Item, Outcome
from trimtab.core.files import canonical_json, to_plain, write_atomic
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.decide import decide
from trimtab.decide.policies import policy_sha256
from trimtab.decide.scope import evidence_for
from trimtab.evaluate.logs import Log, read_log
from trimtab.flows.parts.certify import Certified, flips_of
from trimtab.record.disk import sentences
from trimtab.record.items import NAME as ITEMS_PAGE
from trimtab.record.items import Side, write_items_page
from trimtab.record.report import write_report
from trimtab.record.run import DECISION_SCHEMA, now

MARGINS = {
    "nats": (0.1, "A tenth in the odds of the right answer; likelihoods summed over an answer."),
    "nats/word": (0.02, "Two hundredths of the perplexity by word."),
    "nats/byte": (0.005, "About the same as for words, of five bytes or so each."),
    "share": (0.02, "Two answers of a hundred."),
    "points": (0.02, "Two hundredths of the user's own scale."),
}
MIN_CLUSTERS = 30


def compare_logs(
    a: str, b: str, *, noise: Sequence[str] = (), control: str = "", margin: float | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Is the run logged in B no worse than that in A? decision.json as JSON types; with `out` it is written there, with report.html and
    items.html.

    noise: logs of A's own model under other numerics (another batch size, another seed of the engine), for the floor of noise
    control: a log of something that is known to be worse, such as 2-bit weights; without it no gate is known to be able to fail
    margin: for all tasks, default 0.1 nats of log-probability or 0.02 of a share
    Raises InputError.
    """
    if margin is not None and margin <= 0:
        raise InputError(f"--margin must be above zero, not {margin:g}.")
    reference, candidate = read_log(Path(a)), read_log(Path(b))
    shared = [suite for suite in reference.units if suite in candidate.units]
    if not shared:
        named = [", ".join(log.units) for log in (reference, candidate)]
        raise InputError(f"The logs have no task in common: {a} has {named[0]}, {b} has {named[1]}.")
    for suite in shared:
        if reference.units[suite] != candidate.units[suite]:
            raise InputError(
                f"Task {suite!r} has values in {reference.units[suite]} in {a} and in {candidate.units[suite]} in {b}; log both alike."
            )
    policy = Policy(name="logs", version="1", max_attempts=1, gates=tuple(_gate(suite, reference, margin) for suite in shared))
    planted = read_log(Path(control)).outcomes if control else ()
    evidence = Evidence(
        use="fixed_n",
        reference=reference.outcomes,
        candidate=candidate.outcomes,
        controls={suite: found for suite in shared if (found := tuple(one for one in planted if one.suite == suite))},
        noise={path: read_log(Path(path)).outcomes for path in noise},
    )
    decision = decide(policy, evidence)
    before, after, items = _side_by_side(reference, candidate, shared)
    flips = flips_of(Certified(decision=decision, reference=before, candidate=after, evidence=evidence), items)
    document = _document(a, b, reference, candidate, policy, decision) | {"flips": flips}
    if out is not None:
        with sentences(out, "write"):
            write_atomic(out / "decision.json", canonical_json(document) + "\n")
        sides = Side(id=b, outcomes=after), Side(id=a, outcomes=before)
        write_items_page(out / ITEMS_PAGE, *sides, items, reference.units)
        write_report(out / "report.html", document, items=ITEMS_PAGE)
    return document


def _side_by_side(
    reference: Log, candidate: Log, shared: Sequence[str]
) -> tuple[tuple[Outcome, ...], tuple[Outcome, ...], Mapping[str, Item]]:
    """Outcomes of both on the tasks that both have, and the items by id, for people to read.

    What only the reference was asked is there without a value. Ids of several tasks that are alike are told apart by the task.
    """
    is_known = {suite: {one.item_id for one in candidate.outcomes if one.suite == suite} for suite in shared}
    absent = [
        dataclasses.replace(one, value=None, picked=None, correct=None, p_options=(), error=f"not in {candidate.source}")
        for one in reference.outcomes
        if one.suite in is_known and one.item_id not in is_known[one.suite]
    ]
    every = [one for one in (*reference.outcomes, *candidate.outcomes) if one.suite in is_known]
    alike = len({one.item_id for one in every}) < len({(one.suite, one.item_id) for one in every})

    def named(suite: str, item_id: str) -> str:
        return f"{suite}: {item_id}" if alike else item_id

    before, after = (
        tuple(dataclasses.replace(one, item_id=named(one.suite, one.item_id)) for one in outcomes if one.suite in is_known)
        for outcomes in (reference.outcomes, (*candidate.outcomes, *absent))
    )
    items = {named(item.suite, item.id): item for item in (*candidate.items, *reference.items) if item.suite in is_known}
    return before, after, items


def _gate(suite: str, reference: Log, margin: float | None) -> GateSpec:
    unit = reference.units[suite]
    usual, reason = MARGINS.get(unit, MARGINS["points"])
    return GateSpec(
        name=suite,
        kind="non_inferiority",
        suite=suite,
        unit=unit,
        margin=usual if margin is None else margin,
        reason=reason if margin is None else "Given by the user.",
        control="log",
        min_clusters=MIN_CLUSTERS,
    )


def _document(a: str, b: str, reference: Log, candidate: Log, policy: Policy, decision: Any) -> dict[str, Any]:
    plain = to_plain(decision)
    gates = [{**gate, "evidence_for": evidence_for(gate)} for gate in plain.pop("gates")]
    row = CandidateResult(
        id=b, engine=candidate.kind, recipe="", settings={}, status="certified", verdict=decision.verdict, reasons=tuple(decision.reasons)
    )
    names = {"id": a, "engine": reference.kind, "recipe": "", "settings": {}}
    return {
        "schema": DECISION_SCHEMA,
        "kind": "compare",
        "verdict": decision.verdict,
        "reasons": list(decision.reasons),
        "reference": {**names, "provenance": f"{a}, a log of {reference.kind}"},
        "baseline": names,
        "chosen": None,
        "speedup": {},
        "gates": gates,
        "decision": plain,
        "candidates": [to_plain(row)],
        "policy": {**to_plain(policy), "sha256": policy_sha256(policy)},
        "finished": now(),
    }
