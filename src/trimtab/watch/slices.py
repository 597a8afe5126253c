"""Which kind of request fares worst: a search over labels and pairs of labels, corrected for having searched.

Every kind is held against all other requests in every signal that has a worse side. Its p-value is anytime-valid, and Holm's correction is
over as many hypotheses as there may ever be: that any kind named here is in truth no worse than the rest has a chance of RISK at most,
however often one looks. Labels are those of the requests (language, topic, length ...), groups of people only where they were given.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

from trimtab.core.measurement import Interval
from trimtab.core.watching import Observed, Signal
from trimtab.watch.contrasts import Contrasts, Key
from trimtab.watch.groups import Part, change, parts_of, scales_of, shown
from trimtab.watch.rules import GROUP
from trimtab.watch.signals import signal_of

SIGNALS = ("error", "refused", "valid_json", "total_ms", "thumbs", "retried")
BY = ("language", "topic", "length")
MOST = 300
"""Kinds that are kept of each signal: values of labels, and pairs of them; what comes later is counted and not looked at."""
LEAST = 100
RISK = 0.05


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A kind of request that was shown to fare worse than all others.

    labels: e.g. {"language": "de", "length": "long"}; level, rest, difference: in the signal's unit, at every moment together
    p: corrected for the search
    """

    labels: Mapping[str, str]
    signal: str
    level: Interval
    rest: Interval
    difference: Interval
    p: float
    text: str


class Slices:
    """The search in one version of one model, in bounded memory."""

    def __init__(
        self, *, signals: Sequence[str] = SIGNALS, by: Sequence[str] = BY, most: int = MOST, least: int = LEAST, risk: float = RISK
    ) -> None:
        self.signals = tuple(name for name in signals if signal_of(name).worse != "both")
        self.by, self.most, self.least, self.risk = tuple(by), most, least, risk
        self._scales = scales_of(self.signals)
        self._tables = {name: Contrasts(most) for name in self.signals}

    def take(self, item: Observed) -> None:
        """One request with all that is known of it when it ended."""
        parts = parts_of(item.labels, item.groups, self.by)
        for name in self.signals:
            value = item.flags.get(name, item.numbers.get(name))
            if value is not None:
                self.add(parts, name, float(value))

    def add(self, parts: Iterable[Part], name: str, value: float) -> None:
        """One value of a signal of a request in these parts; signals that are not searched are passed over."""
        scale = self._scales.get(name)
        if scale is None:
            return
        scaled = min(1.0, max(0.0, (value - scale[0]) / scale[1]))
        self._tables[name].add(kinds_of(tuple(parts), self.by), scaled)

    def rows(self) -> list[Slice]:
        """Kinds shown to be worse, the surest first. A pair is named only where it is worse than each of its labels alone is."""
        tested = []
        for name, table in self._tables.items():
            if table.keys:
                p = table.p_beyond(1 if signal_of(name).worse == "up" else -1)
                sizes = table.table(1.0)
                large = (sizes.n >= self.least) & (sizes.n_rest >= self.least)
                tested += [(float(one), name, key) for one, key, fit in zip(p, sizes.keys, large, strict=True) if fit]
        rejected = self._holm(sorted(tested))
        found = [self._slice(name, key, p) for p, name, key in rejected]
        return [one for one in found if not _is_said(one, found)]

    def _holm(self, tested: Sequence[tuple[float, str, Key]]) -> list[tuple[float, str, Key]]:
        """Those shown, with corrected p. Untested ones count as if their p were 1: how many are tested must not depend on time."""
        capacity = self.most * len(self.signals)
        rejected, before = [], 0.0
        for place, (p, name, key) in enumerate(tested):
            before = max(before, min(1.0, p * (capacity - place)))
            if before > self.risk:
                break
            rejected.append((before, name, key))
        return rejected

    def _slice(self, name: str, key: Key, p: float) -> Slice:
        signal, table = signal_of(name), self._tables[name].table(self.risk / (self.most * len(self.signals)))
        place = list(table.keys).index(key)
        scale = signal.high - signal.low

        def interval(mean: float, low: float, high: float, n: float) -> Interval:
            value, lower, upper = (signal.low + scale * float(end) for end in (mean, low, high))
            return Interval(value=value, low=lower, high=upper, n=int(n))

        level = interval(table.mean[place], table.low[place], table.high[place], table.n[place])
        rest = interval(table.rest_mean[place], table.rest_low[place], table.rest_high[place], table.n_rest[place])
        apart = table.mean[place] - table.rest_mean[place]
        low, high = table.low[place] - table.rest_high[place], table.high[place] - table.rest_low[place]
        difference = Interval(value=scale * float(apart), low=scale * float(low), high=scale * float(high), n=min(level.n, rest.n))
        labels = dict(zip(key[::2], key[1::2], strict=True))
        text = _sentence(labels, signal, level, rest, difference)
        return Slice(labels=labels, signal=name, level=level, rest=rest, difference=difference, p=p, text=text)

    @property
    def dropped(self) -> int:
        """Values of kinds beyond the most that are kept."""
        return sum(table.dropped for table in self._tables.values())

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {name: table.state() for name, table in self._tables.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], **kwargs: Any) -> "Slices":
        """What `state` gave, with the arguments that it was made with."""
        made = cls(**kwargs)
        made._tables |= {name: Contrasts.from_state(table, made.most) for name, table in state.items() if name in made._tables}
        return made


@lru_cache(4096)
def kinds_of(parts: tuple[Part, ...], by: tuple[str, ...]) -> tuple[Key, ...]:
    """The kinds that a request is of: its labels one by one, and every two of them."""
    singles = sorted(part for part in parts if part[0] in by or part[0].startswith(GROUP))
    return (*singles, *((*one, *two) for one, two in combinations(singles, 2)))


def _is_said(pair: Slice, found: Sequence[Slice]) -> bool:
    """Whether one label of a pair says as much alone."""
    if len(pair.labels) < 2:
        return False
    alone = [one for one in found if len(one.labels) == 1 and one.signal == pair.signal and one.labels.items() <= pair.labels.items()]
    return any(abs(pair.difference.value) <= 1.25 * abs(one.difference.value) for one in alone)


def _sentence(labels: Mapping[str, str], signal: Signal, level: Interval, rest: Interval, difference: Interval) -> str:
    kind = " and ".join(f"{by.removeprefix(GROUP)} {of}" for by, of in labels.items())
    bounds = f"{change(signal, difference.low or 0.0)} to {change(signal, difference.high or 0.0)}"
    return f"{kind}: {signal.text} {shown(signal, level.value)} against {shown(signal, rest.value)} of all others ({bounds})"
