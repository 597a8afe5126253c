"""What a gate's arithmetic says before controls and noise are looked at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trimtab.core.decision import GroupResult, Verdict
from trimtab.core.evidence import Outcome

MISSING_MARGINS = 10.0
"""An item without a value on either side counts as a loss of this many margins (or the worst loss seen, if that is larger)."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Verdict on one set of outcomes. delta, low, high in the gate's unit, None where they cannot be computed.

    power: chance that a candidate exactly as good as the reference passes this gate at this n
    detectable: smallest true change told from zero with the policy's power
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    n: int
    n_clusters: int
    n_missing: int = 0
    delta: float | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    level_candidate: float | None = None
    groups: tuple[GroupResult, ...] = ()
    power: float = 0.0
    detectable: float | None = None


@dataclass(frozen=True, kw_only=True)
class Level:
    """One-sided chance of error of one test, and the power that `detectable` refers to."""

    alpha: float
    power: float

    @property
    def confidence(self) -> float:
        """Of the two-sided interval both of whose ends are one-sided bounds at alpha."""
        return 1.0 - 2.0 * self.alpha

    @property
    def words(self) -> str:
        return f"{100 * self.confidence:.{4 if self.alpha >= 0.0005 else 7}g} % interval"


def at_worst_open(judgement: Judgement) -> Judgement:
    """Of what only shows a difference: less alike is no loss, so it forbids a pass and is no fail."""
    if judgement.verdict != "fail":
        return judgement
    different = "it is different; whether it is worse cannot be told from likeness"
    return replace(judgement, verdict="inconclusive", reasons=(*judgement.reasons, different))


def others_unchanged(reference: Sequence[Outcome], planted: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """A control that was run on the harmed group's items only: the others are as in the reference, which makes it no easier to catch."""
    run = {outcome.item_id for outcome in planted}
    return (*planted, *(outcome for outcome in reference if outcome.item_id not in run))


def number(value: float) -> str:
    """A signed number with three figures, as reasons show it."""
    return f"{value:+.3g}"


def count(n: int, noun: str) -> str:
    """`1 item`, `2 items`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
