"""Gates on evidence that is looked at all the time: from a model in use, where nobody plans the looks.

Intervals come from confidence sequences by betting (stats/betting), so a verdict may be read after every outcome: that a candidate just as
bad as a margin is ever passed, or one within it ever failed, has the chance of the level at most. They need outcomes bounded beforehand: a
change counts as the gate's `bound` at most, either way (ten margins where the policy states none, as much as an item without a value), and
how many were beyond is said. Every cluster counts once, by the mean of its items, in the order of their first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trimtab.core.decision import GroupResult, Verdict
from trimtab.core.errors import InputError
from trimtab.core.evidence import Evidence, GenerationCheck, Outcome, ParityProbe
from trimtab.core.policy import GateSpec
from trimtab.decide.fairness import axes_of
from trimtab.decide.judgement import MISSING_MARGINS, Judgement, Level, at_worst_open, count, number, others_unchanged
from trimtab.decide.pairs import Pair, Pairs, pair_outcomes
from trimtab.decide.parity import divergence_of, too_little
from trimtab.stats.betting import anytime_p, mean_bounds
from trimtab.stats.multiplicity import holm

Floats = NDArray[np.float64]
ALWAYS = "at every moment together"


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Bounded values (n,) in the order they came, one a cluster. n_beyond: how many were cut to the bound, or lay in a cluster's mean."""

    values: Floats
    low: float
    high: float
    n_beyond: int = 0

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Lower and upper end, each wrong at any moment with chance alpha at most."""
        return mean_bounds(self.values, low=self.low, high=self.high, alpha=alpha)

    def p_outside(self, margin: float, alpha: float) -> float:
        """Anytime-valid p-value of "the mean lies within +-margin"."""
        above = anytime_p(self.values, margin, "above", low=self.low, high=self.high, alpha=alpha)
        below = anytime_p(self.values, -margin, "below", low=self.low, high=self.high, alpha=alpha)
        return min(1.0, 2.0 * min(above, below))


def bound_of(spec: GateSpec) -> float:
    """What a change counts as at most. Of things that are so or not it is 1 by nature."""
    if spec.kind in ("rate", "generation"):
        return 1.0
    return spec.bound or MISSING_MARGINS * spec.margin


def judge_anytime(spec: GateSpec, evidence: Evidence, level: Level) -> Judgement:
    """What one gate's arithmetic says of `anytime` evidence so far. power is 0 and detectable None: nobody planned an n."""
    if spec.kind == "parity":
        return _parity(spec, evidence.parity, level)
    if spec.kind == "generation":
        return _generation(spec, evidence.generation_reference, evidence.generation, level)
    return _paired(spec, evidence.reference, evidence.candidate, level)


def judge_anytime_controls(spec: GateSpec, evidence: Evidence, level: Level) -> dict[str, Judgement]:
    """The gate's planted controls by the same rules at the same n; empty if none was run."""
    name = spec.control or "control"
    if spec.kind == "parity":
        return {one: _parity(spec, probe, level) for one, probe in evidence.parity_controls.items()}
    if spec.kind == "generation":
        planted = evidence.generation_control
        return {} if planted is None else {name: _generation(spec, evidence.generation_reference, planted, level)}
    outcomes = evidence.controls.get(spec.name)
    if not outcomes:
        return {}
    plain = replace(spec, kind="non_inferiority") if spec.kind == "agreement" else spec  # to be caught is to be failed
    run = others_unchanged(evidence.reference, outcomes) if spec.kind == "equivalence_by_group" else outcomes
    return {name: _paired(plain, evidence.reference, run, level, sample=True)}


def _paired(spec: GateSpec, reference: Sequence[Outcome], candidate: Sequence[Outcome], level: Level, *, sample: bool = False) -> Judgement:
    pairs = pair_outcomes(spec.suite, reference, candidate, weight=spec.weight, sample=sample)
    n, n_missing = len(pairs.observed), 0 if sample else len(pairs.missing)
    if n == 0:
        return Judgement(
            verdict="inconclusive", reasons=(f"no item of suite {spec.suite} has both values",), n=0, n_clusters=0, n_missing=n_missing
        )
    if spec.kind == "equivalence_by_group":
        return _by_group(spec, pairs, level, n_missing)
    place = {outcome.item_id: number for number, outcome in enumerate(reference)}
    order = sorted((*pairs.observed, *pairs.missing), key=lambda pair: place.get(pair.item_id, len(place)))
    if spec.kind == "equivalence":
        return _equivalence(spec, pairs, order, level, n_missing)
    judgement = _one_sided(spec, pairs, order, level, n_missing)
    return at_worst_open(judgement) if spec.kind == "agreement" else judgement


def _stream(pairs: Iterable[Pair], bound: float, fill: float | None = None) -> Stream:
    """One value a cluster. fill: the change of an item without a value; None = such items are left out."""
    sums: dict[str, list[float]] = {}
    beyond = 0
    for pair in pairs:
        change = pair.change if pair.change is not None else fill
        if change is None:
            continue
        beyond += abs(change) > bound
        own = sums.setdefault(pair.cluster, [0.0, 0.0])
        own[0] += pair.weight * min(bound, max(-bound, change))
        own[1] += pair.weight
    values = np.array([total / weight for total, weight in sums.values()])
    return Stream(values=np.clip(values, -bound, bound), low=-bound, high=bound, n_beyond=beyond)


def _one_sided(spec: GateSpec, pairs: Pairs, order: Sequence[Pair], level: Level, n_missing: int) -> Judgement:
    """For a pass an item without a value counts as lost as far as the bound goes; a fail must be shown by the observed items alone."""
    bound = bound_of(spec)
    seen, worst = _stream(order, bound), _stream(order, bound, -bound if n_missing else None)
    low, high = worst.bounds(level.alpha)[0], seen.bounds(level.alpha)[1]
    figures = _figures(spec, worst.mean, low, high, level)
    verdict: Verdict = "inconclusive"
    if high < -spec.margin:
        verdict, reasons = "fail", [f"{figures} is a loss of more than the margin of {spec.margin:.3g}"]
    elif low > -spec.margin:
        verdict, reasons = "pass", [f"{figures} is within the margin of {spec.margin:.3g}"]
    else:
        reasons = [f"{figures} reaches beyond the margin of {spec.margin:.3g}: a loss is neither shown nor excluded yet"]
    if n_missing:
        reasons.append(f"{count(n_missing, 'item')} without a value, each counted as a loss of {bound:.3g} {spec.unit}")
    return _judgement(spec, pairs, seen, worst.mean, (low, high), verdict, reasons, n_missing)


def _equivalence(spec: GateSpec, pairs: Pairs, order: Sequence[Pair], level: Level, n_missing: int) -> Judgement:
    bound = bound_of(spec)
    seen = _stream(order, bound)
    ends = [_stream(order, bound, sign * bound).bounds(level.alpha) for sign in ((-1, 1) if n_missing else (1,))]
    low, high = min(one for one, _ in ends), max(one for _, one in ends)
    seen_low, seen_high = seen.bounds(level.alpha)
    figures, margin = _figures(spec, seen.mean, low, high, level), f"the margin of {spec.margin:.3g} either way"
    groups = sorted({pair.group for pair in pairs.observed if pair.group})
    kinds = {name: _stream([pair for pair in order if pair.group == name], bound) for name in groups}
    results, harmed = _groups(kinds, spec, level)
    verdict: Verdict = "inconclusive"
    if seen_high < -spec.margin or seen_low > spec.margin:
        verdict, reasons = "fail", [f"{figures} is more than {margin}"]
    elif harmed:
        verdict, reasons = "fail", [f"{name}: change {number(kinds[name].mean)} {spec.unit} is more than {margin}" for name in harmed]
    elif -spec.margin < low and high < spec.margin:
        verdict, reasons = "pass", [f"{figures} is within {margin}"]
    else:
        reasons = [f"{figures} reaches beyond {margin}: a change is neither shown nor excluded yet"]
    if n_missing:
        reasons.append(f"{count(n_missing, 'item')} without a value, each taken as {bound:.3g} {spec.unit} off either way")
    judgement = _judgement(spec, pairs, seen, seen.mean, (low, high), verdict, reasons, n_missing)
    return replace(judgement, groups=results)


def _by_group(spec: GateSpec, pairs: Pairs, level: Level, n_missing: int) -> Judgement:
    """Every group's contrast within its templates. Templates count in the order of their first item with a value."""
    bound = bound_of(spec)
    axes = [axis for axis in axes_of(pairs, spec.margin) if axis.n_templates]
    if not axes:
        reason = f"no template of suite {spec.suite} has values for every group: cannot tell"
        return Judgement(verdict="inconclusive", reasons=(reason,), n=len(pairs.observed), n_clusters=0, n_missing=n_missing)

    def streams(name: str) -> dict[str, Stream]:
        tables = [(axis.groups, getattr(axis, name)) for axis in axes]
        return {group: _cut(table[:, column], bound) for groups, table in tables for column, group in enumerate(groups)}

    seen = streams("contrasts")
    filled = [streams("worse"), streams("better")] if n_missing else [seen]
    ends = {group: [one[group].bounds(level.alpha) for one in filled] for group in seen}
    low = {group: min(one for one, _ in both) for group, both in ends.items()}
    high = {group: max(one for _, one in both) for group, both in ends.items()}
    worst = max(seen, key=lambda group: max(-low[group], high[group]))
    results, harmed = _groups(seen, spec, level)
    margin = f"the margin of {spec.margin:.3g} either way"
    figures = f"{worst}: {_figures(spec, seen[worst].mean, low[worst], high[worst], level)}"
    verdict: Verdict = "inconclusive"
    if harmed:
        verdict, reasons = "fail", [f"{name}: change {number(seen[name].mean)} {spec.unit} is more than {margin}" for name in harmed]
    elif all(-spec.margin < low[group] and high[group] < spec.margin for group in seen):
        verdict, reasons = "pass", [f"{figures} is within {margin}"]
    else:
        reasons = [f"{figures} reaches beyond {margin}: a change is neither shown nor excluded yet"]
    n_templates = min(axis.n_templates for axis in axes)
    if n_templates < spec.min_clusters:
        verdict, reasons = "inconclusive", [f"{count(n_templates, 'template')}, {spec.min_clusters} are needed: cannot tell"]
    level_before = next(float(axis.reference[:, axis.groups.index(worst)].mean()) for axis in axes if worst in axis.groups)
    return Judgement(
        verdict=verdict,
        reasons=(*reasons, *_cut_words(seen[worst], bound, spec)),
        n=len(pairs.observed),
        n_clusters=n_templates,
        n_missing=n_missing,
        delta=seen[worst].mean,
        low=low[worst],
        high=high[worst],
        level=level_before,
        level_candidate=level_before + seen[worst].mean,
        groups=results,
    )


def _groups(streams: dict[str, Stream], spec: GateSpec, level: Level) -> tuple[tuple[GroupResult, ...], list[str]]:
    """Each group's row, and those shown outside the margin: a search, so Holm's correction."""
    if not streams:
        return (), []
    outside = holm([one.p_outside(spec.margin, level.alpha) for one in streams.values()])
    moved = holm([one.p_outside(0.0, level.alpha) for one in streams.values()])
    rows = []
    for (name, one), p in zip(streams.items(), moved, strict=True):
        low, high = one.bounds(level.alpha)
        rows.append(GroupResult(group=name, delta=one.mean, low=low, high=high, p_holm=float(p), n=one.values.size))
    return tuple(rows), [name for name, p in zip(streams, outside, strict=True) if p < level.alpha]


def _parity(spec: GateSpec, probe: ParityProbe | None, level: Level) -> Judgement:
    """As decide/parity, each answer one value; only answers that ended are in it."""
    if probe is None or not probe.differences:
        return Judgement(verdict="inconclusive", reasons=("no parity probe was run",), n=0, n_clusters=0)
    differences = np.asarray(probe.differences, dtype=float)
    n_answers = len(set(probe.answers))
    if not np.isfinite(differences).all():
        reason = f"{count(int((~np.isfinite(differences)).sum()), 'token')} without a finite log-probability on both paths"
        return Judgement(verdict="fail", reasons=(reason,), n=differences.size, n_clusters=n_answers, n_missing=probe.n_failed)
    bound = bound_of(spec)
    apart = _answers(np.expm1(-differences) + differences, probe.answers)
    divergence = Stream(values=np.clip(apart, 0.0, bound), low=0.0, high=bound, n_beyond=int((apart > bound).sum()))
    drift = _cut(_answers(-np.expm1(-differences), probe.answers), bound)
    low, high = divergence.bounds(level.alpha)
    drift_low, drift_high = drift.bounds(level.alpha)
    figures = f"served and scored differ by {divergence.mean:.3g} {spec.unit} an answer ({level.words} {ALWAYS}, {low:.3g} to {high:.3g})"
    short = too_little(spec, probe, divergence_of(probe))
    verdict: Verdict = "inconclusive"
    if low > spec.margin:
        verdict, reason = "fail", f"{figures}, more than {spec.margin:.3g}: what is served is not what was scored"
    elif drift_low > spec.margin or drift_high < -spec.margin:
        verdict, reason = (
            "fail",
            f"served log-probabilities are off by {number(drift.mean)} on average: tokens were not drawn from them",
        )
    elif high < spec.margin and not short:
        verdict, reason = "pass", f"{figures}, less than {spec.margin:.3g}"
    else:
        reason = f"{figures}; the limit of {spec.margin:.3g} lies within" if low <= spec.margin <= high else figures
    return Judgement(
        verdict=verdict,
        reasons=(*short, reason, *_cut_words(divergence, bound, spec)),
        n=differences.size,
        n_clusters=n_answers,
        n_missing=probe.n_failed,
        delta=divergence.mean,
        low=low,
        high=high,
    )


def _generation(spec: GateSpec, reference: GenerationCheck | None, candidate: GenerationCheck | None, level: Level) -> Judgement:
    if reference is None or candidate is None or not candidate.prompts:
        return Judgement(verdict="inconclusive", reasons=("no answers were generated on both sides",), n=0, n_clusters=0)
    if reference.prompts != candidate.prompts or len(reference.broken) != len(candidate.broken):
        raise InputError("The generation check of candidate and reference used different prompts; run both on the same ones.")

    def sound(check: GenerationCheck) -> tuple[Outcome, ...]:
        values = zip(check.prompts, check.broken, strict=True)
        return tuple(
            Outcome(item_id=str(place), suite=spec.name, cluster=prompt, value=float(not broken), n_tokens=1)
            for place, (prompt, broken) in enumerate(values)
        )

    return _paired(replace(spec, kind="rate", suite=spec.name, weight="items"), sound(reference), sound(candidate), level)


def _answers(values: Floats, answers: Sequence[int]) -> Floats:
    """Mean of each answer's values, in the order of the answers."""
    _, first, places = np.unique(np.asarray(answers), return_index=True, return_inverse=True)
    means = np.bincount(places, weights=values) / np.bincount(places)
    return np.asarray(means[np.argsort(first)])


def _cut(values: Floats, bound: float) -> Stream:
    return Stream(values=np.clip(values, -bound, bound), low=-bound, high=bound, n_beyond=int((np.abs(values) > bound).sum()))


def _figures(spec: GateSpec, mean: float, low: float, high: float, level: Level) -> str:
    return f"change {number(mean)} {spec.unit} ({level.words} {ALWAYS}, {number(low)} to {number(high)})"


def _cut_words(stream: Stream, bound: float, spec: GateSpec) -> list[str]:
    return [f"{count(stream.n_beyond, 'change')} beyond {bound:.3g} {spec.unit} counted as that"] if stream.n_beyond else []


def _judgement(
    spec: GateSpec,
    pairs: Pairs,
    seen: Stream,
    mean: float,
    ends: tuple[float, float],
    verdict: Verdict,
    reasons: list[str],
    n_missing: int,
) -> Judgement:
    n_clusters = seen.values.size
    if ends[0] > ends[1]:
        reasons = [*reasons, "the change was not the same throughout: no single mean fits all that was seen"]
    if n_clusters < spec.min_clusters:
        verdict, reasons = "inconclusive", [f"{count(n_clusters, 'cluster')}, {spec.min_clusters} are needed: cannot tell"]
    before, after = pairs.levels()
    return Judgement(
        verdict=verdict,
        reasons=(*reasons, *_cut_words(seen, bound_of(spec), spec)),
        n=len(pairs.observed),
        n_clusters=n_clusters,
        n_missing=n_missing,
        delta=mean,
        low=ends[0],
        high=ends[1],
        level=before,
        level_candidate=after,
    )
