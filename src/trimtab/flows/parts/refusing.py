"""Refusals in what a model writes: a sample of the requests asked for, answered as served and judged as text. Reported, never a gate.

The gates on refusals go by the odds of openings, on every request. These few answers tell whether whole answers agree with them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trimtab.core.endpoint import Answer
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.evidence import Item
from trimtab.core.files import canonical_json, digest_of, to_plain
from trimtab.evaluate.answers import AskedPrompt
from trimtab.evaluate.as_text import REQUEST_TOKENS, conversation
from trimtab.evaluate.refusal import RefusalJudgement, judge_refusal, refusal_change, refusal_rate
from trimtab.evaluate.suites.core import is_request, wants_refusal
from trimtab.flows.parts.answering import Side
from trimtab.flows.parts.session import Session

MOST_OF_A_KIND = 20
"""With both kinds of requests, of REQUEST_TOKENS each, a side writes at most 1,920 tokens."""
KINDS = ("harmful", "harmless")
"""Of requests: a refusal is wanted, and is not."""
Requests = Mapping[str, tuple[AskedPrompt, ...]]


def requests_to_answer(items: Iterable[Item], most: int = MOST_OF_A_KIND) -> dict[str, tuple[AskedPrompt, ...]]:
    """Kind -> a few of the requests that are scored by their openings, drawn by hash from all sub-suites; a kind without one is absent."""
    found: dict[str, list[Item]] = {}
    for item in items:
        if is_request(item):
            found.setdefault("harmful" if wants_refusal(item) else "harmless", []).append(item)
    drawn = {kind: sorted(found[kind], key=lambda item: digest_of(item.id))[:most] for kind in KINDS if kind in found}
    return {kind: tuple(conversation(item, REQUEST_TOKENS) for item in chosen) for kind, chosen in drawn.items()}


async def refusals_in_answers(session: Session, model: Side, reference: Side | None, asked: Requests) -> list[dict[str, Any]]:
    """One row a kind of request, as evaluation.json holds it; none if nothing is asked. Answers go to answers.jsonl."""
    if not asked:
        return []
    try:
        own = await _answers(session, model, asked)
        before = await _answers(session, reference, asked) if reference is not None else {}
    except InfeasibleError as error:
        session.say("answers", f"not looked at: {error}")
        return [_without(kind, f"It cannot be asked here: {error}") for kind in asked]
    return refusals_of(session, asked, own, before)


def refusals_of(
    session: Session, asked: Requests, own: Mapping[str, Sequence[Answer]], before: Mapping[str, Sequence[Answer]]
) -> list[dict[str, Any]]:
    """The rows, and answers.jsonl, of answers that are there. own, before (of a reference): by kind, in order."""
    _write(session, asked, own, before)
    return [refusal_row(kind, prompts, own[kind], before.get(kind)) for kind, prompts in asked.items()]


async def _answers(session: Session, side: Side, asked: Requests) -> dict[str, list[Answer]]:
    """Greedy answers. Raises InfeasibleError."""
    found = {}
    for kind, prompts in asked.items():
        session.say("answers", f"{side.id}: {len(prompts)} {kind} requests")
        found[kind] = await side.answers(prompts, 1)
    return found


def refusal_row(kind: str, prompts: Sequence[AskedPrompt], own: Sequence[Answer], before: Sequence[Answer] | None) -> dict[str, Any]:
    """Share of refusals on either side and its change on the same requests, corrected for the judge's error.

    A rate is None where `why_not` says why. Answers that are missing are counted and in no rate; a change is of what both sides answered.
    """
    ours, theirs = judged(prompts, own), judged(prompts, before) if before is not None else None
    failed = next((answer.error for answer in (*own, *(before or ())) if answer.error), "")
    sides = {"model": _counts(ours), "reference": _counts(theirs) if theirs is not None else None}
    row: dict[str, Any] = {"kind": kind, **sides, "change": None, "why_not": failed}
    try:
        row["model"]["rate"] = _rate(ours)
        if theirs is not None:
            row["reference"]["rate"] = _rate(theirs)
            pairs = [(old, new) for old, new in zip(theirs, ours, strict=True) if old is not None and new is not None]
            row["change"] = to_plain(refusal_change([old for old, _ in pairs], [new for _, new in pairs])) if pairs else None
    except InputError as error:
        row["why_not"] = str(error)
    return row


def judged(prompts: Sequence[AskedPrompt], answers: Sequence[Answer]) -> list[RefusalJudgement | None]:
    """The judge's opinion of each answer; None for one that is missing."""
    return [None if answer.error else judge_refusal(answer.text, prompt.question) for prompt, answer in zip(prompts, answers, strict=True)]


def _counts(found: Sequence[RefusalJudgement | None]) -> dict[str, Any]:
    there = [one for one in found if one is not None]
    return {"n": len(there), "n_missing": len(found) - len(there), "refused": sum(one.refused for one in there), "rate": None}


def _rate(found: Sequence[RefusalJudgement | None]) -> dict[str, Any] | None:
    there = [one for one in found if one is not None]
    return to_plain(refusal_rate(there)) if there else None


def _without(kind: str, why: str) -> dict[str, Any]:
    return {"kind": kind, "model": None, "reference": None, "change": None, "why_not": why}


def _write(session: Session, asked: Requests, own: Mapping[str, Sequence[Answer]], before: Mapping[str, Sequence[Answer]]) -> None:
    """answers.jsonl: what was answered and what the judge made of it, for people to check. The requests are named, not repeated."""
    rows = []
    for kind, prompts in asked.items():
        for number, prompt in enumerate(prompts):
            row: dict[str, Any] = {"id": prompt.id, "kind": kind}
            for name, answers in (("model", own), ("reference", before)):
                if kind in answers:
                    row[name] = _opinion(prompt, answers[kind][number])
            rows.append(canonical_json(row) + "\n")
    session.run.write_text("answers.jsonl", "".join(rows))


def _opinion(prompt: AskedPrompt, answer: Answer) -> dict[str, Any]:
    if answer.error:
        return {"error": answer.error}
    found = judge_refusal(answer.text, prompt.question)
    return {"text": answer.text, "finish": answer.finish, "refused": found.refused, "reasons": list(found.reasons)}
