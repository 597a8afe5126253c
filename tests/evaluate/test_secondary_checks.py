"""Screening, generation checks, the parity probe and fresh prompts."""

import asyncio
import math
import random
import re
from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import EngineCrashed, EngineRefused, InputError
from trimtab.core.evidence import ParityProbe
from trimtab.engines.base import GenerateRequest, TokenEvent
from trimtab.evaluate.generation import check_generation, generation_prompts, what_is_broken
from trimtab.evaluate.parity import parity_probe
from trimtab.evaluate.prompts import calibration_texts, exactly, fresh_prompts, fresh_texts, marked, prompts_with_prefix
from trimtab.evaluate.requests import build_requests
from trimtab.evaluate.screen import ScreenResult, bucketed_kl, candidate_screen_requests, reference_screen_requests, screen
from trimtab.evaluate.suites.core import core_items
from trimtab.testing.fake_client import FakeClient, fake_render, fake_tokenize

TEXTS = [item for item in core_items() if item.suite == "text"][:5]


def screened(candidate: FakeClient) -> ScreenResult:
    async def go() -> ScreenResult:
        prepared = build_requests(TEXTS, fake_tokenize, fake_render, lambda *, chat: None)
        requests = reference_screen_requests(prepared)
        ours = await FakeClient().score(requests)
        return screen(ours, await candidate.score(candidate_screen_requests(requests, ours)))

    return asyncio.run(go())


def true_kl(candidate: FakeClient) -> float:
    """Mean KL over the same positions, from the whole tables."""
    p, q = FakeClient().served, candidate.served
    previous = [byte for item in TEXTS for byte in list(item.options[0].encode())[:-1]]
    return float(np.mean([(np.exp(p[byte]) * (p[byte] - q[byte])).sum() for byte in previous]))


def test_screening_a_model_against_itself_finds_nothing() -> None:
    same = screened(FakeClient())
    assert same.kl_nats == pytest.approx(0.0, abs=1e-9)
    assert same.top1_agreement == 1.0
    assert same.delta_nats_per_token == 0.0
    assert (same.n_passages, same.n_tokens) == (5, sum(len(item.options[0].encode()) - 1 for item in TEXTS))


def test_screening_bounds_the_true_divergence_from_below_and_orders_candidates() -> None:
    near, far = FakeClient(noise=0.2), FakeClient(noise=1.0)
    for candidate in (near, far):
        found = screened(candidate)
        assert 0.5 * true_kl(candidate) < found.kl_nats <= true_kl(candidate)
        assert found.kl_se > 0.0
    assert screened(near).kl_nats < screened(far).kl_nats
    assert screened(near).top1_agreement > screened(far).top1_agreement


def test_screening_error_is_that_of_a_ratio_over_passages() -> None:
    """Two passages by hand: 10 tokens at 0.1 and 30 at 0.3."""
    from trimtab.evaluate.screen import ratio_mean

    mean, se = ratio_mean(np.array([1.0, 9.0]), np.array([10.0, 30.0]))
    assert mean == pytest.approx(0.25)
    assert se == pytest.approx(math.sqrt(2 * (1.5**2 + 1.5**2)) / 40)


def test_screening_needs_matching_sides() -> None:
    with pytest.raises(InputError, match="same passages"):
        screen([], [])


@given(st.integers(0, 10**6), st.integers(1, 8))
def test_bucketed_divergence_is_between_zero_and_the_true_one(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(10)), rng.dirichlet(np.ones(10))
    top = np.argsort(-p)[:k]
    found = bucketed_kl(np.log(p[top]).tolist(), np.log(q[top]).tolist())
    assert 0.0 <= found <= float((p * np.log(p / q)).sum()) + 1e-9


def test_sound_answers_pass() -> None:
    for item in core_items():
        if item.suite == "text":
            assert what_is_broken(item.options[0]) == "", item.id
    assert what_is_broken("Yes.") == ""
    assert what_is_broken("1. Apples\n2. Pears\n3. Plums\n\n| a | b |\n|---|---|\n| 1 | 2 |") == ""
    assert what_is_broken("今日はとても良い天気ですね。散歩に行きましょう。" * 2) == ""


@pytest.mark.parametrize("text", ["", "  \n", "...", "\n\n-"])
def test_empty_answers_are_broken(text: str) -> None:
    assert what_is_broken(text) == "empty"


@pytest.mark.parametrize(
    "text",
    [
        "The umbrella was lost. The umbrella was lost. " * 20,
        "I am sorry, but I cannot help you with that question today. " * 8,
        "Once upon a time there was a king who had three sons. " + "and then he went to the river " * 30,
        "ha" * 300,
        "1. First\n" * 60,
    ],
)
def test_loops_are_broken(text: str) -> None:
    assert what_is_broken(text).startswith("looping")


@pytest.mark.parametrize(
    "text",
    [
        "The caf\ufffd \ufffd\ufffd is \ufffd open \ufffd\ufffd",
        "}{)(*&^%$#@!~}{|:<>?}{)(*&^%$#@!",
        "!!!!????!!!!....!!!!????!!!!....",
        "xkcdqwrt zzpqrstv bcdfghjk lmnpqrst vwxzbcdf ghjklmnp qrstvwxz bcdfgpqr",
        "tokenizErProDucesEndLess camElCaseSouPforNoReaSon wiThoutAnYspaCes betWeenTheWorDs orMeaNingAtAll "
        "reAllyItDoesNotMaKe anySenSeToAnYone whoReaDsItAlOud",
    ],
)
def test_gibberish_is_broken(text: str) -> None:
    assert what_is_broken(text).startswith("gibberish")


def test_a_check_keeps_prompts_and_reasons_together() -> None:
    prompts = generation_prompts()
    assert len(prompts) == len(set(prompts)) == 16
    check = check_generation(prompts[:2], ["A fine answer to the question.", ""])
    assert (check.broken, check.why, check.prompts) == ((False, True), ("", "empty"), prompts[:2])


def probe(client: FakeClient, **more: object) -> ParityProbe:
    prompts = [[ord(letter)] * 5 for letter in "abcdefgh"]
    return asyncio.run(parity_probe(client, prompts, **{"n_tokens": 512, "concurrency": 4, "seed": 1, **more}))  # type: ignore[arg-type]


def test_parity_of_what_is_served_and_scored() -> None:
    found = probe(FakeClient())
    assert len(found.differences) == len(found.answers) >= 512
    assert max(map(abs, found.differences)) < 1e-9
    assert found.n_failed == 0
    assert list(found.answers) == sorted(found.answers)
    assert found.conditions["concurrency"] == "4"


def test_parity_mean_is_the_divergence_of_the_served_from_the_scored() -> None:
    client = FakeClient(served_noise=0.5)
    found = probe(client, n_tokens=8192)
    scored = FakeClient().served
    expected = float((np.exp(client.served) * (client.served - scored)).sum(axis=1).mean())
    assert np.mean(found.differences) == pytest.approx(expected, rel=0.35)


class Sometimes(FakeClient):
    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        if request.request_id == 1:
            raise EngineRefused("no room")
        async for event in super().generate(request):
            yield event


class Dying(FakeClient):
    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        yield TokenEvent(request_id=request.request_id, token_id=1, logprob=-1.0, time_ns=0)
        raise EngineCrashed("The worker died.")


def test_an_answer_that_fails_is_counted_and_left_out() -> None:
    found = probe(Sometimes())
    assert found.n_failed == 1
    assert len(found.differences) >= 512


def test_a_dead_worker_ends_the_probe() -> None:
    with pytest.raises(EngineCrashed):
        probe(Dying())


@pytest.mark.parametrize("more", [{"n_tokens": 100}, {"concurrency": 0}])
def test_a_probe_too_small_is_refused(more: dict[str, int]) -> None:
    with pytest.raises(InputError):
        probe(FakeClient(), **more)


def by_bytes(text: str) -> list[int]:
    return list(text.encode())


@given(st.integers(0, 1000), st.integers(16, 700))
def test_fresh_prompts_have_their_length_and_differ_at_once(seed: int, n_tokens: int) -> None:
    prompts = fresh_prompts(seed, 6, n_tokens, by_bytes)
    assert {len(ids) for ids in prompts} == {n_tokens}
    assert len({tuple(ids[:8]) for ids in prompts}) == 6
    assert prompts == fresh_prompts(seed, 6, n_tokens, by_bytes)


def test_other_seeds_give_other_prompts() -> None:
    every = [tuple(ids[:8]) for seed in range(50) for ids in fresh_prompts(seed, 10, 32, by_bytes)]
    assert len(set(every)) >= len(every) - 2


def test_too_short_prompts_and_greedy_tokenizers_are_refused() -> None:
    with pytest.raises(InputError, match="at least 16"):
        fresh_prompts(0, 1, 8, by_bytes)
    with pytest.raises(InputError, match="only 3"):
        exactly([1, 2, 3], 4)


def test_fresh_texts_do_not_repeat_sentences_soon() -> None:
    (text,) = fresh_texts(3, 1, 512)
    found = text[10:].split(". ")
    assert len(set(found[:40])) == 40


def test_calibration_texts_are_many_and_steady() -> None:
    texts = calibration_texts()
    assert len(texts) == 48
    assert texts == calibration_texts()
    assert texts != calibration_texts(seed=1)
    assert random.Random(0).choice(texts).count(" ") > 80


def test_prompts_of_an_agent_share_their_beginning_and_nothing_more() -> None:
    first, second = prompts_with_prefix(1, 2, 64, 40, by_bytes)
    other = prompts_with_prefix(2, 1, 64, 40, by_bytes)[0]
    assert len(first) == len(second) == len(other) == 64
    assert first[:40] == second[:40] == other[:40]
    assert len({tuple(ids[40:]) for ids in (first, second, other)}) == 3
    assert prompts_with_prefix(1, 2, 64, 0, by_bytes) == fresh_prompts(1, 2, 64, by_bytes)


def test_a_marked_prompt_changes_only_the_last_words_of_the_user() -> None:
    messages = (("system", "Be brief."), ("user", "First?"), ("assistant", "Yes."), ("user", "Second?"))
    changed = marked(messages, 5)
    assert [message["content"] for message in changed[:3]] == ["Be brief.", "First?", "Yes."]
    assert re.fullmatch(r"\d{8}: Second\?", changed[3]["content"])
    assert marked(messages, 5) == changed != marked(messages, 6)
