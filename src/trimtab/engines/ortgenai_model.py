"""A directory that ONNX Runtime GenAI opens, and one sequence of tokens in it.

GenAI's generators hold the keys and values; tokens are chosen here and appended, because a generator that chooses them itself tells no
log-probabilities. Logits of all appended tokens are read, so one way of computing serves and scores.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og

from trimtab.core.errors import EngineRefused
from trimtab.engines.tally import Logits

LOGITS_BYTES = 2**27
"""At most this much memory for the logits of one call."""

og.disable_telemetry_events()


class Model:
    """threads: None = ONNX Runtime's own choice; batch_tokens: computed in one call at most; pinned: the process keeps to some cores"""

    def __init__(self, folder: Path, source: str, *, vocab_size: int, threads: int | None, batch_tokens: int, pinned: bool) -> None:
        self.source = source
        self.vocab_size = vocab_size
        self.part_tokens = max(1, min(batch_tokens, LOGITS_BYTES // (4 * vocab_size)))
        if threads is None and pinned:  # its own threads would each be pinned to a core that may not be among those
            threads = len(os.sched_getaffinity(0))
        try:
            config = og.Config(str(folder))
            if threads is not None:
                config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
            self._model = og.Model(config)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineRefused(f"ONNX Runtime GenAI cannot open {source}: {sentence_of(error)}.") from error

    def begin(self, most_tokens: int) -> "Tokens":
        """An empty sequence with room for so many tokens. Raises EngineRefused."""
        try:
            params = og.GeneratorParams(self._model)
            params.set_search_options(max_length=most_tokens, batch_size=1, num_beams=1)
            return Tokens(og.Generator(self._model, params), self)
        except (RuntimeError, ValueError) as error:
            raise EngineRefused(f"ONNX Runtime GenAI cannot hold {most_tokens} tokens: {sentence_of(error)}.") from error


class Tokens:
    """A sequence that grows at its end and can be cut there."""

    def __init__(self, generator: Any, model: Model) -> None:
        self._generator = generator
        self._model = model

    def rows(self, ids: Sequence[int], first: int) -> Iterator[tuple[int, Logits]]:
        """Append tokens; from place `first` of them on, (place, logits [vocab_size] that follow it). Raises EngineRefused."""
        count = self._model.part_tokens
        for start in range(0, len(ids), count):
            end = min(len(ids), start + count)
            logits = self._append(ids[start:end], read=end > first)
            for place in range(max(start, first), end):
                yield place, logits[place - start]

    def last_row(self, ids: Sequence[int]) -> Logits:
        """Append tokens; the logits [vocab_size] that follow the last one. Raises EngineRefused."""
        ((_, row),) = self.rows(ids, len(ids) - 1)
        return row

    def cut(self, n_tokens: int) -> None:
        """Keep the first so many tokens."""
        try:
            self._generator.rewind_to(n_tokens)
        except (RuntimeError, ValueError) as error:
            raise EngineRefused(f"ONNX Runtime GenAI cannot go back in {self._model.source}: {sentence_of(error)}.") from error

    def _append(self, ids: Sequence[int], *, read: bool) -> Logits:
        """Logits of these tokens, [tokens, vocab_size]; empty unless they are read."""
        try:
            self._generator.append_tokens(np.array([ids], np.int32))
            found = np.asarray(self._generator.get_output("logits")) if read else np.empty((1, 0, self._model.vocab_size))
        except (RuntimeError, ValueError) as error:
            raise EngineRefused(f"ONNX Runtime GenAI cannot compute with {self._model.source}: {sentence_of(error)}.") from error
        if found.shape[-1] != self._model.vocab_size or (read and found.shape[-2] != len(ids)):
            raise EngineRefused(f"{self._model.source} gives logits of shape {found.shape} for {len(ids)} tokens.")
        made: Logits = np.array(found[0], np.float32)
        return made


def sentence_of(error: BaseException) -> str:
    """The first line of an exception, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")[:300]
