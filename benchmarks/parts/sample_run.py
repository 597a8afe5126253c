"""A finished run of `optimize` with known truth: real files by trimtab's own writers, weights of a tiny model, outcomes drawn from a seed.

Two candidates were judged: one that is worse, and stopped at the first look, and one that passed and was chosen.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from trimtab.core.decision import CandidateResult
from trimtab.core.deployment import Candidate, EngineBuild, Machine, Recipe, Settings
from trimtab.core.evidence import Evidence, GenerationCheck, Item, Outcome, ParityProbe
from trimtab.core.files import to_plain
from trimtab.core.policy import GateSpec, Policy
from trimtab.core.workload import Workload
from trimtab.decide.decide import decide
from trimtab.flows.parts.certify import Certified
from trimtab.flows.parts.document import decision_document, lock_of, noise_row, subject, write_judged
from trimtab.flows.parts.known import known_answers, stored_outcomes
from trimtab.record.deploy import write_deploy_toml
from trimtab.record.run import RunDir
from trimtab.sources.open import open_source
from trimtab.testing.tiny_models import write_tiny_gguf

USE = """
owner = "Support team, support@example.org"
intended = ["Answers questions about our products"]
prohibited = ["advice on health or law"]
affected = ["customers"]
[answers]
benefit = "Answers at night."
harm = "A wrong answer costs a customer time."
errors = "A person corrects it."
oversight = "The support team reads a sample each week."
redress = "Customers write to us."
"""
"""A use.toml that is complete by the rules `standard`."""
GROUPS = ("north", "south", "west")
_GATE = {"unit": "nats", "reason": "a sample"}
POLICY = Policy(
    name="sample",
    version="1",
    gates=(
        GateSpec(name="choice", kind="non_inferiority", suite="choice", margin=0.1, control="weights-q2_k", min_clusters=20, **_GATE),  # type: ignore[arg-type]
        GateSpec(
            name="fairness", kind="equivalence_by_group", suite="fairness", margin=0.1, control="group-bias", min_clusters=60, **_GATE
        ),  # type: ignore[arg-type]
        GateSpec(name="parity", kind="parity", margin=0.05, control="kv", min_clusters=8, **_GATE),  # type: ignore[arg-type]
        GateSpec(name="generation", kind="generation", margin=0.3, control="broken", min_clusters=8, required=False, **_GATE),  # type: ignore[arg-type]
    ),
    looks=(0.5, 1.0),
)
WORKLOAD = Workload(name="sample", prompt_tokens=64, output_tokens=16, concurrency=(1,))
MACHINE = Machine(cpu="sample", n_cores=2, memory_bytes=2**33)
BUILD = EngineBuild(engine="llamacpp", version="0.0 (sample)")


def write_sample_run(folder: Path, model: Path, *, seed: int = 0, n_clusters: int = 60, n_templates: int = 70) -> None:
    """Write the run into `folder` and its weights as `model` (a .gguf, made if it is not there)."""
    if not model.exists():
        model.parent.mkdir(parents=True, exist_ok=True)
        write_tiny_gguf(model, hidden_size=32, feed_forward_size=64, n_layers=1, seed=seed)
    snapshot = open_source(str(model), cache_dir=folder.parent / "digests", offline=True)
    reference = _candidate("reference", snapshot, Settings(slots=1))
    worse, chosen = (
        _candidate("llamacpp threads=1", snapshot, Settings(threads=1)),
        _candidate("llamacpp slots=2", snapshot, Settings(slots=2)),
    )
    before = _choices(seed, n_clusters) + _templates(seed, n_templates)
    first = tuple(one for one in before if one.suite != "choice" or int(one.cluster.rpartition("-")[2]) < n_clusters // 2)
    certified = {
        worse.id: _certified(first, seed + 100, change=-0.6, attempt=1, look=1),
        chosen.id: _certified(before, seed + 200, change=0.0, attempt=2, look=2),
    }
    digests = {"source": snapshot.digest, "sample": str(seed)}
    with RunDir.open(folder, digests=digests, seed=seed, inputs={"model": snapshot.source, "workload": "sample"}) as run:
        session: Any = SimpleNamespace(run=run, seed=seed, seconds=1.0, n_computed=2, n_known=0)
        rows = []
        for candidate in (worse, chosen):
            found = certified[candidate.id]
            write_judged(session, candidate, reference, found)
            run.step(f"attempt/{candidate.deployment.digest}", lambda attempt=found.decision.attempt: attempt)
            rows.append(_row(candidate, found))
            run.put_candidate(rows[-1])
        exam: Any = SimpleNamespace(
            name="sample", version="1", digest="5" * 64, items=_items(before), n_clusters=n_clusters + n_templates, longest_tokens=8
        )
        document = decision_document(
            session,
            kind="optimize",
            verdict=certified[chosen.id].decision.verdict,
            reasons=[f"{chosen.id} is the fastest that passed every required gate."],
            reference=subject(reference, source=snapshot.source, provenance="a sample"),
            baseline=subject(_candidate("llamacpp as-shipped", snapshot, Settings())),
            chosen={**subject(chosen), "why": "a sample"},
            speedup={},
            certified=certified[chosen.id],
            candidates=rows,
            workload=WORKLOAD,
            policy=POLICY,
            exam=exam,
            machine=MACHINE,
            noise=noise_row(None),
            skipped=[],
        )
        run.write_decision(document)
        opened: Any = SimpleNamespace(snapshot=snapshot)
        recipe = Recipe(name="as-shipped", family="gguf", engine="llamacpp", parameters={"type": "as-shipped"})
        lock = lock_of(opened, chosen, recipe, document, workload=WORKLOAD, exam=exam, machine=MACHINE)
        known = known_answers(stored_outcomes(folder, lock.deployment.digest))
        write_deploy_toml(folder / "deploy.toml", dataclasses.replace(lock, known_answers=known))
        run.finish()


def _candidate(name: str, snapshot: Any, settings: Settings) -> Candidate:
    return Candidate(
        id=name,
        engine="llamacpp",
        recipe="as-shipped",
        settings=settings,
        snapshot=snapshot,
        source_sha256=snapshot.digest,
        template_sha256="",
        build=BUILD,
        numeric=frozenset(),
    )


def _row(candidate: Candidate, found: Certified) -> CandidateResult:
    plain = to_plain(found.decision)
    return CandidateResult(
        id=candidate.id,
        engine=candidate.engine,
        recipe=candidate.recipe,
        settings=candidate.settings.given(),
        status="certified",
        verdict=found.decision.verdict,
        reasons=found.decision.reasons,
        evidence={"gates": plain.pop("gates"), "decision": plain},
        details=subject(candidate),
    )


def _certified(reference: Sequence[Outcome], seed: int, *, change: float, attempt: int, look: int) -> Certified:
    choice = [one for one in reference if one.suite == "choice"]
    fairness = [one for one in reference if one.suite == "fairness"]
    own = _moved(reference, seed, change, 0.05)
    evidence = Evidence(
        use="sequential",
        reference=tuple(reference),
        candidate=own,
        controls={"choice": _moved(choice, seed + 1, -1.0, 0.3), "fairness": _moved(fairness, seed + 2, 0.0, 0.05, group=GROUPS[0])},
        noise={"other threads": _moved(choice[:40] + fairness, seed + 3, 0.0, 0.005)},
        parity=_probe(seed + 4, 0.003),
        parity_noise=_probe(seed + 5, 1e-5),
        parity_controls={"kv": _probe(seed + 6, 0.2)},
        generation=_generated(()),
        generation_reference=_generated(()),
        generation_control=_generated(range(30)),
    )
    return Certified(
        decision=decide(POLICY, evidence, attempt=attempt, look=look), reference=tuple(reference), candidate=own, evidence=evidence
    )


def _choices(seed: int, n_clusters: int) -> tuple[Outcome, ...]:
    values = np.random.default_rng(seed).normal(0.3, 1.0, (n_clusters, 2))
    return tuple(
        Outcome(
            item_id=f"choice-{c}-{i}",
            suite="choice",
            cluster=f"choice-{c}",
            value=float(values[c, i]),
            n_tokens=5 + c % 20,
            picked=int(values[c, i] <= 0),
            correct=bool(values[c, i] > 0),
        )
        for c in range(n_clusters)
        for i in range(2)
    )


def _templates(seed: int, n_templates: int) -> tuple[Outcome, ...]:
    values = np.random.default_rng(seed + 1).normal(0.0, 1.0, (n_templates, len(GROUPS)))
    return tuple(
        Outcome(item_id=f"fair-{t}-{g}", suite="fairness", cluster=f"fair-{t}", value=float(values[t, n]), n_tokens=8, group=f"place:{g}")
        for t in range(n_templates)
        for n, g in enumerate(GROUPS)
    )


def _moved(run: Sequence[Outcome], seed: int, change: float, sd: float, *, group: str = "") -> tuple[Outcome, ...]:
    """The same items in another run. group: one whose values move by 1 more."""
    steps = np.random.default_rng(seed).normal(change, sd, len(run))
    moved = []
    for one, step in zip(run, steps, strict=True):
        value = (one.value or 0.0) + float(step) + (1.0 if group and one.group == f"place:{group}" else 0.0)
        is_choice = one.correct is not None
        moved.append(
            dataclasses.replace(one, value=value, correct=value > 0 if is_choice else None, picked=int(value <= 0) if is_choice else None)
        )
    return tuple(moved)


def _probe(seed: int, kl: float, answers: int = 12, tokens: int = 40) -> ParityProbe:
    differences = np.random.default_rng(seed).normal(kl, (2 * kl) ** 0.5, answers * tokens)
    return ParityProbe(differences=tuple(map(float, differences)), answers=tuple(a for a in range(answers) for _ in range(tokens)))


def _generated(broken: Sequence[int], n: int = 32) -> GenerationCheck:
    flags = tuple(index in set(broken) for index in range(n))
    return GenerationCheck(
        prompts=tuple(f"prompt {index}" for index in range(n)), broken=flags, why=tuple("loop" if flag else "" for flag in flags)
    )


def _items(outcomes: Sequence[Outcome]) -> dict[str, Item]:
    return {
        one.item_id: Item(id=one.item_id, suite=one.suite, cluster=one.cluster, scorer="margin", options=(" yes", " no"), group=one.group)
        for one in outcomes
    }
