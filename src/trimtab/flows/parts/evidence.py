"""What is observed of deployments: outcomes on items, planted controls, noise, served answers. Each piece is done once and kept."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from trimtab.core.deployment import Candidate, Settings
from trimtab.core.errors import InfeasibleError
from trimtab.core.evidence import Evidence, GenerationCheck, Outcome, ParityProbe
from trimtab.core.files import to_plain
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.noise import noise_floor
from trimtab.evaluate.generation import check_generation
from trimtab.evaluate.parity import ServedAnswer, rescore, sample_answers
from trimtab.evaluate.requests import PreparedSuite, biased_against
from trimtab.evaluate.runner import score_items
from trimtab.flows.parts.exam import Exam
from trimtab.flows.parts.outcome_keys import outcomes_key
from trimtab.flows.parts.session import Session, together

PLANTED_MARGINS = 4.0
"""A planted bias moves the odds by this many margins of its gate."""
CONTROL_TOKENS = 512
ANSWER_TOKENS = 96
LOOPED_CHARACTERS = 60


async def outcomes_on(session: Session, candidate: Candidate, prepared: PreparedSuite, *, phase: str, what: str) -> tuple[Outcome, ...]:
    """Outcomes of all items, from the cache if this deployment's numerics were ever scored on them.

    Raises InfeasibleError if the worker cannot start, crashes or hangs.
    """
    if not prepared.requests:
        return ()
    key = outcomes_key(candidate, prepared)
    known = session.cache.get_outcomes(key)
    if known is not None:
        session.n_known += 1
        session.say(phase, f"{what}: known", prepared.n_tokens, prepared.n_tokens)
        return known
    session.say(phase, what, 0, prepared.n_tokens)

    def tell(done: int, total: int) -> None:
        session.say(phase, what, done, total)

    if session.fan is not None:
        found = await session.fan.outcomes(candidate, prepared, what=what, on_progress=tell)
    else:
        async with session.workers.lent(candidate, "score") as client:
            found = await score_items(client, prepared, on_progress=tell)
    session.n_computed += 1
    if all(outcome.value is not None for outcome in found):  # what is missing today may be there tomorrow
        session.cache.put_outcomes(key, found, {"deployment": candidate.deployment.digest})
    return found


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every candidate of a run is held against.

    weak: the reference's weights at 2 bits, the planted loss of quality (None where it cannot be built, with the reason)
    variants: the reference's weights under other numerics, by name
    """

    reference: Candidate
    weak: Candidate | None
    weak_missing: str
    variants: dict[str, Candidate]
    policy: Policy
    exam: Exam

    def swapped_for(self, candidate: Candidate) -> Candidate | None:
        """Weaker weights for the parity probe, where the candidate's engine opens them."""
        return self.weak if self.weak is not None and self.weak.engine == candidate.engine else None


def noise_variants(reference: Candidate, exact: Candidate | None, n_cores: int) -> dict[str, Candidate]:
    """The reference under another batch shape, thread count and slot count, and in F32 where that could be built."""

    def other(name: str, **changes: Any) -> Candidate:
        return dataclasses.replace(reference, id=f"reference, {name}", settings=dataclasses.replace(reference.settings, **changes))

    found = {
        "another batch shape": other("another batch shape", batch_tokens=192),
        "other threads and slots": other(
            "other threads and slots", threads=1 if n_cores > 1 else 2, slots=(reference.settings.slots or 1) + 3
        ),
    }
    if exact is not None:
        found["F32"] = dataclasses.replace(exact, id="reference, F32")
    return found


Noise = dict[str, tuple[Outcome, ...]]
"""Outcomes of the reference's own weights under other numerics, by the name of the variant."""


async def noise_of(session: Session, bench: Bench, items: PreparedSuite) -> Noise:
    """Noise on these items. A variant that cannot run is left out."""

    async def one(name: str, variant: Candidate) -> tuple[Outcome, ...] | None:
        try:
            return await outcomes_on(session, variant, items, phase="noise", what=f"reference with {name}")
        except InfeasibleError as error:
            session.say("noise", f"{name} cannot be tried: {error}")
            return None

    seen = await together(session, [partial(one, name, variant) for name, variant in bench.variants.items()])
    return {name: outcomes for name, outcomes in zip(bench.variants, seen, strict=True) if outcomes is not None}


async def more_noise(session: Session, bench: Bench, noise: Noise, reference: Sequence[Outcome], part: PreparedSuite) -> Noise:
    """Noise measured on `part` too, for the gates whose floor is too high for their margin.

    A floor holds a standard error, so one from a sample may be too high only because the sample is small; exact arithmetic has no need of
    this, quantised weights have. reference: outcomes of the items seen so far, `part` among them
    """
    seen = Evidence(use="sequential", reference=tuple(reference), candidate=(), noise=noise)
    high = [
        gate.suite
        for gate in bench.policy.gates
        if gate.suite and (noise_floor(gate, seen) or 0.0) * bench.policy.noise_multiple > gate.margin
    ]
    if not high:
        return noise
    added = await noise_of(session, bench, part.only(high))
    return {
        name: tuple({outcome.item_id: outcome for outcome in (*outcomes, *added.get(name, ()))}.values())
        for name, outcomes in noise.items()
    }


async def control_on(
    session: Session, bench: Bench, gate: GateSpec, part: PreparedSuite, unharmed: Sequence[Outcome]
) -> tuple[Outcome, ...]:
    """Outcomes of the gate's planted control on the items of one part; () if it could not be planted.

    unharmed: the reference's own outcomes, which are those of the groups that a planted bias leaves alone
    weights-q2_k: the reference's weights at 2 bits. group-bias: one group's favourable endings made less likely. opening-bias: the
    wanted openings made less likely.
    """
    asked = part.only([gate.suite])
    if not asked.requests:
        return ()
    reference = bench.reference
    match gate.control:
        case "weights-q2_k" if bench.weak is not None:
            return await outcomes_on(session, bench.weak, asked, phase="controls", what=f"{gate.name}: 2-bit weights")
        case "group-bias":
            group = min(item.group for item in asked.items)
            planted = biased_against(asked, PLANTED_MARGINS * gate.margin, group=group)
            biased = await outcomes_on(session, reference, planted, phase="controls", what=f"{gate.name}: bias against {group}")
            asked_ids = {item.id for item in asked.items if item.group != group}
            return biased + tuple(outcome for outcome in unharmed if outcome.item_id in asked_ids)
        case "opening-bias":
            planted = biased_against(asked, PLANTED_MARGINS * gate.margin)
            return await outcomes_on(session, reference, planted, phase="controls", what=f"{gate.name}: wanted openings made less likely")
    return ()


async def answers_of(
    session: Session, candidate: Candidate, exam: Exam, *, n_tokens: int, concurrency: int, what: str
) -> list[ServedAnswer]:
    """Answers sampled through the served path, from the cache if this very deployment gave them before."""

    async def compute() -> list[ServedAnswer]:
        session.say("parity", f"{what}: sampling {n_tokens} tokens")
        async with session.workers.lent(candidate, "serve") as client:
            return await sample_answers(client, exam.chat_prompts, n_tokens=n_tokens, concurrency=concurrency, seed=session.seed)

    key = [candidate.deployment.digest, exam.chat_prompts, n_tokens, concurrency, session.seed]
    plain = await session.once("answers", key, compute)
    return [
        ServedAnswer(prompt_ids=tuple(one["prompt_ids"]), ids=tuple(one["ids"]), logprobs=tuple(one["logprobs"]), failed=one["failed"])
        for one in plain
    ]


async def parity_of(session: Session, scorer: Candidate, answers: Sequence[ServedAnswer], *, what: str) -> ParityProbe:
    """Served answers re-scored through the scoring path of `scorer`."""

    async def compute() -> ParityProbe:
        session.say("parity", f"{what}: re-scoring")
        async with session.workers.lent(scorer, "score") as client:
            return await rescore(client, answers)

    plain = await session.once("parity", [scorer.numeric_sha256, [to_plain(answer) for answer in answers]], compute)
    return ParityProbe(
        differences=tuple(float("nan") if value is None else value for value in plain["differences"]),
        answers=tuple(plain["answers"]),
        n_failed=plain["n_failed"],
        conditions=plain["conditions"],
    )


async def generation_of(session: Session, candidate: Candidate, exam: Exam, answers: Sequence[ServedAnswer]) -> GenerationCheck:
    """Which of the first answers, one a prompt, are broken."""

    async def compute() -> list[str]:
        async with session.workers.lent(candidate, None) as client:
            return [await client.detokenize(answer.ids) for answer in answers[: len(exam.chat_prompts)]]

    texts = await session.once("texts", [candidate.numeric_sha256, [answer.ids for answer in answers]], compute)
    return check_generation(exam.chat_texts[: len(texts)], texts)


def looped(check: GenerationCheck) -> GenerationCheck:
    """The planted control of the generation check: every answer caught in its own beginning."""
    return check_generation(check.prompts, [text[:LOOPED_CHARACTERS] * 20 for text in check.texts])


def parity_controls(candidate: Candidate, swapped: Candidate | None) -> dict[str, Candidate]:
    """Deployments that are not the one that is scored: another cache type, and other weights where they could be built."""
    kv_type = {"llamacpp": "q4_0", "openvino": "u4", "vllm": "fp8_e5m2"}.get(candidate.engine)
    found: dict[str, Candidate] = {}
    if kv_type is not None and candidate.settings.kv_type != kv_type:
        settings: Settings = dataclasses.replace(candidate.settings, kv_type=kv_type)
        found[f"kv-{kv_type}"] = dataclasses.replace(candidate, id=f"{candidate.id} kv_type={kv_type}", settings=settings)
    if swapped is not None:
        # A draft is part of a snapshot's digest but makes no other answers, so both sides are compared, and served, with the candidate's.
        weights = dataclasses.replace(swapped.snapshot, draft=candidate.snapshot.draft)
        if weights.digest != candidate.snapshot.digest:
            swap = dataclasses.replace(candidate, id=f"{candidate.id} with {swapped.recipe}", snapshot=weights, recipe=swapped.recipe)
            found["weights-swapped"] = swap
    return found
