"""What scoring would cost if an engine's calls were all there is: the calls are recorded once and made again with nothing between them.

Same tokens in the same calls, prefixes shared as before, logits at the scored positions only; they are computed and not looked at.
"""

import asyncio
import copy
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from trimtab.core.deployment import Candidate
from trimtab.engines.base import Engine, ScoreRequest, ScoreResult
from trimtab.engines.registry import engine_class
from trimtab.evaluate.requests import PreparedSuite
from trimtab.evaluate.runner import score_items

Replay = Callable[[], float]
"""Makes the recorded calls; returns the seconds they took."""


class InProcess:
    """An engine as a scoring client, without a worker between."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        return self.engine.score(requests)


class Limit:
    """The bare calls of one engine, in a process of its own."""

    def __init__(self, candidate: Candidate, prepared: PreparedSuite) -> None:
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._process.submit(_record, candidate, prepared).result()

    def seconds(self) -> float:
        """Make them once more."""
        return self._process.submit(_replay).result()

    def close(self) -> None:
        self._process.shutdown()


_kept: list[Replay] = []


def _record(candidate: Candidate, prepared: PreparedSuite) -> None:
    _kept.append(asyncio.run(recorded(candidate, prepared)))


def _replay() -> float:
    return _kept[0]()


async def recorded(candidate: Candidate, prepared: PreparedSuite) -> Replay:
    """Score `prepared` once in this process, keeping every call to the engine's library."""
    engine = engine_class(candidate.engine)(candidate.snapshot, candidate.settings)
    engine.load("score")
    client = InProcess(engine)
    await score_items(client, prepared)  # the context may be made anew for the longest request: before the recording
    return await {"llamacpp": _llamacpp, "openvino": _openvino}[candidate.engine](client, prepared)


async def _llamacpp(client: InProcess, prepared: PreparedSuite) -> Replay:
    import llama_cpp.llama_cpp as native

    from trimtab.engines import llamacpp_score

    calls: list[Any] = []
    scorer = client.engine._scorer
    decode, forget = llamacpp_score.decode, scorer._forget

    def keep(context: int, batch: Any, vocab_size: int) -> Any:
        kept = copy.copy(batch)
        for name in ("token", "position", "n_sequences", "sequences", "output"):
            setattr(kept, name, getattr(batch, name).copy())
        calls.append(kept)
        return decode(context, batch, vocab_size)

    def keep_forget() -> None:
        calls.append(None)
        forget()

    llamacpp_score.decode, scorer._forget = keep, keep_forget
    try:
        await score_items(client, prepared)
    finally:
        llamacpp_score.decode, scorer._forget = decode, forget

    def replay() -> float:
        began = time.monotonic()
        for batch in calls:
            if batch is None:
                native.llama_memory_clear(scorer.memory, False)
            else:
                assert native.llama_decode(scorer.context, batch.struct()) == 0
                native.llama_synchronize(scorer.context)
        return time.monotonic() - began

    return replay


class _RecordedCall:
    """An infer request that remembers what it was asked."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.inputs: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []

    def set_tensor(self, name: str, tensor: Any) -> None:
        self.inputs[name] = tensor
        self.call.set_tensor(name, tensor)

    def infer(self) -> None:
        self.asked.append(dict(self.inputs))
        self.call.infer()

    def get_tensor(self, name: str) -> Any:
        return self.call.get_tensor(name)


async def _openvino(client: InProcess, prepared: PreparedSuite) -> Replay:
    scorer = client.engine._scorer
    call = scorer._call
    scorer._call = _RecordedCall(call)
    await score_items(client, prepared)
    asked, scorer._call = scorer._call.asked, call

    def replay() -> float:
        began = time.monotonic()
        for inputs in asked:
            for name, tensor in inputs.items():
                call.set_tensor(name, tensor)
            call.infer()
        return time.monotonic() - began

    return replay
