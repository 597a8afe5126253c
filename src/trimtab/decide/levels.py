"""How a deployment does on a suite, by itself and beside another: levels with intervals. No verdict: that takes a policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.core.evidence import Outcome
from trimtab.decide.fairness import axes_of
from trimtab.decide.pairs import Pairs, pair_outcomes
from trimtab.stats.calibration import brier_score, calibration_error, error_by_chance
from trimtab.stats.multiplicity import holm
from trimtab.stats.paired import ClusteredMean, clustered_mean
from trimtab.stats.proportions import wilson

Floats = NDArray[np.float64]

ALPHA = 0.025
"""One-sided: both ends together make a 95 % interval."""
LEAST_CLUSTERS = 10
"""With fewer an interval is shown and marked: it rests on too little."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A mean with its 95 % interval over clusters; ends None where one cluster or none tells nothing."""

    value: float
    low: float | None
    high: float | None
    n: int
    n_clusters: int

    @property
    def is_thin(self) -> bool:
        return self.n_clusters < LEAST_CLUSTERS


@dataclass(frozen=True, kw_only=True)
class GroupLevel:
    """One group, or kind. is_contrast: against the mean of its axis in the same template, where templates name every group.

    change: of the same against a reference, None without one; p_holm: of no change, corrected over the groups of the sub-suite
    """

    group: str
    level: Level
    is_contrast: bool
    change: Level | None = None
    p_holm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How well a model knows what it knows: its own probabilities of the options of a question, and which option is right.

    brier: mean Brier score (0 best, 2 worst); brier_change: candidate minus reference on the same items, above 0 = worse
    confidence: mean probability of the likeliest option; right: how often that is the right one
    error: expected calibration error; error_by_chance: what a perfectly calibrated model stays below in 95 % of samples
    error_reference: the reference's on the same items; like brier_change None without a reference
    """

    brier: Level
    brier_change: Level | None
    confidence: float
    right: float
    error: float
    error_by_chance: float
    error_reference: float | None


@dataclass(frozen=True, kw_only=True)
class SuiteLevel:
    """One sub-suite.

    level: mean value, in `unit`; share_correct: None where items have no right answer
    change: against a reference on the same items, None without one; flips_lost, flips_gained: right answers
    calibration: None where items are no questions with options
    """

    suite: str
    unit: str
    level: Level | None
    n_missing: int
    share_correct: Level | None
    groups: tuple[GroupLevel, ...] = ()
    change: Level | None = None
    flips_lost: int = 0
    flips_gained: int = 0
    calibration: Calibration | None = None


def suite_levels(
    outcomes: Sequence[Outcome], units: Mapping[str, str], reference: Sequence[Outcome] | None = None
) -> tuple[SuiteLevel, ...]:
    """A row for each sub-suite, in order of first appearance. units: sub-suite -> unit of its values.

    Sub-suites in nats per token are weighted by tokens, as a text's perplexity is. Raises InputError for outcomes that do not belong
    together.
    """
    return tuple(_level_of(suite, outcomes, units[suite], reference) for suite in dict.fromkeys(one.suite for one in outcomes))


def _level_of(suite: str, outcomes: Sequence[Outcome], unit: str, reference: Sequence[Outcome] | None) -> SuiteLevel:
    weight: Literal["items", "tokens"] = "tokens" if suite == "text" else "items"
    own = pair_outcomes(suite, outcomes, outcomes, weight=weight)
    values = np.array([pair.reference for pair in own.observed], dtype=float)
    right = [(pair.correct, pair.cluster) for pair in own.observed if pair.correct is not None]
    change, lost, gained, pairs = None, 0, 0, None
    if reference is not None:
        pairs = pair_outcomes(suite, reference, outcomes, weight=weight)
        change = _level(pairs.changes, pairs.clusters, pairs.weights)
        lost = sum(pair.correct is True and pair.correct_candidate is False for pair in pairs.observed)
        gained = sum(pair.correct is False and pair.correct_candidate is True for pair in pairs.observed)
    return SuiteLevel(
        suite=suite,
        unit=unit,
        level=_level(values, own.clusters, own.weights),
        n_missing=len(own.missing),
        share_correct=_share([bool(one) for one, _ in right], [cluster for _, cluster in right]),
        groups=_groups(own) if pairs is None else _with_changes(_groups(own), pairs),
        change=change,
        flips_lost=lost,
        flips_gained=gained,
        calibration=_calibration(suite, outcomes, reference),
    )


def _share(hits: Sequence[bool], clusters: Sequence[str]) -> Level | None:
    """A share with its interval within 0..1. Where all are alike their spread tells nothing: then Wilson's, each cluster one case."""
    found = _level(np.array(hits, dtype=float), clusters, np.ones(len(hits)))
    if found is None or found.low is None or found.high is None:
        return found
    if len(set(hits)) == 1:
        ends = wilson(found.n_clusters if hits[0] else 0, found.n_clusters, 1.0 - 2.0 * ALPHA)
        return replace(found, value=ends.value, low=ends.low, high=ends.high)
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def _calibration(suite: str, outcomes: Sequence[Outcome], reference: Sequence[Outcome] | None) -> Calibration | None:
    own = [one for one in outcomes if one.suite == suite and one.p_options]
    if not own:
        return None
    confidence, hits = _stated(own)
    found = Calibration(
        brier=_brier(own),
        brier_change=None,
        confidence=float(confidence.mean()),
        right=float(hits.mean()),
        error=calibration_error(confidence, hits),
        error_by_chance=error_by_chance(confidence),
        error_reference=None,
    )
    before = {one.item_id: one for one in reference or () if one.suite == suite and one.p_options}
    paired = [(before[one.item_id], one) for one in own if one.item_id in before]
    if not paired:
        return found
    return replace(found, brier_change=_brier_change(paired), error_reference=calibration_error(*_stated([old for old, _ in paired])))


def _stated(outcomes: Sequence[Outcome]) -> tuple[Floats, Floats]:
    """(probability of the likeliest option, 1 where that is the right one), each (n,)."""
    confidence = np.array([max(one.p_options) for one in outcomes])
    return confidence, (np.array([one.p_options[0] for one in outcomes]) >= confidence).astype(float)


def _brier(outcomes: Sequence[Outcome]) -> Level:
    scores = np.array([brier_score(one.p_options) for one in outcomes])
    found = _level(scores, [one.cluster for one in outcomes], np.ones(scores.size))
    assert found is not None
    return found


def _brier_change(pairs: Sequence[tuple[Outcome, Outcome]]) -> Level | None:
    changes = np.array([brier_score(new.p_options) - brier_score(old.p_options) for old, new in pairs])
    return _level(changes, [new.cluster for _, new in pairs], np.ones(changes.size))


def _level(values: Floats, clusters: Sequence[str], weights: Floats) -> Level | None:
    if not values.size:
        return None
    n_clusters = len(set(clusters))
    if n_clusters < 2:
        return Level(value=float(np.average(values, weights=weights)), low=None, high=None, n=values.size, n_clusters=n_clusters)
    return _of(clustered_mean(values, list(clusters), weights), values.size)


def _of(mean: ClusteredMean, n: int) -> Level:
    return Level(value=mean.estimate, low=mean.lower(ALPHA), high=mean.upper(ALPHA), n=n, n_clusters=mean.n_clusters)


def _groups(own: Pairs) -> tuple[GroupLevel, ...]:
    """Groups that share templates are compared within them; kinds that do not are shown by themselves."""
    named = [pair for pair in own.observed if pair.group]
    if not named:
        return ()
    by_cluster: dict[str, set[str]] = {}
    for pair in named:
        by_cluster.setdefault(pair.cluster, set()).add(pair.group)
    if all(len(groups) == 1 for groups in by_cluster.values()):
        found = []
        for group in sorted({pair.group for pair in named}):
            mine = [pair for pair in named if pair.group == group]
            level = _level(
                np.array([pair.reference for pair in mine], dtype=float),
                [pair.cluster for pair in mine],
                np.array([pair.weight for pair in mine]),
            )
            assert level is not None
            found.append(GroupLevel(group=group, level=level, is_contrast=False))
        return tuple(found)
    rows = []
    for axis in axes_of(Pairs(observed=tuple(named), missing=()), 1.0):
        for column, group in enumerate(axis.groups):
            contrast = axis.reference[:, column]
            level = _level(contrast, [str(index) for index in range(contrast.size)], np.ones(contrast.size))
            if level is not None:
                rows.append(GroupLevel(group=group, level=level, is_contrast=True))
    return tuple(rows)


def _with_changes(groups: Sequence[GroupLevel], pairs: Pairs) -> tuple[GroupLevel, ...]:
    """The groups with their changes. Which one moved is a search among them all, so p is Holm's."""
    named = [pair for pair in pairs.observed if pair.group]
    moved: dict[str, ClusteredMean] = {}
    if groups and groups[0].is_contrast:
        for axis in axes_of(Pairs(observed=tuple(named), missing=()), 1.0):
            for column, group in enumerate(axis.groups):
                if axis.n_templates:
                    moved[group] = clustered_mean(axis.contrasts[:, column], list(range(axis.n_templates)))
    else:
        for group in {pair.group for pair in named}:
            mine = Pairs(observed=tuple(pair for pair in named if pair.group == group), missing=())
            moved[group] = clustered_mean(mine.changes, mine.clusters, mine.weights)
    told = {group: mean for group, mean in moved.items() if mean.n_clusters > 1}
    adjusted = dict(zip(told, holm([mean.p_two_sided() for mean in told.values()]), strict=True))
    return tuple(
        replace(one, change=_of(told[one.group], told[one.group].n), p_holm=float(adjusted[one.group])) if one.group in told else one
        for one in groups
    )
