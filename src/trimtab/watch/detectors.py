"""One detector for one signal of one slice of the requests: has it moved from what it was, since when, by how much?

Values are brought to 0..1 and taken in blocks; the evidence is that of stats/change.py, against the signal's own past. The baseline is all
of that past since the last alarm, but its bounds only ever tighten, so slow growth is not taken for normal. After an alarm the detector
begins anew: the level it then finds is its new baseline.

Its share w of a budget of one false alarm in N requests: threshold c = N / (0.9 w), risk of all its bounds 0.05 w. Over detectors with
shares that sum to 1, within n requests: expected false alarms <= (0.9 n / N + 0.05) / 0.95, which is 1 at n = N, whatever the signals have
to do with each other. It holds while a signal's mean, given what came before, stands still (for seasonal ones: up to what seasons.py allows
for); bursts of requests that depend on each other break it.
"""

import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval
from trimtab.core.watching import Alarm, Signal
from trimtab.stats.change import Baseline, EDetector, mean_bounds, student
from trimtab.stats.proportions import combined_difference, wilson
from trimtab.watch.seasons import ADOPTED_S, HOUR_S, Season
from trimtab.watch.segments import Segment, append, change_point, examples, from_plain, to_plain

Floats = NDArray[np.float64]

BLOCK = 16
"""Values of a block; it also ends with the hour, and with the first value that comes BLOCK_S or more after its first."""
BLOCK_S = 120.0
CHOOSING = 500
"""Requests by which a category's labels are chosen; they are not judged."""
LABELS = 8
OTHER = "other"
"""All labels that were not chosen: where a new one shows."""
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A change that a detector found, in the signal's unit.

    label: of a category signal, which one's share moved: a label, or `other (mostly sw)`
    since_s: first request of the change as estimated, within earliest_s..latest_s; n_since: requests from it on
    before, after: levels with 95 % intervals that allow for the choice of the moment; change: after minus before
    number: how many this detector has found
    """

    signal: str
    label: str
    side: Literal["up", "down"]
    at_s: float
    since_s: float
    earliest_s: float
    latest_s: float
    n_since: int
    before: Interval
    after: Interval
    change: Interval
    examples: tuple[str, ...]
    number: int
    method: str

    def alarm(self, *, model: str, version: str, slice: Mapping[str, str] | None = None) -> Alarm:
        """As the watch keeps it: which model it is about, and which of its requests."""
        about = [model, version, self.signal, sorted((slice or {}).items()), self.label, self.side, self.number, self.at_s]
        return Alarm(
            id=hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16],
            model=model,
            version=version,
            signal=self.signal,
            at_s=self.at_s,
            since_s=self.since_s,
            n_since=self.n_since,
            before=self.before,
            after=self.after,
            change=self.change,
            method=self.method,
            slice=dict(slice or {}),
            examples=self.examples,
            label=self.label,
            since_range_s=(self.earliest_s, self.latest_s),
        )


class Detector:
    """Takes a signal's values in the order the requests ended, and yields a Finding when it has moved.

    alarm_share: its share of the budget, 0..1; requests: the budget is one false alarm in that many, over everything
    slices: how many detectors share this share between them, each request being seen by one of them at most
    seasonal: None = as `has_season` says
    """

    def __init__(
        self, signal: Signal, *, alarm_share: float, requests: float = 1_000_000, slices: int = 1, seasonal: bool | None = None
    ) -> None:
        if not (0.0 < alarm_share <= 1.0 and requests >= 1 and slices >= 1):
            raise InputError(
                f"A detector's share must lie above 0 and at most at 1, not at {alarm_share!r}, of one alarm in 1 request or more."
            )
        if signal.kind != "category" and not signal.low < signal.high:
            raise InputError(f"The bounds of the signal `{signal.name}` must rise, not {signal.low:g} to {signal.high:g}.")
        self.signal = signal
        self.alarm_share, self.requests, self.slices = alarm_share, requests, slices
        self.seasonal = has_season(signal) if seasonal is None else seasonal
        self.threshold = requests / (0.9 * alarm_share)
        self.risk = 0.05 * alarm_share / slices / (1 + len(ADOPTED_S) if self.seasonal else 1)
        self.n = 0
        self.alarms = 0
        self._values: list[float] = []
        self._requests: list[str] = []
        self._first_s, self._last_s, self._until_s = 0.0, 0.0, -math.inf
        self._begin(() if signal.kind == "category" else (signal.name,))

    def _begin(self, streams: tuple[str, ...], *, keep_season: Season | None = None) -> None:
        """A new baseline, with nothing known of it. No streams: a category's labels are still to be chosen."""
        self._streams = streams
        self._index = {label: i for i, label in enumerate(streams)}
        self._choosing: Counter[str] = Counter()
        self._others: deque[str] = deque(maxlen=64)
        self._segments: list[Segment] = []
        self._hour = -1.0
        self._season = keep_season or (Season(len(streams)) if self.seasonal and streams else None)
        if streams:
            sides: Mapping[str, Literal["above", "below"]] = {"up": "above", "down": "below"}
            self._baseline = Baseline(len(streams), risk=self.risk)
            self._evidence = EDetector(
                len(streams), sides="both" if self.signal.kind == "category" else sides.get(self.signal.worse, "both")
            )

    def take(self, value: float | str, at_s: float, request: str) -> Finding | None:
        """The next value: a number, 0 or 1 of a rate, a label of a category. A Finding comes with the block that shows it.

        Raises InputError for what is no finite number.
        """
        self.n += 1
        if self.signal.kind == "category":
            if not self._streams:
                self._choose(str(value))
                return None
            place: float = self._index.get(str(value), len(self._streams) - 1)
            if place == len(self._streams) - 1:
                self._others.append(str(value))
        else:
            number, signal = float(value), self.signal
            if not math.isfinite(number):
                raise InputError(f"The signal `{signal.name}` of request {request!r} must be a finite number, not {value!r}.")
            place = (min(max(number, signal.low), signal.high) - signal.low) / (signal.high - signal.low)
        finding = None
        if self._values and not self._first_s <= at_s < self._until_s:
            finding = self._close()
            if not self._streams:
                return finding
        if not self._values:
            self._first_s = at_s
            self._until_s = min(at_s + BLOCK_S, (at_s // HOUR_S + 1.0) * HOUR_S)
        self._values.append(place)
        self._requests.append(request)
        self._last_s = at_s
        if len(self._values) == BLOCK:
            finding = self._close() or finding
        return finding

    def _choose(self, label: str) -> None:
        self._choosing[label] += 1
        if self._choosing.total() == CHOOSING:
            often = [name for name, count in self._choosing.most_common(LABELS) if count >= CHOOSING // 100 and name != OTHER]
            self._begin((*often, OTHER))

    def _close(self) -> Finding | None:
        """Judge the block that has come together."""
        values, requests = np.array(self._values), self._requests
        self._values, self._requests = [], []
        block = values[:, None] if self.signal.kind != "category" else (values[:, None] == np.arange(len(self._streams))).astype(float)
        offset, _ = self._now()
        hour = self._first_s // HOUR_S
        if self._season is not None and hour != self._hour:
            self._hour = hour
            self._bet()
        evidence = self._evidence.take(block)
        sums, squares, renewed = self._baseline.take(block, offset)
        append(self._segments, _segment(block, requests, self._first_s, sums, squares))
        if evidence >= self.threshold:
            return self._found()
        if self._season is not None and self._season.take(block, self._first_s):
            self._begin(self._streams, keep_season=self._season)
        elif renewed:
            self._bet()
        return None

    def _now(self) -> tuple[Floats | float, Floats | float]:
        return (0.0, 0.0) if self._season is None else self._season.at(self._first_s, self._baseline.deviation)

    def _bet(self) -> None:
        offset, allowed = self._now()
        base = self._baseline
        self._evidence.bet(base.low + offset - allowed, base.high + offset + allowed, base.deviation)

    def _found(self) -> Finding:
        stream, direction = self._evidence.strongest()
        yes_or_no = self.signal.kind != "mean"
        point = change_point(self._segments, stream, yes_or_no=yes_or_no)
        confidence = 1.0 - (1.0 - LEVEL) / len(self._segments)  # for the moment was chosen among so many
        parts = (self._segments[: point.index], self._segments[point.index :])
        before, after = (_level(part, stream, confidence, yes_or_no=yes_or_no) for part in parts)
        label = "" if self.signal.kind != "category" else self._streams[stream]
        if label == OTHER and direction == "above" and self._others:
            since = list(self._others)[-max(1, round(after.value * after.n)) :]
            label = f"{OTHER} (mostly {Counter(since).most_common(1)[0][0]})"
        self.alarms += 1
        finding = Finding(
            signal=self.signal.name,
            label=label,
            side="up" if direction == "above" else "down",
            at_s=self._last_s,
            since_s=point.since_s,
            earliest_s=point.earliest_s,
            latest_s=point.latest_s,
            n_since=point.n_since,
            before=self._in_unit(before),
            after=self._in_unit(after),
            change=self._difference(before, after),
            examples=examples(self._segments[point.index :], stream, most=direction == "above"),
            number=self.alarms,
            method=f"e-detector, one false alarm in {self.requests:,.0f} requests over all signals at most",
        )
        if self._season is not None:
            self._season.forget()
        # A category chooses its labels anew: the one that came is one of them now.
        self._begin(() if self.signal.kind == "category" else self._streams, keep_season=None if label else self._season)
        return finding

    def _in_unit(self, level: Interval) -> Interval:
        low, width = (0.0, 1.0) if self.signal.kind == "category" else (self.signal.low, self.signal.high - self.signal.low)

        def real(share: float | None) -> float | None:
            return None if share is None else low + width * min(max(share, 0.0), 1.0)

        return Interval(value=low + width * level.value, low=real(level.low), high=real(level.high), n=level.n)

    def _difference(self, before: Interval, after: Interval) -> Interval:
        width = 1.0 if self.signal.kind == "category" else self.signal.high - self.signal.low
        value = width * (after.value - before.value)
        if before.low is None or after.low is None:
            return Interval(value=value, n=after.n)
        change = combined_difference(after, before)
        low, high = (None if end is None else width * end for end in (change.low, change.high))
        return Interval(value=value, low=low, high=high, n=after.n)

    def level(self) -> Interval | None:
        """Where the signal stands since the last alarm, with bounds that hold at all times together; None = nothing yet, or a category."""
        if not self._streams or self.signal.kind == "category" or not self._baseline.n:
            return None
        base = self._baseline
        low, high = mean_bounds(base.n, base.total, base.spread, 1.0 - LEVEL)
        return self._in_unit(Interval(value=float(base.total[0] / base.n), low=float(low[0]), high=float(high[0]), n=base.n))

    def state(self) -> dict[str, Any]:
        """All that it knows, for JSON; the signal and the budget are not in it."""
        plain: dict[str, Any] = {
            "n": self.n,
            "alarms": self.alarms,
            "streams": list(self._streams),
            "choosing": dict(self._choosing),
            "others": list(self._others),
            "values": list(self._values),
            "requests": list(self._requests),
            "times": [self._first_s, self._last_s, self._until_s if self._values else 0.0, self._hour],
        }
        if self._streams:
            plain["baseline"] = self._baseline.state()
            plain["evidence"] = self._evidence.state()
            plain["segments"] = [to_plain(segment) for segment in self._segments]
            plain["season"] = None if self._season is None else self._season.state()
        return plain

    @classmethod
    def from_state(
        cls,
        signal: Signal,
        state: Mapping[str, Any],
        *,
        alarm_share: float,
        requests: float = 1_000_000,
        slices: int = 1,
        seasonal: bool | None = None,
    ) -> "Detector":
        """The detector that `state` was taken of, with the budget that holds now. A signal that has become seasonal begins anew."""
        made = cls(signal, alarm_share=alarm_share, requests=requests, slices=slices, seasonal=seasonal)
        made.n, made.alarms = state["n"], state["alarms"]
        season = state.get("season")
        if state["streams"] and (season is not None) == made.seasonal:
            made._begin(tuple(state["streams"]), keep_season=None if season is None else Season.from_state(season))
            made._baseline = Baseline.from_state(state["baseline"])
            made._evidence = EDetector.from_state(state["evidence"])
            made._segments = [from_plain(plain) for plain in state["segments"]]
            made._values, made._requests = list(state["values"]), list(state["requests"])
            made._first_s, made._last_s, made._until_s, made._hour = state["times"]
        made._choosing.update(state["choosing"])
        made._others.extend(state["others"])
        return made


def has_season(signal: Signal) -> bool:
    """Whether a signal is taken to follow the hour of the day: what people ask and how long it takes do, errors and answers should not."""
    return signal.about == "input" or (signal.about == "service" and signal.kind == "mean")


def _segment(block: Floats, requests: Sequence[str], start_s: float, sums: Floats, squares: Floats) -> Segment:
    most, least = block.argmax(axis=0).tolist(), block.argmin(axis=0).tolist()
    return Segment(
        start_s=start_s,
        level=0,
        n=block.shape[0],
        total=sums.tolist(),
        spread=squares.tolist(),
        highest=[(float(block[i, s]), requests[i]) for s, i in enumerate(most)],
        lowest=[(float(block[i, s]), requests[i]) for s, i in enumerate(least)],
    )


def _level(segments: Sequence[Segment], stream: int, confidence: float, *, yes_or_no: bool) -> Interval:
    """Mean of a stream over segments: Wilson's interval for shares, Student's for numbers."""
    n = sum(segment.n for segment in segments)
    mean = float(sum(segment.total[stream] for segment in segments)) / max(n, 1)
    if n < 2:
        return Interval(value=mean, n=n)
    if yes_or_no:
        return replace(wilson(round(min(max(mean, 0.0), 1.0) * n), n, confidence), value=mean)
    return student(mean, math.sqrt(float(sum(segment.spread[stream] for segment in segments)) / (n - 1)), n, confidence)
