"""Counts: flips between two runs, rates behind a judge that errs, and searches among many tests."""

import numpy as np
from rows import ALPHA, CONFIDENCE, Row, coverage, rate
from scipy.special import ndtr

from trimtab.stats.flips import RateChange, clustered_change, mcnemar, tango_change
from trimtab.stats.multiplicity import benjamini_hochberg, holm
from trimtab.stats.paired import clustered_mean
from trimtab.stats.prevalence import JudgeRecord, corrected_change, corrected_rate
from trimtab.stats.proportions import paired_difference

ITEM_SPREAD = 0.15
"""Of the change of an item's margin, where margins vary by one: about one answer in twenty flips."""


def rows(runs: int) -> list[Row]:
    """All figures of this file, each from its own seed."""
    found: list[Row] = []
    for n, flips, change in ((100, 0.05, 0.0), (400, 0.05, 0.0), (400, 0.13, -0.03)):
        found += single_items(np.random.default_rng(n), runs, n, flips, change)
    for n_clusters in (10, 20, 60):
        found += clustered(np.random.default_rng(n_clusters), runs, n_clusters)
    for truth in (0.05, 0.5, 0.9):
        found += judged(np.random.default_rng(4), runs, truth)
    return found + searches(np.random.default_rng(5), runs)


def single_items(rng: np.random.Generator, runs: int, n: int, flips: float, change: float) -> list[Row]:
    """Independent items, half of them right at first; `flips` of all change, with a true change of the share by `change`."""
    gained, lost = (flips + change) / 2, (flips - change) / 2
    draws = rng.multinomial(n, [0.5 - lost, lost, gained, 0.5 - gained], runs).tolist()
    newcombe = [paired_difference(a, c, b, d, CONFIDENCE) for a, b, c, d in draws]
    tango = [tango_change(lost=b, gained=c, n=n, confidence=CONFIDENCE) for _, b, c, _ in draws]
    what = f"{n} items, {100 * flips:.0f} % flip, change {change:+.2f}"
    found = [
        coverage(f"{name} covers: {what}", [(one.low or 0.0) <= change <= (one.high or 0.0) for one in ends])
        for name, ends in (("Newcombe", newcombe), ("Tango", tango))
    ]
    if change == 0.0:
        tests = [mcnemar(b, c) for _, b, c, _ in draws]
        found += [
            rate(f"McNemar exact finds a change where there is none: {what}", [test.p_exact <= ALPHA for test in tests], most=ALPHA),
            rate(f"McNemar mid-p finds a change where there is none: {what}", [test.p_mid <= ALPHA for test in tests], most=ALPHA),
        ]
    return found


def clustered(rng: np.random.Generator, runs: int, n_clusters: int) -> list[Row]:
    """Answers in clusters of 1 to 11 items, both the margins and their changes alike within clusters (correlation 0.3)."""
    hits, alarms, naive = [], [], []
    for shift, into in ((-0.1, hits), (0.0, alarms)):
        truth = float(ndtr((0.2 + shift) / (1 + ITEM_SPREAD**2) ** 0.5) - ndtr(0.2))
        for _ in range(runs):
            clusters = np.repeat(np.arange(n_clusters), rng.integers(1, 12, n_clusters))
            margins = 0.2 + _alike(rng, clusters, n_clusters)
            after = margins + shift + ITEM_SPREAD * _alike(rng, clusters, n_clusters)
            if shift == 0.0:  # exchanged by the toss of a coin, both runs are exactly alike
                swapped = rng.random(n_clusters)[clusters] < 0.5
                margins, after = np.where(swapped, after, margins), np.where(swapped, margins, after)
            found: RateChange = clustered_change((margins > 0).tolist(), (after > 0).tolist(), clusters.tolist(), confidence=CONFIDENCE)
            if shift == 0.0:
                into.append(found.test.p_exact <= ALPHA)
                net = (after > 0).astype(int) - (margins > 0)
                naive.append(mcnemar(int((net < 0).sum()), int((net > 0).sum())).p_mid <= ALPHA)
            else:
                into.append((found.change.low or 0.0) <= truth <= (found.change.high or 0.0))
    return [
        coverage(f"change of accuracy covers: {n_clusters} clusters", hits),
        rate(f"clusters exchanged find a change where there is none: {n_clusters} clusters", alarms, most=ALPHA),
        rate(f"(McNemar mid-p that ignores {n_clusters} clusters)", naive),
    ]


def _alike(rng: np.random.Generator, clusters: np.ndarray, n_clusters: int) -> np.ndarray:
    return 0.3**0.5 * rng.standard_normal(n_clusters)[clusters] + 0.7**0.5 * rng.standard_normal(clusters.size)


def judged(rng: np.random.Generator, runs: int, truth: float) -> list[Row]:
    """A judge that finds 90 % and clears 85 %, known from 100 labelled cases of each kind; 300 cases; between two runs 6 % fewer."""
    found, cleared = rng.binomial(100, 0.9, runs).tolist(), rng.binomial(100, 0.85, runs).tolist()
    flagged = rng.binomial(300, truth * 0.9 + (1 - truth) * 0.15, runs).tolist()
    lost, gained = 0.05, 0.02  # of all cases, truly
    seen = [lost * 0.9 * 0.85 + gained * 0.1 * 0.15, gained * 0.9 * 0.85 + lost * 0.1 * 0.15]
    stable = truth * 0.9 * 0.1 + (1 - truth) * 0.85 * 0.15  # judged anew each time, so also unchanged cases seem to change
    pairs = rng.multinomial(300, [seen[0] + stable, seen[1] + stable, 1 - sum(seen) - 2 * stable], runs).tolist()
    rates, changes, plain = [], [], []
    for k, sens, spec, (n_lost, n_gained, _) in zip(flagged, found, cleared, pairs, strict=True):
        judge = JudgeRecord(positives=100, found=sens, negatives=100, cleared=spec)
        rates.append(corrected_rate(k, 300, judge, CONFIDENCE))
        changes.append(corrected_change(n_gained, n_lost, 300, judge, CONFIDENCE))
        sure = JudgeRecord(positives=10**7, found=sens * 10**5, negatives=10**7, cleared=spec * 10**5)
        plain.append(corrected_rate(k, 300, sure, CONFIDENCE))
    return [
        coverage(f"rate behind a judge covers: {truth:.0%} true", _covered(rates, truth)),
        rate(f"(the same, the judge's errors taken as known: {truth:.0%} true)", _covered(plain, truth)),
        coverage(f"change behind a judge covers: {truth:.0%} true", _covered(changes, gained - lost)),
    ]


def _covered(intervals: list, truth: float) -> list[bool]:
    return [one.low <= truth <= one.high for one in intervals]


def searches(rng: np.random.Generator, runs: int) -> list[Row]:
    """Holm: any false finding; over groups of a template (dependent), and over ten tests of which four are true. Benjamini-Hochberg."""
    family = []
    for _ in range(runs):
        raw = rng.standard_normal((60, 5))
        contrasts = raw - raw.mean(axis=1, keepdims=True)
        family.append(min(holm([clustered_mean(column, range(60)).p_two_sided() for column in contrasts.T])) <= ALPHA)
    mixed, uncorrected, shares = [], [], []
    for _ in range(runs):
        p = ndtr(-(rng.standard_normal(10) + np.where(np.arange(10) < 4, 3.0, 0.0)))
        mixed.append(min(holm(p.tolist())[4:]) <= ALPHA)
        uncorrected.append(p[4:].min() <= ALPHA)
        many = ndtr(-(rng.standard_normal(50) + np.where(np.arange(50) < 10, 3.0, 0.0)))
        named = [i for i, value in enumerate(benjamini_hochberg(many.tolist())) if value <= ALPHA]
        shares.append(sum(i >= 10 for i in named) / max(1, len(named)))
    sample = np.array(shares)
    return [
        rate("Holm names a group where none changed: 5 groups, 60 templates", family, most=ALPHA),
        rate("Holm names any false one: 10 tests, 4 true", mixed, most=ALPHA),
        rate("(no correction names any false one: 10 tests, 4 true)", uncorrected),
        Row(
            name="Benjamini-Hochberg, share of false findings: 50 tests, 10 true",
            value=float(sample.mean()),
            runs=runs,
            most=ALPHA,
            se=float(sample.std() / runs**0.5),
        ),
    ]
