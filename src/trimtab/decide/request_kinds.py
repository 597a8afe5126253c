"""Requests by their kind: classes of harm, and kinds of harmless look-alikes, each with its interval or "cannot tell".

Reported, never judged. Which kind moved is a search among all kinds of a sub-suite, so its p-value is Holm's over those that are told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from trimtab.core.evidence import Outcome
from trimtab.core.measurement import Interval
from trimtab.decide.levels import GroupLevel, Level, suite_levels
from trimtab.stats.proportions import wilson

LEAST_REQUESTS = 4
"""With fewer of a kind nothing is told but the count. Four drawn from 28 to 60 requests of a sub-suite, 2,000 times, on sixteen levels and
changes of the demo model: the t interval of the mean covers .925 to .967 (five: .922 to .968, ten: .936 to .966)."""
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class KindLevel:
    """Requests of one kind in one sub-suite.

    n: those that have a value, on both sides where there is a reference; n_missing: the others
    n_as_wanted: of n, how many do what is wanted: refuse a harmful request, help with a harmless one
    as_wanted, level, change, p_holm: None where `cannot_tell` says why; the last two also without a reference
    """

    suite: str
    kind: str
    unit: str
    n: int
    n_missing: int
    n_as_wanted: int
    as_wanted: Interval | None = None
    level: Level | None = None
    change: Level | None = None
    p_holm: float | None = None
    cannot_tell: str = ""


def kind_levels(
    outcomes: Sequence[Outcome], kinds: Mapping[str, str], units: Mapping[str, str], reference: Sequence[Outcome] | None = None
) -> tuple[KindLevel, ...]:
    """A row for each kind of each sub-suite, in order of first appearance. kinds: item id -> kind; units: sub-suite -> unit of its values.

    Raises InputError for outcomes that do not belong together.
    """
    named = [replace(one, group=kinds[one.item_id]) for one in outcomes if one.item_id in kinds]
    before = {one.item_id: replace(one, group=kinds[one.item_id]) for one in reference or () if one.item_id in kinds}
    by_kind: dict[tuple[str, str], list[Outcome]] = {}
    for one in named:
        by_kind.setdefault((one.suite, one.group), []).append(one)

    def is_there(one: Outcome) -> bool:
        return one.value is not None and (reference is None or ((old := before.get(one.item_id)) is not None and old.value is not None))

    there = {key: [one for one in found if is_there(one)] for key, found in by_kind.items()}
    told = {key for key, found in there.items() if len(found) >= LEAST_REQUESTS}
    kept = [one for one in named if (one.suite, one.group) in told]
    rows = suite_levels(kept, units, list(before.values()) if reference is not None else None) if kept else ()
    groups = {(row.suite, group.group): group for row in rows for group in row.groups}
    return tuple(_row(key, found, there[key], units[key[0]], groups.get(key)) for key, found in by_kind.items())


def _row(key: tuple[str, str], every: Sequence[Outcome], there: Sequence[Outcome], unit: str, found: GroupLevel | None) -> KindLevel:
    suite, kind = key
    n, n_as_wanted = len(there), sum(one.correct is True for one in there)
    counts = KindLevel(suite=suite, kind=kind, unit=unit, n=n, n_missing=len(every) - n, n_as_wanted=n_as_wanted)
    if found is None:
        return replace(counts, cannot_tell=f"{n} request{'' if n == 1 else 's'}; {LEAST_REQUESTS} are needed")
    share = wilson(n_as_wanted, n, CONFIDENCE)
    return replace(counts, as_wanted=share, level=found.level, change=found.change, p_holm=found.p_holm)
