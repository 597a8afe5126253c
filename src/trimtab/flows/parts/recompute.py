"""The decision of a run computed again from its files, by the code that made it, and held against what decision.json says."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.evidence import Evidence, Outcome
from trimtab.core.files import to_plain
from trimtab.core.policy import Policy
from trimtab.decide.decide import decide, gate_levels, judge_gate
from trimtab.decide.judgement import Judgement
from trimtab.decide.policies import policy_of_document
from trimtab.flows.parts.known import stored_outcomes
from trimtab.record.observed import read_observed

Plain = Mapping[str, Any]

RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""Figures are the same if they differ by at most a millionth, or 1e-9: other processors add in another order."""
NOT_COMPUTED = ("reasons", "evidence_for")
"""Of a gate: sentences. They follow from its figures, and their wording may change between versions."""


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """n_judged: candidates that the decision rests on; n_gates: of these, computed again

    different: sentences on what decision.json says otherwise; unknown: sentences on what could not be computed
    """

    n_gates: int
    n_judged: int = 0
    different: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def recompute(folder: Path, decision: Plain) -> Recomputed:
    """Judge again every candidate of decision.json that was judged. Never raises for what the files hold."""
    try:
        return _recompute(folder, decision)
    except InputError as error:
        return Recomputed(n_gates=0, different=(str(error),))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        return Recomputed(n_gates=0, different=(f"decision.json and the items do not fit together ({type(error).__name__}: {error}).",))


def _recompute(folder: Path, decision: Plain) -> Recomputed:
    policy = policy_of_document(decision["policy"])
    reference = stored_outcomes(folder, decision["reference"]["deployment_sha256"])
    shown = _figures(decision["gates"])
    different, unknown, n_gates = list(_joint(decision)), [], 0
    judged = [row for row in decision["candidates"] if row["status"] == "certified"]
    for row in judged:
        how = row["evidence"].get("decision") or (decision["decision"] if _figures(row["evidence"]["gates"]) == shown else None)
        if how is None or how["policy_sha256"] != decision["policy"]["sha256"]:
            unknown.append(f"{row['id']} was judged by another policy than the one in decision.json; that was not computed again.")
            continue
        one = _again(folder, row, how, policy, reference)
        n_gates += one.n_gates
        different += one.different
        unknown += one.unknown
    if shown and not any(_figures(row["evidence"]["gates"]) == shown for row in judged):
        different.append("The gates of decision.json are those of no candidate in it.")
    if not judged:
        unknown.append("decision.json rests on no candidate that was judged by gates, so that nothing can be computed again.")
    return Recomputed(n_gates=n_gates, n_judged=len(judged), different=tuple(different), unknown=tuple(unknown))


def _joint(decision: Plain) -> Iterator[str]:
    """Whether the verdict follows from the candidates' own."""
    kind, verdict, chosen = decision["kind"], decision["verdict"], decision["chosen"]
    if kind != "optimize":
        follows = decision["decision"]["verdict"] if decision["decision"] else "fail"
        if verdict != follows:
            yield f"The verdict is {verdict}, and {follows} follows from the gates."
        return
    if verdict != "pass":
        return
    row = next((row for row in decision["candidates"] if chosen and row["id"] == chosen["id"]), None)
    if chosen is None or (chosen["id"] != decision["baseline"]["id"] and (row is None or row["verdict"] != "pass")):
        yield "The verdict is pass, and no candidate that passed was chosen."


def _again(folder: Path, row: Plain, how: Plain, policy: Policy, reference: Sequence[Outcome]) -> Recomputed:
    """One candidate."""
    name, digest = row["id"], row["details"]["deployment_sha256"]
    own = stored_outcomes(folder, digest)
    if not own or not reference:
        return Recomputed(n_gates=0, unknown=(f"The outcomes of {name} were not kept, so that its gates cannot be computed again.",))
    ids = {one.item_id for one in own}
    before = tuple(one for one in reference if one.item_id in ids)  # another candidate may have been looked at longer
    evidence = read_observed(folder, digest, use=how["use"], reference=before, candidate=own)
    if evidence is None:
        bare = Evidence(use=how["use"], reference=before, candidate=own)
        return _items_only(name, row, how, policy, bare)
    found = to_plain(decide(policy, evidence, attempt=how["attempt"], look=how["look"]))
    gates, recorded = _figures(found.pop("gates")), _figures(row["evidence"]["gates"])
    different = [f"{name}: {sentence}" for sentence in _gate_differences(recorded, gates)]
    different += [
        f"{name}: {key} is {_shown(how[key])} in decision.json, {_shown(found[key])} computed again."
        for key in ("verdict", "joint_power", "n_looks", "policy_sha256")
        if not is_same(how[key], found[key])
    ]
    if row["verdict"] != found["verdict"]:
        different.append(f"{name}: its verdict is {row['verdict']} in decision.json, {found['verdict']} computed again.")
    return Recomputed(n_gates=len(gates), different=tuple(different))


def _items_only(name: str, row: Plain, how: Plain, policy: Policy, evidence: Evidence) -> Recomputed:
    """The gates that read items, by their own arithmetic: controls, noise and served answers were not kept."""
    levels = gate_levels(policy, looks=policy.looks if how["use"] == "sequential" else (1.0,), look=how["look"])
    recorded = {gate["name"]: gate for gate in row["evidence"]["gates"]}
    different, n_gates = [], 0
    for spec in policy.gates:
        if not spec.suite:
            continue
        found, gate = judge_gate(spec, evidence, levels[spec.name]), recorded[spec.name]
        n_gates += 1
        for key in (field.name for field in fields(Judgement) if field.name in gate and field.name not in (*NOT_COMPUTED, "verdict")):
            value = to_plain(getattr(found, key))
            if not is_same(gate[key], value):
                different.append(_differs(name, spec.name, key, gate[key], value))
        if gate["verdict"] not in (found.verdict, "inconclusive"):
            different.append(_differs(name, spec.name, "verdict", gate["verdict"], found.verdict))
    others = "planted controls, noise floors, parity and generation"
    unknown = f"Of {name} only the items were kept: {others} are as decision.json says, and were not computed again."
    return Recomputed(n_gates=n_gates, different=tuple(different), unknown=(unknown,))


def _figures(gates: Sequence[Plain]) -> list[dict[str, Any]]:
    return [{key: value for key, value in gate.items() if key not in NOT_COMPUTED} for gate in gates]


def _gate_differences(recorded: Sequence[Plain], computed: Sequence[Plain]) -> Iterator[str]:
    if [gate["name"] for gate in recorded] != [gate["name"] for gate in computed]:
        yield "the gates in decision.json are not those of the policy."
        return
    for was, now in zip(recorded, computed, strict=True):
        for key in now:
            if key not in was or not is_same(was[key], now[key]):
                yield _differs("", was["name"], key, was.get(key), now[key])


def _differs(name: str, gate: str, key: str, was: Any, now: Any) -> str:
    whose = f"{name}: " if name else ""
    return f"{whose}gate {gate}: {key} is {_shown(was)} in decision.json, {_shown(now)} computed again."


def is_same(was: Any, now: Any) -> bool:
    """Whether two JSON values say the same, numbers within the tolerance."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        return was.keys() == now.keys() and all(is_same(was[key], now[key]) for key in now)
    if isinstance(was, list) and isinstance(now, list):
        return len(was) == len(now) and all(map(is_same, was, now))
    if _is_number(was) and _is_number(now):
        return was == now or math.isclose(was, now, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return type(was) is type(now) and bool(was == now)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    return str(value) if len(str(value)) <= 60 else f"{str(value)[:57]}..."
