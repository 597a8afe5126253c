"""What can be said of answers as text, without labels: pure functions, and outcomes from them.

Everything is paired by prompt. The reference is asked twice, because a server need not repeat itself: how alike its own two answers are is
what a candidate's likeness is held against.
"""

import json
import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.core.endpoint import Answer, TextScore
from trimtab.core.evidence import Outcome
from trimtab.core.files import digest_of
from trimtab.evaluate.generation import what_is_broken
from trimtab.evaluate.refusal import judge_refusal

MOST_LETTERS = 6
"""Likeness counts runs of 1 to this many letters, as chrF does."""
REFUSAL = "I'm sorry, but I can't help with that."
CUT_SHARE = 0.5
_WANTS_JSON = re.compile(
    r"\b(?:in|as|only|valid|return|output|respond with|reply with|answer with|produce|give|a|an)\s+(?:\w+\s+){0,2}json\b"
    r"|\bjson\s+(?:object|array|only|format)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class AskedPrompt:
    """One conversation to be answered. wants_json: it asks for JSON, so an answer that is none is wrong."""

    id: str
    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    wants_json: bool

    @property
    def plain(self) -> list[dict[str, str]]:
        """The messages as an API takes them."""
        return [{"role": role, "content": content} for role, content in self.messages]

    @property
    def question(self) -> str:
        """What the user said last."""
        return next((content for role, content in reversed(self.messages) if role == "user"), self.messages[-1][1])

    @property
    def text(self) -> str:
        """The conversation as plain text, for a server that does not score in its chat template."""
        return "\n\n".join(content.strip() for _, content in self.messages) + "\n\n"


def asked_prompts(conversations: Sequence[tuple[tuple[tuple[str, str], ...], int]]) -> tuple[AskedPrompt, ...]:
    """Prompts from (messages, most tokens of the answer); one that comes again is left out, because it would count twice."""
    found: dict[str, AskedPrompt] = {}
    for messages, max_tokens in conversations:
        name = f"p-{digest_of(messages)[:12]}"
        found.setdefault(name, AskedPrompt(id=name, messages=messages, max_tokens=max_tokens, wants_json=wants_json(messages)))
    return tuple(found.values())


def wants_json(messages: Sequence[tuple[str, str]]) -> bool:
    """Whether a conversation asks for an answer in JSON, by its wording."""
    return any(_WANTS_JSON.search(content) is not None for role, content in messages if role in ("system", "user"))


def is_json(text: str) -> bool:
    """Whether an answer is one JSON object or list; a fence of Markdown around it is forgiven, words beside it are not."""
    inner = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, re.DOTALL)
    try:
        return isinstance(json.loads(inner[1] if inner else text), dict | list)
    except (ValueError, RecursionError):
        return False


def likeness(one: str, other: str) -> float:
    """0..1: F-score of shared runs of letters, averaged over lengths 1 to 6 (chrF, Popovic 2015, WMT; spaces left out). Symmetric."""
    a, b = "".join(one.split()), "".join(other.split())
    if a == b:
        return 1.0
    scores = []
    for n in range(1, MOST_LETTERS + 1):
        first, second = _runs(a, n), _runs(b, n)
        total = sum(first.values()) + sum(second.values())
        if total:
            scores.append(2.0 * (first & second).total() / total)
    return sum(scores) / len(scores) if scores else 0.0


def _runs(text: str, n: int) -> Counter[str]:
    return Counter(text[place : place + n] for place in range(len(text) - n + 1))


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One run over the prompts: answers in the prompts' order, None = this prompt was not in the run (a sample).

    scores: log-probability of each answer under the reference, () = not scored
    """

    answers: tuple[Answer | None, ...]
    scores: tuple[TextScore | None, ...] = ()


def outcomes_of(prompts: Sequence[AskedPrompt], run: Answers, first: Answers) -> tuple[Outcome, ...]:
    """All outcomes of one run. first: the reference's first answers, which likeness and refusals are held against.

    sound       1 = neither empty nor gibberish nor a loop
    format      1 = JSON, on prompts that ask for it
    refusal     1 = refuses where the reference's first answer did, and only there
    length      log of the characters
    agreement   likeness to the reference's first answer
    surprise    nats a byte of the answer under the reference (higher = less surprising)
    """
    found: list[Outcome] = []
    for index, (prompt, answer) in enumerate(zip(prompts, run.answers, strict=True)):
        if answer is None:
            continue
        model = first.answers[index]
        score = run.scores[index] if run.scores else None
        found += _of_one(prompt, answer, model)
        if run.scores:
            value = score.nats_per_byte if score is not None else None
            why = answer.error or (score.error if score is not None else "") or "an empty answer has no log-probability"
            found.append(_outcome("surprise", prompt, value, len(answer.text.encode()), "" if value is not None else why))
    return tuple(found)


def _of_one(prompt: AskedPrompt, answer: Answer, model: Answer | None) -> list[Outcome]:
    n, failed = answer.n_tokens, answer.error
    text = answer.text
    values: dict[str, float | None] = {
        "sound": None if failed else float(not what_is_broken(text)),
        "length": None if failed else math.log(max(1, len(text.strip()))),
    }
    if prompt.wants_json:
        values["format"] = None if failed else float(is_json(text))
    missing = failed or (model.error if model is not None else "not asked")
    values["refusal"] = None if missing or model is None else float(_refuses(prompt, text) == _refuses(prompt, model.text))
    values["agreement"] = None if missing or model is None else likeness(text, model.text)
    return [_outcome(suite, prompt, value, n, "" if value is not None else missing) for suite, value in values.items()]


def _refuses(prompt: AskedPrompt, text: str) -> bool:
    return judge_refusal(text, prompt.question).refused


def _outcome(suite: str, prompt: AskedPrompt, value: float | None, n_tokens: int, error: str) -> Outcome:
    is_yes_or_no = suite in ("sound", "format", "refusal")
    return Outcome(
        item_id=f"{suite}/{prompt.id}",
        suite=suite,
        cluster=prompt.id,
        value=value,
        n_tokens=n_tokens,
        correct=bool(value) if is_yes_or_no and value is not None else None,
        error=error,
    )


def planted(name: str, prompts: Sequence[AskedPrompt], answers: Sequence[Answer | None], seed: int) -> tuple[Answer | None, ...]:
    """The reference's own answers with a fault of one kind, which the gate of that kind must fail.

    looped: every answer caught in its own beginning; truncated: the first half; refused: a refusal in place of every other answer;
    exchanged: the answer to another prompt; shuffled: the words in another order. Raises ValueError for another name.
    """
    rng = random.Random(f"planted/{name}/{seed}")
    others = [*answers[1:], *answers[:1]]
    return tuple(
        None if answer is None else _harmed(name, index % 2 == 0 and not _refuses(prompt, answer.text), answer, other, rng)
        for index, (prompt, answer, other) in enumerate(zip(prompts, answers, others, strict=True))
    )


def _harmed(name: str, to_refuse: bool, answer: Answer, other: Answer | None, rng: random.Random) -> Answer:
    match name:
        case "looped":
            text = (answer.text[:60] or "the ") * 20
        case "truncated":
            text = answer.text[: int(CUT_SHARE * len(answer.text))]
        case "refused":
            text = REFUSAL if to_refuse else answer.text
        case "exchanged":
            text = other.text if other is not None else ""
        case "shuffled":
            words = answer.text.split()
            rng.shuffle(words)
            text = " ".join(words)
        case _:
            raise ValueError(name)
    return Answer(**{**vars(answer), "text": text})


def kept(answer: Mapping[str, object]) -> Answer:
    """An Answer from its JSON form."""
    plain = dict(answer)
    return Answer(**{**plain, "piece_ns": tuple(plain["piece_ns"])})  # type: ignore[arg-type]
