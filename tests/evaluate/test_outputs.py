"""Which spans an answer rests on, and where two sides part: on a toy model whose answer is known to lean on one word."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.engines.base import ScoreResult
from trimtab.evaluate.outputs import MOST_SPANS, attribute, beside, beside_request, ids_to_name, spans_of
from trimtab.testing.fake_client import FakeClient


class Toy:
    """One token a character; the answer is e^2 times as likely where the prompt holds `key`, e times less where it holds `not`."""

    def __init__(self, *, fails_on=""):
        self.fails_on = fails_on

    async def tokenize(self, texts, *, parse_special=False):
        return [[ord(character) for character in text] for text in texts]

    async def render(self, messages):
        return f"<{messages[-1]['content']}>"

    async def info(self):
        return await FakeClient().info()

    async def score(self, requests):
        found = []
        for request in requests:
            prompt = "".join(map(chr, request.prefix_ids))
            if self.fails_on and self.fails_on not in prompt:
                raise InputError("too odd")
            each = -3.0 + 2.0 * ("key" in prompt) - 1.0 * ("not" in prompt)
            found.append(
                ScoreResult(
                    logprobs=tuple((each / len(ids),) * len(ids) for ids in request.continuations),
                    greedy=tuple((True,) * len(ids) for ids in request.continuations),
                )
            )
        return found


PROMPT = "The key is under the mat. It is not new. Rain fell all night. Where is it now?"


@pytest.mark.parametrize("chat", [True, False])
def test_the_span_that_matters_is_found(chat):
    found = asyncio.run(attribute(Toy(), PROMPT, "Under the mat", chat=chat))
    influence = {span.text.strip(): span.influence_nats for span in found.spans}
    assert influence["The key is under the mat."] == pytest.approx(2.0)
    assert influence["It is not new."] == pytest.approx(-1.0)
    assert influence["Rain fell all night."] == pytest.approx(0.0)
    assert found.logprob_nats == pytest.approx(-2.0)
    assert "".join(span.text for span in found.spans) == PROMPT


def test_what_cannot_be_explained_is_said():
    for prompt, answer, says in (("word", "x", "one word only"), ("two words", " ", "no answer to explain")):
        with pytest.raises(InputError, match=says):
            asyncio.run(attribute(Toy(), prompt, answer, chat=False))
    with pytest.raises(InputError, match=r"cannot be scored: .*too odd"):
        asyncio.run(attribute(Toy(fails_on="nowhere"), PROMPT, "x", chat=False))
    partly = asyncio.run(attribute(Toy(fails_on="Rain"), PROMPT, "x", chat=False))
    assert [span.influence_nats is None for span in partly.spans] == [False, False, True, False]


@given(st.text(max_size=400))
def test_spans_are_in_order_and_lose_nothing_between_them(text):
    spans = spans_of(text)
    assert len(spans) <= MOST_SPANS
    assert all(start < end for start, end in spans)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))
    left = text
    for start, end in reversed(spans):
        left = left[:start] + left[end:]
    assert not left.strip(), "only white space belongs to no span"


def side(logprobs, firsts):
    return ScoreResult(
        logprobs=(tuple(logprobs),), greedy=((True,) * len(logprobs),), top=(tuple(((first, -0.1), (9, -3.0)) for first in firsts),)
    )


def test_two_sides_part_where_their_first_choices_do():
    answer = [1, 2, 3]
    a, b = side([-0.1, -0.2, -0.3], [1, 2, 3]), side([-0.1, -2.2, -0.3], [1, 4, 3])
    assert ids_to_name(answer, [a, b]) == [1, 2, 3, 4]
    found = beside("p", answer, a, b, {1: "one", 2: "two", 3: "three", 4: "four"})
    assert found.first_parting == 1
    assert found.change_nats == pytest.approx(-2.0)
    assert [(token.text, token.first_choice_a, token.first_choice_b) for token in found.tokens] == [
        ("one", "", ""),
        ("two", "", "four"),
        ("three", "", ""),
    ]
    assert beside("p", answer, a, a, {1: "one", 2: "two", 3: "three"}).first_parting is None
    assert beside_request([5], answer).continuations == ((1, 2, 3),)
