"""Prompt lookup and the prefix cache of the llama.cpp engine: the answers stay, the work gets less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused
from trimtab.core.model import Snapshot
from trimtab.engines.base import GenerateRequest
from trimtab.testing.engine_contract import drain, run_all, tokens_of
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_models import write_tiny_gguf

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

from trimtab.engines import llamacpp_serve
from trimtab.engines.llamacpp import LlamaCppEngine
from trimtab.engines.llamacpp_lookup import Lookup

CLOSE = 5e-3
"""Natural-log units by which served log-probabilities of float weights may differ when other tokens are computed beside them."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    path = write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    return snapshot_of(path)


def serving(snapshot: Snapshot, **settings: object) -> LlamaCppEngine:
    engine = LlamaCppEngine(snapshot, Settings.parse({"threads": 1, "slots": 3, "context_tokens": 256, **settings}))
    engine.load("serve")
    return engine


def request(number: int, prompt: tuple[int, ...], **more: object) -> GenerateRequest:
    return GenerateRequest(**{"request_id": number, "prompt_ids": prompt, "max_tokens": 60, "ignore_end": True, "seed": number, **more})


def steps_of(engine: LlamaCppEngine, *requests: GenerateRequest) -> tuple[dict[int, list], int]:
    """Events by request, and how many steps it took."""
    n_steps = 0
    inner = engine.step

    def counted():
        nonlocal n_steps
        n_steps += 1
        return inner()

    engine.step = counted
    try:
        return run_all(engine, requests), n_steps
    finally:
        del engine.step


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 10))
def test_a_proposal_is_what_followed_the_latest_earlier_occurrence(tokens: list[int], n: int, count: int) -> None:
    found = Lookup(tokens, n).propose(count)
    last = tokens[-n:]
    places = [place for place in range(n, len(tokens)) if tokens[place - n : place] == last]
    if len(tokens) < n or not places:
        assert found == ()
        return
    text = list(tokens)
    for place in range(places[-1], places[-1] + count):  # a copy that reaches the end goes on into itself
        text.append(text[place])
    assert found == tuple(text[len(tokens) :])


@pytest.mark.model
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_lookup_gives_the_same_answers_in_fewer_steps(tiny: Snapshot, temperature: float) -> None:
    prompts = [tuple(range(10, 40)), (5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6), (9,) * 20]
    asked = [request(number, prompt, temperature=temperature) for number, prompt in enumerate(prompts, 1)]
    plain, looking = serving(tiny), serving(tiny, speculation="prompt-lookup", draft_tokens=4, ngram_tokens=1)
    expected, n_plain = steps_of(plain, *asked)
    found, n_looking = steps_of(looking, *asked)
    for number in expected:
        assert len(tokens_of(found[number])) == 60
        assert tokens_of(found[number]) == tokens_of(expected[number])
        for one, two in zip(found[number], expected[number], strict=True):
            assert one.logprob == pytest.approx(two.logprob, abs=CLOSE)
        assert found[number][-1].done == "length"
    if temperature == 0.0:
        assert n_looking < 0.8 * n_plain, "greedy answers of a random model repeat themselves, so proposals come true"
    assert plain.n_running == looking.n_running == 0
    plain.close()
    looking.close()


@pytest.mark.model
def test_lookup_stops_where_it_is_told_to(tiny: Snapshot) -> None:
    engine = serving(tiny, speculation="prompt-lookup", draft_tokens=8, ngram_tokens=1)
    whole = tokens_of(run_all(engine, [request(1, (9,) * 20)])[1])
    stop = whole[10]
    stopped = run_all(engine, [request(2, (9,) * 20, stop_ids=(stop,), ignore_end=False)])[2]
    assert stopped[-1].done == "stop"
    assert tokens_of(stopped) == whole[: whole.index(stop) + 1]
    engine.submit(request(3, (9,) * 20))
    engine.step()
    engine.cancel(3)
    assert drain(engine)[3][-1].done == "cancelled"
    assert tokens_of(run_all(engine, [request(4, (9,) * 20)])[4]) == whole, "nothing of an ended request is left in the cache"
    engine.close()


@pytest.mark.model
def test_a_kept_beginning_is_not_computed_again(tiny: Snapshot) -> None:
    shared = tuple(range(20, 150))
    asked = [request(number, (*shared, 200 + number, 30 + number), max_tokens=12) for number in range(1, 6)]
    plain, keeping = serving(tiny), serving(tiny, prefix_cache=True)
    expected = run_all(plain, asked)
    computed = []
    fill = keeping._server._fill

    def counted():
        ready = fill()
        computed.append(keeping._server.batch.n_tokens)
        return ready

    keeping._server._fill = counted
    for one in asked:
        found = run_all(keeping, [one])
        assert tokens_of(found[one.request_id]) == tokens_of(expected[one.request_id])
        for a, b in zip(found[one.request_id], expected[one.request_id], strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=CLOSE)
    assert computed[0] == 132, "the first prompt is computed whole"
    assert max(computed[1:]) <= 2, "of the others only what is their own"
    plain.close()
    keeping.close()


@pytest.mark.model
def test_kept_sequences_give_way_when_the_pool_is_full(tiny: Snapshot) -> None:
    engine, plain = serving(tiny, prefix_cache=True, slots=2), serving(tiny, slots=2)
    for round_number in range(12):
        asked = [
            request(
                10 * round_number + place, tuple((7 * round_number + 3 * place + k * (place + 1)) % 250 for k in range(150)), max_tokens=40
            )
            for place in range(3)
        ]
        found, expected = run_all(engine, asked), run_all(plain, asked)
        for number in expected:
            assert found[number][-1].done == "length", found[number][-1].error
            assert tokens_of(found[number]) == tokens_of(expected[number])
    engine.close()
    plain.close()


@pytest.mark.model
def test_what_waited_while_the_engine_failed_is_computed_whole(tiny: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tuple(20 + k % 200 for k in range(120))
    plain, engine = serving(tiny), serving(tiny, prefix_cache=True)
    expected = run_all(plain, [request(2, (*shared, 7, 8))])[2]
    engine._server.pool_tokens = 240  # so that the second one has to wait
    for one in (request(1, (*shared, 5, 6)), request(2, (*shared, 7, 8))):
        engine.submit(one)
        engine.step()
    assert len(engine._server.queue) == 1

    def broken(*_: object) -> None:
        raise EngineRefused("no room")

    with monkeypatch.context() as patch:
        patch.setattr(llamacpp_serve, "decode", broken)
        assert [event.done for event in engine.step()] == ["error"]
    found = drain(engine)[2]
    assert tokens_of(found) == tokens_of(expected)
    plain.close()
    engine.close()
