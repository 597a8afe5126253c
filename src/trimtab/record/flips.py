"""Answers that changed sides: counted by sub-suite and group with the exact test, then item by item. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.phrases import fixed, is_number, line, percent, visible
from trimtab.record.hidden import may_show
from trimtab.record.items import anchor

Plain = Mapping[str, Any]


def flips_of_gate(gate: Plain) -> str:
    """`9 lost, 7 gained, p 0.80; change [−2.4 %, 1.5 %]`; runs of before have the counts only."""
    counts = f"{gate.get('flips_lost') or 0} lost, {gate.get('flips_gained') or 0} gained"
    p, change = _test(gate)
    return f"{counts}, p {p}; change {change}" if p else counts


def flips_page(decision: Plain) -> dict[str, Any]:
    """counts: rows by sub-suite, groups beneath; suites: the flips of each sub-suite, lost ones first; n_lost, n_gained: of all."""
    flips = [_flip(flip) for flip in decision.get("flips") or ()]
    gates = {str(gate["suite"]): gate for gate in decision.get("gates") or () if gate.get("suite")}
    judged = [suite for suite, gate in gates.items() if is_number(gate.get("accuracy"))]
    names = dict.fromkeys([*map(line, judged), *(flip["suite"] for flip in flips)])
    by_suite = {name: sorted((flip for flip in flips if flip["suite"] == name), key=_order) for name in names}
    counts = [row for name, found in by_suite.items() for row in _counts(name, found, gates.get(name) or {})]
    suites = [{"name": name, "sides": _sides(found)} for name, found in by_suite.items() if found]
    n_lost = sum(flip["lost"] for flip in flips)
    return {"counts": counts, "suites": suites, "n_lost": n_lost, "n_gained": len(flips) - n_lost}


def _flip(flip: Plain) -> dict[str, Any]:
    """A changed answer. Texts of items about harm are never printed, only their ids."""
    suite, item, group = line(flip.get("suite", "")), line(flip.get("item_id", "")), line(flip.get("group", ""))
    is_shown = flip.get("prompt") is not None and may_show(suite, item, group)
    shown = ("prompt", "reference_answer", "candidate_answer", "right_answer") if is_shown else ()
    texts = {key: visible(flip.get(key) or "").strip() for key in shown}
    anchored = anchor(str(flip.get("item_id", "")))
    return {"suite": suite, "item": item, "group": group, "lost": flip.get("direction") == "lost", "texts": texts, "anchor": anchored}


def _order(flip: Plain) -> tuple[bool, str, str]:
    return not flip["lost"], flip["group"], flip["item"]


def _sides(flips: Sequence[Plain]) -> list[dict[str, Any]]:
    """Lost ones and gained ones; those without texts by id alone."""
    sides = []
    for name, is_lost in (("Lost", True), ("Gained", False)):
        found = [flip for flip in flips if flip["lost"] is is_lost]
        if found:
            shown, hidden = [flip for flip in found if flip["texts"]], [flip for flip in found if not flip["texts"]]
            sides.append({"name": name, "n": len(found), "shown": shown, "hidden": hidden})
    return sides


def _counts(name: str, flips: Sequence[Plain], gate: Plain) -> list[dict[str, Any]]:
    """The sub-suite's own row, with the test where the gate has it, and one for each group that an answer changed in."""
    shares = [gate.get("accuracy"), gate.get("accuracy_candidate")]
    p, change = _test(gate)
    n_lost = sum(flip["lost"] for flip in flips)
    lost, gained = gate.get("flips_lost"), gate.get("flips_gained")
    whole = {
        "name": name,
        "of": "",
        "lost": str(lost if is_number(lost) and lost > n_lost else n_lost),
        "gained": str(gained if is_number(gained) and gained > len(flips) - n_lost else len(flips) - n_lost),
        "share": " → ".join(percent(share, 1) for share in shares) if is_number(shares[0]) else "",
        "change": change,
        "p": p,
    }
    rows = [whole]
    for group in sorted({flip["group"] for flip in flips if flip["group"]}):
        of_group = [flip["lost"] for flip in flips if flip["group"] == group]
        counted = {"lost": str(sum(of_group)), "gained": str(len(of_group) - sum(of_group))}
        rows.append({"name": group, "of": name, **counted, "share": "", "change": "", "p": ""})
    return rows


def _test(gate: Plain) -> tuple[str, str]:
    """The exact test's p-value and the interval of the change of the share right; empty for runs of before."""
    p, low, high = (gate.get(key) for key in ("flips_p", "accuracy_change_low", "accuracy_change_high"))
    if not (is_number(p) and is_number(low) and is_number(high)):
        return "", ""
    return "under 0.001" if p < 0.001 else fixed(p, 3), f"[{percent(low, 1)}, {percent(high, 1)}]"
