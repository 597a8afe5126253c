"""LoRA adapters in llama.cpp: what they compute, that they touch nobody else's answer, and whose turn it is."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused
from trimtab.core.files import sha256_file
from trimtab.core.model import Adapter, Snapshot
from trimtab.engines import turns
from trimtab.engines.base import GenerateRequest
from trimtab.engines.protocol import decode, encode
from trimtab.testing.engine_contract import drain, run_all, tokens_of
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_lora

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

from trimtab.engines.llamacpp import LlamaCppEngine

pytestmark = pytest.mark.model
PROMPT = tuple(range(60, 100))
ROUNDING_NATS = 0.01
"""Keys and values are rounded to 16 bits."""


def adapter(path: Path) -> Adapter:
    return Adapter(name=path.stem, path=path, sha256=sha256_file(path))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A tiny model with the adapters `fr` and `de`."""
    folder = tmp_path_factory.mktemp("adapted")
    files = [write_tiny_lora(folder / f"{name}.gguf", seed=seed) for seed, name in enumerate(("fr", "de"), 1)]
    return snapshot_of(write_tiny_gguf(folder / "tiny.gguf"), *map(adapter, files))


def serving(snapshot: Snapshot, **settings: object) -> LlamaCppEngine:
    engine = LlamaCppEngine(snapshot, Settings.parse({"threads": 1, "slots": 2, "context_tokens": 256, **settings}))
    engine.load("serve")
    return engine


@pytest.fixture(scope="module")
def engine(adapted: Snapshot) -> Iterator[LlamaCppEngine]:
    engine = serving(adapted)
    yield engine
    engine.close()


def asked(number: int, name: str = "", **more: object) -> GenerateRequest:
    return GenerateRequest(**{"request_id": number, "prompt_ids": PROMPT, "max_tokens": 8, "ignore_end": True, "adapter": name, **more})


def after(engine: LlamaCppEngine, name: str = "", prompt: Sequence[int] = PROMPT) -> npt.NDArray[np.float64]:
    """Log-probabilities of all tokens after a prompt, [vocabulary]."""
    every = engine.info().vocab_size
    (event,) = run_all(engine, [asked(1, name, prompt_ids=tuple(prompt), max_tokens=1, top_logprobs=every)])[1]
    found = dict(event.top)
    return np.array([found[token] for token in range(every)])


def merged(snapshot: Snapshot, name: str, path: Path) -> Path:
    """A copy of the model with an adapter's change added to its weights."""
    import gguf

    shutil.copy(snapshot.path, path)
    change = gguf.GGUFReader(next(one.path for one in snapshot.adapters if one.name == name))
    pairs = {tensor.name: tensor.data for tensor in change.tensors}
    alpha = float(change.fields["adapter.lora.alpha"].contents())
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        if f"{tensor.name}.lora_a" in pairs:
            a, b = pairs[f"{tensor.name}.lora_a"], pairs[f"{tensor.name}.lora_b"]
            tensor.data[:] += alpha / a.shape[0] * (b.astype(np.float64) @ a).astype(np.float32)
    return path


def apart(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> float:
    return float(np.abs(one - two).max())


def test_an_adapter_computes_what_merged_weights_do_and_leaves_nothing_behind(
    adapted: Snapshot, engine: LlamaCppEngine, tmp_path: Path
) -> None:
    base = after(engine)
    found = {name: after(engine, name) for name in ("fr", "de")}
    for name in found:
        whole = serving(snapshot_of(merged(adapted, name, tmp_path / f"{name}.gguf")))
        assert apart(found[name], after(whole)) < ROUNDING_NATS
        whole.close()
    assert min(apart(base, found["fr"]), apart(base, found["de"]), apart(found["fr"], found["de"])) > 50 * ROUNDING_NATS
    assert np.array_equal(after(engine), base), "bit by bit as before"
    assert np.array_equal(after(engine, "fr"), found["fr"])
    plain = serving(snapshot_of(adapted.path))
    assert apart(after(plain), base) == 0.0, "as without any adapter loaded"
    plain.close()


def test_requests_of_several_adapters_at_once_are_answered_as_if_alone(engine: LlamaCppEngine) -> None:
    names = ["", "fr", "de", "fr", "", "de", "fr"]
    requests = [asked(number, name, prompt_ids=PROMPT[number:]) for number, name in enumerate(names)]
    alone = {one.request_id: run_all(engine, [one])[one.request_id] for one in requests}
    for one in requests:
        engine.submit(one)
    together: dict[int, list] = {}
    while engine.n_running:
        events = engine.step()
        assert len({names[event.request_id] for event in events}) <= 1, "one adapter a batch"
        for event in events:
            together.setdefault(event.request_id, []).append(event)
    for number in alone:
        assert tokens_of(together[number]) == tokens_of(alone[number])
        found, expected = ([event.logprob for event in events] for events in (together[number], alone[number]))
        assert found == pytest.approx(expected, abs=ROUNDING_NATS)


@pytest.mark.parametrize("more", [{}, {"speculation": "prompt-lookup", "draft_tokens": 3}])
def test_kept_prompts_never_cross_adapters(adapted: Snapshot, engine: LlamaCppEngine, more: dict[str, object]) -> None:
    keeping = serving(adapted, prefix_cache=True, **more)
    for name in ("", "fr", "", "de", "fr", "fr", ""):
        assert apart(after(keeping, name), after(engine, name)) < ROUNDING_NATS
    assert keeping._server is not None
    assert sorted(run.adapter for run in keeping._server.kept) == ["", "de", "fr"], "one of each, though their tokens are the same"
    n_computed = []
    compose = keeping._server._fill
    keeping._server._fill = lambda: (compose(), n_computed.append(keeping._server.batch.n_tokens))[0]
    after(keeping, "fr")
    assert n_computed == [1], "its own prompt is not computed again"
    keeping.close()


@pytest.mark.parametrize(("join_s", "order"), [(0.0, [1, 2, 3]), (1e9, [1, 3, 2])])
def test_while_another_adapter_waits_others_join_for_a_while_only(
    engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch, join_s: float, order: list[int]
) -> None:
    monkeypatch.setattr(turns, "JOIN_S", join_s)
    engine.submit(asked(1, "fr"))
    engine.step()
    engine.submit(asked(2, "de"))
    engine.submit(asked(3, "fr"))
    ended = [event.request_id for _ in range(40) for event in engine.step() if event.done]
    assert ended == order
    assert engine.n_running == 0


def test_waiting_for_a_turn_can_be_given_up(engine: LlamaCppEngine) -> None:
    engine.submit(asked(1, "fr"))
    engine.step()
    engine.submit(asked(2, "de"))
    engine.cancel(2)
    engine.submit(asked(3, ""))
    events = drain(engine)
    assert [event.done for event in events[2]] == ["cancelled"]
    assert len(tokens_of(events[1])) == 7
    assert len(tokens_of(events[3])) == 8


def test_names_that_are_unknown_are_refused(adapted: Snapshot, engine: LlamaCppEngine) -> None:
    with pytest.raises(EngineRefused, match="There is no adapter 'es' here; there are fr, de"):
        engine.submit(asked(1, "es"))
    assert Snapshot.parse(decode(encode({"snapshot": adapted}))["snapshot"]) == adapted
    assert replace(adapted, adapters=()).digest != adapted.digest


def test_files_that_do_not_fit_are_refused_with_a_reason(adapted: Snapshot, tmp_path: Path) -> None:
    other = adapter(write_tiny_lora(tmp_path / "other.gguf", architecture="qwen3"))
    wide = adapter(write_tiny_lora(tmp_path / "wide.gguf", hidden_size=128))
    model = adapter(write_tiny_lora(tmp_path / "model.gguf", general_type="model"))
    (tmp_path / "text.gguf").write_text("no adapter")
    text = adapter(tmp_path / "text.gguf")
    moved = replace(adapter(write_tiny_lora(tmp_path / "moved.gguf")), sha256="0" * 64)
    for one, why in (
        (other, "arch mismatch"),
        (wide, "incorrect shape"),
        (model, "expect general.type to be 'adapter'"),
        (text, "failed to load lora adapter"),
        (moved, "was changed since"),
        (replace(text, path=tmp_path / "gone.gguf"), "cannot be read"),
    ):
        with pytest.raises(EngineRefused, match=why) as caught:
            serving(snapshot_of(adapted.path, one))
        assert one.name in str(caught.value)
