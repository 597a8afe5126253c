"""What is watched without end: confidence sequences, and distances between distributions."""

import numpy as np
from rows import ALPHA, Row, average, rate
from scipy.special import stdtrit

from trimtab.stats.betting import log_capital
from trimtab.stats.distances import paired_distance, sample_distance

STREAM = 1000
SUITE = 400


def rows(runs: int) -> list[Row]:
    """All figures of this file, each from its own seed."""
    found: list[Row] = []
    streams = {"one in ten": lambda rng: (rng.random((runs, STREAM)) < 0.1).astype(float), "beta(10, 30)": lambda rng: _beta(rng, runs)}
    for words, draw in streams.items():
        found += stream(words, draw(np.random.default_rng(1)), 0.1 if words == "one in ten" else 0.25)
    found += finite_suite(np.random.default_rng(2), runs)
    return found + distances(np.random.default_rng(3), max(100, runs * 2 // 5))


def _beta(rng: np.random.Generator, runs: int) -> np.ndarray:
    return rng.beta(10, 30, (runs, STREAM))


def stream(words: str, values: np.ndarray, truth: float) -> list[Row]:
    """Looked at after every one of 1,000 values; beside it a t interval looked at as often, from the twentieth on."""
    left_out = _left_out(values, truth, None)
    n = np.arange(1, STREAM + 1)
    means = np.cumsum(values, axis=1) / n
    spread = np.sqrt(np.maximum(np.cumsum(values**2, axis=1) / n - means**2, 0.0) / np.maximum(n - 1, 1))
    peeked = (np.abs(means - truth) > stdtrit(np.maximum(n - 1, 1), 1 - ALPHA / 2) * spread)[:, 19:].any(axis=1)
    return [
        rate(f"confidence sequence ever leaves out the truth: {words}, 1,000 looks", left_out, most=ALPHA),
        rate(f"(t interval looked at after every value ever does: {words})", peeked),
    ]


def _left_out(values: np.ndarray, truth: float, size: int | None) -> np.ndarray:
    limit = np.log(2 / ALPHA)
    return np.any([log_capital(values, truth, side, alpha=ALPHA, size=size).max(axis=1) >= limit for side in ("above", "below")], axis=0)


def finite_suite(rng: np.random.Generator, runs: int) -> list[Row]:
    """400 items in random order, 8 of them broken: after how many is it shown that fewer than a tenth are?"""
    broken = rng.permuted(np.tile(np.arange(SUITE) < 8, (runs, 1)), axis=1).astype(float)
    at_bound = rng.permuted(np.tile(np.arange(SUITE) < 40, (runs, 1)), axis=1).astype(float)
    found = [rate("finite suite: sequence ever leaves out the truth", _left_out(at_bound, 0.1, SUITE), most=ALPHA)]
    for words, size in (("finite suite", SUITE), ("(as a stream", None)):
        shown = log_capital(broken, 0.1, "below", alpha=ALPHA, size=size) >= np.log(1 / ALPHA)
        used = np.where(shown.any(axis=1), shown.argmax(axis=1) + 1, SUITE) / SUITE
        tail = ")" if size is None else ""
        found.append(average(f"{words}: share of items until 2 % is shown to be under 10 %{tail}", used, most=0.7 if size else None))
    return found


def distances(rng: np.random.Generator, runs: int) -> list[Row]:
    """Permutation of whole clusters: 20 clusters of 5 items that go together, both sides alike; then one side half as wide again."""
    clusters = np.repeat(np.arange(20), 5)
    names = clusters.tolist()
    others = [f"other {name}" for name in names]
    alarms: dict[str, list[bool]] = {"paired Wasserstein": [], "paired KS": [], "two-sample Wasserstein": [], "two-sample KS": []}
    wider = []
    for run in range(runs):
        first, second = (rng.standard_normal(20)[clusters] + 0.5 * rng.standard_normal(100) for _ in range(2))
        for kind, found in (
            ("paired", paired_distance(first, second, names, draws=99, seed=run)),
            ("two-sample", sample_distance(first, second, names, others, draws=99, seed=run)),
        ):
            alarms[f"{kind} Wasserstein"].append(found.p_wasserstein <= ALPHA)
            alarms[f"{kind} KS"].append(found.p_ks <= ALPHA)
        level = rng.standard_normal(100)
        wider.append(paired_distance(level, 1.5 * level, range(100), draws=99, seed=run).p_wasserstein <= ALPHA)
    found_rows = [rate(f"{kind} finds a difference where there is none", hits, most=ALPHA) for kind, hits in alarms.items()]
    return [*found_rows, rate("paired Wasserstein finds a spread half as wide again, same mean, 100 items", wider, least=0.8)]
