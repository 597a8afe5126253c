"""What an exam can show: how often an equal candidate passes, and how small a change is noticed, gate by gate and jointly. Pure."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.phrases import count, decimals_for, fixed, is_number, line, percent
from trimtab.record.conditions import mapping

MANY = 1_000_000
"""Clusters beyond which a plan counts no further."""


def power_of(decision: Mapping[str, Any]) -> dict[str, Any]:
    """Rows by gate and sentences about all gates together; both empty where nothing was predicted and nothing judged."""
    plan, judged = mapping(decision.get("power")), mapping(decision.get("decision"))
    planned = {str(row["name"]): row for row in plan.get("gates") or ()}
    gates = {str(gate["name"]): gate for gate in decision.get("gates") or ()}
    rows = [_row(name, mapping(planned.get(name)), mapping(gates.get(name))) for name in {**gates, **planned}]
    chance = mapping(decision.get("policy")).get("power")
    return {"rows": rows, "joint": _joint(plan, judged, chance), "chance": percent(chance if is_number(chance) else 0.8)}


def chance_in_words(value: Any) -> str:
    """A chance as percent; never 0 or 100, which no sample shows."""
    if is_number(value) and value >= 0.995:
        return "over 99 %"
    return "under 1 %" if is_number(value) and value < 0.01 else percent(value)


def _row(name: str, plan: Mapping[str, Any], gate: Mapping[str, Any]) -> dict[str, Any]:
    margin = gate.get("margin", plan.get("margin"))
    found, expected = gate.get("detectable"), plan.get("detectable")
    decimals = decimals_for(margin, found if is_number(found) else expected)
    needed, clusters = plan.get("needed"), plan.get("n_clusters", gate.get("n_clusters"))
    used = gate.get("n_clusters")
    return {
        "name": line(name),
        "note": "" if gate.get("required", True) else "advisory",
        "passes": chance_in_words(plan["power"]) if plan else "not predicted",
        "margin": f"{margin:g}" if is_number(margin) else fixed(margin, decimals),
        "unit": line(gate.get("unit") or plan.get("unit") or ""),
        "noticed": fixed(found if is_number(found) else expected, decimals),
        "expected": fixed(expected, decimals) if is_number(expected) and is_number(found) else "",
        "share": percent(found / margin) if is_number(found) and is_number(margin) and margin else "",
        "clusters": count(clusters),
        "used": count(used) if is_number(used) and used != clusters else "",
        "needed": f"over {count(MANY)}" if is_number(needed) and needed >= MANY else count(needed) if is_number(needed) else "",
        "is_enough": needed <= clusters if is_number(needed) and is_number(clusters) else None,
    }


def _joint(plan: Mapping[str, Any], judged: Mapping[str, Any], chance: Any) -> list[str]:
    """All required gates together, before the run and as it came out."""
    said = []
    if is_number(plan.get("joint_power")):
        stopped = ""
        if is_number(plan.get("joint_detectable")):
            with_chance = f" in {percent(chance)} of cases" if is_number(chance) else ""
            stopped = f"; one that lost {percent(plan['joint_detectable'])} of every margin would be stopped{with_chance}"
        said.append(
            f"Predicted before the run: a candidate exactly as good as the reference passes all required gates together with a chance of "
            f"{chance_in_words(plan['joint_power'])}{stopped}."
        )
    if is_number(judged.get("joint_power")):
        said.append(f"On the items that were used, as they turned out, that chance is {chance_in_words(judged['joint_power'])}.")
    if plan.get("unknown"):
        said.append(f"Not in the prediction, as nothing was known of them beforehand: {', '.join(map(line, plan['unknown']))}.")
    return said
