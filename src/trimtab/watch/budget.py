"""The false-alarm budget: at most one false alarm in N requests over everything that is watched, split over signals and slices.

Alarms add up, so shares do: sums over detectors of their shares are 1. The slices of one dimension (languages, say) share one share: each
request is in one of them at most, so all of them together see no more requests than there are. So it is dimensions that cost, not slices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from trimtab.core.errors import InputError
from trimtab.core.watching import Signal
from trimtab.watch.detectors import Detector

ALL = ""
"""The dimension of all requests together."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one detector may spend, as `Detector` takes it."""

    alarm_share: float
    slices: int
    requests: float

    def detector(self, signal: Signal, *, seasonal: bool | None = None) -> Detector:
        """A detector of this share."""
        return Detector(signal, alarm_share=self.alarm_share, requests=self.requests, slices=self.slices, seasonal=seasonal)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One false alarm in `requests` over everything.

    weights: signal -> its part of the budget beside the others', 1 unless it matters more or less
    dimensions: of slices, e.g. `language` or `group:sex` -> most slices of it that are watched
    overall: share of the budget for all requests together; the rest is for slices, in equal parts a dimension
    versions: most versions of models that are watched within `requests`; each request is of one
    """

    requests: float = 1_000_000
    weights: Mapping[str, float] = field(default_factory=dict)
    dimensions: Mapping[str, int] = field(default_factory=dict)
    overall: float = 0.5
    versions: int = 4

    def __post_init__(self) -> None:
        if not self.requests >= 1000:
            raise InputError(f"A budget of one false alarm needs 1,000 requests at least to allow it in, not {self.requests:g}.")
        if not self.weights or min(self.weights.values()) <= 0:
            raise InputError("A budget of false alarms needs at least one signal, and a weight above 0 for each.")
        if not 0.0 < self.overall < 1.0 or self.versions < 1 or min(self.dimensions.values(), default=1) < 1:
            raise InputError(
                "A budget's part for all requests must lie between 0 and 1, and its dimensions and versions have at least one each."
            )

    def share(self, signal: str, dimension: str = ALL) -> Share:
        """For a signal's detector: of all requests, or each detector of one slice of `dimension`. Raises InputError for others."""
        if signal not in self.weights:
            raise InputError(f"The signal `{signal}` has no part of the budget of false alarms; it has {', '.join(self.weights)}.")
        if dimension != ALL and dimension not in self.dimensions:
            raise InputError(
                f"Slices by `{dimension}` have no part of the budget; those by {', '.join(self.dimensions) or 'nothing'} have."
            )
        part = self.weights[signal] / sum(self.weights.values())
        if self.dimensions:
            part *= self.overall if dimension == ALL else (1.0 - self.overall) / len(self.dimensions)
        return Share(alarm_share=part, slices=self.versions * self.dimensions.get(dimension, 1), requests=self.requests)

    def statement(self) -> str:
        """What is promised, in words."""
        n = len(self.weights)
        of = f" and {len(self.dimensions)} kind{'s' if len(self.dimensions) > 1 else ''} of slices" if self.dimensions else ""
        return f"at most one false alarm in {self.requests:,.0f} requests over everything ({n} signal{'s' if n > 1 else ''}{of})"
