"""Recipes of family `gguf`: llama.cpp's own quantiser, always from the source, with or without an importance matrix.

A Hugging Face directory is first written as a GGUF file with its weights as they are stored (see compress/gguf_from_hf.py), a product of
its own that all recipes share; a quantised one is unpacked before that.

Parameters: `type` (a key of TYPES, or as-shipped); `calibration = true` computes an importance matrix from the calibration texts, of
`calibration_tokens` tokens at most (a list of suites instead of true: with their identity-swapped twins, see flows/parts/calibration.py);
`imatrix` names a file with a given one instead. Where the source is quantised itself its weights are expanded to 32-bit floats first, so
nothing is lost twice by an intermediate file.

`tensors` gives some weights a type of their own: a table of regular expressions, searched for in the weights' names, to types (names of
compress/gguf_tensors.py, or `keep`: the bytes of the source). With it `type` may be `keep` too: all other weights stay as they are. A
row that a type's blocks do not divide gets llama.cpp's wider type instead, so the product's header says what the types came to be.
"""

import contextlib
import ctypes
import errno
import importlib.metadata
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from trimtab.compress import imatrix
from trimtab.compress.base import Progress, is_as_shipped, make, needs_calibration, snapshot_of
from trimtab.compress.gguf_tensors import KEEP, check_tensors, types_by_weight
from trimtab.compress.quantized_checkpoint import packing_in, plain_bytes
from trimtab.compress.safetensors import read_tensors
from trimtab.compress.transformers import in_floats
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import sha256_file
from trimtab.core.model import Snapshot

TYPES = {
    "F32": native.LLAMA_FTYPE_ALL_F32,
    "F16": native.LLAMA_FTYPE_MOSTLY_F16,
    "BF16": native.LLAMA_FTYPE_MOSTLY_BF16,
    "Q8_0": native.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q6_K": native.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q5_K_M": native.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q5_K_S": native.LLAMA_FTYPE_MOSTLY_Q5_K_S,
    "Q4_K_M": native.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q4_K_S": native.LLAMA_FTYPE_MOSTLY_Q4_K_S,
    "Q4_0": native.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": native.LLAMA_FTYPE_MOSTLY_Q4_1,
    "IQ4_NL": native.LLAMA_FTYPE_MOSTLY_IQ4_NL,
    "IQ4_XS": native.LLAMA_FTYPE_MOSTLY_IQ4_XS,
    "Q3_K_M": native.LLAMA_FTYPE_MOSTLY_Q3_K_M,
    "Q3_K_S": native.LLAMA_FTYPE_MOSTLY_Q3_K_S,
    "Q2_K": native.LLAMA_FTYPE_MOSTLY_Q2_K,
}
FLOATS = ("F32", "F16", "BF16")
PARAMETERS = ("type", "tensors", "calibration", "calibration_tokens", "imatrix")
DEFAULT_CALIBRATION_TOKENS = 8192
IMATRIX = "imatrix"
"""The type whose product is the importance matrix alone."""
AS_STORED = "as-stored"
"""The type whose product is a Hugging Face directory as a GGUF file, nothing rounded."""
FORM = "form 1"
"""Changes when the same directory becomes another file as stored."""
FROM_HUGGINGFACE = Recipe(name="gguf-as-stored", family="gguf", engine="llamacpp", parameters={"type": AS_STORED})
LOG_ERROR = 4


def version(recipe: Recipe) -> str:
    """See RecipeBuilder. A given importance matrix counts by its bytes, not its name."""
    given = recipe.parameters.get("imatrix")
    if recipe.parameters.get("type") == AS_STORED:
        return f"gguf {importlib.metadata.version('gguf')}; {FORM}"
    parts = [importlib.metadata.version("llama-cpp-python"), native.llama_version().decode()]
    return " ".join([*parts, sha256_file(_imatrix_path(recipe))] if given else parts)


def product_bytes(recipe: Recipe, source: Snapshot) -> int:
    """See RecipeBuilder. Rows that a K type does not divide fall back to wider types, so less than 8.5 bits a weight is not promised."""
    if recipe.parameters.get("type") == IMATRIX:
        return 2**28
    if source.format == "safetensors":
        return _bytes_of_folder(recipe, source)
    params = native.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = native.LLAMA_LOAD_MODE_NONE  # llama.cpp aborts on no_alloc with mmap
    with quiet() as lines:
        model = native.llama_model_load_from_file(str(source.path).encode(), params)
    if not model:
        raise InfeasibleError(f"llama.cpp cannot open {source.path}: {_reason(lines)}.")
    n_params = int(native.llama_model_n_params(model))
    native.llama_model_free(model)
    return int(n_params * max(recipe.bits_per_weight, 8.5) / 8) + 2**25


def _bytes_of_folder(recipe: Recipe, source: Snapshot) -> int:
    """Of a product made from a Hugging Face directory. The file as stored is a product of its own: only vectors grow in it."""
    if packing_in(source) is not None:
        plain = plain_bytes(source, "F32")
        return plain if recipe.parameters.get("type") == AS_STORED else int(plain * max(recipe.bits_per_weight, 8.5) / 32) + 2**25
    tensors = read_tensors(source).values()
    if recipe.parameters.get("type") == AS_STORED:
        return source.size_bytes + sum(each.size_bytes for each in tensors if len(each.shape) == 1) + 2**25
    n_params = sum(int(np.prod(each.shape)) for each in tensors)
    return int(n_params * max(recipe.bits_per_weight, 8.5) / 8) + 2**25


def build(
    recipe: Recipe, source: Snapshot, out_dir: Path, *, calibration: Sequence[str] = (), progress: Progress | None = None
) -> Snapshot:
    """See RecipeBuilder. Writes one GGUF file; an importance matrix that it needs becomes a product of its own beside it."""
    if is_as_shipped(recipe):
        return source
    _check(recipe, source)
    if recipe.parameters["type"] == AS_STORED:
        from trimtab.compress.gguf_bert import is_bert, write_bert
        from trimtab.compress.gguf_from_hf import write_gguf_of

        plain = in_floats(source, out_dir.parent, progress=progress)
        write = write_bert if is_bert(plain) else write_gguf_of
        write(plain, out_dir / "model.gguf", progress=progress)
        return snapshot_of(out_dir, ["model.gguf"], like=source, recipe=recipe, fmt="gguf")
    weights = make(FROM_HUGGINGFACE, source, out_dir.parent, progress=progress) if source.format == "safetensors" else source
    if recipe.parameters["type"] == IMATRIX:
        with quiet():
            matrix = imatrix.measure(weights.path, calibration, max_tokens=_calibration_tokens(recipe), progress=progress)
        imatrix.write_importance(out_dir / "imatrix.gguf", matrix, dataset="calibration texts of trimtab")
        return snapshot_of(out_dir, ["imatrix.gguf"], like=source, recipe=recipe, fmt="gguf")
    importance = {}
    if needs_calibration(recipe):
        # A product of its own, so that all types share one; out_dir lies in the cache.
        parameters = {"type": IMATRIX, "calibration": True, "calibration_tokens": _calibration_tokens(recipe)}
        made = make(
            Recipe(name=IMATRIX, family=recipe.family, engine=recipe.engine, parameters=parameters),
            source,
            out_dir.parent,
            calibration=calibration,
            progress=progress,
        )
        importance = imatrix.read_importance(made.path).means()
    elif "imatrix" in recipe.parameters:
        importance = imatrix.read_importance(_imatrix_path(recipe)).means()
    stem = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", weights.path.name)  # a split source becomes one file
    type_name = str(recipe.parameters["type"])
    own = types_by_weight(recipe, weights.path, rest=type_name if type_name in (KEEP, *FLOATS) else "")
    name = f"{stem}.{'mixed' if own else type_name}.gguf"
    quantize(weights.path, out_dir / name, type_name, importance, own=own, progress=progress)
    return snapshot_of(out_dir, [name], like=source, recipe=recipe, fmt="gguf")


def quantize(
    source: Path,
    target: Path,
    type_name: str,
    importance: dict[str, npt.NDArray[np.float32]],
    *,
    own: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write `source` as `target` in one of TYPES. importance: by weight, mean squared inputs, flat float32 [matrices * columns].

    own: by weight, the number of the type it gets whatever type_name says. Raises InfeasibleError with llama.cpp's reason.
    """
    params = native.llama_model_quantize_default_params()
    # llama.cpp looks at types of single weights only where the common type is a quantised one; then every weight has its own.
    params.ftype = TYPES["Q8_0"] if own and type_name in (KEEP, *FLOATS) else TYPES[type_name]
    params.allow_requantize = True
    choices = (native.llama_model_tensor_override * (len(own or {}) + 1))()  # ends with a zero entry too
    for choice, (name, number) in zip(choices, (own or {}).items(), strict=False):
        choice.pattern = f"^{re.escape(name)}$".encode()
        choice.type = number
    if own:
        params.tt_overrides = choices
    entries = (native.llama_model_imatrix_data * (len(importance) + 1))()  # the last one, all zero, ends the list
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = len(values)
    if importance:
        params.imatrix = entries
    with quiet(progress, f"quantising to {type_name}") as lines:
        code = native.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code != 0:
        if shutil.disk_usage(target.parent).free < 2**20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise InfeasibleError(f"llama.cpp cannot write {source.name} as {type_name}: {_reason(lines)}.")


def _calibration_tokens(recipe: Recipe) -> int:
    return int(recipe.parameters.get("calibration_tokens", DEFAULT_CALIBRATION_TOKENS))


def _check(recipe: Recipe, source: Snapshot) -> None:
    for key in recipe.parameters:
        if key not in PARAMETERS:
            raise InputError(f"Recipe {recipe.name!r} has an unknown parameter {key!r}; family gguf knows {', '.join(PARAMETERS)}.")
    check_tensors(recipe)
    if recipe.parameters.get("type") not in (*TYPES, IMATRIX, AS_STORED, *([KEEP] if recipe.parameters.get("tensors") else [])):
        raise InputError(f"Recipe {recipe.name!r} asks for type {recipe.parameters.get('type')!r}; the types are {', '.join(TYPES)}.")
    if source.format not in ("gguf", "safetensors"):
        raise InfeasibleError(
            f"Recipe {recipe.name!r} starts from a GGUF file or a Hugging Face directory, and {source.source} is {source.format}."
        )


def _imatrix_path(recipe: Recipe) -> Path:
    path = Path(str(recipe.parameters["imatrix"])).expanduser()
    if not path.is_file():
        raise InputError(f"Recipe {recipe.name!r} names an importance matrix that is not there: {path}.")
    return path


@contextlib.contextmanager
def quiet(progress: Progress | None = None, what: str = "") -> Iterator[list[str]]:
    """Take llama.cpp's log for a while: its error lines into the list, its `[ 12/ 272]` lines as progress; then give the log back."""
    lines: list[str] = []
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a failed assertion would start gdb, and hide its own sentence

    @native.llama_log_callback  # type: ignore[untyped-decorator]
    def listen(level: int, text: bytes, _: object) -> None:
        line = text.decode("utf-8", "replace").strip()
        if level == LOG_ERROR and line:
            lines.append(line)
        step = re.match(r"\[ *(\d+)/ *(\d+)\]", line)
        if progress and step:
            progress(what, int(step[1]) / int(step[2]))

    before, data = native.llama_log_callback(), ctypes.c_void_p()
    native.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    native.llama_log_set(listen, None)
    try:
        yield lines
    finally:
        native.llama_log_set(before, data)


def _reason(lines: list[str]) -> str:
    return "; ".join(dict.fromkeys(lines)) or "it gave no reason"
