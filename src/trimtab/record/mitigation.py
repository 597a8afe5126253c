"""Remedies that were tried on a candidate that did not pass, as texts for the terminal and the page. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.phrases import MISSING, ended, fixed, is_number, line, megabytes, significant, times
from trimtab.record.explain import gate_change

Plain = Mapping[str, Any]


def mitigation_of(decision: Plain) -> dict[str, Any] | None:
    """lead: sentences; before: the candidate itself; rows: a remedy each; groups: sensitivity of groups of weights. None if none was tried.

    A row: name, what, why_not, bytes, extra, speed, kl, gates (name, before, after, verdict), verdict ("" = not judged)
    """
    found = decision.get("mitigation")
    if not found:
        return None
    names = list(found["gates"])
    before = {gate["name"]: gate for gate in found["gates_before"]}
    return {
        "lead": _lead(found),
        "before": {"id": line(found["of"]["id"]), "bytes": megabytes(found["of"]["size_bytes"]), "kl": _kl(found.get("before") or {})},
        "rows": [_row(one, names, before) for one in found["remedies"]],
        "groups": _groups(found["remedies"]),
    }


def _lead(found: Plain) -> list[str]:
    attempts, names = found["attempts"], ", ".join(map(line, found["gates"]))
    lead = [f"{line(found['of']['id'])} did not pass {names}."] if names else []
    if found.get("why_not"):
        return [*lead, ended(f"No remedy was tried: {found['why_not']}")]
    if found.get("best"):
        lead.append(f"Chosen of those that pass: {line(found['best'])}, which takes the fewest bytes.")
    else:
        lead.append("No remedy passes every required gate, so nothing is chosen.")
    if attempts["alpha_each"] is not None:
        lead.append(
            f"Attempts on these items: {attempts['used']} before, {attempts['planned']} here, each at a one-sided level of "
            f"{significant(attempts['alpha_each'])}."
        )
    return lead


def _row(one: Plain, names: Sequence[str], before: Mapping[str, Plain]) -> dict[str, Any]:
    after = {gate["name"]: gate for gate in one["gates_after"]}
    harmed = [name for name, gate in after.items() if gate["required"] and gate["verdict"] != "pass" and name not in names]
    return {
        "name": line(one["name"]),
        "what": line(one["what"]),
        "why_not": ended(one["why_not"]) if one["why_not"] else "",
        "bytes": megabytes(one["size_bytes"]) if one["size_bytes"] is not None else "",
        "extra": f"{fixed(one['extra_bytes'] / 1e6, 1, signed=True)} MB" if one["extra_bytes"] is not None else "",
        "speed": times(one["speed"]) if is_number(one["speed"]) else MISSING,
        "kl": _kl(one),
        "gates": [_gate(name, before.get(name), after.get(name)) for name in [*names, *harmed]] if after else [],
        "verdict": one["verdict"] or "",
    }


def _gate(name: str, before: Plain | None, after: Plain | None) -> dict[str, str]:
    return {
        "name": line(name),
        "before": f"{gate_change(before)}, {before['verdict']}" if before else "passed",
        "after": gate_change(after) if after else MISSING,
        "verdict": after["verdict"] if after else "",
    }


def _kl(cost: Plain) -> str:
    screen = cost.get("screen") or {}
    return f"{fixed(screen['kl_nats'], 3)} ± {fixed(2 * screen['kl_se'], 3)}" if is_number(screen.get("kl_nats")) else MISSING


def _groups(remedies: Sequence[Plain]) -> list[dict[str, str]]:
    """What keeping each group of weights alone costs and gains, the most for a megabyte first."""
    rows = [row for one in remedies for row in one["details"].get("sensitivity") or ()]

    def worth(row: Plain) -> float:
        return float(max(row["gains"].values(), default=0.0) / max(row["extra_bytes"], 1))

    return [
        {
            "name": line(row["group"]),
            "extra": f"{fixed(row['extra_bytes'] / 1e6, 1, signed=True)} MB",
            "gains": ", ".join(f"{line(gate)} {fixed(gain, 2, signed=True)}" for gate, gain in row["gains"].items()),
        }
        for row in sorted(rows, key=worth, reverse=True)
    ]
