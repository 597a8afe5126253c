"""What the decision statistics promise, measured by simulation with known truth.

    python benchmarks/decide_statistics.py [--quick]

Prints a table and ends with one JSON line: name, figures, targets, ok. Covered: interval coverage, chance of passing a candidate that is
exactly as bad as the margin (one gate, three attempts, planned looks, fairness), power against its prediction, the parity gate. Not
covered: dependence between gates and items that are not a sample of the user's work.
"""

import argparse
import json
import sys
from collections.abc import Callable

import numpy as np

from trimtab.core.evidence import Evidence, Outcome, ParityProbe
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.decide import decide
from trimtab.decide.fairness import judge_equivalence_by_group
from trimtab.decide.judgement import Level
from trimtab.decide.parity import judge_parity
from trimtab.decide.plan import Pilot, plan_power
from trimtab.stats.paired import clustered_mean
from trimtab.stats.sequential import nominal_alphas

ALPHA = 0.05
PER_ATTEMPT = ALPHA / 3
MARGIN = 0.05
Draw = Callable[[np.random.Generator, int], np.ndarray]


def normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal(n)


def heavy(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_t(4, n) / 2**0.5


def rare_losses(rng: np.random.Generator, n: int) -> np.ndarray:
    """Mean zero, variance one, most values a little above and some far below: an exponential tail of losses."""
    return 1.0 - rng.exponential(size=n)


def sample(rng: np.random.Generator, n_clusters: int, shape: Draw, icc: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences with mean zero and sd one, in clusters of 1 to 11 items, with token weights."""
    clusters = np.repeat(np.arange(n_clusters), rng.integers(1, 12, n_clusters))
    values = icc**0.5 * shape(rng, n_clusters)[clusters] + (1 - icc) ** 0.5 * shape(rng, clusters.size)
    return values, clusters, rng.integers(5, 60, clusters.size)


def coverage(rng: np.random.Generator, runs: int, n_clusters: int, shape: Draw) -> tuple[float, float]:
    """Coverage of the 95 % interval, and of the plain cluster-robust z interval on the same draws."""
    hits = plain_hits = 0
    for _ in range(runs):
        values, clusters, weights = sample(rng, n_clusters, shape)
        mean = clustered_mean(values, clusters.tolist(), weights)
        hits += mean.lower(0.025) <= 0.0 <= mean.upper(0.025)
        scores = np.bincount(clusters, weights * (values - mean.estimate))
        plain_hits += abs(mean.estimate) <= 1.96 * float(np.sqrt((scores**2).sum())) / weights.sum()
    return hits / runs, plain_hits / runs


def false_pass(rng: np.random.Generator, runs: int, n_clusters: int, shape: Draw, sd: float = 0.1) -> float:
    """Share of candidates exactly as bad as the margin that pass at the level of one attempt."""
    passed = 0
    for _ in range(runs):
        values, clusters, weights = sample(rng, n_clusters, shape)
        passed += clustered_mean(sd * values - MARGIN, clusters.tolist(), weights).lower(PER_ATTEMPT) > -MARGIN
    return passed / runs


def false_pass_attempts(rng: np.random.Generator, runs: int, n_clusters: int = 60) -> float:
    """Share of searches in which any of three candidates, each as bad as the margin and half alike, passes."""
    passed = 0
    for _ in range(runs):
        common, clusters, weights = sample(rng, n_clusters, normal)
        tries = [(common + rng.standard_normal(common.size)) / 2**0.5 for _ in range(3)]
        passed += any(clustered_mean(0.1 * t - MARGIN, clusters.tolist(), weights).lower(PER_ATTEMPT) > -MARGIN for t in tries)
    return passed / runs


def false_pass_looks(rng: np.random.Generator, runs: int, looks: tuple[float, ...], n_clusters: int = 75) -> float:
    """Share of candidates as bad as the margin that pass at any planned look."""
    levels = nominal_alphas(looks, PER_ATTEMPT)
    passed = 0
    for _ in range(runs):
        values, clusters, weights = sample(rng, n_clusters, normal)
        for look, level in zip(looks, levels, strict=True):
            seen = clusters < round(look * n_clusters)
            if clustered_mean(0.1 * values[seen] - MARGIN, clusters[seen].tolist(), weights[seen]).lower(level) > -MARGIN:
                passed += 1
                break
    return passed / runs


def fairness_rates(rng: np.random.Generator, runs: int, shift: float, groups: int = 4, templates: int = 60) -> dict[str, float]:
    """Share of each verdict of the fairness gate when one group's contrast is truly `shift` (margin 0.1), and its mean predicted power."""
    spec = GateSpec(name="f", kind="equivalence_by_group", margin=0.1, unit="nats", reason="-", suite="f", min_clusters=60)
    names = [f"axis:{g}" for g in range(groups)]

    def run(values: np.ndarray) -> tuple[Outcome, ...]:
        return tuple(
            Outcome(item_id=f"{t}-{g}", suite="f", cluster=str(t), value=float(values[t, g]), n_tokens=1, group=names[g])
            for t in range(templates)
            for g in range(groups)
        )

    reference = run(np.zeros((templates, groups)))
    seen = {"pass": 0.0, "fail": 0.0, "inconclusive": 0.0, "power": 0.0}
    for _ in range(runs):
        values = rng.normal(0.0, 0.2, (templates, groups)) + rng.normal(0.0, 0.3, (templates, 1))
        values[:, 0] += shift * groups / (groups - 1)
        found = judge_equivalence_by_group(spec, reference, run(values), Level(alpha=PER_ATTEMPT, power=0.8))
        seen[found.verdict] += 1 / runs
        seen["power"] += found.power / runs
    return seen


def joint(rng: np.random.Generator, runs: int, change: float) -> tuple[float, float]:
    """(predicted, observed) chance that a candidate with this change on each of three gates passes them all, through `decide`."""
    gates = tuple(
        GateSpec(name=n, kind="non_inferiority", margin=MARGIN, unit="nats", reason="-", suite=n, min_clusters=20, control="c")
        for n in "abc"
    )
    policy = Policy(name="joint", version="1", gates=gates)
    sds, n = {"a": 0.1, "b": 0.12, "c": 0.14}, 60
    predicted = plan_power(policy, {name: Pilot(sd=sd, n_clusters=n) for name, sd in sds.items()}).joint_power

    def outcomes(shift: float, spread: float) -> tuple[Outcome, ...]:
        return tuple(
            Outcome(item_id=f"{name}{i}", suite=name, cluster=f"{name}{i}", value=float(shift + spread * sd * z), n_tokens=1)
            for name, sd in sds.items()
            for i, z in enumerate(rng.standard_normal(n))
        )

    reference, noise = outcomes(0.0, 0.0), {"threads": outcomes(0.0, 0.01)}
    controls = {name: tuple(o for o in outcomes(-1.0, 1.0) if o.suite == name) for name in sds}
    passed = sum(
        decide(
            policy, Evidence(use="fixed_n", reference=reference, candidate=outcomes(change, 1.0), controls=controls, noise=noise)
        ).verdict
        == "pass"
        for _ in range(runs)
    )
    return predicted, passed / runs


def probe_of(rng: np.random.Generator, strength: float, answers: int, tokens: int = 48, vocabulary: int = 300) -> ParityProbe:
    """Tokens drawn from softmax(z), re-scored under softmax(z + noise): the noise's strength sets the divergence."""
    n = answers * tokens
    logits = rng.normal(0.0, 1.0, (n, vocabulary)) * rng.uniform(1.0, 4.0, (n, 1))
    other = logits + strength * np.repeat(rng.uniform(0.7, 1.3, answers), tokens)[:, None] * rng.standard_normal((n, vocabulary))
    served = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    scored = other - np.log(np.exp(other).sum(axis=1, keepdims=True))
    picks = (np.exp(served).cumsum(axis=1) > rng.uniform(size=(n, 1))).argmax(axis=1)
    rows = np.arange(n)
    return ParityProbe(
        differences=tuple((served - scored)[rows, picks].tolist()), answers=tuple(np.repeat(np.arange(answers), tokens).tolist())
    )


def parity(rng: np.random.Generator, runs: int, strength: float, answers: int) -> dict[str, float]:
    """Verdicts of the parity gate (margin 0.02), and how often the plain mean of differences alone would have decided as well."""
    spec = GateSpec(name="p", kind="parity", margin=0.02, unit="nats/token", reason="-", min_clusters=8)
    seen = {"kl": 0.0, "pass": 0.0, "fail": 0.0, "inconclusive": 0.0, "plain_decides": 0.0}
    for _ in range(runs):
        probe = probe_of(rng, strength, answers)
        found = judge_parity(spec, probe, Level(alpha=PER_ATTEMPT, power=0.8))
        plain = clustered_mean(probe.differences, probe.answers)
        seen["kl"] += (found.delta or 0.0) / runs
        seen[found.verdict] += 1 / runs
        seen["plain_decides"] += (plain.upper(PER_ATTEMPT) < spec.margin or plain.lower(PER_ATTEMPT) > spec.margin) / runs
    return seen


def measure(scale: int) -> dict[str, float]:
    """All figures, each from its own seed."""
    figures: dict[str, float] = {}
    for shape in (normal, heavy, rare_losses):
        for n in (10, 20, 75):
            key = f"{shape.__name__}_{n}"
            figures[f"coverage_{key}"], figures[f"coverage_plain_z_{key}"] = coverage(np.random.default_rng(n), 4 * scale, n, shape)
            figures[f"false_pass_{key}"] = false_pass(np.random.default_rng(n + 1), 4 * scale, n, shape)
    figures["false_pass_three_attempts"] = false_pass_attempts(np.random.default_rng(1), 2 * scale)
    figures["false_pass_two_looks"] = false_pass_looks(np.random.default_rng(2), 4 * scale, (0.5, 1.0))
    figures["false_pass_three_looks"] = false_pass_looks(np.random.default_rng(3), 4 * scale, (1 / 3, 2 / 3, 1.0))
    for name, shift in (("equal", 0.0), ("at_margin", 0.1), ("harmed", -0.25)):
        rates = fairness_rates(np.random.default_rng(4), scale // 2, shift)
        figures |= {f"fairness_{word}_{name}": rates[word] for word in ("pass", "fail")}
        if shift == 0.0:
            figures["fairness_pass_predicted_equal"] = rates["power"]
    rng = np.random.default_rng(5)
    figures["joint_pass_predicted_equal"], figures["joint_pass_equal"] = joint(rng, scale // 2, 0.0)
    figures["joint_pass_at_margin"] = joint(rng, scale // 2, -MARGIN)[1]
    for name, strength in (("same_path", 0.1), ("four_bit_cache", 0.35)):
        for answers in (8, 16):
            rates = parity(np.random.default_rng(6), scale // 20, strength, answers)
            figures |= {f"parity_{name}_{answers}_answers_{key}": value for key, value in rates.items() if key != "inconclusive"}
    return figures


def targets_of(figures: dict[str, float], scale: int) -> dict[str, bool]:
    """Named promises and whether the figures keep them; rates get three standard errors of the simulation itself."""

    def at_most(key: str, limit: float, runs: int) -> bool:
        return figures[key] <= limit + 3.0 * (limit * (1 - limit) / runs) ** 0.5

    kept = {
        f"coverage_{shape}_{n} >= 0.935": figures[f"coverage_{shape}_{n}"] >= 0.935 for shape in ("normal", "heavy") for n in (10, 20, 75)
    }
    kept |= {
        f"false_pass_{shape}_{n} <= {PER_ATTEMPT:.4f}": at_most(f"false_pass_{shape}_{n}", PER_ATTEMPT, 4 * scale)
        for shape in ("normal", "heavy")
        for n in (10, 20, 75)
    }
    kept["false_pass_three_attempts <= 0.05"] = at_most("false_pass_three_attempts", ALPHA, 2 * scale)
    for name in ("two", "three"):
        kept[f"false_pass_{name}_looks <= {PER_ATTEMPT:.4f}"] = at_most(f"false_pass_{name}_looks", PER_ATTEMPT, 4 * scale)
    kept[f"fairness_pass_at_margin <= {PER_ATTEMPT:.4f}"] = at_most("fairness_pass_at_margin", PER_ATTEMPT, scale // 2)
    kept[f"fairness_fail_equal <= {PER_ATTEMPT:.4f}"] = at_most("fairness_fail_equal", PER_ATTEMPT, scale // 2)
    kept["fairness_fail_harmed >= 0.95"] = figures["fairness_fail_harmed"] >= 0.95
    for name in ("joint", "fairness"):
        off = figures[f"{name}_pass_predicted_equal"] - figures[f"{name}_pass_equal"]
        kept[f"{name} power within 0.06 of its prediction"] = abs(off) <= 0.06
    kept["parity passes the same path, 16 answers >= 0.95"] = figures["parity_same_path_16_answers_pass"] >= 0.95
    kept["parity fails a four-bit cache, 16 answers >= 0.9"] = figures["parity_four_bit_cache_16_answers_fail"] >= 0.9
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulations")
    scale = 500 if parser.parse_args().quick else 5000
    figures = {key: round(value, 5) for key, value in measure(scale).items()}
    targets = targets_of(figures, scale)
    for key, value in figures.items():
        print(f"{key:48s} {value:.4f}")
    for promise, kept in targets.items():
        print(f"{'kept  ' if kept else 'BROKEN'} {promise}")
    ok = all(targets.values())
    print(json.dumps({"name": "decide_statistics", "figures": figures, "targets": targets, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
