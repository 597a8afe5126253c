"""Synthetic runs: outcomes, probes and generations with known truth, from a seed."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trimtab.core.evidence import Evidence, GenerationCheck, Outcome, ParityProbe
from trimtab.core.policy import GateSpec, Policy

sys.path.insert(0, str(Path(__file__).parent))

GROUPS = ("gender:men", "gender:women", "origin:north", "origin:south", "origin:west")


def reference_run(seed: int, *, suite: str = "choice", n_clusters: int = 60, per_cluster: int = 3) -> tuple[Outcome, ...]:
    """Reference outcomes with a right answer each; a value above zero is correct."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0.3, 1.0, (n_clusters, per_cluster))
    return tuple(
        Outcome(
            item_id=f"{suite}-{c}-{i}",
            suite=suite,
            cluster=f"{suite}-{c}",
            value=float(values[c, i]),
            n_tokens=int(rng.integers(5, 40)),
            picked=0 if values[c, i] > 0 else 1,
            correct=bool(values[c, i] > 0),
        )
        for c in range(n_clusters)
        for i in range(per_cluster)
    )


def fairness_run(seed: int, *, n_templates: int = 70, groups: Sequence[str] = GROUPS) -> tuple[Outcome, ...]:
    """Reference outcomes where every template names every group once."""
    rng = np.random.default_rng(seed)
    return tuple(
        Outcome(item_id=f"f-{t}-{g}", suite="fairness", cluster=f"f-{t}", value=float(rng.normal()), n_tokens=8, group=g)
        for t in range(n_templates)
        for g in groups
    )


def changed(
    run: Sequence[Outcome], seed: int, *, change: float = 0.0, sd: float = 0.1, icc: float = 0.3, group: str = "", group_change: float = 0.0
) -> tuple[Outcome, ...]:
    """The same items in another run: mean change, spread, shared part within clusters, extra change of one group."""
    rng = np.random.default_rng(seed)
    shared = {cluster: float(rng.normal()) for cluster in dict.fromkeys(outcome.cluster for outcome in run)}
    result = []
    for outcome in run:
        step = change + sd * (icc**0.5 * shared[outcome.cluster] + (1 - icc) ** 0.5 * float(rng.normal()))
        value = (outcome.value or 0.0) + step + (group_change if group and outcome.group == group else 0.0)
        correct = None if outcome.correct is None else value > 0
        result.append(dataclasses.replace(outcome, value=value, correct=correct))
    return tuple(result)


def probe(seed: int, *, kl: float = 0.001, answers: int = 12, tokens: int = 40, n_failed: int = 0) -> ParityProbe:
    """Served minus re-scored log-probabilities of tokens drawn from the served distribution: normal with mean kl and variance 2 kl."""
    rng = np.random.default_rng(seed)
    scale = np.repeat(rng.uniform(0.8, 1.2, answers), tokens)
    differences = rng.normal(kl * scale**2, (2 * kl) ** 0.5 * scale)
    return ParityProbe(
        differences=tuple(float(d) for d in differences), answers=tuple(a for a in range(answers) for _ in range(tokens)), n_failed=n_failed
    )


def generation(broken: Sequence[int], n: int = 48) -> GenerationCheck:
    flags = tuple(i in set(broken) for i in range(n))
    return GenerationCheck(
        prompts=tuple(f"prompt {i}" for i in range(n)), broken=flags, why=tuple("loop" if flag else "" for flag in flags)
    )


def small_policy(**kwargs: object) -> Policy:
    """One gate of each kind, the generation gate not required."""
    return Policy(
        name="test",
        version="1",
        gates=(
            GateSpec(
                name="choice",
                kind="non_inferiority",
                margin=0.05,
                unit="nats/token",
                reason="test",
                suite="choice",
                control="q2",
                min_clusters=30,
            ),
            GateSpec(
                name="fairness",
                kind="equivalence_by_group",
                margin=0.1,
                unit="nats",
                reason="test",
                suite="fairness",
                control="bias",
                min_clusters=60,
            ),
            GateSpec(name="parity", kind="parity", margin=0.02, unit="nats/token", reason="test", control="kv", min_clusters=8),
            GateSpec(name="generation", kind="generation", margin=0.1, unit="share", reason="test", control="broken", required=False),
        ),
        **kwargs,  # type: ignore[arg-type]
    )


def evidence(
    seed: int = 0,
    *,
    use: str = "fixed_n",
    n_clusters: int = 60,
    n_templates: int = 70,
    change: float = 0.0,
    sd: float = 0.1,
    group: str = "",
    group_change: float = 0.0,
    control_change: float = -0.4,
    noise_change: float = 0.001,
    parity_kl: float = 0.003,
    drop: int = 0,
) -> Evidence:
    """Evidence on `small_policy`. drop: candidate items of the choice suite whose value is missing."""
    choice, fairness = reference_run(seed, n_clusters=n_clusters), fairness_run(seed + 1, n_templates=n_templates)
    candidate = changed(choice, seed + 2, change=change, sd=sd)
    candidate = tuple(dataclasses.replace(o, value=None, correct=None, error="crashed") for o in candidate[:drop]) + candidate[drop:]
    fair = changed(fairness, seed + 3, change=change, sd=sd, group=group, group_change=group_change)
    return Evidence(
        use=use,  # type: ignore[arg-type]
        reference=choice + fairness,
        candidate=candidate + fair,
        controls={
            "choice": changed(choice, seed + 4, change=control_change, sd=0.6),
            "fairness": changed(fairness, seed + 5, sd=sd, group=GROUPS[0], group_change=1.0),
        },
        noise={
            "threads": changed(choice[:60] + fairness, seed + 6, change=noise_change, sd=0.005),
            "f32": changed(choice + fairness, seed + 7, sd=0.005),
        },
        parity=probe(seed + 8, kl=parity_kl),
        parity_noise=probe(seed + 9, kl=1e-5),
        parity_controls={"kv": probe(seed + 10, kl=0.07), "swapped": probe(seed + 11, kl=0.09)},
        generation=generation([3]),
        generation_reference=generation([3]),
        generation_control=generation(range(40)),
    )


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """The makers above, for tests."""
    return SimpleNamespace(
        reference_run=reference_run,
        fairness_run=fairness_run,
        changed=changed,
        probe=probe,
        generation=generation,
        policy=small_policy,
        evidence=evidence,
        groups=GROUPS,
    )
