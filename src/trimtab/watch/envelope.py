"""What a version's evidence covered, which of its requests are unlike that, and whether they are too many. Pure.

The share outside is looked at after every request, so its bound is one for all moments: that of stats/change.py, for the running mean of
what came, anew each day in UTC. Day d has the risk 0.05 / (d (d + 1)), which sums to 0.05 over all days.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.core.files import digest_of
from trimtab.core.measurement import Interval
from trimtab.core.watching import Alarm, Observed, Signal
from trimtab.record.deploy import DeployLock
from trimtab.stats.change import mean_bounds
from trimtab.watch.tallies import plain_level

OUTSIDE = Signal(name="outside", kind="rate", about="input", worse="up", text="requests unlike what was certified")
DAY_S = 86400.0
RISK = 0.05
LOOK = 16
"""Requests between two looks at the bound."""
REASONS = 16
UNDETERMINED = "und"
_NAMES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "pt": "Portuguese",
    "nl": "Dutch",
    "pl": "Polish",
    "ru": "Russian",
    "uk": "Ukrainian",
    "tr": "Turkish",
    "ar": "Arabic",
    "hi": "Hindi",
    "zh": "Chinese",
    "ja": "Japanese",
    "ko": "Korean",
    "sw": "Swahili",
}


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What the evidence of a version covered; empty or zero = not known, so nothing is outside for its sake.

    languages: of the suites, ISO 639; context_tokens: prompt and answer of the longest request that was examined or timed
    concurrency: most requests at once that were timed; workload: its name
    attributes: of people whose groups a gate compared, e.g. `sex`; suites: their names
    """

    languages: tuple[str, ...] = ()
    context_tokens: int = 0
    concurrency: int = 0
    workload: str = ""
    attributes: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """`English chat up to 2k tokens`"""
        languages = " and ".join(_NAMES.get(one, one) for one in self.languages[:3]) + (" and more" if len(self.languages) > 3 else "")
        kind = "chat" if self.workload == "chat" else "requests"
        length = f" up to {_tokens(self.context_tokens)} tokens" if self.context_tokens else ""
        return f"{languages or 'any language'} {kind}{length}"

    def outside(self, item: Observed) -> tuple[str, ...]:
        """Why a request is unlike what was examined; empty = it is like that, as far as is known of it."""
        reasons = []
        language = item.labels.get("language", UNDETERMINED)
        if self.languages and language != UNDETERMINED and language not in self.languages:
            reasons.append(f"language {language}")
        tokens = item.numbers.get("prompt_tokens", 0.0) + item.numbers.get("completion_tokens", 0.0)
        if self.context_tokens and tokens > self.context_tokens:
            reasons.append(f"longer than {self.context_tokens:,} tokens")
        if self.attributes:
            reasons += [f"groups by {one}, which no gate compared" for one in item.groups if one not in self.attributes]
        return tuple(reasons)


def _tokens(n: int) -> str:
    return f"{n // 1024}k" if n >= 1024 and n % 1024 == 0 else f"{n:,}"


def envelope_of(lock: DeployLock, decision: Mapping[str, Any] | None) -> Envelope:
    """From a lock and the decision that it rests on (decision.json); without that (None) only the engine's context is known."""
    if decision is None:
        return Envelope(context_tokens=lock.settings.context_tokens or 0)
    suite, workload = decision.get("suite") or {}, decision.get("workload") or {}
    requested = int(workload.get("most_tokens") or 0) or int(workload.get("prompt_tokens") or 0) + int(workload.get("output_tokens") or 0)
    gates = [gate for gate in decision.get("gates", ()) if isinstance(gate.get("delta"), int | float)]
    groups = [str(row["group"]) for gate in gates for row in gate.get("groups") or ()]
    return Envelope(
        languages=tuple(sorted({str(one) for one in suite.get("languages") or () if one != UNDETERMINED})),
        context_tokens=max(requested, int(suite.get("longest_tokens") or 0)),
        concurrency=max((int(one) for one in workload.get("concurrency") or ()), default=0),
        workload=str(workload.get("name") or ""),
        attributes=tuple(dict.fromkeys(one.partition(":")[0] for one in groups)),
        suites=tuple(dict.fromkeys(str(gate["suite"]) for gate in gates if gate.get("suite"))),
    )


class Outside:
    """The share of one version's requests that are outside its envelope, today and since the watch began.

    allowed: share beyond which there is an alarm, once a day; days: of traffic so far, this one included
    """

    def __init__(self, envelope: Envelope, allowed: float) -> None:
        self.envelope, self.allowed = envelope, allowed
        self.day = self.days = 0
        self.told = False
        self.n = self.count = self.n_all = self.count_all = 0
        self.spread = self.spread_all = 0.0
        self.reasons: dict[str, int] = {}
        self.since_s = 0.0
        self.examples: list[str] = []

    def take(self, item: Observed, at_s: float) -> Alarm | None:
        """One request more; an Alarm where the share of today is beyond what is allowed for sure."""
        day = int(at_s // DAY_S)
        if day > self.day:
            self.day, self.days, self.told = day, self.days + 1, False
            self.n, self.count, self.spread, self.reasons, self.since_s, self.examples = 0, 0, 0.0, {}, at_s, []
        found = self.envelope.outside(item)
        value = float(bool(found))
        self.spread += (value - (self.count + 0.5) / (self.n + 1)) ** 2
        self.spread_all += (value - (self.count_all + 0.5) / (self.n_all + 1)) ** 2
        self.n, self.n_all = self.n + 1, self.n_all + 1
        if found:
            self.count, self.count_all = self.count + 1, self.count_all + 1
            self.examples = [*self.examples[-4:], item.request]
            for reason in found:
                if reason in self.reasons or len(self.reasons) < REASONS:
                    self.reasons[reason] = self.reasons.get(reason, 0) + 1
        if self.told or self.n % LOOK or self.count <= self.allowed * self.n:
            return None
        today = self.today()
        if today is None or today.low is None or today.low <= self.allowed:
            return None
        self.told = True
        return self._alarm(item, at_s, today)

    def _alarm(self, item: Observed, at_s: float, today: Interval) -> Alarm:
        low, high = (None if end is None else end - self.allowed for end in (today.low, today.high))
        return Alarm(
            id=digest_of([item.model, item.version, OUTSIDE.name, self.day, digest_of(self.envelope)])[:16],
            model=item.model,
            version=item.version,
            signal=OUTSIDE.name,
            at_s=at_s,
            since_s=self.since_s,
            n_since=self.n,
            before=Interval(value=self.allowed, n=0),
            after=today,
            change=Interval(value=today.value - self.allowed, low=low, high=high, n=self.n),
            method="bound for the share of a day's requests that holds at every moment, at 95 % over all days",
            examples=tuple(self.examples),
        )

    def today(self) -> Interval | None:
        """The share of today's requests, with bounds that hold at every moment."""
        return _share(self.n, self.count, self.spread, RISK / (self.days * (self.days + 1))) if self.n else None

    def all(self) -> Interval | None:
        """The share since the watch began, likewise."""
        return _share(self.n_all, self.count_all, self.spread_all, RISK) if self.n_all else None

    def summary(self, model: str, version: str) -> dict[str, Any]:
        """As live.json has it."""
        today = self.today()
        often = sorted(self.reasons.items(), key=lambda one: (-one[1], one[0]))
        return {
            "model": model,
            "version": version,
            "covers": self.envelope.text,
            "today": plain_level(today),
            "all": plain_level(self.all()),
            "outside": [{"what": what, "share": count / self.n} for what, count in often],
            "text": sentence(version, self.envelope, today),
        }

    def state(self) -> dict[str, Any]:
        """For JSON; the envelope is not in it."""
        return {name: value for name, value in vars(self).items() if name not in ("envelope", "allowed")} | {"of": digest_of(self.envelope)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], envelope: Envelope, allowed: float) -> "Outside":
        """What `state` gave; of another envelope it begins anew."""
        made = cls(envelope, allowed)
        if state["of"] == digest_of(envelope):
            vars(made).update({name: value for name, value in state.items() if name != "of"})
        return made


def sentence(version: str, envelope: Envelope, today: Interval | None) -> str:
    """`chat@stable is certified on English chat up to 2k tokens; 14 % of today's traffic is outside (13.6 to 14.4 %)`"""
    said = f"{version} is certified on {envelope.text}"
    if today is None or today.low is None or today.high is None:
        return f"{said}; there was no traffic today"
    return f"{said}; {100 * today.value:.3g} % of today's traffic is outside ({100 * today.low:.3g} to {100 * today.high:.3g} %)"


def _share(n: int, count: int, spread: float, risk: float) -> Interval:
    low, high = mean_bounds(n, np.array([float(count)]), np.array([spread]), risk)
    return Interval(value=count / n, low=max(0.0, float(low[0])), high=min(1.0, float(high[0])), n=n)
