"""The Hugging Face directory that a healing begins at: the reference on the candidate's grids, rounded as well as can be untrained."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trimtab.compress.grids import Codes, Floats
from trimtab.core.errors import InputError
from trimtab.core.training import Precision
from trimtab.train.heal.codes_file import write_codes
from trimtab.train.heal.compensate import compensated, input_products
from trimtab.train.models import TOKENIZER_FILES

SEQUENCES_AT_ONCE = 2


def fast_precision() -> Precision:
    """`bf16` where this machine multiplies 16-bit numbers faster than 32-bit ones, else `fp32`."""
    fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"


def write_start(
    reference: Path,
    out: Path,
    *,
    grids: Mapping[str, str],
    kept: Mapping[str, Floats],
    sequences: Sequence[Sequence[int]],
    progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Write the directory `out`, whole or not at all, with its codes beside it.

    reference: Hugging Face directory; grids: by weight; kept: by weight, numbers that take the place of the reference's
    sequences: token ids of calibration text, all of one length
    Raises InputError for names that the reference does not have or a grid that does not fit, InfeasibleError for inputs that are not
    finite.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32, attn_implementation="sdpa").eval()
    layers = linear_layers(model, grids)
    ids = torch.tensor(np.array(sequences, np.int64))
    products = input_products(model, layers, list(ids.split(SEQUENCES_AT_ONCE)))
    codes: dict[str, Codes] = {}
    together: dict[tuple[str, str], list[str]] = {}
    for name in layers:
        together.setdefault((products.first[name], grids[f"{name}.weight"]), []).append(name)
    for count, ((first, grid), names) in enumerate(together.items()):
        weight, found = compensated(torch.cat([layers[name].weight.detach() for name in names]), grid, products.of(first))
        row = 0
        for name in names:
            rows = slice(row, row + layers[name].out_features)
            row = rows.stop
            layers[name].weight.data.copy_(weight[rows])
            offsets = None if found.offsets is None else found.offsets[rows]
            codes[f"{name}.weight"] = replace(found, levels=found.levels[rows], scales=found.scales[rows], offsets=offsets)
        progress((count + 1) / len(together))
    _replace(model, kept)
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    _keep_plain(aside / "config.json")
    for name in TOKENIZER_FILES:
        if (reference / name).is_file():
            shutil.copyfile(reference / name, aside / name)
    write_codes(aside, codes)
    shutil.rmtree(out, ignore_errors=True)
    aside.replace(out)


def linear_layers(model: nn.Module, grids: Mapping[str, str]) -> dict[str, nn.Linear]:
    """The layers whose weights are to be on a grid. Raises InputError for a weight that is none of a linear layer."""
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and f"{name}.weight" in grids}
    missing = sorted(set(grids) - {f"{name}.weight" for name in found})
    if missing:
        raise InputError(f"{missing[0]} is no weight of a linear layer of this model, so it cannot be trained on a grid.")
    return found


@torch.no_grad()
def _replace(model: nn.Module, kept: Mapping[str, Floats]) -> None:
    """Put numbers of the candidate in the place of the reference's."""
    parameters = dict(model.named_parameters())
    for name, values in kept.items():
        if name not in parameters or tuple(parameters[name].shape) != values.shape:
            raise InputError(f"The reference has no weight {name} of shape {values.shape}.")
        parameters[name].copy_(torch.from_numpy(np.ascontiguousarray(values, np.float32)))


def _keep_plain(path: Path) -> None:
    """A config.json that names no quantisation: the weights are plain floats."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def first_sequences(folder: Path, files: Sequence[str], seq_tokens: int, count: int) -> list[list[int]]:
    """The first `count` sequences of seq_tokens token ids of text files, in the tokens of a Hugging Face directory; fewer if the text ends.

    Raises InputError for text that holds not even one.
    """
    from trimtab.train.data.tokenizers import HuggingFaceTokenizer

    tokenizer = HuggingFaceTokenizer(folder)
    ids: list[int] = []
    for name in files:
        for text in _texts(Path(name)):
            ids += [*tokenizer.encode(text), tokenizer.end_id]
            if len(ids) >= seq_tokens * count:
                break
    found = [ids[first : first + seq_tokens] for first in range(0, min(len(ids), seq_tokens * count) - seq_tokens + 1, seq_tokens)]
    if not found:
        raise InputError(f"{', '.join(files)}: {len(ids)} tokens of text are not enough; give {seq_tokens} at least.")
    return found


def _texts(path: Path) -> list[str]:
    """Documents of a .jsonl or a .txt file."""
    if path.suffix != ".jsonl":
        return [path.read_text(encoding="utf-8")]
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return [row["text"] for row in rows if "text" in row]
