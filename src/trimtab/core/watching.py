"""What is watched of a model in use: requests without their texts, what changed in them, and what was done about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trimtab.core.measurement import Interval

SignalKind = Literal["mean", "rate", "category"]
Worse = Literal["up", "down", "both"]
About = Literal["input", "output", "service", "quality", "people"]
LateKind = Literal["feedback", "outcome", "agreement", "probe"]
Severity = Literal["low", "moderate", "high", "critical"]
IncidentState = Literal["open", "contained", "closed"]
ImpactState = Literal["suspected", "confirmed", "mitigated", "dismissed"]
Harm = Literal["health", "death", "infrastructure", "widespread", "rights", "property"]
ActionKind = Literal["alarm", "sample", "guard", "stop-canary", "rollback", "scale", "page", "certify"]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Something of a request that is watched. Read from catalog/signals.toml.

    kind: `mean`: a number, clipped to low..high before it is judged; `rate`: yes or no; `category`: shares of labels
    worse: which way a change is one for the worse; `both`: any change of the input's or output's kind is told
    text: what a person reads for it, e.g. `time to the first token`
    """

    name: str
    kind: SignalKind
    about: About
    text: str
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    worse: Worse = "both"


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """One request as it is watched: numbers and short labels, no text of anybody's.

    request: its id; at_s: when it ended, UTC, seconds since 1970
    model, version, key: as in the audit log; status: of HTTP; error: its code, empty if it ended well
    numbers, flags: by signal; what is not known is absent, never zero
    labels: by slice or category signal: `language`, `topic`, `length` ..., of a small number of values each
    groups: sensitive attribute -> group, as the client gave it or the person said it; never guessed
    """

    request: str
    at_s: float
    model: str = ""
    version: str = ""
    key: str = ""
    status: int = 200
    error: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Late:
    """What is learnt of a request after it ended, joined to it by its id.

    name: of the signal, e.g. `thumbs`, `edited`, `retried`, the outcome's own name, `shadow_nats_per_token`, `probe_right`
    value: on the signal's scale; a yes is 1
    groups: what the person said of themselves with it, as in Observed
    model, version: of a `probe`, behind which there is no request of a user's; else empty
    """

    request: str
    at_s: float
    kind: LateKind
    name: str
    value: float
    groups: Mapping[str, str] = field(default_factory=dict)
    model: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A change that a detector found.

    id: a digest of what it is about, the same after a restart
    signal: its name; slice: of which requests, empty = all, e.g. {"language": "de"} or {"group:sex": "female"}
    at_s: when it was found; since_s: from when on, as estimated; n_since: requests since then
    before, after: levels in the signal's unit with their intervals; change: after minus before
    label: of a category signal, which one's share moved; since_range_s: moments that fit nearly as well as since_s
    method: of the detector, with its stated error, e.g. `e-detector, one false alarm in 1,000,000 requests over all signals at most`
    examples: ids of requests that show it
    """

    id: str
    model: str
    version: str
    signal: str
    at_s: float
    since_s: float
    n_since: int
    before: Interval
    after: Interval
    change: Interval
    method: str
    slice: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    label: str = ""
    since_range_s: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Action:
    """What a rule of the watch asked for, and what came of it.

    rule: its name; why: the alarm's id; done: False where it was refused, failed, or is a dry run; result: says which, or what was done
    """

    kind: ActionKind
    rule: str
    why: str
    at_s: float
    done: bool
    result: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Incident:
    """Something that went wrong in use, as the entries of the ledger tell it so far.

    id: `incident-7`; about: release id or model name; opened, updated: UTC, ISO 8601; by: who opened it, a person or the watch
    affected: groups of people; alarms: ids; notes: (when, who, what) in order
    serious: harm that a law may want reported (catalog/reporting.toml says in how many days); empty = none that is known
    """

    id: str
    title: str
    severity: Severity
    state: IncidentState
    about: str
    opened: str
    updated: str
    by: str
    owner: str = ""
    affected: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    notes: tuple[tuple[str, str, str], ...] = ()
    serious: Harm | Literal[""] = ""


@dataclass(frozen=True, kw_only=True)
class Impact:
    """One line of the impact register: an effect on people, meant or not.

    id: `impact-3`; intended: whether it was meant; groups: who is affected; sources: ids of incidents, alarms or feedback behind it
    notes: (when, who, what) in order
    """

    id: str
    effect: str
    intended: bool
    severity: Severity
    state: ImpactState
    about: str
    owner: str = ""
    groups: tuple[str, ...] = ()
    mitigation: str = ""
    sources: tuple[str, ...] = ()
    updated: str = ""
    notes: tuple[tuple[str, str, str], ...] = ()
