"""The shipped contract on transformers: tiny random models in this process, in number formats, and in a worker (slow)."""

from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from trimtab.core.deployment import Settings
from trimtab.core.model import Snapshot
from trimtab.core.number_format import FORMAT_FILE, NumberFormat
from trimtab.engines.base import Engine, ScoreRequest
from trimtab.engines.client import WorkerEngine
from trimtab.engines.transformers import TransformersEngine
from trimtab.testing.engine_contract import SAMPLES, EngineContract, all_logprobs
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_transformers import write_tiny_transformers


class TransformersContract(EngineContract):
    numeric_settings = TransformersEngine.numeric_settings
    speed_settings = TransformersEngine.speed_settings
    abilities = TransformersEngine.abilities
    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 256, "threads": 1}
    model_type: ClassVar[str] = "llama"
    config: ClassVar[dict[str, Any]] = {}
    number_format: ClassVar[NumberFormat] = NumberFormat()
    opened: ClassVar[Snapshot]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _snapshot(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = write_tiny_transformers(tmp_path_factory.mktemp("tiny") / "model", model_type=cls.model_type, **cls.config)
        if cls.number_format != NumberFormat():
            (folder / FORMAT_FILE).write_text(cls.number_format.written())
        cls.opened = snapshot_of(folder)

    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return TransformersEngine(cls.opened, settings)


class TestLlama(TransformersContract):
    pass


class TestSmallBatches(TransformersContract):
    """Prompts and prefixes in parts of few tokens, and two slots for all requests."""

    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 256, "threads": 1, "batch_tokens": 7, "slots": 2}


class TestSlidingWindow(TransformersContract):
    """Keys of other layers than the next one's, and a window shorter than the prompts."""

    model_type = "gemma3_text"


class TestLearnedPositions(TransformersContract):
    model_type = "gpt2"


class TestStates(TransformersContract):
    """A model that keeps a state, so that its sequences are computed one after another."""

    model_type = "mamba"


class TestFormula(TransformersContract):
    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 256, "threads": 1, "flash_attention": False, "slots": 3}


class TestBfloat16(TransformersContract):
    """Eight bits of mantissa: another batch shape rounds otherwise."""

    number_format = NumberFormat(dtype="bfloat16")
    token_tolerance = 0.35
    mean_tolerance = 0.05


class TestInt8(TransformersContract):
    number_format = NumberFormat(dtype="float32", weights="int8")


class TestInt8Activations(TransformersContract):
    """Activations are rounded for each token by itself, so no batch shape may change a scale; roundings at a tie may."""

    number_format = NumberFormat(dtype="float32", weights="int8", activations="int8")
    token_tolerance = 0.15
    mean_tolerance = 0.02


class TestInt4(TransformersContract):
    number_format = NumberFormat(dtype="float32", weights="int4", group_size=32)


@pytest.mark.slow
class TestInWorker(TransformersContract):
    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return WorkerEngine(cls.opened, settings, engine="transformers")

    def test_speed_settings_change_no_score(self, scoring: Engine) -> None:
        """Of them the worker itself carries out the affinity. Each process that opens a model takes seconds to import torch."""
        requests = [ScoreRequest(prefix_ids=self.ids(scoring, 0, 9), continuations=(self.ids(scoring, 9, 40),))]
        other = self.open_with(cpu_affinity=SAMPLES["cpu_affinity"])
        try:
            other.load("score")
            assert all_logprobs(other.score(requests)) == pytest.approx(all_logprobs(scoring.score(requests)), abs=self.exact_tolerance)
        finally:
            other.close()
