"""ONNX Runtime GenAI: the shipped contract on tiny models that its own builder made, in this process and in a worker, and what lies beyond."""

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
from trimtab.testing.engine_contract import SAMPLES, EngineContract, all_logprobs, run_all, tokens_of
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


@pytest.mark.slow
class TestInWorker(OrtGenAiContract):
    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return WorkerEngine(cls.opened, settings, engine="ortgenai")

    def test_speed_settings_change_no_score(self, scoring: Engine) -> None:
        """Of them the worker itself carries out the affinity. Each process that opens a model takes seconds to start."""
        requests = [ScoreRequest(prefix_ids=self.ids(scoring, 0, 9), continuations=(self.ids(scoring, 9, 40),))]
        other = self.open_with(cpu_affinity=SAMPLES["cpu_affinity"])
        try:
            other.load("score")
            assert all_logprobs(other.score(requests)) == pytest.approx(all_logprobs(scoring.score(requests)), abs=self.exact_tolerance)
        finally:
            other.close()
