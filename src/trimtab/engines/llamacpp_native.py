"""What the llama.cpp engine needs of llama-cpp-python's low-level API: log capture, token batches, KV types, defaults of llama-server."""

import collections
import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from trimtab.core.errors import EngineRefused

MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ of this version; a batch may name that many sequences when the cache is unified

KV_TYPES = {
    "f32": native.GGML_TYPE_F32,
    "f16": native.GGML_TYPE_F16,
    "bf16": 30,  # GGML_TYPE_BF16, which the Python binding does not name
    "q8_0": native.GGML_TYPE_Q8_0,
    "q5_1": native.GGML_TYPE_Q5_1,
    "q5_0": native.GGML_TYPE_Q5_0,
    "q4_1": native.GGML_TYPE_Q4_1,
    "q4_0": native.GGML_TYPE_Q4_0,
    "iq4_nl": native.GGML_TYPE_IQ4_NL,
}
LOAD_MODES = {"mmap": native.LLAMA_LOAD_MODE_MMAP, "read": native.LLAMA_LOAD_MODE_NONE}
LOG_WARN, LOG_ERROR = 3, 4
SPACE = "▁".encode()

_last_lines: collections.deque[str] = collections.deque(maxlen=8)


@native.llama_log_callback  # type: ignore[untyped-decorator]  # the module keeps the reference: llama.cpp calls it for ever
def _keep_log_line(level: int, text: bytes, _: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if line and level in (LOG_WARN, LOG_ERROR):
        _last_lines.append(line)


@functools.cache
def start() -> None:
    """Silence llama.cpp, remembering its last warnings and errors, and start its backend. Once a process."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a failed assertion would start gdb, and hide its own sentence
    native.llama_log_set(_keep_log_line, None)
    native.llama_backend_init()


def forget_log() -> None:
    """Drop remembered lines, before a call whose failure is to be explained."""
    _last_lines.clear()


def last_words() -> str:
    """llama.cpp's last warnings or errors as one clause, the cause first; empty if it said nothing."""
    return "; ".join(dict.fromkeys(_last_lines))


def physical_cores() -> int:
    """Threads that llama-server uses by default on Linux: distinct sets of thread siblings (common_cpu_get_num_physical_cores)."""
    siblings = {path.read_text() for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings")}
    return len(siblings) or 4


def spellings(vocab: int, vocab_size: int) -> Iterator[bytes]:
    """Each way in which a text may hold a token, of all tokens; nothing of vocabularies that change a text before they cut it.

    SentencePiece's write a space as `▁`, which a text may hold itself.
    """
    if native.llama_vocab_type(vocab) not in (native.LLAMA_VOCAB_TYPE_SPM, native.LLAMA_VOCAB_TYPE_BPE):
        return
    buffer = ctypes.create_string_buffer(256)
    for token in range(vocab_size):
        count = native.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = native.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
        yield buffer.raw[:count]
        text = native.llama_vocab_get_text(vocab, token)
        if SPACE in text:
            yield text


class TokenBatch:
    """A llama_batch over numpy arrays: no allocation and no copy per call.

    All tokens of a run lie in the contiguous sequences first .. first + n_sequences - 1; their ids are read from one identity array.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.n_tokens = 0
        self.token: npt.NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.position: npt.NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.n_sequences: npt.NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.sequences: npt.NDArray[np.uint64] = np.zeros(capacity, np.uint64)
        self.output: npt.NDArray[np.int8] = np.zeros(capacity, np.int8)
        self._identity: npt.NDArray[np.int32] = np.arange(MAX_SEQUENCES, dtype=np.int32)

    @property
    def room(self) -> int:
        return self.capacity - self.n_tokens

    def clear(self) -> None:
        self.n_tokens = 0

    def add(self, tokens: Any, position: int, first: int, n_sequences: int = 1) -> slice:
        """Append a run of consecutive tokens without outputs; returns where it lies, so that the caller can mark outputs."""
        where = slice(self.n_tokens, self.n_tokens + len(tokens))
        self.token[where] = tokens
        self.position[where] = np.arange(position, position + len(tokens), dtype=np.int32)
        self.n_sequences[where] = n_sequences
        self.sequences[where] = self._identity.ctypes.data + self._identity.itemsize * first
        self.output[where] = 0
        self.n_tokens = where.stop
        return where

    def struct(self) -> Any:
        """The llama_batch; it points into this object's arrays."""

        def pointer(array: npt.NDArray[Any], kind: Any) -> Any:
            return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

        return native.llama_batch(
            n_tokens=self.n_tokens,
            token=pointer(self.token, ctypes.c_int32),
            embd=None,
            pos=pointer(self.position, ctypes.c_int32),
            n_seq_id=pointer(self.n_sequences, ctypes.c_int32),
            seq_id=ctypes.cast(self.sequences.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=pointer(self.output, ctypes.c_int8),
        )


def decode(context: int, batch: TokenBatch, vocab_size: int) -> npt.NDArray[np.float32]:
    """Run one batch. Returns its logits, float32 [outputs, vocab_size], in the batch's order.

    The array is llama.cpp's own buffer: valid, and writable, until the next call. Raises EngineRefused when llama.cpp fails.
    """
    n_outputs = int(batch.output[: batch.n_tokens].sum())
    forget_log()
    code = native.llama_decode(context, batch.struct())
    if code != 0:
        raise EngineRefused(
            f"llama.cpp could not compute a batch of {batch.n_tokens} tokens (code {code}): {last_words() or 'no reason given'}."
        )
    if n_outputs == 0:
        return np.empty((0, vocab_size), np.float32)
    address = ctypes.cast(native.llama_get_logits(context), ctypes.c_void_p).value
    if address is None:
        raise EngineRefused("llama.cpp returned no logits; the model may have no language-model head.")
    return np.ctypeslib.as_array((ctypes.c_float * (n_outputs * vocab_size)).from_address(address)).reshape(n_outputs, vocab_size)
