"""A/A: the same weights against themselves under another batch shape, thread count and slot count, through the real engines.

Scores the certify part of suite `core` once for each form and variant (minutes each; kept in the cache of TRIMTAB_HOME, so that a run that
was stopped, or ran out of its time, goes on), then draws whole clusters with replacement, as many as there are, and asks of each sample
what a run would have asked of it.

Without the draw there would be one sample and no rate. Its clusters keep what matters of real outcomes: their shape, their unequal sizes,
and items that did not change at all.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rows import ALPHA, Row, rate

from trimtab.core.deployment import Candidate, Settings
from trimtab.core.evidence import Outcome
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.decide import gate_levels
from trimtab.decide.fairness import axes_of
from trimtab.decide.pairs import pair_outcomes
from trimtab.decide.plan import pilot_spread, plan_power
from trimtab.decide.policies import load_policy
from trimtab.flows.events import Event
from trimtab.flows.parts.evidence import noise_variants, outcomes_on
from trimtab.flows.parts.exam import load_suites, policy_for, prepare_exam
from trimtab.flows.parts.opening import build_candidate, recipe_named
from trimtab.flows.parts.session import open_session, run_sync
from trimtab.stats.equivalence import tost
from trimtab.stats.flips import exchange_test
from trimtab.stats.multiplicity import holm
from trimtab.stats.paired import clustered_mean

FORMS = (("llamacpp", "f16"), ("llamacpp", "q8_0"), ("openvino", "int8-asym"))
"""Engine and recipe; the first is what the others are held against."""
Runs = dict[str, tuple[Outcome, ...]]
"""Outcomes by the name of the variant; `itself` is the reference."""


def tell(event: Event) -> None:
    if event.message and event.done in (None, 0):
        print(f"# {event.phase}: {event.message}", file=sys.stderr, flush=True)


async def outcomes_of(model: str, engine: str, recipe_name: str, deadline_s: float) -> Runs:
    """The form and its variants on all certify items; a variant that is not whole at the deadline (monotonic) is left out.

    Raises what a run raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        opening = open_session(
            model,
            out=Path(folder) / "run",
            digests={},
            inputs={},
            versions={},
            fresh=False,
            offline=False,
            limit_s=86400.0,
            seed=0,
            on_event=tell,
        )
        async with opening as (session, opened):
            settings = Settings(slots=1, context_tokens=1024)

            async def built(engine: str, recipe: str) -> Candidate:
                return await build_candidate(opened, engine, recipe_named(recipe, engine), settings, products_dir=session.products_dir)

            asker, form = await built(*FORMS[0]), await built(engine, recipe_name)
            suites = load_suites(("core",))
            policy, _ = policy_for(load_policy("standard"), suites)
            async with session.workers.lent(asker, "score") as client:
                exam = await prepare_exam(client, asker, suites, policy, share_search=0.25)
            found: Runs = {}
            for name, variant in {"itself": form, **noise_variants(form, None, os.cpu_count() or 1)}.items():
                outcomes: tuple[Outcome, ...] = ()
                for part in exam.parts:
                    if time.monotonic() > deadline_s:
                        print(f"# {engine} {recipe_name}, {name}: not measured, no time", file=sys.stderr, flush=True)
                        return found
                    outcomes += await outcomes_on(session, variant, part, phase=f"{engine} {recipe_name}", what=name)
                found[name] = outcomes
    return found


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One suite's paired changes, item by item, and which items each cluster has."""

    spec: GateSpec
    changes: np.ndarray
    weights: np.ndarray
    net: np.ndarray  # change of being right: -1, 0, 1
    members: tuple[np.ndarray, ...]


def rows(runs: int, model: str, limit_s: float) -> list[Row]:
    """A/A for the model's weights with 16 and with 8 bits, as far as it can be scored in limit_s seconds."""
    deadline_s = time.monotonic() + limit_s
    policy, _ = policy_for(load_policy("standard"), load_suites(("core",)))
    levels = gate_levels(policy, looks=(1.0,), look=1)
    found: list[Row] = []
    reference: tuple[Outcome, ...] = ()
    for engine, recipe in FORMS:
        outcomes = run_sync(outcomes_of(model, engine, recipe, deadline_s))
        if not outcomes:
            break
        if reference:
            what = f"{engine} {recipe}"
            found += equal_at_printed_size(np.random.default_rng(2), max(100, runs * 2 // 5), what, policy, reference, outcomes["itself"])
        reference = reference or outcomes["itself"]
        for variant in (name for name in outcomes if name != "itself"):
            suites = [sampled(spec, outcomes["itself"], outcomes[variant]) for spec in policy.gates if spec.kind == "non_inferiority"]
            axes = [
                (axis.contrasts, spec)
                for spec in policy.gates
                if spec.kind == "equivalence_by_group"
                for axis in axes_of(pair_outcomes(spec.suite, outcomes["itself"], outcomes[variant], weight=spec.weight), spec.margin)
            ]
            alpha = levels[suites[0].spec.name].alpha
            found += alarms(np.random.default_rng(1), max(100, runs * 2 // 5), f"A/A {engine} {recipe}, {variant}", suites, axes, alpha)
    return found


def equal_at_printed_size(
    rng: np.random.Generator, runs: int, what: str, policy: Policy, reference: Sequence[Outcome], candidate: Sequence[Outcome]
) -> list[Row]:
    """The real changes of 8-bit weights, moved to mean zero: a candidate that is truly equal, with real tails, clusters and flips.

    As many clusters are drawn for each gate as the plan prints for the spreads seen; drawn from G clusters, they vary by a share 1 / G less
    than new ones would, which is put back.
    """
    pilots = {spec.name: pilot_spread(spec, reference, candidate, 1) for spec in policy.gates if spec.suite}
    plan = plan_power(policy, {name: pilot for name, pilot in pilots.items() if pilot is not None})
    sizes = {gate.name: gate.needed for gate in plan.gates}
    alpha = gate_levels(policy, looks=policy.looks, look=len(policy.looks))[plan.gates[0].name].alpha
    suites = [sampled(spec, reference, candidate) for spec in policy.gates if spec.kind == "non_inferiority"]
    axes = [
        (axis.contrasts - axis.contrasts.mean(axis=0), spec)
        for spec in policy.gates
        if spec.kind == "equivalence_by_group"
        for axis in axes_of(pair_outcomes(spec.suite, reference, candidate, weight=spec.weight), spec.margin)
    ]
    passed = []
    for _ in range(runs):
        good = []
        for suite in suites:
            drawn = [suite.members[i] for i in rng.integers(0, len(suite.members), sizes[suite.spec.name])]
            items, clusters = np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [part.size for part in drawn])
            centred = suite.changes[items] - np.average(suite.changes, weights=suite.weights)
            wider = (len(suite.members) / (len(suite.members) - 1)) ** 0.5
            mean = clustered_mean(wider * centred, clusters.tolist(), suite.weights[items])
            good.append(mean.lower(alpha) > -suite.spec.margin)
        for contrasts, spec in axes:
            part = contrasts[rng.integers(0, len(contrasts), sizes[spec.name])]
            good += [tost(clustered_mean(column, range(len(part))), spec.margin).p_inside < alpha for column in part.T]
        passed.append(all(good))
    right = {outcome.item_id: outcome.correct for outcome in reference if outcome.correct is not None}
    flips = [right[outcome.item_id] != outcome.correct for outcome in candidate if outcome.item_id in right]
    told = ", ".join(f"{name} {n}" for name, n in sizes.items())
    return [
        rate(f"{what} moved to no change: all gates pass at the printed size ({told})", passed, least=policy.power),
        rate(f"({what}: share of its answers that flip)", flips),
    ]


def sampled(spec: GateSpec, reference: Sequence[Outcome], other: Sequence[Outcome]) -> Sampled:
    pairs = pair_outcomes(spec.suite, reference, other, weight=spec.weight)
    names = np.unique(np.array(pairs.clusters), return_inverse=True)[1]
    return Sampled(
        spec=spec,
        changes=pairs.changes,
        weights=pairs.weights,
        net=np.array([int(bool(pair.correct_candidate)) - int(bool(pair.correct)) for pair in pairs.observed]),
        members=tuple(np.flatnonzero(names == cluster) for cluster in range(names.max() + 1)),
    )


def alarms(
    rng: np.random.Generator, runs: int, what: str, suites: Sequence[Sampled], axes: Sequence[tuple[np.ndarray, GateSpec]], alpha: float
) -> list[Row]:
    """False alarms over samples of whole clusters.

    For the tests of "no change", both sides of a cluster are exchanged by the toss of a coin: then they are alike for certain, whatever the
    numerics do to the mean.
    """
    fails, passes, changed, flipped = [], [], [], []
    for _ in range(runs):
        verdicts = []
        for suite in suites:
            drawn = [suite.members[i] for i in rng.integers(0, len(suite.members), len(suite.members))]
            items, clusters = np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [part.size for part in drawn])
            mean = clustered_mean(suite.changes[items], clusters.tolist(), suite.weights[items])
            margin = suite.spec.margin
            verdicts.append("pass" if mean.lower(alpha) > -margin else "fail" if mean.upper(alpha) < -margin else "inconclusive")
            signs = rng.choice((-1, 1), len(drawn))[clusters]
            changed.append(clustered_mean(signs * suite.changes[items], clusters.tolist(), suite.weights[items]).p_two_sided() <= ALPHA)
            nets = np.bincount(clusters, signs * suite.net[items], len(drawn)).astype(int)
            flipped.append(exchange_test(nets.tolist()).p_exact <= ALPHA)
        for contrasts, spec in axes:
            part = contrasts[rng.integers(0, len(contrasts), len(contrasts))]
            tests = [tost(clustered_mean(column, range(len(part))), spec.margin) for column in part.T]
            outside = min(holm([test.p_outside for test in tests])) < alpha
            verdicts.append("fail" if outside else "pass" if max(test.p_inside for test in tests) < alpha else "inconclusive")
        fails.append("fail" in verdicts)
        passes.append(all(verdict == "pass" for verdict in verdicts))
    return [
        rate(f"{what}: any gate fails", fails, most=ALPHA),
        rate(f"{what}: all gates pass", passes, least=0.8),
        Row(name=f"{what}: a changed mean is found, over gates", value=float(np.mean(changed)), runs=runs, most=ALPHA),
        Row(name=f"{what}: changed answers are found, over gates", value=float(np.mean(flipped)), runs=runs, most=ALPHA),
    ]
