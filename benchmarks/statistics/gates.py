"""Whole gates, through the code that decides: joint power at the printed size, groups, and what is served against what was scored."""

import numpy as np
from rows import MARGIN, PER_ATTEMPT, Row, average, heavy, normal, rate

from trimtab.core.evidence import Outcome, ParityProbe
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.fairness import judge_equivalence_by_group
from trimtab.decide.judgement import Level
from trimtab.decide.parity import judge_parity
from trimtab.decide.plan import Pilot, PowerPlan, plan_power
from trimtab.stats.paired import clustered_mean

SPREADS = {"cloze": 0.10, "choice": 0.22, "arithmetic": 0.12, "instruct": 0.14}
"""Standard deviation of a cluster's mean change, nats per token: up to seven times that of an 8-bit file on the shipped items. One answer
in twenty flips, as with 4 to 6 bits."""
MARGINS = {"cloze": 0.05, "choice": 0.1, "arithmetic": 0.05, "instruct": 0.05}
PILOT_CLUSTERS = 30
ITEMS = 3
"""In each cluster."""


def rows(runs: int) -> list[Row]:
    """All figures of this file, each from its own seed."""
    policy, plan = printed()
    sizes = {gate.name: gate.needed for gate in plan.gates}
    found = joint(np.random.default_rng(1), runs, policy, sizes)
    found += from_pilots(np.random.default_rng(2), max(100, runs * 2 // 5), policy)
    for name, shift in (("equal groups", 0.0), ("one group of four at the margin", 0.1), ("one group 2.5 margins off", -0.25)):
        found += fairness(np.random.default_rng(4), max(100, runs * 2 // 5), name, shift)
    for name, strength in (("same path", 0.1), ("like a 4-bit cache", 0.35)):
        found += parity(np.random.default_rng(6), max(100, runs * 2 // 5), name, strength)
    return found


def printed() -> tuple[Policy, PowerPlan]:
    """Four gates of the standard policy, and the sizes that `plan_power` prints for them."""
    gates = tuple(
        GateSpec(name=n, kind="non_inferiority", margin=MARGINS[n], unit="nats", reason="-", suite=n, min_clusters=10, control="c")
        for n in SPREADS
    )
    policy = Policy(name="joint", version="1", gates=gates)
    return policy, plan_power(policy, {name: Pilot(sd=sd, n_clusters=40) for name, sd in SPREADS.items()})


def changes_of(rng: np.random.Generator, n_clusters: int, sd: float) -> np.ndarray:
    """(clusters, items): mean zero, heavy tails, alike within clusters; a cluster's mean has standard deviation `sd`."""
    scale = sd / (0.3 + 0.7 / ITEMS) ** 0.5
    return scale * (0.3**0.5 * heavy(rng, n_clusters)[:, None] + 0.7**0.5 * heavy(rng, n_clusters * ITEMS).reshape(n_clusters, ITEMS))


def joint(rng: np.random.Generator, runs: int, policy: Policy, sizes: dict[str, int]) -> list[Row]:
    """A candidate whose answers flip although it is truly equal, and one at every margin, at the printed sizes."""
    before = {name: rng.normal(0.2, 1.0, (n, ITEMS)) for name, n in sizes.items()}
    equal, bad, flips = [], [], []
    for _ in range(runs):
        changes = {name: changes_of(rng, n, SPREADS[name]) for name, n in sizes.items()}
        equal.append(all(passes(name, table) for name, table in changes.items()))
        bad.append(all(passes(name, table - MARGINS[name]) for name, table in changes.items()))
        flips.append(np.mean(np.concatenate([((before[name] + changes[name] > 0) != (before[name] > 0)).ravel() for name in sizes])))
    told = ", ".join(f"{name} {n}" for name, n in sizes.items())
    return [
        rate(f"all four gates pass an equal candidate at the printed size ({told})", equal, least=policy.power),
        average("(share of its answers that flip)", flips),
        rate("all four gates pass a candidate at every margin", bad, most=PER_ATTEMPT),
    ]


def passes(name: str, changes: np.ndarray) -> bool:
    """Whether the gate of that name lets these (clusters, items) changes pass."""
    clusters = np.repeat(np.arange(len(changes)), ITEMS).tolist()
    return clustered_mean(changes.ravel(), clusters).lower(PER_ATTEMPT) > -MARGINS[name]


def from_pilots(rng: np.random.Generator, runs: int, policy: Policy) -> list[Row]:
    """The whole way: spreads from 30 clusters that are used for nothing else, the size printed from them, then the gates at that size."""
    passed, sizes = [], []
    for _ in range(runs):
        pilots = {}
        for name, sd in SPREADS.items():
            mean = clustered_mean(changes_of(rng, PILOT_CLUSTERS, sd).ravel(), np.repeat(np.arange(PILOT_CLUSTERS), ITEMS).tolist())
            pilots[name] = Pilot(sd=mean.se * PILOT_CLUSTERS**0.5, n_clusters=PILOT_CLUSTERS, df=mean.df)
        needed = {gate.name: gate.needed for gate in plan_power(policy, pilots).gates}
        sizes.append(sum(needed.values()))
        passed.append(all(passes(name, changes_of(rng, n, SPREADS[name])) for name, n in needed.items()))
    return [
        rate("the same, spreads known from 30 clusters only", passed, least=policy.power),
        average("(clusters of the four gates together, printed)", sizes),
    ]


def fairness(rng: np.random.Generator, runs: int, words: str, shift: float, groups: int = 4, templates: int = 60) -> list[Row]:
    """Verdicts of the fairness gate when one group's contrast is truly `shift` (margin 0.1), and its mean predicted power."""
    spec = GateSpec(name="f", kind="equivalence_by_group", margin=0.1, unit="nats", reason="-", suite="f", min_clusters=60)

    def run(values: np.ndarray) -> tuple[Outcome, ...]:
        return tuple(
            Outcome(item_id=f"{t}-{g}", suite="f", cluster=str(t), value=value, n_tokens=1, group=f"axis:{g}")
            for t, row in enumerate(values.tolist())
            for g, value in enumerate(row)
        )

    reference = run(np.zeros((templates, groups)))
    verdicts, powers = [], []
    for _ in range(runs):
        values = 0.2 * normal(rng, templates * groups).reshape(templates, groups) + 0.3 * normal(rng, templates)[:, None]
        values[:, 0] += shift * groups / (groups - 1)
        found = judge_equivalence_by_group(spec, reference, run(values), Level(alpha=PER_ATTEMPT, power=0.8))
        verdicts.append(found.verdict)
        powers.append(found.power)
    passes, fails = [one == "pass" for one in verdicts], [one == "fail" for one in verdicts]
    if shift == 0.0:
        gap = np.array(passes, float) - powers
        return [
            rate(f"fairness, {words}: fails", fails, most=PER_ATTEMPT),
            rate(f"fairness, {words}: passes", passes, least=0.8),
            average("(fairness: passes beyond their prediction)", gap, least=-0.03, most=0.03),
        ]
    if abs(shift) <= spec.margin:
        return [rate(f"fairness, {words}: passes", passes, most=PER_ATTEMPT)]
    return [rate(f"fairness, {words}: fails", fails, least=0.95)]


def probe_of(rng: np.random.Generator, strength: float, answers: int, tokens: int = 48, vocabulary: int = 64) -> ParityProbe:
    """Tokens drawn from softmax(z), re-scored under softmax(z + noise): the noise's strength sets the divergence."""
    n = answers * tokens
    logits = rng.normal(0.0, 1.0, (n, vocabulary)) * rng.uniform(1.0, 4.0, (n, 1))
    other = logits + strength * np.repeat(rng.uniform(0.7, 1.3, answers), tokens)[:, None] * rng.standard_normal((n, vocabulary))
    served = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    scored = other - np.log(np.exp(other).sum(axis=1, keepdims=True))
    picks = (np.exp(served).cumsum(axis=1) > rng.uniform(size=(n, 1))).argmax(axis=1)
    at = np.arange(n)
    return ParityProbe(
        differences=tuple((served - scored)[at, picks].tolist()), answers=tuple(np.repeat(np.arange(answers), tokens).tolist())
    )


def parity(rng: np.random.Generator, runs: int, words: str, strength: float) -> list[Row]:
    """Verdicts of the parity gate (margin 0.02) on 16 answers of 48 tokens, and how often the plain mean of differences would decide."""
    spec = GateSpec(name="p", kind="parity", margin=0.02, unit="nats/token", reason="-", min_clusters=8)
    verdicts, plain, divergences = [], [], []
    for _ in range(runs):
        probe = probe_of(rng, strength, 16)
        found = judge_parity(spec, probe, Level(alpha=PER_ATTEMPT, power=0.8))
        mean = clustered_mean(probe.differences, probe.answers)
        verdicts.append(found.verdict)
        plain.append(mean.upper(PER_ATTEMPT) < spec.margin or mean.lower(PER_ATTEMPT) > spec.margin)
        divergences.append(found.delta or 0.0)
    right = "pass" if np.mean(divergences) < MARGIN / 5 else "fail"
    return [
        rate(f"parity, {words}: {right}", [one == right for one in verdicts], least=0.9),
        average(f"(parity, {words}: nats per token)", divergences),
        rate(f"(parity, {words}: the plain mean would decide)", plain),
    ]
