"""The gates and their margins, as data. Fixed before any candidate is seen; a change is a CHANGELOG entry."""

from dataclasses import dataclass
from typing import Literal

GateKind = Literal["non_inferiority", "equivalence", "equivalence_by_group", "parity", "generation", "rate", "agreement"]


@dataclass(frozen=True, kw_only=True)
class GateSpec:
    """One gate.

    kind:
        `non_inferiority`       mean paired change (candidate minus reference, higher is better) must be above -margin
        `equivalence`           mean paired change must lie within +-margin, and no kind named by items may be shown outside
        `equivalence_by_group`  each group's signed change against its template's mean must lie within +-margin
        `parity`                mean served minus re-scored log-probability must lie within +-margin
        `generation`            rate of broken answers must not rise by more than margin
        `rate`                  share of items with value 1 must not fall by more than margin
        `agreement`             like non_inferiority, of values that say how alike something is to the reference. A lower one shows
                                that it is different, not that it is worse: then the gate is inconclusive, it never fails
    suite: which outcomes it reads (empty for parity and generation)
    weight: `items`, or `tokens` for a token-weighted mean
    control: name of the planted positive control that this gate must fail
    min_clusters: with fewer the gate cannot tell
    reason: why this margin
    bound: of evidence that is looked at all the time (`anytime`): a change counts as that much at most, either way. 0 = ten margins
    """

    name: str
    kind: GateKind
    margin: float
    unit: str
    reason: str
    suite: str = ""
    weight: Literal["items", "tokens"] = "items"
    control: str = ""
    required: bool = True
    min_clusters: int = 10
    bound: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A named set of gates.

    alpha: chance of passing a candidate that is just worse than a margin, over all attempts together
    max_attempts: candidates that may be tried on the certify items; alpha is divided by it
    looks: cumulative share of the clusters at each planned look (group-sequential, alpha spent by an O'Brien-Fleming-type function)
    noise_multiple: a margin under this many times the noise floor is refused
    healing: whether a search may train weights (`optimize --heal`)
    """

    name: str
    version: str
    gates: tuple[GateSpec, ...]
    alpha: float = 0.05
    max_attempts: int = 3
    looks: tuple[float, ...] = (1.0,)
    noise_multiple: float = 3.0
    power: float = 0.8
    healing: bool = True
