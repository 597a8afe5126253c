"""The shipped contract on llama.cpp: tiny random models in this process and in a worker; the demo model (slow)."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.model import Snapshot
from trimtab.engines.base import Engine
from trimtab.engines.client import WorkerEngine
from trimtab.testing.engine_contract import EngineContract
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_models import write_tiny_gguf

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
from trimtab.engines.llamacpp import LlamaCppEngine

pytestmark = pytest.mark.model


class LlamaCppContract(EngineContract):
    numeric_settings = LlamaCppEngine.numeric_settings
    speed_settings = LlamaCppEngine.speed_settings
    abilities = LlamaCppEngine.abilities
    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 256, "threads": 1}
    token_tolerance = 0.01  # keys and values are rounded to 16 bits
    architecture: ClassVar[str] = "llama"
    opened: ClassVar[Snapshot]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _snapshot(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.opened = snapshot_of(write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", architecture=cls.architecture))

    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return LlamaCppEngine(cls.opened, settings)


class TestLlama(LlamaCppContract):
    pass


class TestGemma(LlamaCppContract):
    architecture = "gemma3"


class TestWithDraft(LlamaCppContract):
    """The whole contract with a draft model (here the weights themselves, so that most proposals come true) and kept prompts."""

    open_settings: ClassVar[dict[str, Any]] = {
        "context_tokens": 256,
        "threads": 1,
        "prefix_cache": True,
        "draft": "itself",
        "draft_tokens": 3,
    }

    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        if settings.speculation == "prompt-lookup":
            pytest.skip("one kind of speculation at a time")
        return LlamaCppEngine(replace(cls.opened, draft=cls.opened), settings)


@pytest.mark.slow
class TestQwen(LlamaCppContract):
    architecture = "qwen3"


@pytest.mark.slow
class TestInWorker(LlamaCppContract):
    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return WorkerEngine(cls.opened, settings, engine="llamacpp")


@pytest.mark.slow
class TestDemoModel(LlamaCppContract):
    """Activations are rounded to 8 bits beside quantised weights: another batch shape flips roundings, up to some tenths of a nat."""

    token_tolerance = 0.8
    mean_tolerance = 0.1

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _snapshot(cls, demo_model: Path) -> None:
        cls.opened = snapshot_of(demo_model)
