"""The shipped contract catches engines that are wrong: one fault at a time is planted in llama.cpp, and the named test must fail."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.model import Snapshot
from trimtab.engines.base import Engine, GenerateRequest, ScoreRequest, ScoreResult, TokenEvent
from trimtab.testing.engine_contract import EngineContract
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_models import write_tiny_gguf

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
from trimtab.engines.llamacpp import LlamaCppEngine

pytestmark = pytest.mark.model


class ServesOtherNumbers(LlamaCppEngine):
    def step(self) -> list[TokenEvent]:
        return [event if event.logprob is None else replace(event, logprob=event.logprob + 0.1) for event in super().step()]


class ForgetsTheBias(LlamaCppEngine):
    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        return super().score([replace(request, logit_bias=()) for request in requests])


class SharesTooLittle(LlamaCppEngine):
    """Continuations after the first see a prefix that lacks its first token."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        results = super().score(requests)
        for place, request in enumerate(requests):
            if len(request.continuations) > 1:
                short = super().score([replace(request, prefix_ids=request.prefix_ids[1:])])[0]
                results[place] = replace(results[place], logprobs=(results[place].logprobs[0], *short.logprobs[1:]))
        return results


class UnsortedTop(LlamaCppEngine):
    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        return [replace(result, top=tuple(tuple(pairs[::-1] for pairs in row) for row in result.top)) for result in super().score(requests)]


class LoadModeChangesScores(LlamaCppEngine):
    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        shift = 1e-4 if self.settings.load_mode == "read" else 0.0
        return [
            replace(result, logprobs=tuple(tuple(value - shift for value in row) for row in result.logprobs))
            for result in super().score(requests)
        ]


class Submits(LlamaCppEngine):
    """Changes every request on its way in."""

    changed: ClassVar[Callable[[GenerateRequest], dict[str, Any]]]

    def submit(self, request: GenerateRequest) -> None:
        super().submit(replace(request, **type(self).changed(request)))


class ForgetsTheSeed(Submits):
    changed = staticmethod(lambda request: {"seed": 0})


class SamplesAlways(Submits):
    changed = staticmethod(lambda request: {"temperature": 1.0})


class StopsEarly(Submits):
    changed = staticmethod(lambda request: {"max_tokens": max(1, request.max_tokens - 1)})


class CutsPrompts(Submits):
    changed = staticmethod(lambda request: {"prompt_ids": request.prompt_ids[-100:], "max_tokens": min(100, request.max_tokens)})


class ForgetsStops(Submits):
    changed = staticmethod(lambda request: {"stop_ids": ()})


class CannotCancel(LlamaCppEngine):
    def cancel(self, request_id: int) -> None:
        pass


FAULTS = {
    ServesOtherNumbers: "test_sampled_logprobs_agree_with_the_scores",
    ForgetsTheBias: "test_logit_bias_follows_the_formula",
    SharesTooLittle: "test_shared_prefix_equals_separate_requests",
    UnsortedTop: "test_top_is_the_top",
    LoadModeChangesScores: "test_speed_settings_change_no_score",
    ForgetsTheSeed: "test_a_seed_repeats_and_another_differs",
    SamplesAlways: "test_greedy_follows_the_scores",
    StopsEarly: "test_many_requests_at_once_all_end",
    CutsPrompts: "test_what_does_not_fit_the_context_is_refused_at_once",
    ForgetsStops: "test_stop_ids_end_a_request",
    CannotCancel: "test_cancel",
}
SCORING = {"test_logit_bias_follows_the_formula", "test_shared_prefix_equals_separate_requests", "test_top_is_the_top"} | {
    "test_speed_settings_change_no_score"
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    path = write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    return snapshot_of(path)


@pytest.mark.parametrize("kind", [LlamaCppEngine, *FAULTS], ids=lambda kind: kind.__name__)
def test_a_planted_fault_is_caught(tiny: Snapshot, kind: type[LlamaCppEngine]) -> None:
    class Contract(EngineContract):
        numeric_settings, speed_settings = LlamaCppEngine.numeric_settings, LlamaCppEngine.speed_settings
        open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 256, "threads": 1}
        token_tolerance = 0.01

        @classmethod
        def open_engine(cls, settings: Settings) -> Engine:
            return kind(tiny, settings)

    for name in [FAULTS[kind]] if kind in FAULTS else FAULTS.values():
        engine = Contract.open_with()
        engine.load("score" if name in SCORING else "serve")
        try:
            if kind in FAULTS:
                with pytest.raises((AssertionError, pytest.fail.Exception)):
                    getattr(Contract(), name)(engine)
            else:
                getattr(Contract(), name)(engine)
        finally:
            engine.close()
