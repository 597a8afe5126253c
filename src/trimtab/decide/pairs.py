"""Outcomes of two runs, matched item by item; nothing is dropped without being counted."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.core.evidence import Outcome
from trimtab.stats.flips import RateChange, clustered_change
from trimtab.stats.paired import ClusteredMean, clustered_mean

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One item in both runs; `reference` and `candidate` are None where that side has no value."""

    item_id: str
    cluster: str
    group: str
    weight: float
    reference: float | None
    candidate: float | None
    correct: bool | None
    correct_candidate: bool | None

    @property
    def change(self) -> float | None:
        """Candidate minus reference, None where a side is missing."""
        return None if self.reference is None or self.candidate is None else self.candidate - self.reference


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The items of one suite. `observed` have both values, `missing` lack one or both."""

    observed: tuple[Pair, ...]
    missing: tuple[Pair, ...]

    @property
    def changes(self) -> Floats:
        return np.array([pair.change for pair in self.observed], dtype=float)

    @property
    def weights(self) -> Floats:
        return np.array([pair.weight for pair in self.observed], dtype=float)

    @property
    def clusters(self) -> list[str]:
        return [pair.cluster for pair in self.observed]

    @property
    def n_clusters(self) -> int:
        return len(set(self.clusters))

    def filled(self, change: float) -> ClusteredMean:
        """The mean change if every item without a value had changed by so much."""
        changes = np.append(self.changes, [change] * len(self.missing))
        weights = np.append(self.weights, [pair.weight for pair in self.missing])
        return clustered_mean(changes, self.clusters + [pair.cluster for pair in self.missing], weights)

    def levels(self) -> tuple[float, float]:
        """Weighted mean value of reference and candidate over the observed items."""
        before = np.array([pair.reference for pair in self.observed], dtype=float)
        after = np.array([pair.candidate for pair in self.observed], dtype=float)
        return float(np.average(before, weights=self.weights)), float(np.average(after, weights=self.weights))


def pair_outcomes(
    suite: str, reference: Sequence[Outcome], candidate: Sequence[Outcome], *, weight: Literal["items", "tokens"], sample: bool = False
) -> Pairs:
    """Match two runs on one suite by item id, in the reference's order.

    sample: the second run was made on some of the items only (noise runs, controls): items it lacks are not missing.
    Raises InputError for a repeated id, or an id whose cluster or group differs between the runs.
    """
    before, after = _by_id(reference, suite, "reference"), _by_id(candidate, suite, "other run")
    ids = [item_id for item_id in before if item_id in after] if sample else [*before, *(i for i in after if i not in before)]
    pairs = [_pair(before.get(item_id), after.get(item_id), weight) for item_id in ids]
    return Pairs(
        observed=tuple(pair for pair in pairs if pair.change is not None),
        missing=tuple(pair for pair in pairs if pair.change is None),
    )


def share_correct(pairs: Pairs) -> tuple[float | None, float | None, int, int]:
    """Accuracy of reference and candidate, answers lost and gained, over observed items that have a right answer."""
    judged = [(p.correct, p.correct_candidate) for p in pairs.observed if p.correct is not None and p.correct_candidate is not None]
    if not judged:
        return None, None, 0, 0
    lost = sum(before and not after for before, after in judged)
    gained = sum(after and not before for before, after in judged)
    return sum(b for b, _ in judged) / len(judged), sum(a for _, a in judged) / len(judged), lost, gained


def share_change(pairs: Pairs, confidence: float) -> RateChange | None:
    """Change of the share correct with its interval and test, clusters respected; None where no item has a right answer."""
    judged = [pair for pair in pairs.observed if pair.correct is not None and pair.correct_candidate is not None]
    if not judged:
        return None
    before, after = [bool(pair.correct) for pair in judged], [bool(pair.correct_candidate) for pair in judged]
    return clustered_change(before, after, [pair.cluster for pair in judged], confidence=confidence)


def _by_id(outcomes: Iterable[Outcome], suite: str, side: str) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    for outcome in outcomes:
        if outcome.suite != suite:
            continue
        if outcome.item_id in found:
            raise InputError(f"Item {outcome.item_id!r} of suite {suite!r} appears twice in the {side}; each item counts once.")
        found[outcome.item_id] = outcome
    return found


def _pair(before: Outcome | None, after: Outcome | None, weight: Literal["items", "tokens"]) -> Pair:
    known = [outcome for outcome in (before, after) if outcome is not None]
    first = known[0]
    for other in known[1:]:
        if (other.cluster, other.group) != (first.cluster, first.group):
            raise InputError(f"Item {first.item_id!r} has another cluster or group in the two runs; they used different suites.")
    return Pair(
        item_id=first.item_id,
        cluster=first.cluster,
        group=first.group,
        weight=1.0 if weight == "items" else float(max([1, *(outcome.n_tokens for outcome in known)])),
        reference=_value(before),
        candidate=_value(after),
        correct=before.correct if before else None,
        correct_candidate=after.correct if after else None,
    )


def _value(outcome: Outcome | None) -> float | None:
    """A value that is not finite cannot be averaged: it is missing, not zero."""
    if outcome is None or outcome.value is None or not math.isfinite(outcome.value):
        return None
    return outcome.value
