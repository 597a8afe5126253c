"""What a decision shows, in plain words: of what, for whom, up to where, how surely, and what it does not show."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from trimtab.core.phrases import count, decimals_for, fixed, is_number, line, percent
from trimtab.decide.scope import NOT_IN_ANY_SUITE, evidence_for, not_examined
from trimtab.record.explain import headline

Plain = Mapping[str, Any]


def what_was_shown(decision: Plain) -> list[tuple[str, list[str]]]:
    """Titles with their sentences, in reading order. decision: a decision.json of `certify`, `compare` or `optimize`."""
    parts = [
        ("The answer", [headline(decision)]),
        ("What was shown", [_gate_words(gate) for gate in _required(decision) if gate["verdict"] == "pass"]),
        ("For whom", _for_whom(decision)),
        ("Up to where", list(_limits(decision))),
        ("How surely", list(_errors(decision))),
        ("What was not shown", list(_open(decision))),
        ("What this is evidence for", list(_frameworks(decision))),
    ]
    return [(title, sentences) for title, sentences in parts if sentences]


def _required(decision: Plain) -> list[Plain]:
    return [gate for gate in decision.get("gates") or () if gate.get("required", True)]


def _gate_words(gate: Plain) -> str:
    """One passed gate: what is excluded, on how much, and that the gate could have failed."""
    decimals = decimals_for(gate.get("margin"))
    unit, name = line(gate.get("unit", "")), line(gate["name"])
    worst: float = _up(max(-(gate.get("low") or 0.0), gate.get("high") or 0.0 if gate["kind"] != "non_inferiority" else 0.0, 0.0), decimals)
    about = {
        "non_inferiority": f"it loses at most {fixed(worst, decimals)} {unit}",
        "equivalence": f"it moves by at most {fixed(worst, decimals)} {unit} either way",
        "equivalence_by_group": f"no group moves by more than {fixed(worst, decimals)} {unit} against the others in the same sentence",
        "parity": f"what is served departs from what was judged by at most {fixed(worst, decimals)} {unit}",
        "generation": f"at most {percent(worst)} more answers are broken",
    }.get(gate["kind"], f"its change is within {fixed(worst, decimals)} {unit}")
    control = gate.get("positive_control") or {}
    caught = f" A planted loss ({line(control['name'])}) was noticed on the same items." if control.get("caught") else ""
    items = f"{count(gate['n'])} items, {count(gate['n_clusters'])} of them independent"
    return f"{name}: {about} (allowed: {fixed(gate['margin'], decimals)}), on {items}.{caught}"


def _up(value: float, decimals: int) -> float:
    """Rounded up: what is claimed as `at most` must hold as it is printed."""
    scale = 10.0**decimals
    return math.ceil(value * scale - 1e-9) / scale


def _for_whom(decision: Plain) -> list[str]:
    groups: dict[str, list[str]] = {}
    for gate in decision.get("gates") or ():
        for group in gate.get("groups") or ():
            axis, _, name = group["group"].rpartition(":")
            groups.setdefault(axis or line(gate["name"]), []).append(line(name))
    said = [f"{line(axis)}: {', '.join(dict.fromkeys(names))}" for axis, names in groups.items()]
    languages = (decision.get("suite") or {}).get("languages") or ()
    if languages:
        said.append(f"languages of the items: {', '.join(map(line, languages))}")
    return said


def _limits(decision: Plain) -> Iterator[str]:
    rows = decision.get("candidates") or ()
    chosen = decision.get("chosen") or (rows[0].get("details") if rows and decision.get("kind") != "optimize" else None) or {}
    settings, suite = chosen.get("settings") or {}, decision.get("suite") or {}
    if is_number(suite.get("longest_tokens")):
        served = settings.get("context_tokens")
        beyond = f"; it is served with {count(served)}, and what happens beyond the items was not judged" if is_number(served) else ""
        yield f"The longest item has {count(suite['longest_tokens'])} tokens{beyond}."
    parity = next((gate for gate in decision.get("gates") or () if gate.get("kind") == "parity" and is_number(gate.get("delta"))), None)
    if parity is not None and is_number(settings.get("slots")):
        yield f"What is served was held against what was scored with {count(settings['slots'])} requests at once."
    build = chosen.get("build") or {}
    if build:
        named = f"{line(build.get('engine', ''))} {line(build.get('version', ''))}"
        yield f"Engine: {named}. Another build is another deployment: see `trimtab check`."
    if (decision.get("machine") or {}).get("cpu"):
        yield f"Machine: {line(decision['machine']['cpu'])}."
    reference = decision.get("reference") or {}
    if reference.get("provenance"):
        yield f"Reference: {line(reference['provenance'])}."


def _errors(decision: Plain) -> Iterator[str]:
    policy, judged = decision.get("policy") or {}, decision.get("decision") or {}
    if is_number(policy.get("alpha")):
        most, number = count(policy.get("max_attempts", 1)), count(judged.get("attempt", 1))
        yield (
            f"A deployment that is as bad as a margin passes with a chance of at most {percent(policy['alpha'], 1)}, over {most} "
            f"deployments tried on these items together; this was number {number}."
        )
    if is_number(judged.get("joint_power")):
        yield f"One exactly as good as the reference would pass all gates with a chance of {percent(judged['joint_power'])}."
    for gate in _required(decision):
        if is_number(gate.get("detectable")) and gate["verdict"] == "pass":
            change = f"{fixed(gate['detectable'], decimals_for(gate['margin']))} {line(gate['unit'])}"
            yield f"{line(gate['name'])}: a true change of {change} would be noticed four times in five."


def _open(decision: Plain) -> Iterator[str]:
    gates = decision.get("gates") or ()
    for gate in gates:
        if gate["verdict"] != "pass":
            word = "is worse" if gate["verdict"] == "fail" else "could not be told"
            yield f"{line(gate['name'])}: {word}. {line('; '.join(gate.get('reasons') or ()))}"
        elif not gate.get("informative", True):
            yield f"{line(gate['name'])}: the gate was not shown able to fail."
    for about in not_examined({str(gate.get("suite")) for gate in gates}):
        yield f"Not examined: {about}."
    for row in decision.get("skipped") or ():
        if row.get("what") == "gates":
            yield line(row["why"])
    yield from NOT_IN_ANY_SUITE


def _frameworks(decision: Plain) -> Iterator[str]:
    """Framework point -> gates with a verdict that are evidence for it."""
    found: dict[str, list[str]] = {}
    for gate in decision.get("gates") or ():
        for point in evidence_for(gate):
            found.setdefault(point, []).append(line(gate["name"]))
    for point in sorted(found):
        yield f"{point}: {', '.join(found[point])}"
    if found:
        yield "Evidence for these points, not compliance with them."
