"""Importance matrices for llama.cpp's quantisers: mean squared input of each column of each matrix, over calibration text.

Computed as llama.cpp's `llama-imatrix` does (tools/imatrix/imatrix.cpp): the text is cut into chunks of 512 tokens, each chunk is
evaluated on its own, and the second operand of every matrix multiplication with a weight named `blk.*` is squared and summed. Written
and read in its GGUF form, so that a matrix made here serves `llama-quantize --imatrix` and the other way round.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from trimtab.compress.base import Progress
from trimtab.core.errors import InfeasibleError, InputError, MissingError

CHUNK_TOKENS = 512
MIN_ROWS = 16  # llama-imatrix ignores smaller batches
SUMS, COUNTS = ".in_sum2", ".counts"
F32_TYPE = 0

Ggml = native._lib  # libllama's handle also finds the symbols of the libraries it links, libggml-base among them
Ggml.ggml_op_name.restype = ctypes.c_char_p
Ggml.ggml_op_name.argtypes = [ctypes.c_int]
Ggml.ggml_get_name.restype = ctypes.c_char_p
Ggml.ggml_get_name.argtypes = [ctypes.c_void_p]
Ggml.ggml_nbytes.restype = ctypes.c_size_t
Ggml.ggml_nbytes.argtypes = [ctypes.c_void_p]
Ggml.ggml_backend_tensor_get.restype = None
Ggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]


class GgmlTensor(ctypes.Structure):
    """struct ggml_tensor of ggml.h, up to its name. `read` checks against ggml's own accessors that the layout still holds."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


def read(pointer: int) -> Any:
    """The tensor at an address. Raises MissingError if this build's struct differs."""
    tensor = GgmlTensor.from_address(pointer)
    if tensor.name != Ggml.ggml_get_name(pointer) or (tensor.type == F32_TYPE and tensor.nb[0] != 4):
        raise MissingError("This build of llama.cpp lays tensors out differently; no importance matrix can be computed with it.")
    return tensor


def values_of(pointer: int, tensor: Any, kind: Any) -> npt.NDArray[Any]:
    """A tensor's numbers as an array [ne3, ne2, ne1, ne0], copied to this process's memory wherever they lie."""
    raw = np.empty(Ggml.ggml_nbytes(pointer), np.uint8)
    Ggml.ggml_backend_tensor_get(pointer, raw.ctypes.data, 0, raw.nbytes)
    return np.ndarray(tuple(tensor.ne)[::-1], kind, raw.data, strides=tuple(tensor.nb)[::-1])


@dataclass(kw_only=True)
class Importance:
    """sums: per weight, summed squares [matrices, columns] float64; counts: per weight, rows seen [matrices] (1 for dense weights)."""

    sums: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    counts: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def add(self, name: str, matrix: int, n_matrices: int, squares: npt.NDArray[np.float64], n_rows: int) -> None:
        """Add the summed squares [columns] of n_rows inputs of one of a weight's matrices."""
        if name not in self.sums:
            self.sums[name] = np.zeros((n_matrices, len(squares)))
            self.counts[name] = np.zeros(n_matrices)
        self.sums[name][matrix] += squares
        self.counts[name][matrix] += n_rows

    def means(self) -> dict[str, npt.NDArray[np.float32]]:
        """What the quantiser takes: mean squares per weight, flat float32; 1 where nothing was seen (an expert never chosen)."""
        out = {}
        for name, sums in self.sums.items():
            counts = self.counts[name][:, None]
            out[name] = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0).astype(np.float32).reshape(-1)
        return out


class Collector:
    """The scheduler's evaluation callback. An exception in it stops the evaluation and is kept in `error`."""

    def __init__(self) -> None:
        self.importance = Importance()
        self.error: Exception | None = None
        self.callback = native.ggml_backend_sched_eval_callback(self._call)

    def _call(self, pointer: int, ask: bool, _: object) -> bool:
        try:
            return self._wanted(pointer) if ask else self._collect(pointer)
        except Exception as error:
            self.error = error
            return False

    def _wanted(self, pointer: int) -> bool:
        operation = Ggml.ggml_op_name(GgmlTensor.from_address(pointer).op)
        if operation not in (b"MUL_MAT", b"MUL_MAT_ID"):
            return False
        tensor = read(pointer)
        operand = read(tensor.src[1])
        if operation == b"MUL_MAT_ID":
            return True
        return bool(operand.ne[1] >= MIN_ROWS and operand.type == F32_TYPE and weight_name(tensor).startswith("blk."))

    def _collect(self, pointer: int) -> bool:
        tensor = read(pointer)
        weight = read(tensor.src[0])
        operand = read(tensor.src[1])
        name = weight_name(tensor)
        inputs = values_of(tensor.src[1], operand, np.float32)
        if Ggml.ggml_op_name(tensor.op) == b"MUL_MAT_ID":
            chosen = values_of(tensor.src[2], read(tensor.src[2]), np.int32)[0, 0]  # [tokens, experts used]
            rows = inputs[0]  # [tokens, 1 or experts used, columns]
            for expert in np.unique(chosen):
                tokens, places = np.nonzero(chosen == expert)
                self._add(name, int(expert), int(weight.ne[2]), rows[tokens, places % rows.shape[1]])
            return True
        n_matrices = int(weight.ne[2] * weight.ne[3])
        for outer, inner in np.ndindex(inputs.shape[:2]):
            matrix = (outer % int(weight.ne[3])) * int(weight.ne[2]) + inner % int(weight.ne[2])
            self._add(name, matrix, n_matrices, inputs[outer, inner])
        return True

    def _add(self, name: str, matrix: int, n_matrices: int, rows: npt.NDArray[np.float32]) -> None:
        squares = np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
        if not np.isfinite(squares).all():
            raise InfeasibleError(f"The inputs of {name} are not finite on the calibration text; no importance matrix can be made.")
        self.importance.add(name, matrix, n_matrices, squares, len(rows))


def weight_name(tensor: Any) -> str:
    """Name of a multiplication's weight, without a backend's prefix and suffix (CUDA0#blk.0.attn_k.weight#0)."""
    name: str = read(tensor.src[0]).name.decode()
    return name.split("#")[1] if "#" in name else name


def measure(model: Path, texts: Sequence[str], *, max_tokens: int, progress: Progress | None = None) -> Importance:
    """Importance over the first max_tokens tokens of the texts, in whole chunks. Seconds to minutes: every token is computed.

    Raises InputError if the texts are shorter than one chunk, InfeasibleError if llama.cpp cannot open or compute the model.
    """
    collector = Collector()
    params = native.llama_model_default_params()
    opened = native.llama_model_load_from_file(str(model).encode(), params)
    if not opened:
        raise InfeasibleError(f"llama.cpp cannot open {model} to compute an importance matrix.")
    context = None
    try:
        context_params = native.llama_context_default_params()
        context_params.n_ctx = context_params.n_batch = context_params.n_ubatch = CHUNK_TOKENS
        context_params.n_threads = context_params.n_threads_batch = os.cpu_count() or 1
        context_params.cb_eval = collector.callback
        context = native.llama_init_from_model(opened, context_params)
        if not context:
            raise InfeasibleError(f"llama.cpp cannot make a context for {model} to compute an importance matrix.")
        chunks = list(_chunks(native.llama_model_get_vocab(opened), texts, max_tokens))
        for done, chunk in enumerate(chunks):
            if progress:
                progress("importance matrix", done / len(chunks))
            native.llama_memory_clear(native.llama_get_memory(context), True)
            tokens = (ctypes.c_int32 * len(chunk))(*chunk)
            code = native.llama_decode(context, native.llama_batch_get_one(tokens, len(chunk)))
            if collector.error:
                raise collector.error
            if code != 0:
                raise InfeasibleError(f"llama.cpp could not compute the calibration text with {model} (code {code}).")
    finally:
        if context:
            native.llama_free(context)
        native.llama_model_free(opened)
    return collector.importance


def _chunks(vocab: int, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Whole chunks of tokens of the joined texts, each with BOS first where the model has one."""
    raw = "\n\n".join(texts).encode()
    buffer = (ctypes.c_int32 * (len(raw) + 2))()
    count = native.llama_tokenize(vocab, raw, len(raw), buffer, len(buffer), False, False)
    ids = list(buffer[: min(count, max_tokens)])
    chunks = [ids[start : start + CHUNK_TOKENS] for start in range(0, len(ids) - CHUNK_TOKENS + 1, CHUNK_TOKENS)]
    if not chunks:
        raise InputError(f"The calibration texts hold {count} tokens; an importance matrix needs at least {CHUNK_TOKENS}.")
    if native.llama_vocab_get_add_bos(vocab):
        bos = native.llama_vocab_bos(vocab)
        chunks = [[bos, *chunk[1:]] for chunk in chunks]  # llama-imatrix overwrites the first token too
    return chunks


def write_importance(path: Path, importance: Importance, *, dataset: str) -> None:
    """Write llama.cpp's GGUF form. dataset: where the text came from, in words."""
    import gguf

    writer = gguf.GGUFWriter(path, arch="")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    rows = max((int(counts.max()) for counts in importance.counts.values()), default=0)
    writer.add_uint32("imatrix.chunk_count", rows // CHUNK_TOKENS)
    writer.add_uint32("imatrix.chunk_size", CHUNK_TOKENS)
    for name in sorted(importance.sums):
        writer.add_tensor(name + SUMS, importance.sums[name].astype(np.float32))
        writer.add_tensor(name + COUNTS, importance.counts[name].astype(np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_importance(path: Path) -> Importance:
    """Read llama.cpp's GGUF form. Raises InputError if it is something else, or not finite."""
    import gguf

    try:
        tensors: Mapping[str, Any] = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise InputError(f"{path} is not an importance matrix in GGUF form: {error}.") from error
    importance = Importance()
    for name in (key.removesuffix(SUMS) for key in tensors if key.endswith(SUMS)):
        sums, counts = tensors[name + SUMS], tensors.get(name + COUNTS)
        if counts is None or sums.size % counts.size or not np.isfinite(sums).all() or not np.isfinite(counts).all():
            raise InputError(f"The importance matrix {path} is broken at {name!r}; make it again.")
        importance.counts[name] = counts.astype(np.float64).reshape(-1)
        importance.sums[name] = sums.astype(np.float64).reshape(counts.size, -1)
    if not importance.sums:
        raise InputError(f"{path} holds no importance matrix; give the GGUF file that llama-imatrix writes.")
    return importance
