"""Recipes of family `transformers`: the number format in which transformers opens a Hugging Face directory.

Parameters: `dtype` (float32, bfloat16, float16); `weights` (int8 or int4 in linear layers, by torchao), `activations` (int8, with weights
in int8), `group_size` (of int4). The product holds links to the source's files and one file more, which names the format: no weight is
rounded before the engine opens it, and no byte of weights is written twice. A GGUF file is expanded to float32 first, exactly, as a product
of its own (see compress/huggingface.py), and so is a checkpoint that was quantised before.
"""

from collections.abc import Sequence
from pathlib import Path

from trimtab.compress.base import Progress, make
from trimtab.compress.quantized_checkpoint import packing_in
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import sha256_file
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.core.number_format import FORMAT_FILE, NumberFormat

PARAMETERS = ("dtype", "weights", "activations", "group_size")
PRODUCT_BYTES = 1 << 20
EXPANDED = Recipe(
    name="huggingface-fp32",
    family="huggingface",
    engine="transformers",
    title="float32, as a Hugging Face directory",
    parameters={"dtype": "float32"},
    bits_per_weight=32.0,
)


def build(
    recipe: Recipe, source: Snapshot, out_dir: Path, *, calibration: Sequence[str] = (), progress: Progress | None = None
) -> Snapshot:
    """See RecipeBuilder."""
    number_format = format_of(recipe)
    if source.format not in ("safetensors", "gguf"):
        raise InfeasibleError(f"Recipe {recipe.name!r} is for Hugging Face directories and GGUF files, not for {source.format} weights.")
    weights = make(EXPANDED, source, out_dir.parent, progress=progress) if source.format == "gguf" else in_floats(source, out_dir.parent)
    for file in weights.files:
        if file.name == FORMAT_FILE:
            continue
        place = out_dir / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to((weights.root / file.name).absolute())
    path = out_dir / FORMAT_FILE
    path.write_text(number_format.written(), encoding="utf-8")
    own = SnapshotFile(name=FORMAT_FILE, size_bytes=path.stat().st_size, sha256=sha256_file(path))
    files = (*(file for file in weights.files if file.name != FORMAT_FILE), own)
    return Snapshot(
        source=source.source,
        format="safetensors",
        root=out_dir,
        files=files,
        revision=source.revision,
        made_by=f"{recipe.name} {source.digest}",
    )


def in_floats(source: Snapshot, cache_dir: Path, *, progress: Progress | None = None) -> Snapshot:
    """Plain weights: the source, or of a quantised Hugging Face directory the product unpacked to float32, which recipes share.

    For builders, which start from plain weights. Raises what compress/quantized_checkpoint.py raises.
    """
    return source if packing_in(source) is None else make(EXPANDED, source, cache_dir, progress=progress)


def version(recipe: Recipe) -> str:
    """Nothing but the recipe and the source counts: torchao rounds when the engine opens the product, and is named by its build."""
    return "1"


def product_bytes(recipe: Recipe, source: Snapshot) -> int:
    return PRODUCT_BYTES


def format_of(recipe: Recipe) -> NumberFormat:
    """What the parameters name. Raises InputError."""
    for key in recipe.parameters:
        if key not in PARAMETERS:
            raise InputError(f"Recipe {recipe.name!r} has an unknown parameter {key!r}; family transformers knows {', '.join(PARAMETERS)}.")
    if not recipe.parameters.get("dtype"):
        raise InputError(f"Recipe {recipe.name!r} lacks dtype.")
    try:
        return NumberFormat(**recipe.parameters)
    except InputError as error:
        raise InputError(f"Recipe {recipe.name!r}: {error}") from error
