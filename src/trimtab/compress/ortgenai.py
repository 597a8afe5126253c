"""Recipes of family `ortgenai`: directories for ONNX Runtime GenAI on processors, by its own model builder, from a Hugging Face directory.

Parameters: `precision` (fp32, int4, int8); for int4 and int8 also `block_size` (weights that share a scale: 16, 32, 64, 128 or 256; 32),
`symmetric` (true; false = a zero point for each block), `algorithm` (`default` rounds to nearest as the builder does by itself, `rtn` with
scales chosen in another way, `k_quant` fits a scale and a zero point to each block), `mixed` (the builder's selectors with types, such as
`last_matmul:int8`, of int4 only) and `accuracy_level` (4: activations are rounded to 8 bits first, as the builder has it for processors;
1: they stay float32). In 4 bits an embedding table that is the output matrix too is packed with it; others stay float32.

A GGUF file is expanded to float32 first, exactly, as a product of its own (see compress/huggingface.py), and so is a checkpoint that was
quantised before: the builder would pass packed weights on as they are, whatever the recipe says. The builder also writes the
tokenizer as transformers makes it of the source, and the chat template, so that the product is opened without transformers.
"""

import contextlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.compress.base import Progress, make, snapshot_of
from trimtab.compress.transformers import EXPANDED, in_floats
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InfeasibleError, InputError, MissingError
from trimtab.core.model import Snapshot

PRECISIONS = ("fp32", "int4", "int8")
BLOCK_SIZES = (16, 32, 64, 128, 256)
ALGORITHMS = ("default", "rtn", "k_quant")
ACCURACY_LEVELS = (1, 4)
PACKED_ONLY = ("block_size", "symmetric", "algorithm", "mixed", "accuracy_level")
MODEL_FILES = ("model.onnx.data", "model.onnx")
WRITTEN = (*MODEL_FILES, "genai_config.json", "tokenizer.json", "tokenizer_config.json")
KEPT = ("config.json", "generation_config.json", "README.md")
"""What is taken from the source as it is; its README names the licence."""
FORM = "form 1"
"""Changes when the same source becomes other bytes."""
LIBRARIES = ("onnxruntime-genai", "onnxruntime", "onnx-ir", "torch", "transformers")
FIX = "pip install 'trimtab[ortgenai]'"


def version(recipe: Recipe) -> str:
    """See RecipeBuilder."""
    try:
        libraries = " ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingError(f"Recipe {recipe.name!r} needs a library that is not installed ({error}).", FIX) from error
    return f"{libraries}; {FORM}"


def product_bytes(recipe: Recipe, source: Snapshot) -> int:
    """See RecipeBuilder. The builder writes all weights in float32 beside the product before it packs them."""
    return 10 * source.size_bytes + 2**25 if source.format == "gguf" else 4 * source.size_bytes + 2**25


def build(
    recipe: Recipe, source: Snapshot, out_dir: Path, *, calibration: Sequence[str] = (), progress: Progress | None = None
) -> Snapshot:
    """See RecipeBuilder. Writes model.onnx with its weights, genai_config.json, the tokenizer, the template and the configuration."""
    options = options_of(recipe)
    if source.format not in ("safetensors", "gguf"):
        raise InfeasibleError(f"Recipe {recipe.name!r} is for Hugging Face directories and GGUF files, not for {source.format} weights.")
    if source.format == "gguf":
        weights = make(EXPANDED, source, out_dir.parent, progress=progress)
    else:
        weights = in_floats(source, out_dir.parent, progress=progress)
    if progress:
        progress("building the ONNX model", 0.0)
    _run_builder(recipe, weights.root, out_dir, options, source)
    for file in weights.files:
        if file.name in KEPT:
            shutil.copyfile(weights.root / file.name, out_dir / file.name)
    if progress:
        progress("building the ONNX model", 1.0)
    written = [path.name for path in out_dir.iterdir() if path.is_file()]
    first = [name for name in MODEL_FILES if name in written]
    return snapshot_of(out_dir, [*first, *sorted(set(written) - set(first))], like=source, recipe=recipe, fmt="onnx")


def options_of(recipe: Recipe) -> list[str]:
    """What the builder is told beside the precision, as its KEY=VALUE texts. Raises InputError for parameters that make no sense."""
    given = recipe.parameters
    for key in given:
        if key not in ("precision", *PACKED_ONLY):
            known = ", ".join(("precision", *PACKED_ONLY))
            raise InputError(f"Recipe {recipe.name!r} has an unknown parameter {key!r}; family ortgenai knows {known}.")
    choices: dict[str, Sequence[Any]] = {
        "precision": PRECISIONS,
        "block_size": BLOCK_SIZES,
        "symmetric": (True, False),
        "algorithm": ALGORITHMS,
        "accuracy_level": ACCURACY_LEVELS,
    }
    for key, values in choices.items():
        if (key in given or key == "precision") and given.get(key) not in values:
            raise InputError(f"Recipe {recipe.name!r} asks for {key} {given.get(key)!r}, which is one of {', '.join(map(str, values))}.")
    if given["precision"] == "fp32":
        if unused := next((key for key in PACKED_ONLY if key in given), ""):
            raise InputError(f"Recipe {recipe.name!r}: parameter {unused!r} goes with int4 and int8, not with fp32.")
        return []
    if given.get("mixed") and given["precision"] != "int4":
        raise InputError(f"Recipe {recipe.name!r}: parameter 'mixed' goes with int4.")
    told = [
        f"block_size={given.get('block_size', 32)}",
        f"is_symmetric={'true' if given.get('symmetric', True) else 'false'}",
        f"algo_config={given.get('algorithm', 'default')}",
        f"accuracy_level={given.get('accuracy_level', 4)}",
    ]
    return [*told, f"matmul_mixed_precision={given['mixed']}"] if given.get("mixed") else told


def _run_builder(recipe: Recipe, folder: Path, out_dir: Path, options: Sequence[str], source: Snapshot) -> None:
    """Let the library's builder write the directory. Raises InfeasibleError with its sentence, MissingError."""
    try:
        import onnxruntime_genai
        import torch  # noqa: F401

        onnxruntime_genai.disable_telemetry_events()
        from onnxruntime_genai.models.builder import create_model, parse_extra_options
    except ImportError as error:
        raise MissingError(f"Recipe {recipe.name!r} needs a library that is not installed ({error}).", FIX) from error
    from transformers.utils import logging as transformers_log

    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
    precision = recipe.parameters["precision"]
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=".onnx-") as scratch, contextlib.redirect_stdout(sys.stderr):
        place = ("", str(folder), str(out_dir), precision, "cpu", scratch)
        try:
            create_model(*place, **parse_extra_options(*place, ["hf_token=false", "hf_remote=false", *options]))
        except Exception as error:  # of many kinds, down to those of torch and of the library that packs
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise InfeasibleError(
                f"ONNX Runtime GenAI's builder cannot make {recipe.name!r} of {source.source}: {lines[0].rstrip('.')[:300]}."
            ) from error
    for path in out_dir.iterdir():
        os.chmod(path, 0o644)
    if missing := [name for name in WRITTEN if not (out_dir / name).is_file()]:
        raise InfeasibleError(f"ONNX Runtime GenAI's builder wrote no {missing[0]} for {source.source}.")
