"""Groups side by side: in operation from live.json, in certification from decision.json. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.core.phrases import count, decimals_for, fixed, interval, is_number, line, percent
from trimtab.watch.signals import signal_of
from trimtab.web.live_view import Plain, level_text, slice_text

CHIPS = {"worse": "fail", "different": "fail", "cannot tell": "inconclusive", "within": "pass", "better": ""}
"""How a finding looks."""


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One group against all others with that attribute known. finding: worse, better, different, within or cannot tell"""

    group: str
    n: str
    rate: str
    range: str
    rest: str
    rest_range: str
    difference: str
    difference_range: str
    finding: str
    chip: str


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """One signal by one attribute of one version. known: of how many requests the attribute was known"""

    version: str
    attribute: str
    text: str
    known: str
    rows: tuple[GroupRow, ...]
    n_differ: int


@dataclass(frozen=True, kw_only=True)
class Worst:
    """A kind of request that fares worse than all others."""

    version: str
    what: str
    text: str
    p: str


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


def operation_tables(document: Plain, *, people: bool) -> list[GroupTable]:
    """A table for each version, attribute and signal; those with a finding first. people: by groups of people, else by kind of request"""
    tables = []
    for model in document["models"]:
        for version in model["versions"]:
            missing = {str(one["by"]): one for one in version["missing"]}
            by: dict[tuple[str, str], list[Plain]] = {}
            for row in version["rates"]:
                if bool(row["is_people"]) is people:
                    by.setdefault((str(row["by"]), str(row["signal"])), []).append(row)
            tables += [_table(str(version["version"]), *key, rows, missing.get(key[0])) for key, rows in by.items()]
    return sorted(tables, key=lambda table: (not table.n_differ, table.version, table.attribute, table.text))


def _table(version: str, attribute: str, name: str, rows: Sequence[Plain], missing: Plain | None) -> GroupTable:
    signal = signal_of(name)
    shown = [_row(row, signal.kind, signal.unit) for row in sorted(rows, key=lambda row: -(row["level"]["n"] or 0))]
    known = ""
    if missing and missing["n_all"]:
        share = percent(missing["n"] / missing["n_all"])
        known = f"{line(attribute)} was known of {count(missing['n'])} of {count(missing['n_all'])} requests ({share})"
    return GroupTable(
        version=line(version),
        attribute=line(attribute),
        text=line(signal.text),
        known=known,
        rows=tuple(shown),
        n_differ=sum(row.finding in ("worse", "different") for row in shown),
    )


def _row(row: Plain, kind: str, unit: str) -> GroupRow:
    rate, ends = level_text(row["level"], kind, unit)
    rest, rest_ends = level_text(row["rest"], kind, unit)
    difference, difference_range = difference_text(row["difference"], kind, unit)
    finding = line(row["finding"])
    return GroupRow(
        group=line(row["of"]),
        n=count(row["level"]["n"]),
        rate=rate,
        range=ends,
        rest=rest,
        rest_range=rest_ends,
        difference=difference,
        difference_range=difference_range,
        finding=finding,
        chip=CHIPS.get(finding, ""),
    )


def difference_text(level: Plain, kind: str, unit: str) -> tuple[str, str]:
    """A difference and its interval, of shares in points: `+2.5 points`, `[1.7, 3.3]`."""
    value, low, high = level["value"], level["low"], level["high"]
    if not is_number(value):
        return "", ""
    is_share = kind in ("rate", "category")
    scale, word = (100.0, "points") if is_share else (1.0, unit)
    known = is_number(low) and is_number(high)
    decimals = 1 if is_share or not known else min(decimals_for((high - low) / 2), 3)
    return f"{fixed(scale * value, decimals, signed=True)} {line(word)}".strip(), interval(
        scale * low, scale * high, decimals
    ) if known else ""


def worst_kinds(document: Plain) -> list[Worst]:
    """Kinds of requests that were shown to fare worse, the surest first in each version."""
    return [
        Worst(version=line(version["version"]), what=slice_text(one["labels"]), text=line(one["text"]), p=fixed(one["p"], 4))
        for model in document["models"]
        for version in model["versions"]
        for one in version["worst"]
    ]


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
