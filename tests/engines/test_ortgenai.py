"""ONNX Runtime GenAI: the shipped contract on tiny models of its own builder, in this process and in a worker, and what lies beyond."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime_genai")
pytest.importorskip("onnx_ir")

import torch
import transformers

from trimtab.compress.base import make
from trimtab.core.deployment import Recipe, Settings
from trimtab.core.errors import EngineRefused, InfeasibleError, InputError
from trimtab.core.model import Snapshot
from trimtab.engines.base import Engine, GenerateRequest, ScoreRequest
from trimtab.engines.client import WorkerEngine
from trimtab.engines.ortgenai import CONFIG, OrtGenAiEngine
from trimtab.engines.transformers import TransformersEngine
from trimtab.flows.parts.opening import recipe_named
from trimtab.sources.open import open_source
from trimtab.testing.engine_contract import SAMPLES, EngineContract, all_logprobs, run_all
from trimtab.testing.tiny_transformers import write_tiny_transformers

SETTINGS = Settings(context_tokens=256, threads=1)
TEXT = "the small boat turned slowly into the wind and the old sailor watched the water"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = write_tiny_transformers(tmp_path_factory.mktemp("ortgenai") / "model")
    return open_source(str(folder), cache_dir=folder.parent / "cache")


@pytest.fixture(scope="module")
def made(source: Snapshot) -> Callable[[str], Snapshot]:
    """The product of a recipe, by its name."""
    return lambda name: make(recipe_named(name, "ortgenai"), source, source.root.parent / "products")


class OrtGenAiContract(EngineContract):
    numeric_settings = OrtGenAiEngine.numeric_settings
    speed_settings = OrtGenAiEngine.speed_settings
    abilities = OrtGenAiEngine.abilities
    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 256, "threads": 1}
    recipe: ClassVar[str] = "fp32"
    opened: ClassVar[Snapshot]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _snapshot(cls, made: Callable[[str], Snapshot]) -> None:
        cls.opened = made(cls.recipe)

    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return OrtGenAiEngine(cls.opened, settings)


class TestFloat32(OrtGenAiContract):
    pass


class TestSmallParts(OrtGenAiContract):
    """Prompts and prefixes in parts of few tokens, and two slots for all requests."""

    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 256, "threads": 1, "batch_tokens": 7, "slots": 2}


class TestInt4(OrtGenAiContract):
    """Activations are rounded to 8 bits too, in groups of a row: no batch shape may change a scale, roundings at a tie may."""

    recipe = "int4"
    token_tolerance = 0.15
    mean_tolerance = 0.02


class TestUntied(OrtGenAiContract):
    """Another family, with biases and an output matrix of its own, whose embedding table is not packed."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _snapshot(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = write_tiny_transformers(tmp_path_factory.mktemp("untied") / "model", model_type="qwen2", tie_word_embeddings=False)
        cls.opened = make(recipe_named("int8", "ortgenai"), open_source(str(folder), cache_dir=folder.parent / "cache"), folder.parent)

    token_tolerance = 0.15
    mean_tolerance = 0.02


@pytest.mark.slow
class TestInWorker(OrtGenAiContract):
    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return WorkerEngine(cls.opened, settings, engine="ortgenai")

    def test_settings_are_numeric_or_speed_and_others_are_refused(self) -> None:
        """All of them in this process; here that a refusal comes through."""
        with pytest.raises(EngineRefused, match="kv_type has no meaning here"):
            self.open_with(kv_type="u8").close()

    def test_speed_settings_change_no_score(self, scoring: Engine) -> None:
        """Of them the worker itself carries out the affinity. Each process that opens a model takes seconds to start."""
        requests = [ScoreRequest(prefix_ids=self.ids(scoring, 0, 9), continuations=(self.ids(scoring, 9, 40),))]
        other = self.open_with(cpu_affinity=SAMPLES["cpu_affinity"])
        try:
            other.load("score")
            assert all_logprobs(other.score(requests)) == pytest.approx(all_logprobs(scoring.score(requests)), abs=self.exact_tolerance)
        finally:
            other.close()


@pytest.fixture(scope="module")
def engine(made: Callable[[str], Snapshot]) -> Iterator[OrtGenAiEngine]:
    opened = OrtGenAiEngine(made("fp32"), replace(SETTINGS, slots=3, batch_tokens=16))
    yield opened
    opened.close()


def test_log_probabilities_are_those_of_the_model_itself(source: Snapshot, engine: OrtGenAiEngine) -> None:
    ids = engine.tokenize(TEXT, parse_special=False)
    net = transformers.AutoModelForCausalLM.from_pretrained(str(source.root), dtype=torch.float32)
    with torch.inference_mode():
        expected = torch.log_softmax(net(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    engine.load("score")
    (result,) = engine.score([ScoreRequest(prefix_ids=tuple(ids[:3]), continuations=(tuple(ids[3:]), tuple(ids[3:6])))])
    own = [float(expected[place - 1, ids[place]]) for place in range(3, len(ids))]
    assert list(result.logprobs[0]) == pytest.approx(own, abs=1e-4)
    assert list(result.logprobs[1]) == pytest.approx(own[:3], abs=1e-4)


def test_texts_are_those_of_transformers(source: Snapshot, engine: OrtGenAiEngine) -> None:
    other = TransformersEngine(source, SETTINGS)
    texts = [TEXT, "", "  \u6f22\u5b57\t\U0001f642 don't\n", "<|im_start|>user\nHello<|im_end|>"]
    for parse_special in (False, True):
        assert engine.tokenize_all(texts, parse_special=parse_special) == other.tokenize_all(texts, parse_special=parse_special)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is < the > boat?"}]
    assert engine.render(messages) == other.render(messages)
    mine, theirs = engine.info(), other.info()
    for name in ("vocab_size", "end_ids", "bos_id", "chat_template"):
        assert getattr(mine, name) == getattr(theirs, name), name


def test_an_answer_is_the_same_to_the_last_bit_whatever_runs_beside_it(engine: OrtGenAiEngine) -> None:
    engine.load("serve")
    requests = [
        GenerateRequest(
            request_id=number,
            prompt_ids=tuple(engine.tokenize(TEXT, parse_special=False))[: 5 + 9 * number],
            max_tokens=4 + 3 * number,
            temperature=float(number % 2),
            seed=number,
            ignore_end=True,
        )
        for number in range(5)
    ]
    together = run_all(engine, requests)
    for request in requests:
        alone = run_all(engine, [request])[request.request_id]
        mine = together[request.request_id]
        assert [(event.token_id, event.logprob) for event in mine] == [(event.token_id, event.logprob) for event in alone]


def test_a_failing_call_ends_its_own_request_and_no_other(engine: OrtGenAiEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.load("serve")
    ids = tuple(engine.tokenize(TEXT, parse_special=False))[:6]
    requests = [GenerateRequest(request_id=number, prompt_ids=ids, max_tokens=4 + number, ignore_end=True) for number in range(2)]
    for request in requests:
        engine.submit(request)
    while engine._server and not all(run.last >= 0 for run in (*engine._server.queue, *engine._server.running)):
        engine.step()
    assert engine._server is not None
    sick = engine._server.running[0]
    assert sick.tokens is not None
    with monkeypatch.context() as patch:
        patch.setattr(sick.tokens, "_generator", None)
        patch.setattr(sick.tokens, "last_row", lambda ids: (_ for _ in ()).throw(EngineRefused("No room is left.")))
        events = engine.step()
    assert [(event.request_id, event.done, event.error) for event in events if event.done] == [(0, "error", "No room is left.")]
    rest = [event for _ in range(10) for event in engine.step()]
    assert {event.request_id for event in rest} == {1}
    assert engine.n_running == 0


def test_formats_lose_more_the_fewer_bits_they_have(made: Callable[[str], Snapshot]) -> None:
    requests = [ScoreRequest(prefix_ids=(9, 17, 30), continuations=(tuple(range(40, 90)),))]
    found = {}
    for name in ("fp32", "int8", "int4"):
        opened = OrtGenAiEngine(made(name), SETTINGS)
        opened.load("score")
        found[name] = all_logprobs(opened.score(requests))
        opened.close()
    off = {name: sum(abs(a - b) for a, b in zip(values, found["fp32"], strict=True)) / len(values) for name, values in found.items()}
    assert off["fp32"] == 0 < off["int8"] < off["int4"]
    assert made("fp32").size_bytes > made("int8").size_bytes > made("int4").size_bytes


def test_the_same_recipe_gives_the_same_bytes(source: Snapshot, made: Callable[[str], Snapshot], tmp_path: Path) -> None:
    again = make(recipe_named("int4", "ortgenai"), source, tmp_path)
    assert again.digest == made("int4").digest
    assert again.format == "onnx"
    assert again.files[0].name == "model.onnx.data"


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"kv_type": "f16"}, "kv_type"), ({"prefix_cache": True}, "prefix_cache"), ({"slots": 0}, "slots"), ({"threads": 0}, "threads")],
)
def test_settings_without_meaning_are_refused_with_the_reason(source: Snapshot, settings: dict[str, object], word: str) -> None:
    assert word in OrtGenAiEngine.refuses(replace(source, format="onnx"), None, Settings.parse(settings))


def test_other_directories_are_refused_with_what_to_do(source: Snapshot, made: Callable[[str], Snapshot], tmp_path: Path) -> None:
    assert "name a recipe" in OrtGenAiEngine.refuses(source, None, SETTINGS)
    empty = replace(made("fp32"), root=tmp_path)
    with pytest.raises(EngineRefused, match=f"{CONFIG} cannot be read"):
        OrtGenAiEngine(empty, SETTINGS).load("score")


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"precision": "fp8"}, "fp8"),
        ({}, "precision"),
        ({"precision": "int4", "block_size": 48}, "block_size"),
        ({"precision": "fp32", "block_size": 32}, "block_size"),
        ({"precision": "int4", "algorithm": "gptq"}, "algorithm"),
        ({"precision": "int8", "mixed": "last_matmul:int8"}, "mixed"),
        ({"precision": "int4", "bits": 3}, "bits"),
    ],
)
def test_wrong_parameters_are_named(source: Snapshot, tmp_path: Path, parameters: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        make(Recipe(name="own", family="ortgenai", engine="ortgenai", parameters=parameters), source, tmp_path)


def test_what_the_builder_cannot_make_is_refused(source: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="openvino"):
        make(recipe_named("int4", "ortgenai"), replace(source, format="openvino"), tmp_path)
    folder = write_tiny_transformers(tmp_path / "bloom", model_type="bloom")
    with pytest.raises(InfeasibleError, match="builder cannot make"):
        make(recipe_named("int4", "ortgenai"), open_source(str(folder), cache_dir=tmp_path / "cache"), tmp_path / "products")
    assert list((tmp_path / "products").glob("ortgenai*")) == [], "nothing is left of it"
