"""llama.cpp beyond the contract: packing, refusals, sampling, continuous batching."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused
from trimtab.core.model import Snapshot
from trimtab.engines.base import GenerateRequest, ScoreRequest
from trimtab.testing.engine_contract import all_logprobs, drain, run_all, tokens_of
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_models import write_tiny_gguf

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
import llama_cpp.llama_cpp as native

from trimtab.engines.llamacpp import LlamaCppEngine
from trimtab.engines.llamacpp_score import trees_of
from trimtab.engines.sampling import pick
from trimtab.engines.tally import Tally, top_pairs

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot_of(write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


def opened(snapshot: Snapshot, **settings: object) -> LlamaCppEngine:
    return LlamaCppEngine(snapshot, Settings.parse({"threads": 1, "context_tokens": 256, **settings}))


# Packing


@given(
    st.integers(1, 30),
    st.lists(st.integers(1, 20), min_size=1, max_size=30),
    st.integers(1, 60),
    st.integers(1, 8),
)
def test_trees_hold_every_continuation_once_and_fit(prefix: int, lengths: list[int], spare: int, max_sequences: int) -> None:
    request = ScoreRequest(prefix_ids=(1,) * prefix, continuations=tuple((1,) * length for length in lengths))
    max_cells = prefix + max(lengths) - 1 + spare
    trees = list(trees_of(Tally(request=request), max_cells, max_sequences))
    assert [branch for tree in trees for branch in tree.branches] == list(range(len(lengths)))
    for tree in trees:
        assert tree.cells <= max_cells
        assert len(tree.long) <= max_sequences
        assert tree.cells == prefix + sum(lengths[branch] - 1 for branch in tree.branches)
        assert set(tree.long) == {branch for branch in tree.branches if lengths[branch] > 1}


@pytest.mark.parametrize("settings", [{"batch_tokens": 16}, {"microbatch_tokens": 7}, {"batch_tokens": 1}])
def test_small_batches_split_long_requests(tiny: Snapshot, settings: dict[str, int]) -> None:
    ids = tuple(range(60, 200))
    requests = [
        ScoreRequest(prefix_ids=ids[:50], continuations=(ids[50:120], ids[3:4], ids[20:60]), top_k=1),
        ScoreRequest(prefix_ids=ids[:2], continuations=(ids[2:9], ids[9:20])),
    ]
    whole, split = opened(tiny), opened(tiny, **settings)
    for engine in (whole, split):
        engine.load("score")
    assert all_logprobs(split.score(requests)) == pytest.approx(all_logprobs(whole.score(requests)), abs=0.01)
    whole.close()
    split.close()


@pytest.mark.parametrize("settings", [{"threads": 2}, {"slots": 2}, {"threads": 3, "slots": 1, "context_tokens": 512}])
def test_threads_and_slots_leave_scores_bit_by_bit(tiny: Snapshot, settings: dict[str, int]) -> None:
    ids = tuple(range(60, 160))
    requests = [
        ScoreRequest(prefix_ids=ids[:40], continuations=(ids[40:90], ids[3:9])),
        ScoreRequest(prefix_ids=ids[:1], continuations=(ids,)),
    ]
    found = []
    for engine in (opened(tiny), opened(tiny, **settings)):
        engine.load("score")
        found.append(all_logprobs(engine.score(requests)))
        engine.close()
    assert found[0] == found[1]


def test_more_continuations_than_sequences(tiny: Snapshot) -> None:
    engine = opened(tiny)
    engine.load("score")
    continuations = tuple((60 + k, 70, 80) for k in range(190))
    (result,) = engine.score([ScoreRequest(prefix_ids=(61, 62, 63), continuations=continuations)])
    alone = engine.score([ScoreRequest(prefix_ids=(61, 62, 63), continuations=(continuations[189],))])
    assert result.logprobs[189] == pytest.approx(alone[0].logprobs[0], abs=0.01)
    engine.close()


def test_without_shared_prefixes_scores_are_the_same(tiny: Snapshot) -> None:
    """The path of recurrent models: one continuation a tree."""
    engine = opened(tiny)
    engine.load("score")
    request = ScoreRequest(prefix_ids=(61, 62, 63), continuations=((64, 65), (66,), (67, 68, 69)))
    shared = all_logprobs(engine.score([request]))
    assert engine._scorer is not None
    engine._scorer.shared = False
    engine._scorer.max_sequences = 1
    assert all_logprobs(engine.score([request])) == pytest.approx(shared, abs=0.01)
    engine.close()


def test_the_scoring_context_grows_with_the_requests(tiny: Snapshot) -> None:
    engine = opened(tiny, context_tokens=2048, microbatch_tokens=32)
    engine.load("score")
    before = engine._score_cells
    ids = tuple(60 + k % 100 for k in range(1500))
    (result,) = engine.score([ScoreRequest(prefix_ids=ids[:1400], continuations=(ids[1400:],))])
    assert len(result.logprobs[0]) == 100
    assert engine._score_cells > before
    engine.close()


# Numbers read off logits


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.integers(1, 50))
def test_top_pairs_agree_with_sorting(values: list[int], top_k: int) -> None:
    row = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda token: (-values[token], token))[:top_k]
    assert [token for token, _ in top_pairs(row, 0.0, top_k)] == expected


@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 2.0]))
def test_picked_logprob_is_at_temperature_one(seed: int, temperature: float) -> None:
    row = np.random.default_rng(seed).normal(0, 3, 50).astype(np.float32)
    request = GenerateRequest(request_id=0, prompt_ids=(0,), max_tokens=1, temperature=temperature)
    token, logprob = pick(row.copy(), np.empty_like(row), request, np.random.default_rng(seed))
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    assert logprob == pytest.approx(exact[token], abs=1e-5)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.6)])
def test_sampling_frequencies(temperature: float, top_p: float) -> None:
    row = np.array([2.0, 1.0, 0.5, 0.0, -1.0], np.float32)
    weights = np.exp(row / temperature) / np.exp(row / temperature).sum()
    kept = np.cumsum(weights) - weights < top_p
    expected = np.where(kept, weights, 0) / weights[kept].sum()
    request = GenerateRequest(request_id=0, prompt_ids=(0,), max_tokens=1, temperature=temperature, top_p=top_p)
    rng = np.random.default_rng(3)
    n = 4000
    counts = np.bincount([pick(row, np.empty_like(row), request, rng)[0] for _ in range(n)], minlength=5)
    assert counts[expected == 0].sum() == 0
    assert np.abs(counts / n - expected).max() < 4 * np.sqrt(0.25 / n)


# Serving


def test_long_prompts_are_computed_in_chunks_while_others_go_on(tiny: Snapshot) -> None:
    engine = opened(tiny, batch_tokens=16, slots=2)
    engine.load("serve")
    engine.submit(GenerateRequest(request_id=1, prompt_ids=(61, 62), max_tokens=12, ignore_end=True))
    engine.step()
    engine.submit(GenerateRequest(request_id=2, prompt_ids=tuple(range(60, 130)), max_tokens=2, ignore_end=True))
    owners = [[event.request_id for event in engine.step()] for _ in range(4)]
    assert owners == [[1]] * 4, "70 tokens at 15 a step beside one decoded token need five steps"
    events = drain(engine)
    assert len(tokens_of(events[2])) == 2
    engine.close()


def test_what_a_request_says_does_not_depend_on_its_company(tiny: Snapshot) -> None:
    """A slot that another request has just left holds nothing of it."""
    engine = opened(tiny, slots=2)
    engine.load("serve")
    asked = GenerateRequest(request_id=0, prompt_ids=(61, 62, 63), max_tokens=10, ignore_end=True)
    alone = run_all(engine, [asked])[0]
    others = [
        GenerateRequest(request_id=k, prompt_ids=tuple(range(70, 72 + 3 * k)), max_tokens=3 * k, temperature=1.0, seed=k, ignore_end=True)
        for k in range(1, 6)
    ]
    crowded = run_all(engine, [*others, asked])[0]
    found, expected = ([event.logprob for event in events[:1]] for events in (crowded, alone))
    assert found == pytest.approx(expected, abs=0.02)
    engine.close()


def test_a_shared_pool_admits_only_what_fits(tiny: Snapshot) -> None:
    engine = opened(tiny, context_tokens=None)
    engine.load("serve")
    pool = engine.info().context_tokens
    requests = [
        GenerateRequest(request_id=k, prompt_ids=tuple(60 + j % 100 for j in range(pool - 10)), max_tokens=8, ignore_end=True)
        for k in range(3)
    ]
    events = run_all(engine, requests)
    assert [len(tokens_of(events[k])) for k in range(3)] == [8, 8, 8]
    engine.close()


def test_a_waiting_request_can_be_cancelled(tiny: Snapshot) -> None:
    engine = opened(tiny, slots=1)
    engine.load("serve")
    for number in (1, 2):
        engine.submit(GenerateRequest(request_id=number, prompt_ids=(61,), max_tokens=4, ignore_end=True))
    engine.cancel(2)
    events = drain(engine)
    assert [event.done for event in events[2]] == ["cancelled"]
    assert len(tokens_of(events[1])) == 4
    engine.close()


def test_a_failing_step_ends_its_requests_and_the_engine_goes_on(tiny: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(tiny)
    engine.load("serve")
    request = GenerateRequest(request_id=1, prompt_ids=(61, 62), max_tokens=3, ignore_end=True)
    with monkeypatch.context() as patch:
        patch.setattr(native, "llama_decode", lambda *_: -3)
        (event,) = run_all(engine, [request])[1]
    assert event.done == "error"
    assert "code -3" in event.error
    assert len(tokens_of(run_all(engine, [request])[1])) == 3
    engine.close()


def test_purpose_cannot_change_under_running_requests(tiny: Snapshot) -> None:
    engine = opened(tiny)
    with pytest.raises(EngineRefused):
        engine.score([ScoreRequest(prefix_ids=(61,), continuations=((62,),))])
    with pytest.raises(EngineRefused):
        engine.submit(GenerateRequest(request_id=1, prompt_ids=(61,), max_tokens=2))
    engine.load("serve")
    engine.submit(GenerateRequest(request_id=1, prompt_ids=(61,), max_tokens=2))
    with pytest.raises(EngineRefused):
        engine.submit(GenerateRequest(request_id=1, prompt_ids=(61,), max_tokens=2))
    with pytest.raises(EngineRefused):
        engine.load("score")
    drain(engine)
    engine.close()


# Refusals


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"kv_type": "u8"}, "cache type"),
        ({"kv_type": "q8_0", "flash_attention": False}, "flash attention"),
        ({"load_mode": "teleport"}, "load mode"),
        ({"speculation": "guess"}, "no speculation"),
        ({"draft_tokens": 3}, "without speculation"),
        ({"speculation": "prompt-lookup", "draft_tokens": 65}, "between 1 and 64"),
        ({"speculation": "prompt-lookup", "ngram_tokens": 0}, "between 1 and 64"),
        ({"prefix_cache": True, "slots": 250}, "240"),
        ({"slots": 0}, "slots"),
        ({"threads": -1}, "threads"),
        ({"slots": 1000}, "256"),
    ],
)
def test_settings_are_refused_with_a_reason(tiny: Snapshot, settings: dict[str, object], word: str) -> None:
    with pytest.raises(EngineRefused, match=word):
        opened(tiny, **settings)


def test_device_layers_need_an_accelerator_backend(tiny: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "llama_supports_gpu_offload", lambda: False)
    assert "device_layers" in LlamaCppEngine.refuses(tiny, None, Settings(device_layers=4))
    assert "tensor_split" in LlamaCppEngine.refuses(tiny, None, Settings(tensor_split=(0.5, 0.5)))
    assert LlamaCppEngine.refuses(tiny, None, Settings(device_layers=0)) == ""
    monkeypatch.setattr(native, "llama_supports_gpu_offload", lambda: True)
    assert LlamaCppEngine.refuses(tiny, None, Settings(device_layers=4, tensor_split=(0.5, 0.5))) == ""


def test_other_formats_are_refused(tiny: Snapshot) -> None:
    assert "safetensors" in LlamaCppEngine.refuses(replace(tiny, format="safetensors"), None, Settings())


@pytest.mark.parametrize("damage", ["absent", "empty", "magic", "header", "tensors"])
def test_broken_files_are_refused_with_llama_cpps_reason(tiny: Snapshot, tmp_path: Path, damage: str) -> None:
    raw = tiny.path.read_bytes()
    path = tmp_path / "broken.gguf"
    path.write_bytes({"empty": b"", "magic": b"XXXX" + raw[4:], "header": raw[:300], "tensors": raw[: len(raw) // 2]}.get(damage, raw))
    snapshot = snapshot_of(path)
    if damage == "absent":
        path.unlink()
    with pytest.raises(EngineRefused, match=r"broken\.gguf") as caught:
        opened(snapshot).load("score")
    assert "no reason" not in str(caught.value)


def test_build_names_library_and_flags() -> None:
    build = LlamaCppEngine.build()
    assert build.engine == "llamacpp"
    assert "llama.cpp" in build.version
    assert "CPU" in build.details


def test_closing_frees_and_reopening_works(tiny: Snapshot) -> None:
    engine = opened(tiny)
    engine.load("serve")
    vocabulary = engine.info().vocab_size
    engine.close()
    assert engine.n_running == 0
    engine.load("score")
    assert engine.info().vocab_size == vocabulary
    engine.close()


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_end_tokens_end_an_answer(tmp_path: Path, architecture: str) -> None:
    engine = opened(snapshot_of(write_tiny_gguf(tmp_path / "m.gguf", architecture=architecture)))
    engine.load("serve")
    ends = engine.info().end_ids
    assert ends
    assert engine._server is not None
    free = tokens_of(run_all(engine, [GenerateRequest(request_id=1, prompt_ids=(61, 62), max_tokens=6, ignore_end=True)])[1])
    engine._server.end_ids = frozenset({free[2]})
    events = run_all(engine, [GenerateRequest(request_id=2, prompt_ids=(61, 62), max_tokens=6)])[2]
    assert events[-1].done == "stop"
    assert tokens_of(events) == free[: free.index(free[2]) + 1]
    engine.close()
