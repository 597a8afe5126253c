"""A Hugging Face directory to a model that can be trained, and back.

With `meta` a model has shapes and no memory; once it is sharded, `fill` gives each process the rows that are its own.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from trimtab.core.errors import InputError
from trimtab.core.training import Precision, TrainConfig

DTYPES: dict[Precision, torch.dtype] = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.float32}
"""Of the weights that the optimizer changes."""


def load_model(config: TrainConfig, folder: Path, device: torch.device, *, meta: bool) -> nn.Module:
    """The causal language model in a Hugging Face directory, in training mode.

    Raises InputError for a directory that holds none.
    """
    hf_config = _read_config(folder)
    dtype = DTYPES[config.train.precision]
    torch.manual_seed(config.train.seed)
    model = AutoModelForCausalLM.from_config(hf_config, dtype=dtype, attn_implementation=_attention(hf_config))
    model.to(device)
    return model.train()


def _read_config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no config.json; give a Hugging Face directory of a causal language model.")
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(f"transformers does not know the model in {folder}: {error}") from None


def _attention(config: PreTrainedConfig) -> str:
    """`sdpa`, unless attention caps its scores, which torch's fused kernels cannot."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
