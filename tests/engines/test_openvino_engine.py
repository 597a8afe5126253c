"""The OpenVINO engine on tiny models that GenAI's own reader made: the contract, the paged scorer's bookkeeping, refusals."""

import functools
import math
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("openvino_genai")

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused, InfeasibleError
from trimtab.core.model import ModelHeader, Snapshot
from trimtab.engines.base import Engine, GenerateRequest, ScoreRequest
from trimtab.engines.client import WorkerEngine
from trimtab.engines.openvino import OpenVinoEngine, import_openvino, read_gguf
from trimtab.testing.engine_contract import EngineContract, drain, run_all, tokens_of
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = pytest.mark.model

_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def tiny_gguf(architecture: str = "llama", weight_type: str = "F16") -> Snapshot:
    folder = tempfile.TemporaryDirectory()
    _FOLDERS.append(folder)
    return snapshot_of(write_tiny_gguf(Path(folder.name) / "tiny.gguf", architecture=architecture, weight_type=weight_type))


@functools.cache
def tiny_directory() -> Snapshot:
    """What GenAI's reader makes of the tiny F16 model."""
    folder = tempfile.TemporaryDirectory()
    _FOLDERS.append(folder)
    import_openvino()
    read_gguf(tiny_gguf().path, Path(folder.name))
    return snapshot_of(Path(folder.name))


class TestOpenVinoContract(EngineContract):
    """In 32-bit floats (a cache in f32 asks for it), where batch shapes change next to nothing."""

    numeric_settings = OpenVinoEngine.numeric_settings
    speed_settings = OpenVinoEngine.speed_settings
    abilities = OpenVinoEngine.abilities
    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 256, "slots": 4, "kv_type": "f32"}

    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return OpenVinoEngine(tiny_directory(), settings)


class TestOpenVinoWithLookup(TestOpenVinoContract):
    """The whole contract while tokens are proposed and earlier prompts are kept."""

    open_settings: ClassVar[dict[str, Any]] = {
        **TestOpenVinoContract.open_settings,
        "speculation": "prompt-lookup",
        "draft_tokens": 3,
        "ngram_tokens": 1,
        "prefix_cache": True,
    }


@pytest.mark.slow
class TestOpenVinoInWorker(TestOpenVinoContract):
    """A longer context, so that a request of the tiny model still runs when its cancellation comes."""

    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 2048, "slots": 4, "kv_type": "f32"}

    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return WorkerEngine(tiny_directory(), settings, engine="openvino")


def loaded(purpose: str, **settings: object) -> OpenVinoEngine:
    engine = OpenVinoEngine(tiny_directory(), Settings(context_tokens=512, **settings))  # type: ignore[arg-type]
    engine.load(purpose)  # type: ignore[arg-type]
    return engine


def ids_of(start: int, count: int) -> tuple[int, ...]:
    return tuple(4 + (7 * (start + place)) % 300 for place in range(count))


@pytest.mark.parametrize("batch_tokens", [1, 7, 32, 33, 64])
def test_scores_do_not_depend_on_how_calls_are_cut(batch_tokens: int) -> None:
    """Prefixes on and off the 32-token block border, many continuations, jobs cut by tokens and by rows."""
    requests = [
        ScoreRequest(prefix_ids=ids_of(length, length), continuations=(ids_of(1, 40), ids_of(9, 1), ids_of(20, 3), ids_of(5, 33)))
        for length in (1, 31, 32, 33, 64, 100)
    ]
    whole = loaded("score", kv_type="f32", batch_tokens=512)
    cut = loaded("score", kv_type="f32", batch_tokens=batch_tokens)
    for one, two in zip(whole.score(requests), cut.score(requests), strict=True):
        for row, other in zip(one.logprobs, two.logprobs, strict=True):
            assert other == pytest.approx(row, abs=2e-4)
    whole.close()
    cut.close()


def test_blocks_are_all_given_back() -> None:
    engine = loaded("score", kv_type="f32", batch_tokens=32)
    scorer = engine._scorer
    assert scorer is not None
    for _ in range(3):
        engine.score([ScoreRequest(prefix_ids=ids_of(n, 20 + n), continuations=(ids_of(n, 2), ids_of(n, 50))) for n in range(12)])
        assert sorted(scorer._free) == list(range(scorer._n_blocks))
    engine.score([ScoreRequest(prefix_ids=ids_of(0, 10), continuations=tuple(ids_of(n, 60) for n in range(40)))])
    assert sorted(scorer._free) == list(range(scorer._n_blocks))
    engine.close()


@pytest.mark.parametrize("kv_type", ["bf16", "u8", "u4"])
def test_a_quantised_cache_is_scored_as_such(kv_type: str) -> None:
    """The cache type is in force in the scoring path: the coarser, the further from f32, and never equal to it."""
    request = ScoreRequest(prefix_ids=ids_of(0, 64), continuations=(ids_of(3, 30), ids_of(8, 30)))
    exact = loaded("score", kv_type="f32")
    other = loaded("score", kv_type=kv_type)
    assert other.info().settings["kv_type"] in (kv_type, other.info().settings["compute_type"])
    assert exact.info().settings["compute_type"] == "f32"
    differences = [
        two - one
        for row, found in zip(exact.score([request])[0].logprobs, other.score([request])[0].logprobs, strict=True)
        for one, two in zip(row, found, strict=True)
    ]
    assert max(map(abs, differences)) > 1e-6
    assert math.fsum(map(abs, differences)) / len(differences) < 0.5
    exact.close()
    other.close()


def test_info_names_the_numerics_in_force() -> None:
    engine = OpenVinoEngine(tiny_directory(), Settings(context_tokens=64, threads=1, slots=3, batch_tokens=16))
    settings = engine.info().settings
    assert settings["threads"] == 1
    assert settings["slots"] == 3
    assert settings["batch_tokens"] == 16
    assert settings["compute_type"] in ("f32", "bf16", "f16")
    assert settings["kv_type"] == settings["compute_type"]  # the reader asks for an unquantised cache for 16-bit weights
    assert isinstance(settings["dynamic_quantization_group"], int)
    engine.close()


@pytest.mark.parametrize(("temperature", "slots"), [(0.0, 4), (1.0, 4), (1.0, None)])
def test_lookup_gives_the_same_answers_in_fewer_steps(temperature: float, slots: int | None) -> None:
    """Far more requests than slots: GenAI by itself would fail with all of them."""
    asked = [
        GenerateRequest(request_id=n, prompt_ids=ids_of(n, 6) * 4, max_tokens=20, temperature=temperature, seed=n, ignore_end=True)
        for n in range(40)
    ]
    answers, steps = [], []
    for settings in ({}, {"speculation": "prompt-lookup", "draft_tokens": 4, "ngram_tokens": 1}):
        engine = loaded("serve", kv_type="f32", batch_tokens=64, slots=slots, **settings)
        events = run_all(engine, asked)
        assert all(each[-1].done == "length" for each in events.values())
        answers.append([tokens_of(events[n]) for n in range(40)])
        alone = GenerateRequest(request_id=1, prompt_ids=ids_of(3, 6) * 4, max_tokens=40, ignore_end=True)
        engine.submit(alone)
        steps.append(0)
        while engine.n_running:
            engine.step()
            steps[-1] += 1
        engine.close()
    assert answers[0] == answers[1]
    assert steps[1] < 0.8 * steps[0], "greedy answers of a random model repeat themselves, so proposals come true"


def test_lookup_needs_room_in_a_step() -> None:
    with pytest.raises(EngineRefused, match="no room"):
        loaded("serve", slots=8, batch_tokens=16, speculation="prompt-lookup", draft_tokens=4)
    waiting = loaded("serve", slots=1, speculation="prompt-lookup", draft_tokens=4)
    for number in range(3):
        waiting.submit(GenerateRequest(request_id=number, prompt_ids=ids_of(0, 5), max_tokens=4, ignore_end=True))
    with pytest.raises(EngineRefused, match="running already"):
        waiting.submit(GenerateRequest(request_id=2, prompt_ids=ids_of(0, 5), max_tokens=4))
    waiting.cancel(2)
    events = drain(waiting)
    assert [events[number][-1].done for number in range(3)] == ["length", "length", "cancelled"]
    waiting.close()


def test_temperature_does_not_change_what_logprob_means() -> None:
    """Served log-probabilities are those at temperature 1 under the full distribution, whatever was sampled at."""
    engine = loaded("serve", kv_type="f32")
    prompt = ids_of(0, 12)
    request = GenerateRequest(request_id=1, prompt_ids=prompt, max_tokens=20, temperature=0.4, top_p=0.7, seed=3, ignore_end=True)
    events = run_all(engine, [request])[1]
    engine.load("score")
    (result,) = engine.score([ScoreRequest(prefix_ids=prompt, continuations=(tuple(tokens_of(events)),))])
    assert [event.logprob for event in events] == pytest.approx(list(result.logprobs[0]), abs=1e-3)
    engine.close()


def test_gguf_is_opened_through_the_reader_and_nothing_is_left_beside_it() -> None:
    source = tiny_gguf("qwen2", "Q8_0")
    engine = OpenVinoEngine(source, Settings())
    engine.load("score")
    assert engine.info().context_tokens == 512
    folder = engine._folder
    assert folder != source.root
    (result,) = engine.score([ScoreRequest(prefix_ids=ids_of(0, 4), continuations=(ids_of(4, 3),))])
    assert all(math.isfinite(value) for value in result.logprobs[0])
    engine.close()
    assert not folder.exists()
    assert [path.name for path in source.root.iterdir()] == ["tiny.gguf"]


def test_markers_and_long_texts() -> None:
    engine = OpenVinoEngine(tiny_directory(), Settings(context_tokens=64))
    marked = engine.tokenize("<|im_start|>the sea<|im_end|>", parse_special=True)
    plain = engine.tokenize("<|im_start|>the sea<|im_end|>", parse_special=False)
    assert len(marked) < len(plain)
    assert engine.detokenize(marked) == "the sea"
    assert engine.detokenize(plain) == "<|im_start|>the sea<|im_end|>"
    long = "the sea was calm " * 4000
    assert engine.detokenize(engine.tokenize(long, parse_special=False)) == long
    assert engine.tokenize("", parse_special=True) == []
    rendered = engine.render([{"role": "user", "content": "wave"}])
    assert rendered == "<|im_start|>user\nwave<|im_end|>\n<|im_start|>assistant\n"
    engine.close()


def test_refusals_have_a_reason(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "openvino_model.xml").write_text("<net/>")
    for snapshot, word in (
        (tiny_gguf("gemma3"), "gemma3"),
        (tiny_gguf("llama", "F32"), "Unsupported quantization type"),
        (snapshot_of(empty), "openvino_tokenizer.xml"),
    ):
        engine = OpenVinoEngine(snapshot, Settings(context_tokens=64))
        with pytest.raises(EngineRefused, match=word):
            engine.load("score")
        engine.close()
    header = ModelHeader(format="gguf", architecture="gemma3", metadata={}, tensors=())
    assert "gemma3" in OpenVinoEngine.refuses(tiny_gguf("gemma3"), header, Settings())
    two = Snapshot(source="split", format="gguf", root=tmp_path, files=tiny_gguf().files * 2)
    assert "split" in OpenVinoEngine.refuses(two, None, Settings())
    assert OpenVinoEngine.refuses(tiny_directory(), None, Settings(kv_type="q8_0"))
    assert OpenVinoEngine.refuses(tiny_directory(), None, Settings(threads=0))
    assert not OpenVinoEngine.refuses(tiny_directory(), None, Settings(device_layers=0))
    assert "log-probabilities" in OpenVinoEngine.refuses(tiny_directory(), None, Settings(draft="small"))
    assert "no speculation 'draft-model'" in OpenVinoEngine.refuses(tiny_directory(), None, Settings(speculation="draft-model"))
    assert "compile_cache has no meaning" in OpenVinoEngine.refuses(tiny_directory(), None, Settings(compile_cache=True))


def test_a_cut_off_file_cannot_hurt_the_caller(tmp_path: Path) -> None:
    """GenAI's reader does not check a file before it reads beyond its end: it refuses, or it takes its own process down."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf().path.read_bytes()[:3000])
    engine = WorkerEngine(snapshot_of(broken), Settings(context_tokens=64), engine="openvino")
    with pytest.raises(InfeasibleError, match=r"cannot read|crashed"):
        engine.load("score")
    engine.close()


def test_no_telemetry_package_is_loaded() -> None:
    import subprocess
    import sys

    code = "import sys; from trimtab.engines.openvino import OpenVinoEngine as E; E.build(); print(sys.modules.get('openvino_telemetry'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
