"""What an answer rests on, and where two deployments part on the same tokens. By log-probabilities, so any engine that scores will do.

Leave-one-out attribution: a span's influence is what the answer's log-probability loses when the span is left out of the prompt (Li, Monroe
and Jurafsky 2016, arXiv 1612.08220; Cohen-Wang et al. 2024, arXiv 2409.00729). It says what the model leaned on for an answer, not whether
it should have; two spans that say the same may each seem to count for nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trimtab.core.errors import InputError
from trimtab.core.evidence import Item
from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.evaluate.runner import PreparingClient, ScoringClient, prepare, score_items

MOST_SPANS = 48
LEAST_SENTENCES = 4
"""With fewer sentences than this, spans are words."""
SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+[\"')\]]*|\n+|$)\s*")
WORD = re.compile(r"\S+\s*")
TOP_K = 3


class OutputsClient(ScoringClient, PreparingClient, Protocol):
    """What attribution needs of a worker client."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of the prompt, text[start:end], and what leaving it out costs the answer, nats (None: could not be scored)."""

    start: int
    end: int
    text: str
    influence_nats: float | None


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """logprob_nats: of the whole answer, n_tokens long, after the whole prompt; spans cover the prompt in order."""

    prompt: str
    answer: str
    logprob_nats: float
    n_tokens: int
    spans: tuple[Span, ...]


def spans_of(text: str) -> list[tuple[int, int]]:
    """Sentences, or words where there are few sentences; neighbours are joined where there would be more than MOST_SPANS."""
    found = [match.span() for match in SENTENCE.finditer(text) if match[0].strip()]
    if len(found) < LEAST_SENTENCES:
        found = [match.span() for match in WORD.finditer(text)]
    step = -(-len(found) // MOST_SPANS) if found else 1
    return [(group[0][0], group[-1][1]) for group in (found[index : index + step] for index in range(0, len(found), step))]


async def attribute(client: OutputsClient, prompt: str, answer: str, *, chat: bool) -> Attribution:
    """The influence of every span of the prompt on the answer. Raises InputError for a prompt of one span or an answer without text."""
    if not answer.strip():
        raise InputError("There is no answer to explain: the text is empty.")
    spans = spans_of(prompt)
    if len(spans) < 2:
        raise InputError("The prompt has one word only; leaving it out leaves nothing to compare with.")
    texts = [prompt, *(prompt[:start] + prompt[end:] for start, end in spans)]
    items = [
        Item(id=str(number), suite="why", cluster=str(number), scorer="nats_per_token", prompt=text, chat=chat, options=(answer,))
        for number, text in enumerate(texts)
    ]
    found = {one.item_id: one for one in await score_items(client, await prepare(client, items))}
    whole = found["0"]
    if whole.value is None:
        raise InputError(f"The answer cannot be scored: {whole.error}")
    total = whole.value * whole.n_tokens

    def influence(number: int) -> float | None:
        one = found[str(number)]
        return None if one.value is None else total - one.value * one.n_tokens

    return Attribution(
        prompt=prompt,
        answer=answer,
        logprob_nats=total,
        n_tokens=whole.n_tokens,
        spans=tuple(
            Span(start=start, end=end, text=prompt[start:end], influence_nats=influence(number))
            for number, (start, end) in enumerate(spans, 1)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class TokenBeside:
    """One token of the answer under both sides, natural-log probabilities.

    first_choice_a, first_choice_b: what each side would rather have said, empty where it is the token itself
    """

    text: str
    logprob_a: float
    logprob_b: float
    first_choice_a: str
    first_choice_b: str

    @property
    def parts(self) -> bool:
        """Whether the two sides' first choices differ here."""
        return self.first_choice_a != self.first_choice_b


@dataclass(frozen=True, kw_only=True)
class Beside:
    """An answer, token by token, under A and B. first_parting: index of the first token where their first choices differ."""

    prompt: str
    tokens: tuple[TokenBeside, ...]

    @property
    def first_parting(self) -> int | None:
        return next((index for index, token in enumerate(self.tokens) if token.parts), None)

    @property
    def change_nats(self) -> float:
        """What the whole answer's log-probability is under B less what it is under A."""
        return sum(token.logprob_b - token.logprob_a for token in self.tokens)


def beside_request(prefix_ids: Sequence[int], answer_ids: Sequence[int]) -> ScoreRequest:
    """What both sides are asked."""
    return ScoreRequest(prefix_ids=tuple(prefix_ids), continuations=(tuple(answer_ids),), top_k=TOP_K)


def ids_to_name(answer_ids: Sequence[int], results: Sequence[ScoreResult]) -> list[int]:
    """Token ids whose text is wanted: of the answer, and of every first choice."""
    return sorted({*answer_ids, *(position[0][0] for result in results for position in result.top[0])})


def beside(prompt: str, answer_ids: Sequence[int], a: ScoreResult, b: ScoreResult, names: dict[int, str]) -> Beside:
    """Both sides' view of the answer. names: text of each token id."""

    def choice(result: ScoreResult, index: int) -> str:
        first = result.top[0][index][0][0]
        return "" if first == answer_ids[index] else names[first]

    return Beside(
        prompt=prompt,
        tokens=tuple(
            TokenBeside(
                text=names[token],
                logprob_a=a.logprobs[0][index],
                logprob_b=b.logprobs[0][index],
                first_choice_a=choice(a, index),
                first_choice_b=choice(b, index),
            )
            for index, token in enumerate(answer_ids)
        ),
    )
