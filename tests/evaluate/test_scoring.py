"""Requests and scorers, against numbers worked out by hand on the fake client."""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest

from trimtab.core.errors import EngineCrashed, EngineRefused, InputError
from trimtab.core.evidence import Item, Outcome
from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.evaluate.requests import PreparedSuite, biased_against, build_requests
from trimtab.evaluate.runner import prepare, score_items
from trimtab.evaluate.split import interleaved
from trimtab.evaluate.suites.core import core_items
from trimtab.testing.fake_client import BOS_ID, END_ID, FakeClient, fake_render, fake_tokenize, log_softmax


def item(scorer: str, options: tuple[str, ...], **more: object) -> Item:
    return Item(**{"id": "i", "suite": "s", "cluster": "c", "prompt": "Q:", **more}, scorer=scorer, options=options)  # type: ignore[arg-type]


def prepared_of(*items: Item, bos_id: int | None = BOS_ID) -> PreparedSuite:
    return build_requests(items, fake_tokenize, fake_render, lambda *, chat: bos_id)


def run(client: FakeClient, prepared: PreparedSuite, **more: object) -> tuple[Outcome, ...]:
    return asyncio.run(score_items(client, prepared, **more))  # type: ignore[arg-type]


def logprob(client: FakeClient, ids: list[int], start: int) -> float:
    """log P(ids[start:] | ids[:start]) straight from the table."""
    table = log_softmax(client.logits)
    return float(sum(table[ids[position - 1], ids[position]] for position in range(start, len(ids))))


def test_nats_per_token_is_the_mean_over_the_answer() -> None:
    client = FakeClient()
    (found,) = run(client, prepared_of(item("nats_per_token", (" yes",))))
    assert found.value == pytest.approx(logprob(client, list(b"Q: yes"), 2) / 4)
    assert (found.n_tokens, found.picked, found.correct) == (4, None, None)


def test_text_without_prompt_is_scored_after_the_bos_token() -> None:
    client = FakeClient()
    text = item("nats_per_token", ("abc",), prompt="")
    (with_bos,) = run(client, prepared_of(text))
    (without,) = run(client, prepared_of(text, bos_id=None))
    assert with_bos.value == pytest.approx(logprob(client, [BOS_ID, *b"abc"], 1) / 3)
    assert without.value == pytest.approx(logprob(client, list(b"abc"), 1) / 2)
    assert (with_bos.n_tokens, without.n_tokens) == (3, 2)


def test_a_model_without_bos_parts_plain_texts_but_begins_a_conversation_as_it_is_served() -> None:
    info = replace(asyncio.run(FakeClient().info()), bos_id=None)
    items = (item("nats_per_token", (" yes",)), item("nats_per_token", (" yes",), chat=True, id="j", cluster="d"))
    plain, chat = build_requests(items, fake_tokenize, fake_render, info.first_id).requests
    assert plain.request.prefix_ids[0] == END_ID
    assert list(chat.request.prefix_ids) == fake_tokenize(fake_render([{"role": "user", "content": "Q:"}]), parse_special=True)
    assert replace(info, end_ids=()).first_id(chat=False) is None


def test_margin_divides_each_option_by_its_tokens() -> None:
    client = FakeClient()
    options = (" one", " three", " two")
    (found,) = run(client, prepared_of(item("margin", options, answer=1)))
    each = [logprob(client, list(f"Q:{option}".encode()), 2) / len(option) for option in options]
    assert found.value == pytest.approx(each[1] - max(each[0], each[2]))
    assert found.picked == int(np.argmax(each))
    assert found.correct is (found.picked == 1)
    assert found.n_tokens == sum(map(len, options))


def test_probabilities_of_whole_options_come_with_the_right_one_first() -> None:
    client = FakeClient()
    options = (" one", " three", " two")
    (found,) = run(client, prepared_of(item("margin", options, answer=2)))
    odds = np.exp([logprob(client, list(f"Q:{option}".encode()), 2) for option in options])
    assert found.p_options == pytest.approx([odds[2] / odds.sum(), odds[0] / odds.sum(), odds[1] / odds.sum()])
    (contrast,) = run(client, prepared_of(item("contrast", options, favoured=(0,))))
    assert contrast.p_options == ()


def test_contrast_is_the_log_odds_of_the_favoured_openings() -> None:
    client = FakeClient()
    options = ("No", "Not", "Sure", "Yes")
    (found,) = run(client, prepared_of(item("contrast", options, favoured=(0, 1), chat=True)))
    head = fake_tokenize(fake_render([{"role": "user", "content": "Q:"}]), parse_special=True)
    each = [math.exp(logprob(client, [BOS_ID, *head, *option.encode()], len(head) + 1)) for option in options]
    assert found.value == pytest.approx(math.log(each[0] + each[1]) - math.log(each[2] + each[3]))
    assert found.correct is (each[0] + each[1] > each[2] + each[3])


def test_options_that_part_at_their_last_token_share_one_continuation() -> None:
    client = FakeClient()
    prepared = prepared_of(item("contrast", (" good", " goof", " go"), favoured=(0,)))
    assert len(prepared.requests[0].request.continuations) == 1
    (found,) = run(client, prepared)
    good, goof, go = (math.exp(logprob(client, list(f"Q:{option}".encode()), 2)) for option in (" good", " goof", " go"))
    assert found.value == pytest.approx(math.log(good) - math.log(goof + go))


def test_merged_items_score_as_they_do_alone() -> None:
    client = FakeClient()
    shared = "A long beginning that all of them share, said "
    items = [
        item("contrast", (" a", " b", " cd"), favoured=(0,), id=f"i{number}", prompt=shared + who, group=f"x:{who}")
        for number, who in enumerate(("she", "he", "they"))
    ]
    together = prepared_of(*items)
    apart = [prepared_of(one) for one in items]
    assert len(together.requests) == 1
    assert together.n_tokens < sum(one.n_tokens for one in apart)
    for merged, alone in zip(run(client, together), [run(client, one)[0] for one in apart], strict=True):
        assert merged == alone
        assert merged.correct is None


def test_items_that_share_nothing_are_not_merged() -> None:
    items = [item("nats_per_token", (" x",), id="a", prompt="abc"), item("nats_per_token", (" x",), id="b", prompt="xyz")]
    assert len(prepared_of(*items, bos_id=None).requests) == 2


def test_an_option_too_short_to_score_is_the_users_mistake() -> None:
    with pytest.raises(InputError, match="too short"):
        prepared_of(item("nats_per_token", ("a",), prompt=""), bos_id=None)


def test_options_without_a_shared_beginning_are_the_users_mistake() -> None:
    with pytest.raises(InputError, match="share no first token"):
        prepared_of(item("margin", ("ab", "cd"), prompt=""), bos_id=None)


def test_a_wrong_option_that_is_not_a_number_makes_the_item_missing() -> None:
    class HalfBroken(FakeClient):
        async def score(self, requests: object) -> list[ScoreResult]:
            return [ScoreResult(logprobs=((-1.0, -1.0, -1.0), (-2.0, -1.0, -1.0), (math.nan, 0.0, 0.0)), greedy=())]

    (found,) = run(HalfBroken(), prepared_of(item("margin", (" ab", " cd", " ef"))))
    assert (found.value, found.correct) == (None, None)


def test_an_unlikely_flat_model_scores_worse_on_its_own_text() -> None:
    """A planted loss moves the value down: the scorer points the right way."""
    sharp, flat = FakeClient(), FakeClient(temperature=2.0)
    ids = [ord("a")]
    for _ in range(40):
        ids.append(int(sharp.served[ids[-1]][:128].argmax()))
    text = item("nats_per_token", (bytes(ids).decode(),), prompt="")
    assert run(flat, prepared_of(text))[0].value < run(sharp, prepared_of(text))[0].value  # type: ignore[operator]


@pytest.mark.parametrize("options", [("a", "b"), (" a", " b"), (" nod", " bag")])
def test_bias_against_one_group_lowers_only_that_group(options: tuple[str, ...]) -> None:
    client = FakeClient()
    items = [
        item("contrast", options, favoured=(0,), id=f"i{who}", prompt=f"They said that {who} was", group=f"sex:{who}")
        for who in ("she", "he")
    ]
    prepared = prepared_of(*items)
    control = biased_against(prepared, 0.5, group="sex:she")
    assert [one.id for one in control.items] == ["ishe"]
    before = {one.item_id: one.value for one in run(client, prepared)}
    (after,) = run(client, control)
    # The bias shifts the log-odds of the two tokens that part the options; further tokens pay a little for the renormalisation.
    assert after.value == pytest.approx(before["ishe"] - 0.5, abs=1e-9 if len(options[0]) < 3 else 0.1)  # type: ignore[operator]


def test_bias_needs_a_group_that_exists() -> None:
    with pytest.raises(InputError, match="sex:none"):
        biased_against(prepared_of(item("contrast", ("a", "b"), favoured=(0,), group="sex:she")), 1.0, group="sex:none")


def test_a_failing_item_is_missing_and_the_others_are_not() -> None:
    client = FakeClient(refuse=frozenset(b"~"))
    items = [item("nats_per_token", (f" {word}",), id=word, cluster=word) for word in ("ab", "c~d", "ef")]
    found = run(client, prepared_of(*items))
    assert [one.value is None for one in found] == [False, True, False]
    assert "refuses" in found[1].error
    assert found[1].n_tokens == 4


class Crashing(FakeClient):
    async def score(self, requests: object) -> list[ScoreResult]:
        raise EngineCrashed("The worker died of signal 9.")


class Broken(FakeClient):
    async def score(self, requests: object) -> list[ScoreResult]:
        return [ScoreResult(logprobs=((math.nan, math.nan, math.nan, math.nan),), greedy=((False,) * 4,))]


def test_a_dead_worker_ends_the_run() -> None:
    with pytest.raises(EngineCrashed):
        run(Crashing(), prepared_of(item("nats_per_token", (" yes",))))


def test_a_value_that_is_not_a_number_is_missing_not_zero() -> None:
    (found,) = run(Broken(), prepared_of(item("nats_per_token", (" yes",))))
    assert found.value is None
    assert "not finite" in found.error


def test_the_time_limit_leaves_items_missing_with_the_reason() -> None:
    items = [item("nats_per_token", (" yes",), id=str(number), cluster=str(number)) for number in range(3)]
    found = run(FakeClient(), prepared_of(*items), time_limit_s=-1.0)
    assert [one.value for one in found] == [None] * 3
    assert all("time limit" in one.error for one in found)


def test_progress_counts_tokens_up_to_the_total() -> None:
    seen: list[tuple[int, int]] = []
    prepared = prepared_of(*(item("nats_per_token", (" yes",), id=str(number), cluster=str(number)) for number in range(10)))
    run(FakeClient(), prepared, chunk_tokens=20, on_progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 1
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (prepared.n_tokens, prepared.n_tokens)


def test_a_global_bias_reaches_every_request() -> None:
    client = FakeClient()
    prepared = prepared_of(item("contrast", ("a", "b"), favoured=(0,)))
    (plain,) = run(client, prepared)
    (biased,) = run(client, prepared, logit_bias=((ord("a"), 0.25),))
    assert biased.value == pytest.approx(plain.value + 0.25)  # type: ignore[operator]


def test_the_whole_suite_runs_and_prepare_agrees_with_build_requests() -> None:
    items = [one for one in core_items() if one.suite != "fairness" or one.cluster.startswith("fairness-hiring")]
    client = FakeClient()
    prepared = asyncio.run(prepare(client, items))
    assert prepared == interleaved(prepared_of(*items))
    found = run(client, prepared)
    assert {one.item_id for one in found} == {one.id for one in items}
    assert all(one.value is not None and math.isfinite(one.value) for one in found)


def test_requests_are_valid_for_an_engine() -> None:
    for one in prepared_of(*core_items()[:400], bos_id=None).requests:
        request: ScoreRequest = one.request
        assert request.prefix_ids
        assert all(request.continuations)
        if request.watch:
            assert [len(row) for row in request.watch] == [len(ids) for ids in request.continuations]


def test_a_refusal_of_the_tokenizer_is_passed_on() -> None:
    def refuse(text: str, *, parse_special: bool) -> list[int]:
        raise EngineRefused("no")

    with pytest.raises(EngineRefused):
        build_requests([item("nats_per_token", (" x",))], refuse, fake_render, lambda *, chat: None)
