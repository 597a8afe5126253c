"""Groups side by side: in operation from live.json, in certification from decision.json. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from trimtab.core.phrases import count, decimals_for, fixed, interval, is_number, line
from trimtab.web.live_view import Plain, level_text

LEAST = 30
"""With fewer requests of a group nothing is said of it."""
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One group. difference, range: from the group that it is held against; verdict: `differs`, `cannot tell` or empty (is that group)"""

    group: str
    n: str
    rate: str
    range: str
    difference: str
    difference_range: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """One signal by one attribute of one version. against: the group with the most requests"""

    version: str
    attribute: str
    given: bool
    signal: str
    text: str
    against: str
    rows: tuple[GroupRow, ...]
    n_differ: int


@dataclass(frozen=True, kw_only=True)
class CertifiedTable:
    """A gate by group of one decision. rows: group, change, interval, p (Holm), n"""

    run: str
    key: str
    gate: str
    unit: str
    margin: str
    verdict: str
    rows: tuple[tuple[str, str, str, str, str], ...]


def operation_tables(document: Plain, *, of: str = "groups") -> list[GroupTable]:
    """A table for each version, attribute and signal with two groups or more; those with a difference first. of: `groups` or `slices`"""
    tables = []
    for model in document["models"]:
        for version in model["versions"]:
            kinds = {one["signal"]: (str(one["kind"]), str(one["unit"]), line(one["text"])) for one in version["signals"]}
            by: dict[str, list[Plain]] = {}
            for row in version[of]:
                by.setdefault(str(row["by"]), []).append(row)
            for attribute, rows in by.items():
                for signal in dict.fromkeys(name for row in rows for name in row["signals"]):
                    found = [row for row in rows if signal in row["signals"]]
                    if len(found) > 1:
                        kind = kinds.get(signal, ("mean", "", line(signal)))
                        tables.append(_table(str(version["version"]), attribute, of == "groups", signal, kind, found))
    return sorted(tables, key=lambda table: (not table.n_differ, table.version, table.attribute, table.signal))


def _table(version: str, attribute: str, given: bool, signal: str, kind: tuple[str, str, str], rows: Sequence[Plain]) -> GroupTable:
    ordered = sorted(rows, key=lambda row: (-(row["signals"][signal]["n"] or 0), str(row["of"])))
    first = ordered[0]
    z_wider = NormalDist().inv_cdf(1 - ALPHA / 2 / max(1, len(ordered) - 1)) / NormalDist().inv_cdf(1 - ALPHA / 2)
    shown = [_row(row, first, signal, kind, z_wider) for row in ordered]
    return GroupTable(
        version=line(version),
        attribute=line(attribute).removeprefix("group:"),
        given=given,
        signal=line(signal),
        text=kind[2],
        against=line(first["of"]),
        rows=tuple(shown),
        n_differ=sum(row.verdict == "differs" for row in shown),
    )


def _row(row: Plain, first: Plain, signal: str, kind: tuple[str, str, str], z_wider: float) -> GroupRow:
    level, against = row["signals"][signal], first["signals"][signal]
    rate, ends = level_text(level, kind[0], kind[1])
    difference, difference_range, verdict = "", "", ""
    if row is not first:
        found = difference_of(level, against, z_wider)
        if found is None:
            verdict = "cannot tell"
        else:
            value, low, high = found
            is_share = kind[0] in ("rate", "category")
            scale, unit = (100.0, "points") if is_share else (1.0, kind[1])
            decimals = 1 if is_share else decimals_for((high - low) / 2)
            difference = f"{fixed(scale * value, decimals, signed=True)} {line(unit)}".strip()
            difference_range = interval(scale * low, scale * high, decimals)
            verdict = "differs" if low > 0 or high < 0 else "cannot tell"
    return GroupRow(
        group=line(row["of"]),
        n=count(level["n"]),
        rate=rate,
        range=ends,
        difference=difference,
        difference_range=difference_range,
        verdict=verdict,
    )


def difference_of(a: Plain, b: Plain, z_wider: float = 1.0) -> tuple[float, float, float] | None:
    """a minus b with an interval from the two levels' own (Newcombe's square-and-add); None where one of them is too small to tell.

    z_wider: by how much the intervals are widened because several groups are looked at
    """
    for level in (a, b):
        if (level.get("n") or 0) < LEAST or not all(is_number(level.get(name)) for name in ("value", "low", "high")):
            return None
    value = a["value"] - b["value"]
    below = z_wider * math.hypot(a["value"] - a["low"], b["high"] - b["value"])
    above = z_wider * math.hypot(a["high"] - a["value"], b["value"] - b["low"])
    return value, value - below, value + above


def certified_tables(run: str, key: str, decision: Plain) -> list[CertifiedTable]:
    """Every gate by group of a decision, the group that changed most for the worse first."""
    tables = []
    for gate in decision.get("gates") or ():
        if not gate.get("groups"):
            continue
        decimals = decimals_for(gate.get("margin"))
        rows = [
            (
                line(group["group"]),
                fixed(group.get("delta"), decimals, signed=True),
                interval(group.get("low"), group.get("high"), decimals),
                fixed(group.get("p_holm"), 2),
                count(group.get("n")),
            )
            for group in sorted(gate["groups"], key=lambda group: group["delta"])
        ]
        tables.append(
            CertifiedTable(
                run=line(run),
                key=key,
                gate=line(gate.get("name", "")),
                unit=line(gate.get("unit", "")),
                margin=fixed(gate.get("margin"), decimals),
                verdict=str(gate.get("verdict")),
                rows=tuple(rows),
            )
        )
    return tables
