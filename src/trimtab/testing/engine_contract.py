"""Contract tests for engines. Subclass EngineContract in a test module, say how to open the engine, and pytest runs them all:

    class TestMyEngine(EngineContract):
        numeric_settings, speed_settings = MyEngine.numeric_settings, MyEngine.speed_settings

        @classmethod
        def open_engine(cls, settings):
            return MyEngine(snapshot, settings)

They use the Engine methods alone, so they run on an engine in this process and on `trimtab.engines.client.WorkerEngine` alike. The
model may be random and tiny; its tokenizer must know lower-case English.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused
from trimtab.engines.base import Engine, GenerateRequest, ScoreRequest, ScoreResult, TokenEvent

TEXT = "the sea was calm that morning and the old man walked down to the water with his dog to look for the boat he had lost "
SAMPLES: dict[str, Any] = {
    "threads": 2,
    "slots": 2,
    "batch_tokens": 64,
    "microbatch_tokens": 32,
    "context_tokens": 192,
    "load_mode": "read",
    "prefix_cache": True,
    "kv_type": "u8",
    "flash_attention": False,
    "device_layers": 1,
    "tensor_split": (1.0,),
    "speculation": "prompt-lookup",
    "draft": "another-model.gguf",
    "draft_tokens": 3,
    "ngram_tokens": 2,
    "compile_cache": True,
    "cpu_affinity": str(min(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else "0",
}
NO_CORE = "99999"
CONTEXT_TOKENS = 256
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}


def run_all(engine: Engine, requests: Sequence[GenerateRequest], *, max_steps: int = 10_000) -> dict[int, list[TokenEvent]]:
    """Submit requests and step until none runs. Events by request id."""
    for request in requests:
        engine.submit(request)
    return drain(engine, max_steps=max_steps)


def drain(engine: Engine, *, max_steps: int = 10_000) -> dict[int, list[TokenEvent]]:
    """Step until nothing runs. Events by request id."""
    events: dict[int, list[TokenEvent]] = {}
    for _ in range(max_steps):
        if not engine.n_running:
            return events
        for event in engine.step():
            events.setdefault(event.request_id, []).append(event)
    raise AssertionError(f"requests still run after {max_steps} steps")


def tokens_of(events: Sequence[TokenEvent]) -> list[int]:
    return [event.token_id for event in events if event.token_id is not None]


def all_logprobs(results: Sequence[ScoreResult]) -> list[float]:
    return [value for result in results for row in result.logprobs for value in row]


class EngineContract:
    """The tests. Override `open_engine`, and the tolerances where the engine computes in low precision.

    token_tolerance: largest difference of one token's log-probability (nats) that another batch shape may cause
    mean_tolerance: the same for the mean over a dozen tokens and more
    exact_tolerance: largest difference that a speed setting may cause
    numeric_settings, speed_settings, abilities: the engine class's
    open_settings: settings that every engine of the class is opened with, beside those under test
    """

    token_tolerance: ClassVar[float] = 1e-3
    mean_tolerance: ClassVar[float] = 1e-3
    exact_tolerance: ClassVar[float] = 1e-6
    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": CONTEXT_TOKENS}
    numeric_settings: ClassVar[frozenset[str]]
    speed_settings: ClassVar[frozenset[str]]
    abilities: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        """A new engine with these settings."""
        raise NotImplementedError

    @classmethod
    def open_with(cls, **settings: Any) -> Engine:
        return cls.open_engine(Settings.parse({**cls.open_settings, **settings}))

    @pytest.fixture(scope="class")
    @classmethod
    def held(cls) -> Iterator[Engine]:
        engine = cls.open_with()
        yield engine
        engine.close()

    @pytest.fixture
    def scoring(self, held: Engine) -> Engine:
        held.load("score")
        return held

    @pytest.fixture
    def serving(self, held: Engine) -> Iterator[Engine]:
        held.load("serve")
        yield held
        assert held.n_running == 0, "the test left requests running"

    def ids(self, engine: Engine, start: int, count: int) -> tuple[int, ...]:
        """`count` tokens of ordinary text, from token `start` on."""
        text = engine.tokenize(TEXT, parse_special=False)
        return tuple(text[(start + place) % len(text)] for place in range(count))

    # What the engine says of itself

    def test_info_is_consistent(self, held: Engine) -> None:
        info = held.info()
        assert info.vocab_size > 1
        assert info.context_tokens == self.open_settings.get("context_tokens", info.context_tokens)
        assert all(0 <= token < info.vocab_size for token in info.end_ids)
        assert info.bos_id is None or 0 <= info.bos_id < info.vocab_size
        assert info.build.version

    def test_no_text_has_fewer_tokens_than_it_has_at_least(self, held: Engine) -> None:
        for text in ("", TEXT, 50 * TEXT, 500 * "e", 500 * "=", 500 * " "):
            assert held.least_tokens(text) <= len(held.tokenize(text, parse_special=True)), text

    def test_settings_are_numeric_or_speed_and_others_are_refused(self) -> None:
        assert not self.numeric_settings & self.speed_settings
        known = self.numeric_settings | self.speed_settings
        assert known <= {item.name for item in fields(Settings)}
        for name in {item.name for item in fields(Settings)} - known:
            with pytest.raises(EngineRefused):
                self.open_with(**{name: SAMPLES[name]}).close()

    def test_speed_settings_change_no_score(self, scoring: Engine) -> None:
        requests = [ScoreRequest(prefix_ids=self.ids(scoring, 0, 9), continuations=(self.ids(scoring, 9, 40), self.ids(scoring, 3, 4)))]
        expected = all_logprobs(scoring.score(requests))
        for name in sorted(self.speed_settings):
            other = self.open_with(**{name: SAMPLES[name]})
            try:
                other.load("score")
                found = all_logprobs(other.score(requests))
            finally:
                other.close()
            assert found == pytest.approx(expected, abs=self.exact_tolerance), name

    def test_impossible_settings_are_refused(self) -> None:
        with pytest.raises(EngineRefused):
            self.open_with(kv_type="no-such-type").load("score")

    def test_loading_again_and_for_the_other_purpose(self, held: Engine) -> None:
        requests = [ScoreRequest(prefix_ids=self.ids(held, 0, 3), continuations=(self.ids(held, 3, 2),))]
        held.load("score")
        first = held.score(requests)
        held.load("serve")
        held.load("score")
        held.load("score")
        assert all_logprobs(held.score(requests)) == pytest.approx(all_logprobs(first), abs=self.exact_tolerance)

    def test_close_twice(self) -> None:
        engine = self.open_with()
        engine.load("score")
        engine.close()
        engine.close()

    # Text

    def test_tokenize_round_trip(self, held: Engine) -> None:
        ids = held.tokenize(TEXT.strip(), parse_special=False)
        assert ids
        assert held.detokenize(ids).strip() == TEXT.strip()
        assert held.detokenize([]) == ""

    @pytest.mark.parametrize("parse_special", [False, True])
    def test_many_texts_are_tokenized_as_each_alone(self, held: Engine, parse_special: bool) -> None:
        texts = [TEXT.strip(), "", "a", f"{TEXT.strip()} {TEXT.strip()}", " a"]
        alone = [held.tokenize(text, parse_special=parse_special) for text in texts]
        assert held.tokenize_all(texts, parse_special=parse_special) == alone

    def test_half_characters_show(self, held: Engine) -> None:
        """A text is whole on both sides of a cut, unless its left side ends with the replacement character."""
        text = "漢字 naïve 🙂"
        ids = held.tokenize(text, parse_special=False)
        if held.detokenize(ids).strip() != text:
            pytest.skip("the tokenizer knows no such characters")
        whole = text.replace(" ", "")
        for cut in range(1, len(ids)):
            left, right = held.detokenize(ids[:cut]), held.detokenize(ids[cut:])
            if left.endswith("�"):
                assert text.startswith(left.strip().rstrip("�"))
            else:
                assert (left + right).replace(" ", "") == whole

    def test_render_holds_the_message(self, held: Engine) -> None:
        if not held.info().chat_template:
            with pytest.raises(EngineRefused):
                held.render([{"role": "user", "content": "a calm sea"}])
            return
        text = held.render([{"role": "user", "content": "a calm sea"}])
        assert "a calm sea" in text
        assert len(held.tokenize(text, parse_special=True)) <= len(held.tokenize(text, parse_special=False))

    # Scores

    def test_score_shapes(self, scoring: Engine) -> None:
        continuations = (self.ids(scoring, 5, 4), self.ids(scoring, 9, 1), self.ids(scoring, 11, 7))
        request = ScoreRequest(prefix_ids=self.ids(scoring, 0, 5), continuations=continuations, top_k=2)
        assert scoring.score([]) == []
        (result,) = scoring.score([request])
        for rows in (result.logprobs, result.greedy, result.top):
            assert [len(row) for row in rows] == [4, 1, 7]
        assert all(math.isfinite(value) and value <= 1e-6 for value in all_logprobs([result]))

    def test_probabilities_sum_to_one(self, scoring: Engine) -> None:
        every = tuple(range(scoring.info().vocab_size))
        request = ScoreRequest(prefix_ids=self.ids(scoring, 0, 5), continuations=(self.ids(scoring, 5, 2),), watch=(((), every),))
        (result,) = scoring.score([request])
        assert result.watched[0][0] == ()
        assert math.fsum(map(math.exp, result.watched[0][1])) == pytest.approx(1, abs=1e-4)
        assert result.watched[0][1][request.continuations[0][1]] == pytest.approx(result.logprobs[0][1], abs=1e-5)

    def test_top_is_the_top(self, scoring: Engine) -> None:
        every = tuple(range(scoring.info().vocab_size))
        request = ScoreRequest(prefix_ids=self.ids(scoring, 0, 5), continuations=(self.ids(scoring, 5, 1),), watch=((every,),), top_k=5)
        (result,) = scoring.score([request])
        top = result.top[0][0]
        assert [value for _, value in top] == pytest.approx(sorted(result.watched[0][0], reverse=True)[:5], abs=1e-5)
        assert all(value == pytest.approx(result.watched[0][0][token], abs=1e-5) for token, value in top)
        again = ScoreRequest(prefix_ids=request.prefix_ids, continuations=((top[0][0],), (top[1][0],)))
        assert scoring.score([again])[0].greedy == ((True,), (False,))

    def test_shared_prefix_equals_separate_requests(self, scoring: Engine) -> None:
        prefix = self.ids(scoring, 0, 12)
        continuations = tuple(self.ids(scoring, start, count) for start, count in ((12, 6), (3, 1), (5, 9), (7, 2)))
        together = scoring.score([ScoreRequest(prefix_ids=prefix, continuations=continuations)])
        apart = scoring.score([ScoreRequest(prefix_ids=prefix, continuations=(ids,)) for ids in continuations])
        self.assert_close(all_logprobs(together), all_logprobs(apart))

    def test_order_of_requests_does_not_matter(self, scoring: Engine) -> None:
        requests = [
            ScoreRequest(prefix_ids=self.ids(scoring, start, 3 + start), continuations=(self.ids(scoring, 2 * start, 5),))
            for start in range(8)
        ]
        forward = scoring.score(requests)
        backward = scoring.score(requests[::-1])[::-1]
        self.assert_close(all_logprobs(forward), all_logprobs(backward))

    def test_a_continuation_is_a_prefix_that_grew(self, scoring: Engine) -> None:
        whole = self.ids(scoring, 0, 20)
        (one,) = scoring.score([ScoreRequest(prefix_ids=whole[:4], continuations=(whole[4:],))])
        steps = scoring.score([ScoreRequest(prefix_ids=whole[:end], continuations=(whole[end : end + 1],)) for end in range(4, 20)])
        self.assert_close(all_logprobs([one]), all_logprobs(steps))

    def test_logit_bias_follows_the_formula(self, scoring: Engine) -> None:
        """log P'(t) = log P(t) + b(t) - log(1 + sum over biased i of P(i) (exp b(i) - 1))."""
        prefix, ids = self.ids(scoring, 0, 6), self.ids(scoring, 6, 3)
        biased = {ids[1]: 1.5, self.ids(scoring, 15, 1)[0]: -2.0}
        watch = (tuple(tuple(biased) for _ in ids),)
        (plain,) = scoring.score([ScoreRequest(prefix_ids=prefix, continuations=(ids,), watch=watch)])
        (changed,) = scoring.score([ScoreRequest(prefix_ids=prefix, continuations=(ids,), logit_bias=tuple(biased.items()))])
        for place, token in enumerate(ids):
            shift = math.log1p(sum(math.exp(plain.watched[0][place][k]) * math.expm1(b) for k, b in enumerate(biased.values())))
            expected = plain.logprobs[0][place] + biased.get(token, 0.0) - shift
            assert changed.logprobs[0][place] == pytest.approx(expected, abs=1e-3)

    def test_what_cannot_be_scored_is_refused(self, scoring: Engine) -> None:
        info = scoring.info()
        word = self.ids(scoring, 0, 1)
        long = self.ids(scoring, 0, info.context_tokens)
        for prefix, continuation in (((), word), (word, ()), (long, word), ((info.vocab_size,), word), (word, (-1,))):
            with pytest.raises(EngineRefused):
                scoring.score([ScoreRequest(prefix_ids=prefix, continuations=(continuation,))])
        fits = ScoreRequest(prefix_ids=long[:-1], continuations=(word,))
        assert len(all_logprobs(scoring.score([fits]))) == 1

    # Generation

    def test_greedy_follows_the_scores(self, held: Engine) -> None:
        prompt = self.ids(held, 0, 8)
        held.load("serve")
        events = run_all(held, [GenerateRequest(request_id=1, prompt_ids=prompt, max_tokens=16, ignore_end=True)])[1]
        tokens = tuple(tokens_of(events))
        held.load("score")
        (result,) = held.score([ScoreRequest(prefix_ids=prompt, continuations=(tokens,), top_k=1)])
        assert len(tokens) == 16
        for value, top in zip(result.logprobs[0], result.top[0], strict=True):
            assert top[0][1] - value <= self.token_tolerance

    def test_sampled_logprobs_agree_with_the_scores(self, held: Engine) -> None:
        prompts = [self.ids(held, start, 6 + start) for start in range(4)]
        held.load("serve")
        events = run_all(
            held,
            [
                GenerateRequest(request_id=place, prompt_ids=prompt, max_tokens=24, temperature=1.0, seed=place, ignore_end=True)
                for place, prompt in enumerate(prompts)
            ],
        )
        held.load("score")
        results = held.score(
            [ScoreRequest(prefix_ids=prompt, continuations=(tuple(tokens_of(events[place])),)) for place, prompt in enumerate(prompts)]
        )
        served = [event.logprob for place in range(len(prompts)) for event in events[place] if event.token_id is not None]
        assert all(value is not None for value in served)
        self.assert_close([value for value in served if value is not None], all_logprobs(results))

    def test_a_seed_repeats_and_another_differs(self, serving: Engine) -> None:
        prompt = self.ids(serving, 0, 5)

        def answer(seed: int) -> list[int]:
            request = GenerateRequest(request_id=seed, prompt_ids=prompt, max_tokens=24, temperature=1.0, seed=seed, ignore_end=True)
            return tokens_of(run_all(serving, [request])[seed])

        first = answer(7)
        assert answer(7) == first
        assert answer(8) != first

    def test_top_p_keeps_likely_tokens(self, held: Engine) -> None:
        prompt = self.ids(held, 0, 5)
        held.load("serve")
        request = GenerateRequest(request_id=1, prompt_ids=prompt, max_tokens=12, temperature=1.5, top_p=1e-6, ignore_end=True)
        sampled = tuple(tokens_of(run_all(held, [request])[1]))
        held.load("score")
        (result,) = held.score([ScoreRequest(prefix_ids=prompt, continuations=(sampled,), top_k=1)])
        assert all(top[0][1] - value <= self.token_tolerance for value, top in zip(result.logprobs[0], result.top[0], strict=True))

    def test_many_requests_at_once_all_end(self, serving: Engine) -> None:
        requests = [
            GenerateRequest(request_id=number, prompt_ids=self.ids(serving, number, 3 + 5 * number), max_tokens=2 + number, ignore_end=True)
            for number in range(10)
        ]
        events = run_all(serving, requests)
        for request in requests:
            mine = events[request.request_id]
            assert len(tokens_of(mine)) == request.max_tokens
            assert [event.done for event in mine if event.done] == ["length"]
            assert mine[-1].done
            times = [event.time_ns for event in mine]
            assert times == sorted(times)

    def test_top_logprobs_are_those_of_the_place(self, held: Engine) -> None:
        request = GenerateRequest(request_id=1, prompt_ids=self.ids(held, 0, 6), max_tokens=6, top_logprobs=3, ignore_end=True)
        held.load("serve")
        if "top_logprobs" not in self.abilities:
            pytest.skip("the engine reports no other tokens than those it chose")
        events = run_all(held, [request])[1]
        assert len(events) == 6
        for event in events:
            assert event.logprob is not None
            assert len(event.top) == 3
            assert event.top[0][0] == event.token_id, "greedy takes the most likely"
            assert event.top[0][1] == pytest.approx(event.logprob, abs=1e-4)
            assert event.top[0][1] >= event.top[1][1] >= event.top[2][1]
        held.load("score")
        (result,) = held.score([ScoreRequest(prefix_ids=request.prompt_ids, continuations=(tuple(tokens_of(events)),), top_k=3)])
        for event, top in zip(events, result.top[0], strict=True):
            assert [value for _, value in event.top] == pytest.approx([value for _, value in top], abs=self.token_tolerance)

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_an_answer_is_held_to_its_schema(self, held: Engine, temperature: float) -> None:
        if "json_schema" not in self.abilities:
            pytest.skip("the engine does not hold an answer to a schema")
        held.load("serve")
        schema = json.dumps(SCHEMA)
        requests = [
            GenerateRequest(
                request_id=place,
                prompt_ids=self.ids(held, 3 * place, 6),
                max_tokens=12 if place == 2 else 200,
                temperature=temperature,
                seed=place,
                json_schema="" if place == 2 else schema,
            )
            for place in range(3)
        ]
        events = run_all(held, requests)
        for place in range(2):
            assert events[place][-1].done == "stop"
            said = json.loads(held.detokenize(tokens_of(events[place])))
            assert set(said) == {"kind", "count"}
            assert said["kind"] in ("cat", "dog")
            assert isinstance(said["count"], int)
        free = run_all(held, [replace(requests[2], request_id=9)])[9]
        assert temperature > 0 or tokens_of(free) == tokens_of(events[2]), "a request beside them is as free as ever"
        held.load("score")
        ids = tuple(tokens_of(events[0]))
        (result,) = held.score([ScoreRequest(prefix_ids=requests[0].prompt_ids, continuations=(ids,))])
        served = [event.logprob for event in events[0] if event.logprob is not None]
        assert served == pytest.approx(list(result.logprobs[0]), abs=10 * self.token_tolerance), "of the full distribution"

    def test_a_schema_that_is_none_is_refused(self, serving: Engine) -> None:
        if "json_schema" not in self.abilities:
            pytest.skip("the engine does not hold an answer to a schema")
        for schema in ('{"type": "no-such-type"}', '{"type": "object"', "[]"):
            with pytest.raises(EngineRefused):
                serving.submit(GenerateRequest(request_id=1, prompt_ids=self.ids(serving, 0, 5), max_tokens=5, json_schema=schema))

    def test_stop_ids_end_a_request(self, serving: Engine) -> None:
        prompt = self.ids(serving, 0, 5)
        free = tokens_of(run_all(serving, [GenerateRequest(request_id=1, prompt_ids=prompt, max_tokens=8, ignore_end=True)])[1])
        stop = free[3]
        events = run_all(serving, [GenerateRequest(request_id=2, prompt_ids=prompt, max_tokens=8, stop_ids=(stop,))])[2]
        assert events[-1].done == "stop"
        assert len(tokens_of(events)) <= free.index(stop) + 1

    def test_cancel(self, serving: Engine) -> None:
        """A worker runs on while the cancellation is on its way, so a small model may be done before: it gets some tries."""
        length = serving.info().context_tokens - 4
        for request_id in range(10):
            serving.submit(GenerateRequest(request_id=request_id, prompt_ids=self.ids(serving, 0, 4), max_tokens=length, ignore_end=True))
            first = serving.step()
            serving.cancel(12345)
            serving.cancel(request_id)
            events = first + drain(serving).get(request_id, [])
            if events[-1].done == "cancelled":
                break
        assert events[-1].done == "cancelled"
        assert [event.done for event in events[:-1] if event.done] == []
        assert len(tokens_of(events)) < length
        again = run_all(serving, [GenerateRequest(request_id=5, prompt_ids=self.ids(serving, 0, 4), max_tokens=3, ignore_end=True)])
        assert len(tokens_of(again[5])) == 3

    def test_what_does_not_fit_the_context_is_refused_at_once(self, serving: Engine) -> None:
        context = serving.info().context_tokens
        with pytest.raises(EngineRefused):
            serving.submit(GenerateRequest(request_id=1, prompt_ids=self.ids(serving, 0, context), max_tokens=1))
        with pytest.raises(EngineRefused):
            serving.submit(GenerateRequest(request_id=2, prompt_ids=self.ids(serving, 0, 4), max_tokens=context))
        events = run_all(
            serving, [GenerateRequest(request_id=3, prompt_ids=self.ids(serving, 0, context - 3), max_tokens=3, ignore_end=True)]
        )
        assert len(tokens_of(events[3])) == 3

    def test_nothing_runs_nothing_happens(self, serving: Engine) -> None:
        assert serving.n_running == 0
        assert serving.step() == []

    # Settings that may change how answers are made, and not which

    def open_if_known(self, **settings: Any) -> Iterator[Engine]:
        """A served engine with these settings, for tests of settings that not every engine has."""
        if not settings.keys() <= self.numeric_settings | self.speed_settings:
            pytest.skip(f"the engine refuses {', '.join(settings)}")
        engine = self.open_with(**settings)
        engine.load("serve")
        yield engine
        assert engine.n_running == 0, "the test left requests running"
        engine.close()

    @pytest.fixture
    def looking_up(self) -> Iterator[Engine]:
        yield from self.open_if_known(speculation="prompt-lookup", draft_tokens=4, ngram_tokens=1)

    @pytest.fixture
    def remembering(self) -> Iterator[Engine]:
        yield from self.open_if_known(prefix_cache=True)

    def assert_greedy(self, engine: Engine, prompts: Sequence[tuple[int, ...]], answers: Sequence[tuple[int, ...]]) -> None:
        """Every token of the answers is the most likely one, or as likely."""
        engine.load("score")
        results = engine.score([ScoreRequest(prefix_ids=p, continuations=(a,), top_k=1) for p, a in zip(prompts, answers, strict=True)])
        for result in results:
            for value, top in zip(result.logprobs[0], result.top[0], strict=True):
                assert top[0][1] - value <= self.token_tolerance

    def test_proposed_tokens_change_no_greedy_answer(self, held: Engine, looking_up: Engine) -> None:
        """Alone and beside others, on prompts that repeat themselves."""
        prompts = [self.ids(held, start, 8 + start) * 3 for start in range(4)]
        requests = [GenerateRequest(request_id=n, prompt_ids=prompt, max_tokens=24, ignore_end=True) for n, prompt in enumerate(prompts)]
        events = {**run_all(looking_up, requests), 9: run_all(looking_up, requests[:1])[0]}
        answers = {number: tuple(tokens_of(each)) for number, each in events.items()}
        assert [len(answer) for answer in answers.values()] == [24] * 5
        assert all([event.done for event in each if event.done] == ["length"] and each[-1].done for each in events.values())
        self.assert_greedy(held, [*prompts, prompts[0]], list(answers.values()))
        # Without proposals the same holds. Where two tokens are as likely, to within rounding, the two may still part: what is computed
        # together differs from run to run.
        held.load("serve")
        plain = run_all(held, requests)
        self.assert_greedy(held, prompts, [tuple(tokens_of(plain[n])) for n in range(4)])

    def test_proposed_tokens_keep_the_distribution(self, held: Engine, looking_up: Engine) -> None:
        """What followed earlier is sampled as often as its probability says, and log-probabilities are the model's own.

        A token that is accepted because it was proposed would be counted at nearly every place; the limit is five standard errors.
        """
        word = self.ids(held, 0, 10)
        after = dict(zip(word, word[1:] + word[:1], strict=True))
        prompt = word * 3
        requests = [
            GenerateRequest(request_id=seed, prompt_ids=prompt, max_tokens=12, temperature=1.0, seed=seed, ignore_end=True)
            for seed in range(40)
        ]
        events = run_all(looking_up, requests)
        answers = [tuple(tokens_of(events[request.request_id])) for request in requests]
        held.load("score")
        asked = []
        for answer in answers:
            before = (prompt[-1], *answer[:-1])
            asked.append(
                ScoreRequest(
                    prefix_ids=prompt,
                    continuations=(answer,),
                    watch=(tuple((after[token],) if token in after else () for token in before),),
                )
            )
        results = held.score(asked)
        served = [event.logprob or 0.0 for request in requests for event in events[request.request_id]]
        self.assert_close(served, all_logprobs(results))
        shares = [math.exp(values[0]) for result in results for values in result.watched[0] if values]
        hits = sum(
            after.get(token) == following for answer in answers for token, following in zip((prompt[-1], *answer[:-1]), answer, strict=True)
        )
        error = math.sqrt(math.fsum(share * (1 - share) for share in shares))
        assert abs(hits - math.fsum(shares)) <= 5 * error + 1

    def test_a_remembered_prompt_gets_the_same_answer(self, held: Engine, remembering: Engine) -> None:
        """The second time, and where only the beginning is the same, alone and beside others."""
        prompts = [self.ids(held, 0, 80), self.ids(held, 0, 80), self.ids(held, 0, 70) + self.ids(held, 3, 9), self.ids(held, 0, 33)]
        requests = [GenerateRequest(request_id=n, prompt_ids=prompt, max_tokens=16, ignore_end=True) for n, prompt in enumerate(prompts)]
        events = run_all(remembering, requests[:1]) | run_all(remembering, requests[1:])
        answers = [tuple(tokens_of(events[n])) for n in range(4)]
        assert [len(answer) for answer in answers] == [16] * 4
        self.assert_greedy(held, prompts, answers)
        results = held.score([ScoreRequest(prefix_ids=p, continuations=(a,)) for p, a in zip(prompts, answers, strict=True)])
        self.assert_close([event.logprob or 0.0 for n in range(4) for event in events[n]], all_logprobs(results))

    def test_cores_that_do_not_exist_are_refused(self) -> None:
        if "cpu_affinity" not in self.numeric_settings | self.speed_settings:
            pytest.skip("the engine refuses cpu_affinity")
        with pytest.raises(EngineRefused, match=NO_CORE):
            self.open_with(cpu_affinity=NO_CORE).close()

    def assert_close(self, found: Sequence[float], expected: Sequence[float]) -> None:
        """Each within token_tolerance, their means within mean_tolerance."""
        assert list(found) == pytest.approx(list(expected), abs=self.token_tolerance)
        assert math.fsum(found) / len(found) == pytest.approx(math.fsum(expected) / len(expected), abs=self.mean_tolerance)
