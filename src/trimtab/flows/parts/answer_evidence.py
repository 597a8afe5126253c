"""Evidence on two sides that answer as text: the same prompts to both, the reference asked twice, and what their answers show."""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.core.endpoint import Answer, TextScore
from trimtab.core.errors import InputError
from trimtab.core.evidence import Evidence, Item, Outcome
from trimtab.core.policy import GateSpec, Policy
from trimtab.evaluate.answers import Answers, AskedPrompt, outcomes_of, planted
from trimtab.evaluate.as_text import LEAD
from trimtab.flows.parts.answering import BATCH, Side
from trimtab.flows.parts.session import Session

AGAINST_FIRST = frozenset({"agreement", "refusal"})
"""Sub-suites whose values are about the reference's first answer; for these its second one is the reference's own value."""
CONTROLS = {
    "text": "context-cut",
    "surprise": "shuffled",
    "sound": "looped",
    "refusal": "refused",
    "format": "truncated",
    "length": "truncated",
    "agreement": "exchanged",
}
"""What answers are judged by, and the fault that is planted to see whether it can fail."""
SAMPLE_LEAST, SAMPLE_SHARE = 32, 0.25
"""How many prompts the reference answers a third time, for the noise of those: at least so many, or a share of all."""
PIECE_CHARACTERS = 160
"""The planted loss of a text gate: what comes before is forgotten after so many characters."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Answers of both sides. second: the reference again; third: on a sample of the prompts."""

    first: Answers
    second: Answers
    third: Answers
    candidate: Answers


def gates_read(policy: Policy, reference: Side, candidate: Side, prompts: Sequence[AskedPrompt]) -> tuple[Policy, list[str]]:
    """The gates that these two sides can be judged by, and a sentence for each that was left out or made advisory.

    Raises InputError if none is left.
    """
    left_out: dict[str, str] = {}
    if not (reference.can_score and candidate.can_score):
        silent = next(side for side in (reference, candidate) if not side.can_score)
        left_out["text"] = f"{silent.id} gives no log-probabilities of given text ({silent.why_not})"
    if not reference.can_score:
        left_out["surprise"] = f"the reference gives no log-probabilities of given text ({reference.why_not})"
    if not any(prompt.wants_json for prompt in prompts):
        left_out["format"] = "no prompt asks for JSON"
    left_out |= {gate.suite: "answers cannot be judged by it" for gate in policy.gates if CONTROLS.get(gate.suite) != gate.control}
    notes = [f"gate {gate.name}: {left_out[gate.suite]}" for gate in policy.gates if gate.suite in left_out]
    kept = [gate for gate in policy.gates if gate.suite not in left_out]
    if not any(gate.required for gate in kept):
        raise InputError(f"Policy {policy.name!r} requires no gate that answers can be judged by; take `answers`, or a file made after it.")
    is_scored = any(gate.suite in ("text", "surprise") and gate.required for gate in kept)
    gates = []
    for gate in kept:
        if gate.kind == "agreement" and gate.required and is_scored:
            gate = dataclasses.replace(gate, required=False)
            notes.append(f"gate {gate.name}: advisory, because log-probabilities tell more")
        gates.append(gate)
    return dataclasses.replace(policy, gates=tuple(gates)), notes


def sampled_prompts(n: int, seed: int) -> frozenset[int]:
    """Which prompts the reference answers a third time."""
    return frozenset(random.Random(f"third/{seed}").sample(range(n), min(n, max(SAMPLE_LEAST, round(SAMPLE_SHARE * n)))))


async def gather(session: Session, reference: Side, candidate: Side, prompts: Sequence[AskedPrompt]) -> Gathered:
    """All answers, in turns: what changes with time, on a server or on the way, meets both sides alike. The third run comes last."""
    first: list[Answer] = []
    second: list[Answer] = []
    other: list[Answer] = []
    third: list[Answer | None] = [None] * len(prompts)
    sample = sorted(sampled_prompts(len(prompts), session.seed))
    total, done = 3 * len(prompts) + len(sample), 0

    def tell(n: int) -> None:
        nonlocal done
        done += n
        n_failed = sum(bool(answer.error) for answer in (*first, *second, *other))
        session.say("answers", f"{n_failed} without an answer" if n_failed else "both sides in turns", done, total)

    for number, start in enumerate(range(0, len(prompts), BATCH)):
        batch = prompts[start : start + BATCH]
        turns = ((reference, first, 1), (candidate, other, 1))
        for side, found, repeat in turns if number % 2 == 0 else turns[::-1]:
            found += await side.answers(batch, repeat)
            tell(len(batch))
        second += await reference.answers(batch, 2)
        tell(len(batch))
    for start in range(0, len(sample), BATCH):
        batch_places = sample[start : start + BATCH]
        for place, answer in zip(batch_places, await reference.answers([prompts[place] for place in batch_places], 3), strict=True):
            third[place] = answer
        tell(len(batch_places))
    return Gathered(
        first=Answers(answers=tuple(first)),
        second=Answers(answers=tuple(second)),
        third=Answers(answers=tuple(third)),
        candidate=Answers(answers=tuple(other)),
    )


async def with_surprise(session: Session, reference: Side, prompts: Sequence[AskedPrompt], run: Answers, what: str) -> Answers:
    """The run with the log-probability that the reference gives to each of its answers."""
    places = [place for place, answer in enumerate(run.answers) if answer is not None and answer.text.strip()]
    session.say("score", what)
    scored = await reference.score([(prompts[place], _text(run.answers[place])) for place in places])
    scores: list[TextScore | None] = [None] * len(prompts)
    for place, score in zip(places, scored, strict=True):
        scores[place] = score
    return dataclasses.replace(run, scores=tuple(scores))


def _text(answer: Answer | None) -> str:
    return answer.text.rstrip() if answer is not None else ""


async def evidence_of(
    session: Session,
    reference: Side,
    candidate: Side,
    prompts: Sequence[AskedPrompt],
    texts: Sequence[Item],
    policy: Policy,
    found: Gathered,
) -> Evidence:
    """Outcomes of both sides, of the reference again (the noise floor), and of the planted control of every gate."""
    first, second, other = found.first, found.second, found.candidate
    suites = {gate.suite for gate in policy.gates}
    if "surprise" in suites:
        first = await with_surprise(session, reference, prompts, first, "the reference's own answers")
        other = await with_surprise(session, reference, prompts, other, f"answers of {candidate.id}")
        second = await with_surprise(session, reference, prompts, second, "the reference's second answers")
    once, again = outcomes_of(prompts, first, first), outcomes_of(prompts, second, first)
    last = outcomes_of(prompts, found.third, first)
    own = (*(one for one in once if one.suite not in AGAINST_FIRST), *(one for one in again if one.suite in AGAINST_FIRST))
    noise = (*(one for one in again if one.suite not in AGAINST_FIRST), *(one for one in last if one.suite in AGAINST_FIRST))
    theirs = outcomes_of(prompts, other, first)
    controls = {gate.name: await _control(session, reference, prompts, gate, found.first) for gate in policy.gates if gate.suite != "text"}
    if "text" in suites:
        own += await _text_outcomes(session, reference, texts, "texts: reference")
        theirs += await _text_outcomes(session, candidate, texts, f"texts: {candidate.id}")
        noise += await _text_outcomes(session, reference, texts[::3], "texts: reference again", again=True)
        text_gate = next(gate for gate in policy.gates if gate.suite == "text")
        controls[text_gate.name] = await _forgetful(session, reference, texts)
    return Evidence(
        use="fixed_n",
        reference=tuple(one for one in own if one.suite in suites),
        candidate=tuple(one for one in theirs if one.suite in suites),
        controls=controls,
        noise={"the reference asked again": tuple(one for one in noise if one.suite in suites)},
    )


async def _control(
    session: Session, reference: Side, prompts: Sequence[AskedPrompt], gate: GateSpec, first: Answers
) -> tuple[Outcome, ...]:
    """The reference's own answers with a fault that this gate must fail."""
    harmed = Answers(answers=planted(gate.control, prompts, first.answers, session.seed))
    if gate.suite == "surprise":
        harmed = await with_surprise(session, reference, prompts, harmed, f"control: {gate.control} answers")
    return tuple(one for one in outcomes_of(prompts, harmed, first) if one.suite == gate.suite)


async def _text_outcomes(session: Session, side: Side, texts: Sequence[Item], what: str, again: bool = False) -> tuple[Outcome, ...]:
    """Nats a byte of each text, weighed by its bytes. again: under another lead, so that no cache answers."""
    session.say("score", what)
    lead = LEAD + "\n" if again else LEAD
    scores = await side.score([(lead, item.options[0]) for item in texts])
    return tuple(_text_outcome(item, score.nats_per_byte, score.error) for item, score in zip(texts, scores, strict=True))


def _text_outcome(item: Item, value: float | None, error: str) -> Outcome:
    n_bytes = len(item.options[0].encode())
    return Outcome(item_id=item.id, suite="text", cluster=item.cluster, value=value, n_tokens=n_bytes, error=error)


async def _forgetful(session: Session, side: Side, texts: Sequence[Item]) -> tuple[Outcome, ...]:
    """The reference if it forgot: each text scored in short pieces, each without what came before."""
    session.say("score", "control: texts in pieces")
    pieces = [(index, piece) for index, item in enumerate(texts) for piece in _pieces(item.options[0])]
    scores = await side.score([(LEAD, piece) for _, piece in pieces])
    sums: dict[int, float | None] = {}
    for (index, _), score in zip(pieces, scores, strict=True):
        before = sums.get(index, 0.0)
        sums[index] = None if before is None or score.nats is None else before + score.nats
    outcomes = []
    for index, item in enumerate(texts):
        total = sums.get(index)
        n_bytes = len(item.options[0].encode())
        outcomes.append(
            _text_outcome(item, None if total is None else total / n_bytes, "" if total is not None else "a piece has no score")
        )
    return tuple(outcomes)


def _pieces(text: str) -> list[str]:
    """A text cut at spaces into pieces of about PIECE_CHARACTERS."""
    pieces = [""]
    for word in text.split(" "):
        if len(pieces[-1]) > PIECE_CHARACTERS:
            pieces.append("")
        pieces[-1] += (" " if pieces[-1] or len(pieces) > 1 else "") + word
    return pieces
