"""Recipes of family `openvino`: OpenVINO directories from GGUF files, and NNCF's weight compression of them.

A Hugging Face directory is written as a GGUF file first (see compress/gguf_from_hf.py); only `gguf` and `gguf-exact` ask for a real one.

Parameter `mode`:
- `gguf`: what OpenVINO GenAI's own reader makes of the file as shipped; an OpenVINO directory is left as it is
- `gguf-exact`: the same, with the zero points of Q4_1 blocks as the file has them (see compress/openvino_q4_1.py)
- `fp16`: the reader fed with the 16-bit expansion of the file, so that it has nothing to re-quantise
- `q8_0`: the reader fed with llama.cpp's Q8_0 of the file: 8 bits with a scale for 32 weights, where NNCF's 8-bit modes have one a row
- `int8_asym`, `int8_sym`, `int4_asym`, `int4_sym`: NNCF on the fp16 directory. `group_size` (-1: one scale a row) and `ratio` (share
  of the weights in 4 bits, the rest in 8) go with the 4-bit modes. `calibration = true` makes them data-aware: `scale_estimation`
  and `awq` then name the methods, over `calibration_tokens` tokens at most. (NNCF's GPTQ fails on the reader's models.)

`tensors` gives some weights a type of their own, see compress/gguf_tensors.py for the patterns. With `gguf` and `gguf-exact` names and
types are those of the GGUF file, all other weights stay as they are, and the reader gets the changed file. With NNCF's modes the names
are those of the fp16 directory (model.layers[3].mlp.down_proj.weight), the types NNCF's modes or `keep` (16-bit floats).
"""

import contextlib
import importlib.metadata
import io
import json
import logging
import re
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.compress.base import Progress, make, needs_calibration, snapshot_of
from trimtab.compress.gguf_tensors import KEEP, check_pattern, check_tensors, match_types
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InfeasibleError, InputError, MissingError
from trimtab.core.files import write_atomic
from trimtab.core.model import Snapshot

READER_MODES = ("gguf", "gguf-exact", "fp16", "q8_0")
NNCF_MODES = ("int8_asym", "int8_sym", "int4_asym", "int4_sym")
GGUF_MODES = ("gguf", "gguf-exact")
METHODS = ("scale_estimation", "awq")
FOUR_BIT_ONLY = ("group_size", "ratio", "calibration", "calibration_tokens", *METHODS)
DEFAULT_CALIBRATION_TOKENS = 4096
CALIBRATION_WINDOW_TOKENS = 256
MODEL_NAMES = ("openvino_model.bin", "openvino_model.xml")
PRODUCT_RECORD = "product.json"
CHECKED_FIRST = "what the reader would ignore is refused"
NAMED_BY_PLACE = "operations that packing adds are named by their place"
F16 = Recipe(name="llamacpp-f16", family="gguf", engine="llamacpp", parameters={"type": "F16"}, bits_per_weight=16.0)
Q8_0 = Recipe(name="llamacpp-q8_0", family="gguf", engine="llamacpp", parameters={"type": "Q8_0"}, bits_per_weight=8.5)
READER_INPUTS = {"fp16": F16, "q8_0": Q8_0}
FP16 = Recipe(name="openvino-fp16", family="openvino", engine="openvino", parameters={"mode": "fp16"}, bits_per_weight=16.0)


def version(recipe: Recipe) -> str:
    """See RecipeBuilder."""
    names = ["openvino", "openvino-genai", "openvino-tokenizers"]
    packed = recipe.parameters.get("mode") in NNCF_MODES
    if packed:
        names.append("nncf")
    if recipe.parameters.get("mode") not in GGUF_MODES or recipe.parameters.get("tensors"):
        names.append("llama-cpp-python")
    try:
        libraries = " ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingError(
            f"Recipe {recipe.name!r} needs a library that is not installed ({error}).", "pip install 'trimtab[openvino]'"
        ) from error
    return "; ".join([libraries, CHECKED_FIRST, *([NAMED_BY_PLACE] if packed else [])])


def product_bytes(recipe: Recipe, source: Snapshot) -> int:
    """See RecipeBuilder. What a recipe is built from is a product of its own and is not counted here."""
    if recipe.parameters.get("mode") in GGUF_MODES or source.format == "openvino":
        return 2 * source.size_bytes + 2**25
    from trimtab.compress import gguf

    copies = 2 if source.format == "safetensors" else 1  # the reader may need a copy of what it reads
    return copies * gguf.product_bytes(F16, source)


def build(
    recipe: Recipe, source: Snapshot, out_dir: Path, *, calibration: Sequence[str] = (), progress: Progress | None = None
) -> Snapshot:
    """See RecipeBuilder. Writes a directory that OpenVINO GenAI opens."""
    _check(recipe)
    mode = recipe.parameters["mode"]
    if source.format == "openvino" and mode == "gguf":
        return source
    if source.format not in _formats(mode):
        also = " or a Hugging Face directory" if "safetensors" in _formats(mode) else ""
        raise InfeasibleError(f"Recipe {recipe.name!r} starts from a GGUF file{also}, and {source.source} is {source.format}.")
    import_openvino()
    if mode in NNCF_MODES:
        base = source if source.format == "openvino" else make(FP16, source, out_dir.parent, progress=progress)
        _compress(recipe, base.path, out_dir, calibration)
    else:
        changed = READER_INPUTS.get(mode) or _changed(recipe)
        weights = make(changed, source, out_dir.parent, progress=progress) if changed else source
        if len(weights.files) > 1:
            raise InfeasibleError("OpenVINO GenAI's reader does not join the parts of a split GGUF.")
        read_gguf(weights.path, out_dir)
        if mode == "gguf-exact":
            from trimtab.compress.openvino_q4_1 import restore_zero_points

            restore_zero_points(out_dir / "openvino_model.xml", weights.path)
    others = sorted(path.name for path in out_dir.iterdir() if path.name not in MODEL_NAMES)
    return snapshot_of(out_dir, [*MODEL_NAMES, *others], like=source, recipe=recipe, fmt="openvino")


def _formats(mode: str) -> tuple[str, ...]:
    """The formats of what a mode starts from. The reader keeps the types of a GGUF file only where it is fed with one."""
    if mode in GGUF_MODES:
        return ("gguf",)
    return ("gguf", "safetensors", "openvino") if mode in NNCF_MODES else ("gguf", "safetensors")


def _changed(recipe: Recipe) -> Recipe | None:
    """How the file is changed before the reader gets it, None if not at all."""
    tensors = recipe.parameters.get("tensors")
    if not tensors:
        return None
    return Recipe(name=recipe.name, family="gguf", engine=recipe.engine, parameters={"type": KEEP, "tensors": tensors})


def import_openvino() -> Any:
    """The openvino module. Its telemetry package, which would report every import over the network, is kept out of the process."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise MissingError(f"OpenVINO is not installed ({error}).", "pip install 'trimtab[openvino]'") from error
    return openvino


def read_gguf(path: Path, folder: Path) -> None:
    """Let GenAI's reader turn a GGUF file into an OpenVINO directory. It writes beside the file it is given, so it gets a link there.

    The reader drops how long the model's context is; a config.json keeps it, under the name it has in Hugging Face's.
    Raises InfeasibleError with the reader's sentence, and for what it would ignore (see compress/openvino_reader.py).
    """
    import openvino_genai

    from trimtab.compress.openvino_reader import readable

    link = folder / "model.gguf"
    given = readable(path, folder)
    link.symlink_to(given.resolve())
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
    except RuntimeError as error:
        raise InfeasibleError(f"OpenVINO GenAI cannot read {path.name}: {_last_sentence(error)}.") from error
    finally:
        link.unlink()
        if given != path:
            given.unlink()
    context = _context_tokens(path)
    if context is not None:
        write_atomic(folder / "config.json", json.dumps({"max_position_embeddings": context}))


def _context_tokens(path: Path) -> int | None:
    """The context that a GGUF file's metadata names."""
    import gguf

    metadata = gguf.GGUFReader(path).fields
    architecture = metadata["general.architecture"].contents() if "general.architecture" in metadata else ""
    length = metadata.get(f"{architecture}.context_length")
    return None if length is None else int(length.contents())


def _compress(recipe: Recipe, base: Path, out_dir: Path, calibration: Sequence[str]) -> None:
    """Write the directory `base` with compressed weights to out_dir."""
    openvino = import_openvino()
    try:
        import nncf
    except ImportError as error:
        raise MissingError(f"Recipe {recipe.name!r} needs NNCF ({error}).", "pip install 'trimtab[openvino]'") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    parameters = recipe.parameters
    options: dict[str, Any] = {key: parameters[key] for key in ("group_size", "ratio") if key in parameters}
    if needs_calibration(recipe):
        options["dataset"] = nncf.Dataset(
            _windows(base, calibration, int(parameters.get("calibration_tokens", DEFAULT_CALIBRATION_TOKENS)))
        )
        options |= {method: True for method in METHODS if parameters.get(method)}
    model = openvino.Core().read_model(str(base / "openvino_model.xml"))
    before = {node.get_friendly_name() for node in model.get_ordered_ops()}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            packed = _compress_by_type(recipe, model, options) if parameters.get("tensors") else _pack(model, parameters["mode"], options)
    except (RuntimeError, ValueError, nncf.errors.ValidationError, nncf.errors.UnsupportedModelError) as error:
        raise InfeasibleError(f"NNCF cannot compress this model by recipe {recipe.name!r}: {_last_sentence(error)}.") from error
    name_by_place(packed, before)
    openvino.save_model(packed, str(out_dir / "openvino_model.xml"), compress_to_fp16=False)
    for path in base.iterdir():
        if path.is_file() and path.name not in (*MODEL_NAMES, PRODUCT_RECORD):
            shutil.copyfile(path, out_dir / path.name)


def name_by_place(model: Any, before: Collection[str]) -> None:
    """Name by its place what packing added and OpenVINO named by a counter of the process.

    The counter depends on whether the fp16 directory was made in the same process, and with it the digest of the very same weights would.
    """
    for number, node in enumerate(model.get_ordered_ops()):
        kind, name = node.get_type_name(), node.get_friendly_name()
        if name not in before and re.fullmatch(rf"{re.escape(kind)}_\d+", name):
            node.set_friendly_name(f"packed_{kind}_{number}")


def _pack(model: Any, mode: str, options: dict[str, Any], ignored: Sequence[str] = ()) -> Any:
    """NNCF's weight compression of all but the operations named in `ignored`; weights that are packed already stay so."""
    import nncf

    scope = {"ignored_scope": nncf.IgnoredScope(names=sorted(ignored))} if ignored else {}
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode(mode), **scope, **(options if mode.startswith("int4") else {}))


def _compress_by_type(recipe: Recipe, model: Any, options: dict[str, Any]) -> Any:
    """One pass for each type, over the weights that are to have it."""
    users = _users_of_weights(model)
    chosen = match_types(recipe, recipe.parameters["tensors"], users)
    by_type: dict[str, set[str]] = {}
    for name, operations in users.items():
        by_type.setdefault(chosen.get(name, recipe.parameters["mode"]), set()).update(operations)
    for type_name in sorted(by_type.keys() - {KEEP}):
        others = set().union(*(operations for other, operations in by_type.items() if other != type_name))
        # NNCF leaves embedding and output matrix at 8 bits unless told that all are meant; here each was named.
        model = _pack(model, type_name, {**options, "all_layers": True}, tuple(others))
    return model


def _users_of_weights(model: Any) -> dict[str, set[str]]:
    """Names of the operations that take each weight matrix, through a conversion or not. A tied one is taken by two."""
    found: dict[str, set[str]] = {}
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() != "Constant" or not name.endswith(".weight") or len(node.get_output_shape(0)) < 2:
            continue
        users = [target.get_node() for target in node.output(0).get_target_inputs()]
        users += [target.get_node() for user in users if user.get_type_name() == "Convert" for target in user.output(0).get_target_inputs()]
        found[name] = {user.get_friendly_name() for user in users if user.get_type_name() != "Convert"}
    return found


def _windows(base: Path, texts: Sequence[str], max_tokens: int) -> list[dict[str, Any]]:
    """Calibration texts as inputs of the stateful model: windows of one sequence each, max_tokens in all."""
    import numpy as np
    import openvino_genai

    tokenizer = openvino_genai.Tokenizer(str(base))
    windows = []
    left = max_tokens
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0]
        for start in range(0, len(ids), CALIBRATION_WINDOW_TOKENS):
            part = ids[start : start + min(CALIBRATION_WINDOW_TOKENS, left)]
            if len(part) < 2:
                continue
            left -= len(part)
            windows.append(
                {
                    "input_ids": part[None].astype(np.int64),
                    "attention_mask": np.ones((1, len(part)), np.int64),
                    "position_ids": np.arange(len(part), dtype=np.int64)[None],
                    "beam_idx": np.zeros(1, np.int32),
                }
            )
    if not windows:
        raise InputError("The calibration texts hold no two tokens in a row.")
    return windows


def _check(recipe: Recipe) -> None:
    mode = recipe.parameters.get("mode")
    if mode not in (*READER_MODES, *NNCF_MODES):
        raise InputError(f"Recipe {recipe.name!r} asks for mode {mode!r}; the modes are {', '.join((*READER_MODES, *NNCF_MODES))}.")
    tensors = _check_types(recipe)
    for key in recipe.parameters:
        if key not in ("mode", "tensors", *FOUR_BIT_ONLY):
            raise InputError(
                f"Recipe {recipe.name!r} has an unknown parameter {key!r}; family openvino knows mode, tensors, {', '.join(FOUR_BIT_ONLY)}."
            )
        if key in FOUR_BIT_ONLY and not any(str(each).startswith("int4") for each in (mode, *tensors.values())):
            raise InputError(f"Recipe {recipe.name!r}: parameter {key!r} goes with a 4-bit mode, not with {mode!r}.")
    if not needs_calibration(recipe) and any(recipe.parameters.get(method) for method in METHODS):
        raise InputError(f"Recipe {recipe.name!r} names a data-aware method and so needs calibration = true.")


def _check_types(recipe: Recipe) -> Mapping[str, str]:
    """The `tensors` of a recipe, checked for its mode."""
    mode = recipe.parameters["mode"]
    tensors: Mapping[str, str] = recipe.parameters.get("tensors", {})
    if mode in GGUF_MODES or not isinstance(tensors, Mapping):
        check_tensors(recipe)
    elif tensors and mode not in NNCF_MODES:
        raise InputError(f"Recipe {recipe.name!r}: tensors goes with modes {', '.join((*GGUF_MODES, *NNCF_MODES))}, not with {mode!r}.")
    else:
        for pattern, type_name in tensors.items():
            if type_name not in (*NNCF_MODES, KEEP):
                raise InputError(
                    f"Recipe {recipe.name!r} asks for type {type_name!r} for {pattern!r}; with mode {mode!r} the types are "
                    f"{', '.join(NNCF_MODES)} and {KEEP}."
                )
            check_pattern(recipe, pattern)
    return tensors


def _last_sentence(error: BaseException) -> str:
    """The telling line of an OpenVINO exception: the last one that is not a place in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception from ")]
    return (telling or lines or [type(error).__name__])[-1].rstrip(".")[:300]
