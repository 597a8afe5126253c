"""The false-alarm budget: at most one false alarm in N requests over everything that is watched, split over signals and slices.

Alarms add up, so shares do: sums over detectors of their shares are 1. The slices of one kind (languages, say) share one share: each
request is in one of them at most, so all of them together see no more requests than there are. So it is kinds that cost, not slices.
"""

from dataclasses import dataclass

from trimtab.core.watching import Signal
from trimtab.watch.detectors import Detector


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
    """One false alarm in `requests` over everything: half for all requests together, half for slices, in equal shares.

    What there can be at most is counted, not what there is: shares stand before the first request.

    signals: judged over all requests; in_slices: of them judged in slices too; kinds: of slices, e.g. language and an attribute of
        people; slices: most of one kind; versions: most that are watched within `requests`; each request is of one
    """

    requests: float
    signals: int
    in_slices: int = 0
    kinds: int = 0
    slices: int = 1
    versions: int = 1

    @property
    def of_all(self) -> Share:
        """For a signal over all requests."""
        part = 0.5 if self.in_slices * self.kinds else 1.0
        return Share(alarm_share=part / self.signals, slices=self.versions, requests=self.requests)

    @property
    def of_slice(self) -> Share:
        """For a signal in one slice. Raises ZeroDivisionError where none is to be judged there."""
        return Share(alarm_share=0.5 / (self.in_slices * self.kinds), slices=self.versions * self.slices, requests=self.requests)
