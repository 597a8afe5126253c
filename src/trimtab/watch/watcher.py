"""What is watched, request by request: levels, detectors and alarms of every version, in bounded memory for ever. Pure: no clock, no files.

The same items in the same order give the same alarms and the same levels, whether they come live, from a log, or in pieces with the state
kept in between as JSON; percentiles are of a random sketch. Every request counts once: a second one of the same id is passed over and
counted as a fault.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from trimtab.core.groups import NAME
from trimtab.core.measurement import Interval
from trimtab.core.watching import Alarm, Late, Observed, Signal, SignalKind
from trimtab.watch.budget import Budget
from trimtab.watch.detectors import Detector
from trimtab.watch.envelope import OUTSIDE, Envelope, Outside
from trimtab.watch.groups import GroupRates
from trimtab.watch.join import Join
from trimtab.watch.rules import GROUP, WatchRules, is_worse
from trimtab.watch.signals import signal_of, signals
from trimtab.watch.sketches import Quantiles
from trimtab.watch.slices import Slices
from trimtab.watch.tallies import OTHER, Recent, Tally, counted
from trimtab.watch.trial import Trial

Slice = tuple[str, str]
"""(by, of): ("language", "de") or ("group:sex", "female"); ("", "") = all requests."""
ALL: Slice = ("", "")
VERSIONS = 64
VERSIONS_AT_ONCE = 4
OWN_NAMES = 32
ATTRIBUTES = 4
"""Most versions, those that the budget allows for within its requests, names of a site's own outcomes, attributes of people."""
KEPT_ALARMS = 200
BACK_N = 256
"""Requests by which it is seen that a level is back at what it was."""
BACK_Z = 2.58
STANDS_S = 7 * 86400.0
AHEAD_S = 300.0
BESIDE_S = 3600.0
AHEAD, DUPLICATE, NO_REQUEST = "clock ahead of this machine's", "duplicate", "no such request"


@dataclass(kw_only=True)
class Watched:
    """A signal of one slice: how it stands, and what judges it.

    recent: of all requests only, so is sketch, of numbers; counts: of a category's labels; detector: None = it is not judged
    """

    tally: Tally = field(default_factory=Tally)
    recent: Recent | None = None
    sketch: Quantiles | None = None
    counts: dict[str, int] = field(default_factory=dict)
    detector: Detector | None = None

    def level(self, kind: SignalKind) -> dict[str, Any]:
        """Since the watch began; of a category the share of its most frequent label."""
        if kind != "category":
            return self.tally.level(kind)
        return Tally(sum(self.counts.values()), float(max(self.counts.values(), default=0))).level(kind)

    def percentiles(self) -> dict[str, float] | None:
        """Since the watch began, their ranks off by 1.3 % at most; None where nothing is known."""
        found = None if self.sketch is None else self.sketch.at((0.5, 0.95, 0.99))
        return None if found is None else dict(zip(("p50", "p95", "p99"), found, strict=True))


@dataclass(kw_only=True)
class Told:
    """An alarm as it stands. back: the level since, by which it ends; key: of what it is about

    part_of: id of an alarm over all requests that tells the same change, empty = there is none
    """

    alarm: Alarm
    stands: bool
    part_of: str = ""
    ended_s: float | None = None
    ended: str = ""
    back: Tally = field(default_factory=Tally)

    @property
    def key(self) -> tuple[str, Slice, str]:
        """Signal, slice and label."""
        (part,) = self.alarm.slice.items() or (ALL,)
        return self.alarm.signal, part, self.alarm.label


@dataclass(kw_only=True)
class Version:
    """All that is known of one version of one model.

    sizes: requests by slice; rates: of groups against the others; search: for what fares worst
    """

    n: int = 0
    last_s: float = 0.0
    sizes: dict[Slice, int] = field(default_factory=dict)
    parts: dict[Slice, dict[str, Watched]] = field(default_factory=lambda: {ALL: {}})
    outside: Outside | None = None
    rates: GroupRates = field(default_factory=GroupRates)
    search: Slices = field(default_factory=Slices)


class Watcher:
    """Takes requests and what is learnt of them later; yields alarms. See `live.document` for what it shows.

    envelopes: version id -> what its evidence covered
    """

    def __init__(self, rules: WatchRules, *, envelopes: Mapping[str, Envelope] | None = None) -> None:
        self.rules = rules
        self.envelopes = dict(envelopes or {})
        self.versions: dict[tuple[str, str], Version] = {}
        self.alarms: OrderedDict[str, Told] = OrderedDict()
        self._faults: dict[str, int] = {}
        self.n_requests = self.n_late = 0
        self.started_s = self.at_s = 0.0
        self._join = Join()
        self._trials: dict[str, Trial] = {}
        self._own_names: set[str] = set()
        self._sliced = frozenset(rules.slices.signals)
        self._budget = Budget(
            requests=float(rules.requests_per_false_alarm),
            signals=len(signals()) + OWN_NAMES,
            in_slices=len(rules.slices.signals),
            kinds=len(rules.slices.by) + ATTRIBUTES,
            slices=rules.slices.most,
            versions=VERSIONS_AT_ONCE,
        )

    def take(self, item: Observed | Late, *, now_s: float = float("inf")) -> tuple[Alarm, ...]:
        """The next item. now_s: the watch's own clock; an item from later than that is taken for one of the last moment seen."""
        at_s = item.at_s
        if at_s > now_s + AHEAD_S:
            self.fault(AHEAD)
            at_s = self.at_s or now_s
        alarms = tuple(self._observed(item, at_s) if isinstance(item, Observed) else self._joined(item, at_s))
        for alarm in alarms:
            self.tell(alarm)
        return alarms

    def cover(self, envelopes: Mapping[str, Envelope]) -> None:
        """Hold versions against these envelopes from now on; one that is another than before begins anew."""
        self.envelopes = dict(envelopes)
        for (_, name), version in self.versions.items():
            envelope = self.envelopes.get(name)
            if envelope is None:
                version.outside = None
            elif version.outside is None or version.outside.envelope != envelope:
                version.outside = Outside(envelope, self.rules.outside_share)

    def fault(self, reason: str, n: int = 1) -> None:
        """Count something that was passed over or put right."""
        self._faults[reason] = self._faults.get(reason, 0) + n

    @property
    def faults(self) -> dict[str, int]:
        """Reason -> how many items were passed over or put right for it."""
        twice, unknown = self._faults.get(DUPLICATE, 0) + self._join.n_twice, self._join.n_unknown
        return {**self._faults, **({DUPLICATE: twice} if twice else {}), **({NO_REQUEST: unknown} if unknown else {})}

    def _observed(self, item: Observed, at_s: float) -> Iterator[Alarm]:
        if item.request and self._join.knows(item.request):
            self.fault(DUPLICATE)
            return
        version = self._version(item.model, item.version, at_s)
        if version is None:
            return
        self.n_requests += 1
        self.started_s = min(self.started_s, at_s) if self.started_s else at_s
        self.at_s = max(self.at_s, at_s)
        version.n += 1
        version.last_s = max(version.last_s, at_s)
        slices = self._slices(version, item.labels, item.groups)
        for one in slices:
            version.sizes[one] = version.sizes.get(one, 0) + 1
        version.rates.count(slices)
        where = (item.model, item.version, version)
        for name, value in _values(item):
            yield from self._value(where, slices, name, value, at_s, item.request)
        if version.outside is not None:
            alarm = version.outside.take(item, at_s)
            if alarm is not None:
                yield alarm
        if item.request:
            for late, request in self._join.see(item):
                yield from self._learnt(late, request, max(late.at_s, at_s))

    def _joined(self, item: Late, at_s: float) -> Iterator[Alarm]:
        if item.kind == "probe" and item.model:  # no request of anybody's: a question of the watch's own, to a version
            if self._version(item.model, item.version) is not None:
                yield from self._learnt(item, Observed(request="", at_s=at_s, model=item.model, version=item.version), at_s)
            return
        found = self._join.take(item)
        if found is not None:
            yield from self._learnt(*found, at_s)

    def _learnt(self, late: Late, request: Observed, at_s: float) -> Iterator[Alarm]:
        """Late news of a request that was seen."""
        if late.name not in signals():
            if not NAME.fullmatch(late.name) or (late.name not in self._own_names and len(self._own_names) >= OWN_NAMES):
                self.fault("name of an outcome: not a name, or too many")
                return
            self._own_names.add(late.name)
        version = self.versions.get((request.model, request.version))
        if version is None:
            return
        self.n_late += 1
        self.at_s = max(self.at_s, at_s)
        slices = self._slices(version, request.labels, request.groups)
        yield from self._value((request.model, request.version, version), slices, late.name, late.value, at_s, late.request)

    def _value(
        self, where: tuple[str, str, Version], slices: tuple[Slice, ...], name: str, value: float | str, at_s: float, request: str
    ) -> Iterator[Alarm]:
        """One value of one signal, to all requests and to the slices that the request is in."""
        model, version_name, version = where
        judged = name in self._sliced
        if slices and not isinstance(value, str):
            version.rates.add(slices, name, value)
            version.search.add(slices, name, value)
        trial = self._trials.get(model)
        if trial is not None and not isinstance(value, str):
            alarm = trial.take(model, version_name, signal_of(name), value, at_s, request)
            if alarm is not None:
                yield alarm
        for part in (ALL, *slices):
            watched = version.parts[part].get(name)
            if watched is None:
                watched = version.parts[part][name] = self._watched(name, part, judged)
            signal = signal_of(name)
            number = 1.0 if signal.kind == "category" else float(value)
            if signal.kind == "category":
                counted(watched.counts, str(value))
                if part is not ALL:
                    continue
            watched.tally.add(number)
            if watched.recent is not None and signal.kind != "category":
                watched.recent.add(number, at_s)
            if watched.sketch is not None:
                watched.sketch.take(number)
            if self.alarms:
                self._look_back((model, version_name), name, part, value, at_s)
            finding = watched.detector.take(value, at_s, request) if watched.detector is not None else None
            if finding is not None:
                yield finding.alarm(model=model, version=version_name, slice={} if part == ALL else {part[0]: part[1]})

    def _watched(self, name: str, part: Slice, judged: bool) -> Watched:
        recent = Recent() if part == ALL else None
        sketch = Quantiles() if part == ALL and signal_of(name).kind == "mean" else None
        watched = part == ALL or (judged and part[1] != OTHER)
        return Watched(recent=recent, sketch=sketch, detector=self._detector(name, part) if watched else None)

    def _detector(self, name: str, part: Slice, state: Mapping[str, Any] | None = None) -> Detector:
        signal, share = signal_of(name), self._budget.of_all if part == ALL else self._budget.of_slice
        if state is None:
            return share.detector(signal)
        return Detector.from_state(signal, state, alarm_share=share.alarm_share, requests=share.requests, slices=share.slices)

    # Where a request belongs

    def _on_trial(self, model: str, name: str, at_s: float) -> None:
        """A version that is seen for the first time is held against the busiest one that had traffic within the hour."""
        others = [(one.n, other) for (whose, other), one in self.versions.items() if whose == model and other != name]
        busy = [(n, other) for n, other in others if n and at_s - self.versions[model, other].last_s < BESIDE_S]
        if busy:
            self._trials[model] = Trial(max(busy)[1], name, at_s, len(signals()) + OWN_NAMES)

    def _version(self, model: str, name: str, at_s: float | None = None) -> Version | None:
        found = self.versions.get((model, name))
        if found is None:
            if len(self.versions) >= VERSIONS:
                self.fault("versions: too many to watch")
                return None
            found = self.versions[model, name] = Version()
            if at_s is not None:
                self._on_trial(model, name, at_s)
            envelope = self.envelopes.get(name)
            if envelope is not None:
                found.outside = Outside(envelope, self.rules.outside_share)
        return found

    def _slices(self, version: Version, labels: Mapping[str, str], groups: Mapping[str, str]) -> tuple[Slice, ...]:
        """The slices of a request; a value beyond the most that are kept is `other`, an attribute beyond them is a fault."""
        wanted = [(by, labels[by]) for by in self.rules.slices.by if by in labels]
        wanted += [(GROUP + attribute, groups[attribute]) for attribute in sorted(groups)]
        found = []
        for by, of in wanted:
            part = (by, of)
            if part not in version.parts:
                same = sum(other == by for other, _ in version.parts)
                if not same and by.startswith(GROUP) and len({b for b, _ in version.parts if b.startswith(GROUP)}) >= ATTRIBUTES:
                    self.fault("attributes of people: too many")
                    continue
                part = part if same < self.rules.slices.most else (by, OTHER)
                version.parts.setdefault(part, {})
            found.append(part)
        return tuple(found)

    # Alarms that stand

    def tell(self, alarm: Alarm) -> None:
        """Keep an alarm as one that stands, of this watcher or of somebody else."""
        signal = signal_called(alarm.signal)
        told = Told(alarm=alarm, stands=is_worse(alarm, signal), part_of=self._part_of(alarm))
        if not told.stands:
            told.ended_s, told.ended = alarm.at_s, "a change for the better"
        for other in self.alarms.values():
            if other.stands and (other.alarm.model, other.alarm.version, other.key) == (alarm.model, alarm.version, told.key):
                other.stands, other.ended_s, other.ended = False, alarm.at_s, f"moved again: alarm {alarm.id}"
        self.alarms[alarm.id] = told
        while len(self.alarms) > KEPT_ALARMS:
            self.alarms.popitem(last=False)

    def _part_of(self, alarm: Alarm) -> str:
        """The standing alarm over all requests whose change is this slice's too: no other in direction, nor for sure in size."""
        if not alarm.slice:
            return ""
        low, high = (alarm.change.value if end is None else end for end in (alarm.change.low, alarm.change.high))
        for told in reversed(self.alarms.values()):
            other = told.alarm
            same = (other.model, other.version, other.signal, other.label) == (alarm.model, alarm.version, alarm.signal, alarm.label)
            if told.stands and same and not other.slice and (other.change.value > 0) == (alarm.change.value > 0):
                other_low, other_high = (other.change.value if end is None else end for end in (other.change.low, other.change.high))
                return other.id if low <= other_high and other_low <= high else ""
        return ""

    def _look_back(self, whose: tuple[str, str], name: str, part: Slice, value: float | str, at_s: float) -> None:
        """Whether what an alarm was about is back at its level before: then it stands no more."""
        for told in self.alarms.values():
            alarm = told.alarm
            if not told.stands or (alarm.model, alarm.version) != whose or alarm.signal != name or told.key[1] != part:
                continue
            if at_s - alarm.at_s > STANDS_S:
                told.stands, told.ended_s, told.ended = False, at_s, "for a week now: that is its level"
                continue
            number = float(str(value) == _label(alarm.label)) if alarm.label else float(value)
            told.back.add(number)
            if told.back.n < BACK_N:
                continue
            level = told.back.interval("rate" if alarm.label else signal_of(name).kind, BACK_Z)
            told.back = Tally()
            if level is not None and _is_back(level, alarm):
                told.stands, told.ended_s, told.ended = False, at_s, "back at its level before"

    def n_detectors(self) -> int:
        """Streams under watch."""
        return sum(
            one.detector is not None for version in self.versions.values() for rows in version.parts.values() for one in rows.values()
        )

    def standing(self) -> list[Alarm]:
        """Alarms that stand, the newest last."""
        return [told.alarm for told in self.alarms.values() if told.stands]

    # Kept as JSON

    def state(self) -> dict[str, Any]:
        """All of it, for JSON; rules and envelopes are not in it."""
        return {
            "counts": [self.n_requests, self.n_late, self.started_s, self.at_s],
            "faults": dict(self._faults),
            "versions": [[model, name, _version_state(version)] for (model, name), version in self.versions.items()],
            "alarms": [{**vars(told), "alarm": asdict(told.alarm), "back": told.back.state()} for told in self.alarms.values()],
            "join": self._join.state(),
            "trials": {model: trial.state() for model, trial in self._trials.items()},
            "own_names": sorted(self._own_names),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], rules: WatchRules, *, envelopes: Mapping[str, Envelope] | None = None) -> "Watcher":
        """The watcher that `state` was taken of, with the rules that hold now."""
        made = cls(rules, envelopes=envelopes)
        made.n_requests, made.n_late, made.started_s, made.at_s = state["counts"]
        made._faults = dict(state["faults"])
        made._own_names = set(state["own_names"])
        for model, name, one in state["versions"]:
            made.versions[model, name] = made._version_of(name, one)
        for one in state["alarms"]:
            alarm = alarm_from(one["alarm"])
            n, total, squares = one["back"]
            told = Told(**{**one, "alarm": alarm, "back": Tally(int(n), total, squares)})
            made.alarms[alarm.id] = told
        made._join = Join.from_state(state["join"])
        n_signals = len(signals()) + OWN_NAMES
        made._trials = {model: Trial.from_state(one, n_signals) for model, one in state.get("trials", {}).items()}
        return made

    def _version_of(self, name: str, state: Mapping[str, Any]) -> Version:
        version = Version(n=state["n"], last_s=state["last_s"])
        version.sizes = {(by, of): n for by, of, n in state["sizes"]}
        version.rates, version.search = GroupRates.from_state(state["rates"]), Slices.from_state(state["search"])
        for by, of, rows in state["parts"]:
            version.parts[by, of] = {signal: self._watched_of(signal, (by, of), row) for signal, row in rows.items()}
        envelope = self.envelopes.get(name)
        if envelope is not None:
            outside = state["outside"]
            allowed = self.rules.outside_share
            version.outside = Outside.from_state(outside, envelope, allowed) if outside else Outside(envelope, allowed)
        return version

    def _watched_of(self, name: str, part: Slice, row: Mapping[str, Any]) -> Watched:
        n, total, squares = row["tally"]
        recent = None if row["recent"] is None else Recent.from_state(row["recent"])
        detector = None if row["detector"] is None else self._detector(name, part, row["detector"])
        sketch = None if row["sketch"] is None else Quantiles(row["sketch"])
        return Watched(tally=Tally(int(n), total, squares), recent=recent, sketch=sketch, counts=dict(row["counts"]), detector=detector)


def _version_state(version: Version) -> dict[str, Any]:
    return {
        "n": version.n,
        "last_s": version.last_s,
        "sizes": [[by, of, n] for (by, of), n in version.sizes.items()],
        "parts": [[by, of, {name: _watched_state(one) for name, one in rows.items()}] for (by, of), rows in version.parts.items()],
        "outside": None if version.outside is None else version.outside.state(),
        "rates": version.rates.state(),
        "search": version.search.state(),
    }


def _watched_state(watched: Watched) -> dict[str, Any]:
    return {
        "tally": watched.tally.state(),
        "recent": None if watched.recent is None else watched.recent.state(),
        "sketch": None if watched.sketch is None else watched.sketch.state(),
        "counts": dict(watched.counts),
        "detector": None if watched.detector is None else watched.detector.state(),
    }


def alarm_from(row: Mapping[str, Any]) -> Alarm:
    """From its fields as JSON, with whatever stands beside them."""
    row = {one.name: row[one.name] for one in fields(Alarm)}
    intervals = {key: Interval(**row[key]) for key in ("before", "after", "change")}
    since = row["since_range_s"]
    return Alarm(**{**row, **intervals, "examples": tuple(row["examples"]), "since_range_s": None if since is None else tuple(since)})


def _values(item: Observed) -> Iterator[tuple[str, float | str]]:
    """What a request says of each signal. Labels that are no signal only make slices."""
    known = signals()
    yield from ((name, value) for name, value in item.numbers.items() if name in known)
    yield from ((name, 1.0 if value else 0.0) for name, value in item.flags.items() if name in known)
    yield from ((name, value) for name, value in item.labels.items() if name in known)


def _label(text: str) -> str:
    """The label that an alarm is about: `sw` of `other (mostly sw)`."""
    _, _, mostly = text.partition("(mostly ")
    return mostly.removesuffix(")") or text


def _is_back(level: Interval, alarm: Alarm) -> bool:
    low, high, before = level.low or 0.0, level.high or 0.0, alarm.before.value
    return low <= before if alarm.change.value > 0 else high >= before


def signal_called(name: str) -> Signal:
    """A signal by its name as an alarm has it: of the catalogue, the share outside of the evidence, a gate of the quality watch."""
    if name == OUTSIDE.name:
        return OUTSIDE
    kind, _, gate = name.partition(":")
    if kind != "quality":
        return signal_of(name)
    return Signal(name=name, kind="mean", about="quality", worse="down", unit="nats/token", text=f"gate {gate} on live answers")
