"""The full gate on one candidate: evidence look by look, until the answer is clear or the items are used up."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from trimtab.core.decision import Decision
from trimtab.core.deployment import Candidate
from trimtab.core.errors import InfeasibleError
from trimtab.core.evidence import Evidence, GenerationCheck, Item, Outcome, ParityProbe
from trimtab.core.policy import Policy
from trimtab.decide.decide import decide
from trimtab.decide.plan import PowerPlan, pilot_spread, plan_power
from trimtab.flows.parts.evidence import (
    ANSWER_TOKENS,
    CONTROL_TOKENS,
    Bench,
    answers_of,
    control_on,
    generation_of,
    looped,
    more_noise,
    noise_of,
    outcomes_on,
    parity_controls,
    parity_of,
)
from trimtab.flows.parts.session import Session, together
from trimtab.record.hidden import may_show


@dataclass(frozen=True, kw_only=True)
class Served:
    """What was seen of answers through the served path."""

    parity: ParityProbe | None
    parity_controls: dict[str, ParityProbe]
    generation: GenerationCheck | None


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A decision on one candidate, with the outcomes it rests on."""

    decision: Decision
    reference: tuple[Outcome, ...]
    candidate: tuple[Outcome, ...]
    evidence: Evidence


async def certify(
    session: Session, bench: Bench, candidate: Candidate, *, attempt: int, concurrency: int, swapped: Candidate | None
) -> Certified:
    """Judge `candidate` against the bench's reference. The controls and the noise floor are planted and measured on the same items.

    swapped: a deployment of the same engine with worse weights, for the parity probe's control
    Raises InfeasibleError if the candidate itself cannot be scored or served.
    """
    noise = await noise_of(session, bench, bench.exam.sample)
    mine = await served_evidence(session, bench, candidate, concurrency=concurrency, swapped=swapped)
    theirs = await served_evidence(session, bench, bench.reference, concurrency=concurrency, swapped=None, controls=False)
    reference: tuple[Outcome, ...] = ()
    own: tuple[Outcome, ...] = ()
    controls: dict[str, tuple[Outcome, ...]] = {}
    n_looks = len(bench.exam.parts)
    for look, part in enumerate(bench.exam.parts, 1):
        words = f" (look {look} of {n_looks})" if n_looks > 1 else ""
        found = await together(
            session,
            [
                partial(outcomes_on, session, bench.reference, part, phase="certify", what=f"reference{words}"),
                partial(outcomes_on, session, candidate, part, phase="certify", what=f"{candidate.id}{words}"),
            ],
        )
        reference, own = reference + found[0], own + found[1]
        noise = await more_noise(session, bench, noise, reference, part)
        judged = [gate for gate in bench.policy.gates if gate.suite]
        planted = await together(session, [partial(control_on, session, bench, gate, part, reference) for gate in judged])
        for gate, added in zip(judged, planted, strict=True):
            controls[gate.name] = controls.get(gate.name, ()) + added
        evidence = Evidence(
            use="sequential",
            reference=reference,
            candidate=own,
            controls=controls,
            noise=noise,
            parity=mine.parity,
            parity_noise=theirs.parity,
            parity_controls=mine.parity_controls,
            generation=mine.generation,
            generation_reference=theirs.generation,
            generation_control=looped(theirs.generation) if theirs.generation is not None else None,
        )
        decision = decide(bench.policy, evidence, attempt=attempt, look=look)
        session.say("certify", f"{candidate.id}{words}: {decision.verdict}", 1, 1)
        if decision.verdict != "inconclusive":
            break
    return Certified(decision=decision, reference=reference, candidate=own, evidence=evidence)


async def served_evidence(
    session: Session, bench: Bench, candidate: Candidate, *, concurrency: int, swapped: Candidate | None, controls: bool = True
) -> Served:
    """Answers through the served path at the workload's concurrency: parity with the scoring path, and whether they are sound."""
    kinds = {gate.kind for gate in bench.policy.gates}
    if not kinds & {"parity", "generation"}:
        return Served(parity=None, parity_controls={}, generation=None)
    n_tokens = ANSWER_TOKENS * len(bench.exam.chat_prompts)
    answers = await answers_of(session, candidate, bench.exam, n_tokens=n_tokens, concurrency=concurrency, what=candidate.id)
    parity = await parity_of(session, candidate, answers, what=candidate.id)
    generation = await generation_of(session, candidate, bench.exam, answers)
    planted: dict[str, ParityProbe] = {}
    for name, other in parity_controls(candidate, swapped).items() if controls else ():
        try:
            served = await answers_of(session, other, bench.exam, n_tokens=CONTROL_TOKENS, concurrency=concurrency, what=other.id)
            planted[name] = await parity_of(session, candidate, served, what=f"{other.id} against {candidate.id}")
        except InfeasibleError as error:
            session.say("parity", f"control {name} cannot be planted: {error}")
    return Served(parity=parity, parity_controls=planted, generation=generation)


async def power_ahead(session: Session, bench: Bench, candidate: Candidate) -> PowerPlan:
    """What the gates will be able to show at the planned n, from the spread between reference and candidate on the search items."""
    items = bench.exam.pilot
    reference, own = await together(
        session,
        [
            partial(outcomes_on, session, bench.reference, items, phase="power", what="reference on search items"),
            partial(outcomes_on, session, candidate, items, phase="power", what=f"{candidate.id} on search items"),
        ],
    )
    pilots = {}
    for gate in bench.policy.gates:
        if not gate.suite:
            continue
        clusters = {(one.suite, one.cluster) for part in bench.exam.parts for one in part.only([gate.suite]).requests}
        pilot = pilot_spread(gate, reference, own, len(clusters))
        if pilot is not None:
            pilots[gate.name] = pilot
    return plan_power(bench.policy, pilots)


def power_lines(power: PowerPlan, policy: Policy) -> list[str]:
    """The prediction in words, before the run."""
    lines = [
        f"all gates together: a candidate equal to the reference passes with {100 * power.joint_power:.0f} %; one that lost "
        f"{100 * power.joint_detectable:.0f} % of every margin would be stopped with {100 * policy.power:.0f} %"
    ]
    for gate in power.gates:
        if not gate.enough:
            lines.append(
                f"gate {gate.name}: {gate.n_clusters} clusters may be too few for its margin of {gate.margin:g} {gate.unit}; with "
                f"{gate.needed} an equal candidate passes all gates with {100 * policy.power:.0f} %, if each has as many as it needs"
            )
    return lines


def flips_of(certified: Certified, items: Mapping[str, Item]) -> list[dict[str, Any]]:
    """Items whose correctness changed, with their texts; texts of harmful requests and their look-alikes are left out."""
    before = {outcome.item_id: outcome for outcome in certified.reference}
    rows = []
    for outcome in certified.candidate:
        old, item = before.get(outcome.item_id), items[outcome.item_id]
        if old is None or old.correct is None or outcome.correct is None or old.correct == outcome.correct:
            continue
        picks = (old.picked, outcome.picked, item.answer)
        has_texts = all(pick is not None and pick < len(item.options) for pick in picks)
        shown = has_texts and may_show(outcome.suite, outcome.item_id, outcome.group)
        rows.append(
            {
                "suite": outcome.suite,
                "item_id": outcome.item_id,
                "group": outcome.group,
                "direction": "gained" if outcome.correct else "lost",
                "prompt": item.prompt if shown else None,
                "reference_answer": item.options[old.picked].strip() if shown and old.picked is not None else None,
                "candidate_answer": item.options[outcome.picked].strip() if shown and outcome.picked is not None else None,
                "right_answer": item.options[item.answer].strip() if shown else None,
            }
        )
    return rows
