"""Noise floor: how much the reference differs from itself under another batch shape, thread count, slot count or precision.

Per run: |mean change| plus one standard error, so that a small sample makes the floor higher, not lower. The floor is the largest over runs
(for fairness also over groups). The runs may cover a sample of the items.
"""

from collections.abc import Sequence

import numpy as np

from trimtab.core.evidence import Evidence, Outcome
from trimtab.core.policy import GateSpec
from trimtab.decide.fairness import axes_of
from trimtab.decide.pairs import pair_outcomes
from trimtab.decide.parity import divergence_of
from trimtab.stats.paired import ClusteredMean, clustered_mean


def noise_floor(spec: GateSpec, evidence: Evidence) -> float | None:
    """Floor of one gate in its unit; None = not measured. Generation has none: its interval is exact on counts."""
    if spec.kind == "generation":
        return 0.0
    if spec.kind == "parity":
        probe = evidence.parity_noise
        if probe is None or not probe.differences or not np.isfinite(probe.differences).all():
            return None
        return _floor([divergence_of(probe)])
    return _floor([mean for run in evidence.noise.values() for mean in _changes(spec, evidence.reference, run)])


def _changes(spec: GateSpec, reference: Sequence[Outcome], run: Sequence[Outcome]) -> list[ClusteredMean]:
    pairs = pair_outcomes(spec.suite, reference, run, weight=spec.weight, sample=True)
    if not pairs.observed:
        return []
    if spec.kind != "equivalence_by_group":
        return [clustered_mean(pairs.changes, pairs.clusters, pairs.weights)]
    tables = [axis.contrasts for axis in axes_of(pairs, spec.margin) if axis.n_templates]
    return [clustered_mean(column, range(column.size)) for table in tables for column in table.T]


def _floor(means: Sequence[ClusteredMean]) -> float | None:
    known = [abs(mean.estimate) + mean.se for mean in means if np.isfinite(mean.se)]
    return max(known, default=None)
