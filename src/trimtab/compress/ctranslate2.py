"""Recipes of family `ctranslate2`: a Hugging Face directory or a GGUF file as CTranslate2 opens it, by the library's own converter.

Parameter `compute_type`, in the library's words: `float32`, or `int8_float32` (8-bit weights with a scale a row, embedding and output
matrix too; activations are rounded to 8 bits as they come, with a scale for each token). A GGUF file is expanded to float32 first, exactly,
as a product of its own (see compress/huggingface.py).

The float32 form is held against transformers: the converter takes some configurations for others without a word (Llama 3's rotary scaling
of another original length, say), and then its log-probabilities are another model's. The 8-bit form is made where float32 has passed.

The product holds the library's files and a folder `text` with the source's configuration, the tokenizer as transformers would make it, the
tokens that begin and end a text, and the chat template: the engine needs neither torch nor transformers.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.compress.base import Progress, make, snapshot_of
from trimtab.compress.transformers import EXPANDED
from trimtab.core.ctranslate2_files import COMPUTE_TYPE, TEXT_FOLDER
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InfeasibleError, InputError, MissingError
from trimtab.core.files import json_object, write_atomic
from trimtab.core.model import Snapshot

COMPUTE_TYPES = {"float32": 4.0, "int8_float32": 1.1}
"""With bytes for each weight, for an upper estimate."""
LIBRARIES = ("ctranslate2", "transformers", "torch", "tokenizers")
FLOATS = Recipe(
    name="ctranslate2-float32",
    family="ctranslate2",
    engine="ctranslate2",
    title="float32",
    parameters={"compute_type": "float32"},
    bits_per_weight=32.0,
)
CHECKED_TOKENS = 256
MOST_OFF = 0.05
"""Nats: the largest difference of a log-probability from transformers that rounding in float32 is believed to make, many times over."""
FORM = "form 1"
"""Changes when the same source becomes other bytes."""
FIX = "pip install 'trimtab[ctranslate2]'"


def version(recipe: Recipe) -> str:
    """See RecipeBuilder."""
    try:
        libraries = " ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES if name != "torch")
        importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingError(f"Recipe {recipe.name!r} needs a library that is not installed ({error}).", FIX) from error
    return f"{libraries}; {FORM}"


def product_bytes(recipe: Recipe, source: Snapshot) -> int:
    """See RecipeBuilder. The expanded form of a GGUF file is a product of its own."""
    from trimtab.compress import huggingface

    floats = huggingface.product_bytes(EXPANDED, source) or 2 * source.size_bytes  # of 16-bit floats, which most checkpoints hold
    return int(floats / 4 * COMPUTE_TYPES[_compute_type(recipe)]) + 2**25


def build(
    recipe: Recipe, source: Snapshot, out_dir: Path, *, calibration: Sequence[str] = (), progress: Progress | None = None
) -> Snapshot:
    """See RecipeBuilder. Writes a directory that the engine `ctranslate2` opens."""
    compute_type = _compute_type(recipe)
    if source.format not in ("safetensors", "gguf"):
        raise InfeasibleError(f"Recipe {recipe.name!r} is for Hugging Face directories and GGUF files, not for {source.format} weights.")
    weights = make(EXPANDED, source, out_dir.parent, progress=progress)
    floats = make(FLOATS, source, out_dir.parent, progress=progress) if compute_type != "float32" else None
    if progress:
        progress("converting to CTranslate2", 0.0)
    _convert(weights.path, source.source, out_dir, compute_type)
    if floats is not None:
        shutil.copytree(floats.root / TEXT_FOLDER, out_dir / TEXT_FOLDER)
    else:
        _check_logits(weights.path, source.source, out_dir)
        _write_texts(weights.path, source.source, out_dir / TEXT_FOLDER)
    names = sorted(path.relative_to(out_dir).as_posix() for path in out_dir.rglob("*") if path.is_file())
    return snapshot_of(
        out_dir, ["model.bin", *(name for name in names if name != "model.bin")], like=source, recipe=recipe, fmt="ctranslate2"
    )


def _compute_type(recipe: Recipe) -> str:
    """Raises InputError."""
    for key in recipe.parameters:
        if key != "compute_type":
            raise InputError(f"Recipe {recipe.name!r} has an unknown parameter {key!r}; family ctranslate2 knows compute_type.")
    found = recipe.parameters.get("compute_type")
    if found not in COMPUTE_TYPES:
        raise InputError(f"Recipe {recipe.name!r} asks for compute_type {found!r}; the types are {', '.join(COMPUTE_TYPES)}.")
    return str(found)


def _convert(folder: Path, source: str, out_dir: Path, compute_type: str) -> None:
    """The library's files, its config.json with the number format. Raises InfeasibleError."""
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError as error:
        raise MissingError(f"CTranslate2 is not installed ({error}).", FIX) from error

    class Converter(TransformersConverter):  # type: ignore[misc]
        """The library's converter fills tensors that a checkpoint lacks with random numbers; this one refuses."""

        def load_model(self, model_class: Any, name: str, **options: Any) -> Any:
            net, told = model_class.from_pretrained(name, use_safetensors=True, local_files_only=True, output_loading_info=True, **options)
            wrong = sorted([*told["missing_keys"], *(key for key, *_ in told.get("mismatched_keys", ()))])
            if wrong:
                raise ValueError(f"{len(wrong)} tensors are missing or of another shape, the first is {wrong[0]}")
            return net

    made = out_dir / "made"
    try:
        Converter(str(folder)).convert(str(made), quantization=compute_type)
    except Exception as error:  # of many kinds, from the library and from transformers
        told = str(error).strip().partition("\n")[0].partition(" (supported configurations")[0].rstrip(".")[:300]
        raise InfeasibleError(f"CTranslate2 cannot convert {source}: {told or type(error).__name__}.") from error
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    # A token that the tokenizer lacks is null there in some of the converter's configurations, which the library cannot read.
    config |= {key: config.get(key) or "" for key in ("bos_token", "eos_token", "unk_token")}
    write_atomic(made / "config.json", json.dumps({**config, COMPUTE_TYPE: compute_type}, indent=2, sort_keys=True) + "\n")
    tokens = json.loads((made / "vocabulary.json").read_text(encoding="utf-8"))
    if len(set(tokens)) < len(tokens):
        raise InfeasibleError(f"CTranslate2 cannot convert {source}: two of its tokens have the same name, and prompts are given by names.")
    for path in made.iterdir():
        path.rename(out_dir / path.name)
    made.rmdir()


def _check_logits(folder: Path, source: str, out_dir: Path) -> None:
    """Raise InfeasibleError where the product computes other log-probabilities than transformers does on the source, both in float32."""
    import ctranslate2
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True).eval()
    config = net.config.get_text_config(decoder=True)
    lengths = [getattr(config, key, None) for key in ("max_position_embeddings", "sliding_window")]
    length = min(CHECKED_TOKENS, *(int(each) for each in lengths if each))
    ids = np.random.RandomState(0).randint(0, config.vocab_size, length)
    with torch.inference_mode():
        expected = torch.log_softmax(net(input_ids=torch.from_numpy(ids)[None]).logits[0], -1)
    del net  # the two need not lie in memory together
    try:
        made = ctranslate2.Generator(str(out_dir), device="cpu", compute_type="float32")
        found = torch.from_numpy(np.array(made.forward_batch([ids.tolist()], return_log_probs=True))[0])
        del made  # not by the trace of an error, which Python's collector may take in a thread of the library's
    except (RuntimeError, ValueError) as error:
        told = str(error).strip().partition("\n")[0].rstrip(".")[:300]
        raise InfeasibleError(f"CTranslate2 cannot compute with what its converter makes of {source}: {told}.") from error
    off = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
    if not off < MOST_OFF:
        raise InfeasibleError(
            f"CTranslate2's converter makes another model of {source}: log-probabilities differ from those of transformers by up to "
            f"{off:.2g} nats."
        )


def _write_texts(folder: Path, source: str, out_dir: Path) -> None:
    """The folder `text`. Raises InfeasibleError for a tokenizer that has no tokenizer.json."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InfeasibleError(f"The tokenizer of {source} cannot be written as a tokenizer.json.")
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()), "")
    out_dir.mkdir()
    write_atomic(out_dir / "tokenizer.json", backend.to_str(pretty=True))
    told = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token or "", "chat_template": template or ""}
    write_atomic(out_dir / "tokenizer_config.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    config = json_object(folder / "config.json")
    config = config.get("text_config") or config
    write_atomic(out_dir / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    ends = json_object(folder / "generation_config.json").get("eos_token_id", config.get("eos_token_id", tokenizer.eos_token_id))
    write_atomic(out_dir / "generation_config.json", json.dumps({"eos_token_id": ends}) + "\n")
    if (folder / "README.md").is_file():
        shutil.copyfile(folder / "README.md", out_dir / "README.md")
