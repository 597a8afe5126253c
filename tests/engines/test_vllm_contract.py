"""The shipped contract on vLLM, through the worker under the interpreter that has it; skipped where none has."""

from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from trimtab.core.deployment import Settings
from trimtab.core.errors import MissingError
from trimtab.core.model import Snapshot
from trimtab.core.number_format import FORMAT_FILE, NumberFormat
from trimtab.engines.base import Engine, GenerateRequest, ScoreRequest
from trimtab.engines.client import WorkerEngine
from trimtab.engines.registry import engine_class
from trimtab.engines.vllm import VllmEngine
from trimtab.testing.engine_contract import EngineContract, all_logprobs, run_all, tokens_of
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_transformers import write_tiny_transformers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _vllm_is_there() -> None:
    try:
        engine_class("vllm").build()
    except MissingError as error:
        pytest.skip(str(error))


class VllmContract(EngineContract):
    """Without compiling: each start would take half a minute more."""

    numeric_settings = VllmEngine.numeric_settings
    speed_settings = VllmEngine.speed_settings
    abilities = VllmEngine.abilities
    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 256, "threads": 1, "compile_cache": False}
    number_format: ClassVar[NumberFormat] = NumberFormat(dtype="float32")
    opened: ClassVar[Snapshot]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _snapshot(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = write_tiny_transformers(tmp_path_factory.mktemp("tiny") / "model", head_dim=32)
        (folder / FORMAT_FILE).write_text(cls.number_format.written())
        cls.opened = snapshot_of(folder)

    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return WorkerEngine(cls.opened, settings, engine="vllm")


class TestVllm(VllmContract):
    def test_it_computes_what_transformers_computes(self, scoring: Engine) -> None:
        """The same weights in the same number format, token for token."""
        request = ScoreRequest(prefix_ids=self.ids(scoring, 0, 9), continuations=(self.ids(scoring, 9, 40), self.ids(scoring, 3, 4)))
        other = WorkerEngine(self.opened, Settings(context_tokens=256, threads=1), engine="transformers")
        try:
            other.load("score")
            assert other.tokenize("a calm <|im_start|>sea", parse_special=True) == scoring.tokenize(
                "a calm <|im_start|>sea", parse_special=True
            )
            assert all_logprobs(scoring.score([request])) == pytest.approx(all_logprobs(other.score([request])), abs=1e-4)
        finally:
            other.close()

    def test_the_build_is_the_one_that_was_asked_for(self, held: Engine) -> None:
        assert held.info().build == engine_class("vllm").build()

    def test_more_requests_than_slots_with_seeds(self, serving: Engine) -> None:
        """Long prompts beside answers that are sampled: vLLM computes them whole, or loses the place of its random numbers."""
        requests = [
            GenerateRequest(request_id=n, prompt_ids=self.ids(serving, n, 200), max_tokens=8, temperature=1.0, seed=n, ignore_end=True)
            for n in range(20)
        ]
        events = run_all(serving, requests)
        assert all(len(tokens_of(events[n])) == 8 for n in range(20))
