"""The answer: pass, fail or inconclusive, per gate and joint, with reasons."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trimtab.core.evidence import EvidenceUse

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class ControlResult:
    """A planted positive control on the same items: it must be failed. `caught` False = the gate is not informative."""

    name: str
    delta: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    caught: bool


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """One group's signed change against its template's mean (gate's unit). `p_holm`: two-sided, corrected over groups."""

    group: str
    delta: float
    low: float
    high: float
    p_holm: float
    n: int


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate's outcome. delta = candidate minus reference, higher is better, in `unit`.

    low, high: ends of the interval the verdict uses, at `confidence`
    n: items compared; n_clusters: independent units; n_missing: items without a value on either side
    level, level_candidate: mean value of reference and candidate, beside every change
    noise_floor: largest mean change of the reference against itself; detectable: change found with the policy's power
    accuracy...: share correct, None where items have no right answer; flips: items whose correctness changed
    accuracy_change_low, accuracy_change_high: 95 % interval of the change of the share correct; flips_p: two-sided exact p-value of "the
        answers of both are right equally often". Both respect clusters and decide nothing
    """

    name: str
    kind: str
    suite: str
    unit: str
    margin: float
    required: bool
    verdict: Verdict
    informative: bool
    reasons: tuple[str, ...]
    n: int
    n_clusters: int
    n_missing: int
    delta: float | None
    low: float | None
    high: float | None
    confidence: float
    level: float | None = None
    level_candidate: float | None = None
    noise_floor: float | None = None
    detectable: float | None = None
    positive_control: ControlResult | None = None
    groups: tuple[GroupResult, ...] = ()
    accuracy: float | None = None
    accuracy_candidate: float | None = None
    flips_lost: int = 0
    flips_gained: int = 0
    accuracy_change_low: float | None = None
    accuracy_change_high: float | None = None
    flips_p: float | None = None


@dataclass(frozen=True, kw_only=True)
class SloResult:
    """One demand on one deployment, at one concurrency where it depends on that.

    value: as measured (of a latency the percentile asked for), in `unit`; None = not measured
    low, high: one-sided bounds, of a latency on `share_within`, else on the value; each is wrong with a chance of 5 % at most
    n, n_within: requests, and how many of them kept the limit; one that did not finish did not keep it
    more_needed: further requests, all within, that would show it; None where that does not apply
    reason: the finding as a sentence
    """

    term: str
    metric: str
    percentile: float | None
    limit: float
    unit: str
    concurrency: int | None
    value: float | None
    verdict: Verdict
    reason: str
    share_within: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    n_within: int = 0
    more_needed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The joint answer on one candidate.

    use: how the evidence may be used; look, n_looks: which planned look this is
    attempt: which of the policy's limited attempts on these items this is
    joint_power: chance that a candidate exactly as good as the reference passes all required gates, at this n
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    gates: tuple[GateResult, ...]
    policy: str
    policy_sha256: str
    use: EvidenceUse
    attempt: int = 1
    look: int = 1
    n_looks: int = 1
    joint_power: float | None = None


@dataclass(frozen=True, kw_only=True)
class CandidateResult:
    """One row of candidates.jsonl and of decision.json's `candidates`.

    status: how far it came: `dropped` (by the prior), `infeasible`, `screened`, `timed`, `certified`
    verdict: None until certified
    reasons: why it lost, or why it was chosen, in the user's words
    """

    id: str
    engine: str
    recipe: str
    settings: Mapping[str, Any]
    status: Literal["dropped", "infeasible", "screened", "timed", "certified"]
    verdict: Verdict | None
    reasons: tuple[str, ...]
    measurement: Mapping[str, Any] | None = None
    evidence: Mapping[str, Any] | None = None
    estimate: Mapping[str, Any] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
