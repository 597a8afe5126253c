"""Embeddings by llama.cpp: a GGUF file of an encoder, pooled by llama.cpp as the form says."""

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

import llama_cpp.llama_cpp as native
import numpy as np

from trimtab.core.deployment import EngineBuild
from trimtab.core.embedding import EmbeddingForm
from trimtab.core.errors import EngineRefused
from trimtab.core.model import Snapshot
from trimtab.engines.embedding import Embedder, Vectors, by_length, unit
from trimtab.engines.llamacpp import LlamaCppEngine
from trimtab.engines.llamacpp_native import TokenBatch, forget_log, last_words, start

POOLING = {"mean": native.LLAMA_POOLING_TYPE_MEAN, "first": native.LLAMA_POOLING_TYPE_CLS}
BATCH_TOKENS = 2048
MAX_TEXTS = 64


class LlamaCppEmbedder(Embedder):
    """See Embedder. An encoder looks both ways, so each batch is computed whole: at most BATCH_TOKENS tokens and MAX_TEXTS texts."""

    name: ClassVar[str] = "llamacpp"
    format: ClassVar[str] = "gguf"

    @classmethod
    def build(cls) -> EngineBuild:
        return LlamaCppEngine.build()

    def __init__(self, snapshot: Snapshot, form: EmbeddingForm, *, threads: int | None = None) -> None:
        self.source = snapshot.source
        self._context: Any = None
        self._model: Any = None
        start()
        forget_log()
        self._model = native.llama_model_load_from_file(str(snapshot.path).encode(), native.llama_model_default_params())
        if not self._model:
            raise EngineRefused(f"llama.cpp cannot open {snapshot.source}: {last_words() or 'no reason given'}.")
        params = native.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_seq_max = MAX_TEXTS
        params.embeddings = True
        params.pooling_type = POOLING[form.pooling]
        if threads is not None:
            params.n_threads = params.n_threads_batch = threads
        self._context = native.llama_init_from_model(self._model, params)
        if not self._context:
            why = last_words() or "no reason given"
            self.close()
            raise EngineRefused(f"llama.cpp cannot open {snapshot.source}: {why}.")
        self.width = int(native.llama_model_n_embd(self._model))
        self._batch = TokenBatch(BATCH_TOKENS)

    def embed(self, sequences: Sequence[Sequence[int]], *, batch: int = 32) -> Vectors:
        found = np.zeros((len(sequences), self.width), np.float32)
        for places in by_length(sequences, min(batch, MAX_TEXTS)):
            waiting: list[int] = []
            for place in places:
                if len(sequences[place]) > BATCH_TOKENS:
                    raise EngineRefused(f"A text of {len(sequences[place])} tokens is longer than the {BATCH_TOKENS} of one batch.")
                if self._batch.room < len(sequences[place]):
                    self._run(waiting, found)
                where = self._batch.add(sequences[place], 0, len(waiting))
                self._batch.output[where] = 1
                waiting.append(place)
            self._run(waiting, found)
        return unit(found)

    def _run(self, waiting: list[int], found: Vectors) -> None:
        """Compute what lies in the batch, and empty it."""
        if self._context is None:
            raise EngineRefused(f"{self.source} is closed.")
        forget_log()
        code = native.llama_encode(self._context, self._batch.struct())
        if code != 0:
            raise EngineRefused(f"llama.cpp cannot compute with {self.source} (code {code}): {last_words() or 'no reason given'}.")
        for sequence, place in enumerate(waiting):
            pointer = native.llama_get_embeddings_seq(self._context, sequence)
            address = ctypes.cast(pointer, ctypes.c_void_p).value
            if address is None:
                raise EngineRefused(f"llama.cpp gives no pooled vectors of {self.source}.")
            found[place] = np.ctypeslib.as_array((ctypes.c_float * self.width).from_address(address))
        waiting.clear()
        self._batch.clear()

    def close(self) -> None:
        if self._context:
            native.llama_free(self._context)
        if self._model:
            native.llama_model_free(self._model)
        self._context = self._model = None
