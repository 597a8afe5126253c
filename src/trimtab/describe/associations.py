"""Who is in a data set and what is said of whom, from counts: shares, association of group and label, words that go with a group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.stats.proportions import wilson

CONFIDENCE = 0.95
_DRAWS = 1000
PRIOR_TEXTS = 500.0
"""Weight of the prior in texts, spread over words as in the whole data set (Monroe et al. use 500 too)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Share:
    """A group's rows and their share with its 95 % Wilson interval: of what was sampled, if the data are a sample."""

    group: str
    n: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Association:
    """Group and label. cramers_v: 0 none .. 1 complete, corrected for its bias (Bergsma 2013), with a bootstrap interval; bits: mutual
    information; p: chi-squared test of independence; sparse: some expected count is below 5, so p is rough
    """

    cramers_v: float
    low: float
    high: float
    bits: float
    p: float
    sparse: bool


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word's log-odds among a group's texts against all others', in standard errors; texts that hold it in the group and elsewhere."""

    word: str
    z: float
    log_odds: float
    texts: int
    texts_elsewhere: int


def shares(counts: Mapping[str, int]) -> tuple[Share, ...]:
    """Shares of groups, largest first."""
    total = sum(counts.values())
    found = []
    for group, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        rate = wilson(n, total, CONFIDENCE)
        assert rate.low is not None
        assert rate.high is not None
        found.append(Share(group=group, n=n, share=rate.value, low=rate.low, high=rate.high))
    return tuple(found)


def association(counts: Sequence[Sequence[int]], seed: int = 0) -> Association | None:
    """Of a table of counts (groups, labels); None where it has fewer than two of either."""
    from scipy.special import chdtrc

    table = np.asarray(counts, dtype=float)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(table.shape, default=0) < 2:
        return None
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    chi2 = float(((table - expected) ** 2 / expected).sum())
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    share = table / table.sum()
    independent = np.outer(share.sum(axis=1), share.sum(axis=0))
    seen = share > 0
    bits = float((share[seen] * np.log2(share[seen] / independent[seen])).sum())
    random, total = np.random.default_rng(seed), int(table.sum())
    values = [_cramers_v(random.multinomial(total, share.ravel()).reshape(table.shape).astype(float)) for _ in range(_DRAWS)]
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Association(
        cramers_v=_cramers_v(table),
        low=float(low),
        high=float(high),
        bits=bits,
        p=float(chdtrc(freedom, chi2)),
        sparse=bool((expected < 5).any()),
    )


def _cramers_v(table: Floats) -> float:
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    n, (rows, columns) = table.sum(), table.shape
    if n < 2 or min(rows, columns) < 2:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    phi2 = float(((table - expected) ** 2 / expected).sum()) / n
    phi2 = max(0.0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    r, c = rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)
    return float(np.sqrt(phi2 / (min(r, c) - 1))) if min(r, c) > 1 else 0.0


def distinctive_words(with_word: Mapping[str, Mapping[str, int]], most: int = 20) -> dict[str, tuple[Word, ...]]:
    """Words that stand out in each group's texts against all others', strongest first.

    with_word: by group, in how many texts each word occurs. A text counts a word once: how often it repeats it says little about the group,
    and words of one text are not independent. Log-odds with an informative Dirichlet prior (Monroe, Colaresi and Quinn, Political
    Analysis 16(4), 2008). Only words beyond the bound that all words of all groups together pass by chance in 5 % (Bonferroni) are given.
    """
    from scipy.special import ndtri

    everywhere: dict[str, int] = {}
    for counts in with_word.values():
        for word, n in counts.items():
            everywhere[word] = everywhere.get(word, 0) + n
    total = sum(everywhere.values())
    if len(with_word) < 2 or not total:
        return dict.fromkeys(with_word, ())
    words = list(everywhere)
    overall = np.array([everywhere[word] for word in words], dtype=float)
    prior = PRIOR_TEXTS * overall / total
    bound = float(ndtri(1.0 - 0.05 / (2 * len(words) * len(with_word))))
    found = {}
    for group, counts in with_word.items():
        own = np.array([counts.get(word, 0) for word in words], dtype=float)
        rest = overall - own
        log_odds = _log_odds(own, prior) - _log_odds(rest, prior)
        z = log_odds / np.sqrt(1.0 / (own + prior) + 1.0 / (rest + prior))
        order = [k for k in np.argsort(-z, kind="stable")[:most] if z[k] > bound]
        found[group] = tuple(
            Word(word=words[k], z=float(z[k]), log_odds=float(log_odds[k]), texts=int(own[k]), texts_elsewhere=int(rest[k])) for k in order
        )
    return found


def _log_odds(counts: Floats, prior: Floats) -> Floats:
    mass, total = counts + prior, counts.sum() + prior.sum()
    return np.asarray(np.log(mass) - np.log(np.maximum(total - mass, 1e-12)))
