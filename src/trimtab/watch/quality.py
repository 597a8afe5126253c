"""Quality without labels: answers of the stable version, scored under it and under a version on trial, judged by the policy as they come.

An answer's outcome is the mean log-probability of its tokens. Over answers drawn from the reference, the expected change (version on trial
minus reference) is minus the Kullback-Leibler divergence from the reference to that version: never above zero, and zero only where both say
the same. On text that neither wrote, a version that is merely different loses nothing; here it does. So the same margin is stricter here
than before release (docs/live-quality.md). Pure: scores and times are handed in.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.decision import Decision, GateResult, Verdict
from trimtab.core.errors import InputError
from trimtab.core.evidence import Evidence, Outcome
from trimtab.core.files import digest_of
from trimtab.core.measurement import Interval
from trimtab.core.policy import Policy
from trimtab.core.watching import Alarm
from trimtab.decide.decide import decide
from trimtab.decide.policies import policy_sha256

SUITE = "text"
MOST_ANSWERS = 4096
"""So many answers are judged at most: a version that was neither caught nor promoted by then was looked at for long enough."""
CONTROL_ANSWERS = 40
NOISE_ANSWERS = 16
"""On so many of the first answers the planted control and the reference's own noise are looked at."""
BIASED_TOKENS = 128
BIAS_NATS = 3.0
"""The planted control: the reference, with the logits of the commonest tokens of its own answers lowered by so much."""
N_EXAMPLES = 5
PLANTED, NOISE = "tokens-biased", "other threads and slots"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One answer, each value a mean log-probability a token in nats; None = it has none, `error` says why.

    reference, candidate: under the two versions; planted: under the planted control; noise: under the reference's other numerics
    """

    request: str
    cluster: str
    at_s: float
    n_tokens: int
    reference: float | None
    candidate: float | None
    planted: float | None = None
    noise: float | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Who is compared. identity: digest of what both are, so that other weights under the same names are another trial."""

    model: str
    stable: str
    candidate: str
    identity: str = ""

    @property
    def id(self) -> str:
        """16 hex digits."""
        return digest_of(self)[:16]


@dataclass(kw_only=True)
class Trial:
    """One version on trial, held against one reference.

    policy: the same that judged it before release; only its gates on text can be judged by answers alone
    reference: what stands for the original, in words
    biased: token ids whose logits the planted control lowers; empty until the first answers are known
    """

    versions: Versions
    policy: Policy
    reference: str
    biased: tuple[int, ...] = ()
    decision: Decision | None = None
    alarm: Alarm | None = None
    _scored: dict[str, Scored] = field(default_factory=dict)
    _clusters: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not _text_gates(self.policy):
            raise InputError(
                f"Policy {self.policy.name!r} has no gate of kind non_inferiority on {SUITE!r}: answers in use cannot be judged by it."
            )

    @property
    def n(self) -> int:
        return len(self._scored)

    @property
    def is_over(self) -> bool:
        """Nothing more is learnt: it failed, or enough answers were seen."""
        return self.alarm is not None or self.n >= MOST_ANSWERS

    def wants(self, request: str, cluster: str) -> bool:
        """Whether an answer would count: once, and one of a conversation."""
        return not self.is_over and request not in self._scored and cluster not in self._clusters

    def take(self, answers: Sequence[Scored], at_s: float) -> Alarm | None:
        """Judge with these answers too, in the order they came. The alarm comes once, with the answer that made the gate fail."""
        for one in answers:
            if self.wants(one.request, one.cluster):
                self._scored[one.request] = one
                self._clusters.add(one.cluster)
        if self.alarm is not None or not self._seen():
            return None
        self.decision = decide(narrowed(self.policy), self.evidence())
        if self.decision.verdict != "fail":
            return None
        self.alarm = self._made(next(gate for gate in self.decision.gates if gate.verdict == "fail"), at_s)
        return self.alarm

    def evidence(self) -> Evidence:
        """What was seen so far, typed as looked at all the time."""
        scored = list(self._scored.values())
        planted = _outcomes([one for one in scored if one.planted is not None], "planted")
        noise = _outcomes([one for one in scored if one.noise is not None], "noise")
        return Evidence(
            use="anytime",
            reference=_outcomes(scored, "reference"),
            candidate=_outcomes(scored, "candidate"),
            controls={gate.name: planted for gate in _text_gates(self.policy)} if planted else {},
            noise={NOISE: noise} if noise else {},
        )

    def summary(self) -> dict[str, Any]:
        """How it stands, as plain values."""
        gates = self.decision.gates if self.decision is not None else ()
        verdict: Verdict = self.decision.verdict if self.decision is not None else "inconclusive"
        return {
            **dataclasses.asdict(self.versions),
            "policy": self.policy.name,
            "policy_sha256": policy_sha256(self.policy),
            "reference": self.reference,
            "verdict": verdict,
            "n": self.n,
            "n_missing": self.n - len(self._seen()),
            "is_over": self.is_over,
            "reasons": list(self.decision.reasons) if self.decision is not None else [],
            "gates": [
                {name: getattr(gate, name) for name in ("name", "verdict", "margin", "unit", "delta", "low", "high", "confidence", "n")}
                for gate in gates
            ],
        }

    def _seen(self) -> list[Scored]:
        return [one for one in self._scored.values() if one.reference is not None and one.candidate is not None]

    def _made(self, gate: GateResult, at_s: float) -> Alarm:
        seen = self._seen()
        worst = sorted(seen, key=lambda one: (one.candidate or 0.0) - (one.reference or 0.0))[:N_EXAMPLES]
        level, change = gate.level or 0.0, gate.delta or 0.0
        ends = [None if end is None else level + end for end in (gate.low, gate.high)]
        return Alarm(
            id=digest_of(["quality", self.versions, gate.name])[:16],
            model=self.versions.model,
            version=self.versions.candidate,
            signal=f"quality:{gate.name}",
            at_s=at_s,
            since_s=min(one.at_s for one in seen),
            n_since=gate.n,
            before=Interval(value=level, n=gate.n),
            after=Interval(value=level + change, low=ends[0], high=ends[1], n=gate.n),
            change=Interval(value=change, low=gate.low, high=gate.high, n=gate.n),
            method=(
                f"gate {gate.name} of policy {self.policy.name} (margin {gate.margin:g} {gate.unit}) against {self.reference}, on live "
                f"answers, by a confidence sequence: wrong at any moment with chance {100 * (1 - gate.confidence) / 2:.3g} % at most"
            ),
            examples=tuple(one.request for one in worst),
        )

    def state(self) -> dict[str, Any]:
        """Everything, as plain values, without any text."""
        return {
            "versions": dataclasses.asdict(self.versions),
            "reference": self.reference,
            "policy_sha256": policy_sha256(self.policy),
            "biased": list(self.biased),
            "alarm": dataclasses.asdict(self.alarm) if self.alarm is not None else None,
            "scored": [dataclasses.asdict(one) for one in self._scored.values()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], policy: Policy) -> "Trial":
        """As it was. Raises KeyError, TypeError, ValueError for what no `state` gave; ValueError for that of another policy."""
        if state["policy_sha256"] != policy_sha256(policy):
            raise ValueError("the policy is another one")
        trial = cls(
            versions=Versions(**state["versions"]),
            policy=policy,
            reference=str(state["reference"]),
            biased=tuple(map(int, state["biased"])),
        )
        for row in state["scored"]:
            one = Scored(**row)
            trial._scored[one.request] = one
            trial._clusters.add(one.cluster)
        trial.alarm = alarm_from(state["alarm"]) if state["alarm"] is not None else None
        if trial._seen():
            trial.decision = decide(narrowed(policy), trial.evidence())
        return trial


def alarm_from(plain: Mapping[str, Any]) -> Alarm:
    """An alarm of its plain values. Raises KeyError, TypeError."""
    levels = {name: Interval(**plain[name]) for name in ("before", "after", "change")}
    return Alarm(**{**plain, **levels, "slice": dict(plain["slice"]), "examples": tuple(plain["examples"])})


def narrowed(policy: Policy) -> Policy:
    """The policy with those gates only that answers in use speak to; margins, levels and bounds stay."""
    return dataclasses.replace(policy, gates=tuple(dataclasses.replace(gate, control=PLANTED) for gate in _text_gates(policy)))


def commonest(answers: Sequence[Sequence[int]], most: int = BIASED_TOKENS) -> tuple[int, ...]:
    """The token ids that stand most often in answers: those that the planted control is biased against."""
    counts: dict[int, int] = {}
    for ids in answers:
        for token in ids:
            counts[token] = counts.get(token, 0) + 1
    return tuple(sorted(counts, key=lambda token: (-counts[token], token))[:most])


def _text_gates(policy: Policy) -> tuple[Any, ...]:
    return tuple(gate for gate in policy.gates if gate.suite == SUITE and gate.kind == "non_inferiority")


def _outcomes(scored: Sequence[Scored], side: str) -> tuple[Outcome, ...]:
    found = []
    for one in scored:
        value = getattr(one, side)
        is_known = value is not None and math.isfinite(value)
        found.append(
            Outcome(
                item_id=one.request,
                suite=SUITE,
                cluster=one.cluster,
                value=value if is_known else None,
                n_tokens=one.n_tokens,
                error="" if is_known else one.error or "it has no finite value",
            )
        )
    return tuple(found)
