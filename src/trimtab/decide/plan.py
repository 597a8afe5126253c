"""Before the run: what will these gates, at this n, be able to show?"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri

from trimtab.core.errors import InputError
from trimtab.core.evidence import Outcome
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.decide import gate_levels
from trimtab.decide.fairness import axes_of
from trimtab.decide.judgement import Level
from trimtab.decide.pairs import pair_outcomes
from trimtab.stats.paired import clustered_mean
from trimtab.stats.power import detectable_change, joint_power, power_equivalence, power_non_inferiority

MOST_CLUSTERS = 1_000_000
"""A gate that would need more has no size worth naming."""
TAIL = 1.0
"""Skewness that sizes are planned for, for heavy tails of either side: with sizes for normal changes, four gates pass equal candidates with
heavy ones (t with 4 degrees of freedom) in 0.75 of cases instead of 0.8."""
PILOT_DF_SHARE = 0.5
"""A spread seen on few clusters is taken to be known half as well as with normal changes: heavy tails (kurtosis 5) double its variance."""
PILOT_QUANTILES = np.arange(0.05, 1.0, 0.1)


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """What is known of one gate before certifying.

    sd: standard deviation of a cluster's mean change, in the gate's unit (standard error times the root of the number of clusters)
    n_clusters: clusters (fairness: templates an axis) that the certify run will have
    n_groups: tests that must all pass; 1 but for fairness
    df: degrees of freedom that sd is known with; infinite = taken as known
    """

    sd: float
    n_clusters: int
    n_groups: int = 1
    df: float = math.inf


@dataclass(frozen=True, kw_only=True)
class GatePlan:
    """One gate's prediction. power: chance that an equal candidate passes it; detectable: smallest margin it could pass with the
    policy's power; enough: n and spread suffice for the margin; needed: clusters at which every required gate lets an equal candidate pass
    so often that all of them together do with the policy's power."""

    name: str
    margin: float
    unit: str
    n_clusters: int
    power: float
    detectable: float
    enough: bool
    needed: int


@dataclass(frozen=True, kw_only=True)
class PowerPlan:
    """Prediction for all required gates that have a pilot. unknown: required gates without one; they are not in joint_power.

    joint_detectable: the loss, as a share of each margin, that all gates together still let pass with at most 1 - power, hence find with
        the policy's power, if every gate had that loss
    """

    gates: tuple[GatePlan, ...]
    joint_power: float
    joint_detectable: float
    unknown: tuple[str, ...]


def pilot_spread(spec: GateSpec, reference: Sequence[Outcome], candidate: Sequence[Outcome], n_clusters: int) -> Pilot | None:
    """Spread of one gate's clusters from other items (the search split); None with fewer than two clusters."""
    pairs = pair_outcomes(spec.suite, reference, candidate, weight=spec.weight, sample=True)
    if pairs.n_clusters < 2:
        return None
    if spec.kind != "equivalence_by_group":
        mean = clustered_mean(pairs.changes, pairs.clusters, pairs.weights)
        return Pilot(sd=mean.se * mean.n_clusters**0.5, n_clusters=n_clusters, df=mean.df)
    tables = [axis.contrasts for axis in axes_of(pairs, spec.margin) if axis.n_templates > 1]
    if not tables:
        return None
    return Pilot(
        sd=max(float(table.std(axis=0, ddof=1).max()) for table in tables),
        n_clusters=n_clusters,
        n_groups=sum(table.shape[1] for table in tables),
        df=min(table.shape[0] for table in tables) - 1.0,
    )


def plan_power(policy: Policy, pilots: Mapping[str, Pilot], *, look: int | None = None) -> PowerPlan:
    """Predicted power at the certify n, from pilot spreads by gate name; at the last look unless `look` is given.

    Assumes equal clusters, normal means and gates independent of each other; groups of the fairness gate are combined by Bonferroni, a
    lower bound. Controls and noise are taken to be in order. Raises InputError for a look that is not planned.
    """
    at = len(policy.looks) if look is None else look
    if not 1 <= at <= len(policy.looks):
        raise InputError(f"Look {look} was not planned: policy {policy.name!r} has {len(policy.looks)}.")
    levels = gate_levels(policy, looks=policy.looks, look=at)
    known = [spec for spec in policy.gates if spec.name in pilots]
    required = [spec for spec in known if spec.required]
    each = policy.power ** (1.0 / max(1, len(required)))
    gates = tuple(_plan(spec, pilots[spec.name], levels[spec.name], each) for spec in known)

    def passing(share: float) -> float:
        """Chance that all required gates pass if each truly lost this share of its margin."""
        return joint_power([_power(spec, pilots[spec.name], levels[spec.name], -share * spec.margin) for spec in required])

    return PowerPlan(
        gates=gates,
        joint_power=passing(0.0),
        joint_detectable=_where_below(passing, 1.0 - policy.power),
        unknown=tuple(spec.name for spec in policy.gates if spec.required and spec.name not in pilots),
    )


def _plan(spec: GateSpec, pilot: Pilot, level: Level, each: float) -> GatePlan:
    enough_clusters = pilot.n_clusters >= spec.min_clusters
    power = _power(spec, pilot, level, 0.0)
    se = pilot.sd / pilot.n_clusters**0.5 if pilot.n_clusters else float("inf")
    return GatePlan(
        name=spec.name,
        margin=spec.margin,
        unit=spec.unit,
        n_clusters=pilot.n_clusters,
        power=power,
        detectable=detectable_change(se=se, df=max(1.0, pilot.n_clusters - 1.0), alpha=level.alpha, power=level.power),
        enough=enough_clusters and power >= level.power,
        needed=_clusters_for(each, spec, pilot, level),
    )


def _clusters_for(power: float, spec: GateSpec, pilot: Pilot, level: Level) -> int:
    """Fewest clusters at which an equal candidate passes this gate with chance `power`, up to MOST_CLUSTERS.

    With a reserve for what is not known: the spread of few pilot clusters, and long tails.
    """

    df = pilot.df * PILOT_DF_SHARE
    chances = chdtri(df, PILOT_QUANTILES) / df if math.isfinite(df) else np.ones(1)
    spreads = (pilot.sd / np.sqrt(chances)).tolist()  # what the true spread may be, given the one that was seen

    def suffice(n: int) -> bool:
        plausible = [dataclasses.replace(pilot, sd=sd, n_clusters=n) for sd in spreads]
        return float(np.mean([_power(spec, one, level, 0.0, tail=TAIL) for one in plausible])) >= power

    high = max(2, spec.min_clusters)
    low = high - 1  # too few by the policy
    while not suffice(high) and high < MOST_CLUSTERS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffice(middle) else (middle, high)
    return high


def _power(spec: GateSpec, pilot: Pilot, level: Level, change: float, tail: float = 0.0) -> float:
    """tail: expected skewness of a cluster's mean change towards losses, as the bound will correct for it."""
    if pilot.n_clusters < max(2, spec.min_clusters):
        return 0.0
    se, df = pilot.sd / pilot.n_clusters**0.5, pilot.n_clusters - 1.0
    if spec.kind not in ("equivalence", "equivalence_by_group"):
        return power_non_inferiority(margin=spec.margin, se=se, df=df, alpha=level.alpha, change=change, skew=-tail / pilot.n_clusters**0.5)
    one_shifted = power_equivalence(margin=spec.margin, se=se, df=df, alpha=level.alpha, change=change)
    others = power_equivalence(margin=spec.margin, se=se, df=df, alpha=level.alpha)
    return max(0.0, 1.0 - (1.0 - one_shifted) - (pilot.n_groups - 1) * (1.0 - others))


def _where_below(passing: Callable[[float], float], target: float) -> float:
    """Smallest share of the margins (0..1, by bisection) at which the chance of passing has sunk to `target`."""
    low, high = 0.0, 1.0
    if passing(low) <= target:
        return low
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if passing(middle) > target else (low, middle)
    return high
