"""Fairness in operation: how every group fares against all others of its attribute, by intervals that may be looked at all the time.

Groups are those that a client gave or a person said; nothing is guessed. By language and topic the same is told of kinds of requests, not
of people. What nobody said is stated as a share: those requests are in no group, and in nobody's rest.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal

from trimtab.core.measurement import Interval
from trimtab.core.watching import Observed, Signal
from trimtab.watch.contrasts import Contrasts, Table
from trimtab.watch.rules import GROUP
from trimtab.watch.signals import signal_of

Part = tuple[str, str]
"""(by, of): ("language", "de") or ("group:sex", "female"), as the Watcher has them."""
Finding = Literal["worse", "better", "different", "within", "cannot tell"]

SIGNALS = ("error", "rejected", "refused", "guard_in", "guard_out", "valid_json", "total_ms", "thumbs", "edited", "retried")
"""What tells how somebody was served."""
BY = ("language", "topic")
LEAST = 100
"""Requests of a group, and of all others, below which nothing is said."""
MOST_ATTRIBUTES, MOST_GROUPS = 8, 24
RISK = 0.05
"""Chance that anything is ever said wrongly of one attribute in one signal."""
WITHIN = 0.05
"""Points of a rate, share of the others' level of a number: intervals within so much either way are told as no more apart."""
CROSS = " x "


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One group in one signal, in the signal's unit.

    by: `language`, or an attribute of people, or two of them (`sex x age`); is_people: it is one of people
    level, rest, difference: of the group, of all others with that attribute known, and the group's minus theirs; bounds hold at every
        moment together, over all groups of that attribute
    finding: `within` = shown to be no more than `within` apart; reason: the finding as a sentence
    """

    by: str
    of: str
    is_people: bool
    signal: str
    level: Interval
    rest: Interval
    difference: Interval
    finding: Finding
    reason: str


@dataclass(frozen=True, kw_only=True)
class Missing:
    """How much is known of one attribute: n requests had it of n_all. beyond: values of groups past the most that are kept."""

    by: str
    n: int
    n_all: int
    beyond: int

    @property
    def share(self) -> float:
        """Of requests of whom nobody said it."""
        return 1.0 - self.n / self.n_all if self.n_all else 0.0


class GroupRates:
    """Rates by group of one version of one model. Bounded memory: MOST_ATTRIBUTES attributes of MOST_GROUPS groups each.

    signals: those that are compared; numbers are cut to their range; by: labels that are compared as if they were groups
    least: requests a group and its rest need; within: as WITHIN
    """

    def __init__(self, *, signals: Sequence[str] = SIGNALS, by: Sequence[str] = BY, least: int = LEAST, within: float = WITHIN) -> None:
        self.signals, self.by, self.least, self.within = tuple(signals), tuple(by), least, within
        self._scales = scales_of(self.signals)
        self.n_all = 0
        self.beyond = 0
        self._known: dict[str, int] = {}  # attribute -> requests that had it
        self._tables: dict[tuple[str, str], Contrasts] = {}  # (attribute, signal)

    def take(self, item: Observed) -> None:
        """One request with all that is known of it when it ended."""
        parts = parts_of(item.labels, item.groups, self.by)
        self.count(parts)
        for name in self.signals:
            value = item.flags.get(name, item.numbers.get(name))
            if value is not None:
                self.add(parts, name, float(value))

    def count(self, parts: Iterable[Part]) -> None:
        """One request more, in these parts."""
        self.n_all += 1
        for by, _ in crossed(tuple(parts), self.by):
            if by in self._known or len(self._known) < MOST_ATTRIBUTES:
                self._known[by] = self._known.get(by, 0) + 1
            else:
                self.beyond += 1

    def add(self, parts: Iterable[Part], name: str, value: float) -> None:
        """One value of a signal of a request in these parts; signals that are not compared are passed over."""
        scale = self._scales.get(name)
        if scale is None:
            return
        scaled = min(1.0, max(0.0, (value - scale[0]) / scale[1]))
        for by, of in crossed(tuple(parts), self.by):
            table = self._tables.get((by, name))
            if table is None:
                if by not in self._known and len({one for one, _ in self._tables}) >= MOST_ATTRIBUTES:
                    continue
                table = self._tables[by, name] = Contrasts(MOST_GROUPS)
            table.add(((of,),), scaled)

    def rows(self) -> list[GroupRow]:
        """Every group in every signal, by attribute and signal; of two groups both are told, each is the other's rest."""
        found = []
        for (by, name), table in self._tables.items():
            if len(table.keys) < 2:
                continue
            bounds, signal = table.table(RISK / MOST_GROUPS), signal_of(name)
            found += [self._row(by, signal, bounds, place) for place in range(len(bounds.keys))]
        return found

    def missing(self) -> list[Missing]:
        """What is not known: a row an attribute, those that nobody ever said left out."""
        beyond: dict[str, int] = {}
        for (by, _), table in self._tables.items():
            beyond[by] = max(beyond.get(by, 0), table.dropped)
        return [Missing(by=by.removeprefix(GROUP), n=n, n_all=self.n_all, beyond=beyond.get(by, 0)) for by, n in self._known.items()]

    def _row(self, by: str, signal: Signal, table: Table, place: int) -> GroupRow:
        n, n_rest = int(table.n[place]), int(table.n_rest[place])
        level = _interval(signal, float(table.mean[place]), float(table.low[place]), float(table.high[place]), n)
        rest = _interval(signal, float(table.rest_mean[place]), float(table.rest_low[place]), float(table.rest_high[place]), n_rest)
        assert level.low is not None and level.high is not None and rest.low is not None and rest.high is not None  # noqa: PT018
        difference = Interval(value=level.value - rest.value, low=level.low - rest.high, high=level.high - rest.low, n=min(n, n_rest))
        reach = self.within * (1.0 if signal.kind == "rate" else abs(rest.value))
        finding = self._finding(signal, difference, reach)
        return GroupRow(
            by=by.removeprefix(GROUP).replace(CROSS + GROUP, CROSS),
            of=table.keys[place][0],
            is_people=by.startswith(GROUP),
            signal=signal.name,
            level=level,
            rest=rest,
            difference=difference,
            finding=finding,
            reason=self._reason(signal, table.keys[place][0], level, rest, difference, finding, reach),
        )

    def _finding(self, signal: Signal, difference: Interval, reach: float) -> Finding:
        low, high = difference.low, difference.high
        assert low is not None
        assert high is not None
        if difference.n < self.least:
            return "cannot tell"
        if low > 0.0 or high < 0.0:
            if signal.worse == "both":
                return "different"
            return "worse" if (low > 0.0) == (signal.worse == "up") else "better"
        return "within" if -reach < low and high < reach else "cannot tell"

    def _reason(
        self, signal: Signal, of: str, level: Interval, rest: Interval, difference: Interval, finding: Finding, reach: float
    ) -> str:
        if difference.n < self.least:
            few = level if level.n < self.least else rest
            whose = of if few is level else "the others"
            return f"{few.n:,} requests of {whose}, {self.least:,} are needed: cannot tell"
        low, high = difference.low or 0.0, difference.high or 0.0
        figures = f"{shown(signal, level.value)} against {shown(signal, rest.value)} ({change(signal, low)} to {change(signal, high)})"
        words = {
            "worse": f"{of} fares worse",
            "better": f"{of} fares better",
            "different": f"{of} differs",
            "within": f"no more than {change(signal, reach).removeprefix('+')} apart either way",
            "cannot tell": "cannot tell yet",
        }
        return f"{signal.text}: {figures}, {words[finding]}"

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        tables = [[by, name, table.state()] for (by, name), table in self._tables.items()]
        return {"n_all": self.n_all, "beyond": self.beyond, "known": self._known, "tables": tables}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], **kwargs: Any) -> "GroupRates":
        """What `state` gave, with the arguments that it was made with."""
        made = cls(**kwargs)
        made.n_all, made.beyond, made._known = state["n_all"], state["beyond"], dict(state["known"])
        made._tables = {(by, name): Contrasts.from_state(table, MOST_GROUPS) for by, name, table in state["tables"]}
        return made


@lru_cache(4096)
def crossed(parts: tuple[Part, ...], by: tuple[str, ...]) -> tuple[Part, ...]:
    """The parts that are compared, and every two attributes of people together."""
    wanted = [part for part in parts if part[0] in by or part[0].startswith(GROUP)]
    people = sorted(part for part in wanted if part[0].startswith(GROUP))
    return (*wanted, *((f"{one[0]}{CROSS}{two[0]}", f"{one[1]}{CROSS}{two[1]}") for one, two in combinations(people, 2)))


def scales_of(names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Signal -> its least value and its range."""
    return {name: (signal_of(name).low, signal_of(name).high - signal_of(name).low) for name in names}


def parts_of(labels: Mapping[str, str], groups: Mapping[str, str], by: Iterable[str]) -> tuple[Part, ...]:
    """The parts that a request is in."""
    return (*((one, labels[one]) for one in by if one in labels), *((GROUP + one, groups[one]) for one in sorted(groups)))


def shown(signal: Signal, value: float) -> str:
    """A level as people read it: `4.2 %`, `182 ms`."""
    if signal.kind == "rate":
        return f"{100 * value:.3g} %"
    return f"{value:.4g} {signal.unit}".rstrip()


def change(signal: Signal, value: float) -> str:
    """A difference as people read it: `+2.1 points`."""
    if signal.kind == "rate":
        return f"{100 * value:+.3g} points"
    return f"{value:+.4g} {signal.unit}".rstrip()


def _interval(signal: Signal, value: float, low: float, high: float, n: int) -> Interval:
    """From 0..1 to the signal's unit; without values the middle of what may be."""
    scale = signal.high - signal.low
    mean = value if n else 0.5
    return Interval(value=signal.low + scale * mean, low=signal.low + scale * low, high=signal.low + scale * high, n=n)
