"""LoRA adapters as GGUF files: what their headers must say, alone and beside the model that they are for."""

from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader
from trimtab.sources.gguf import read_gguf_header

CONVERT = "make a GGUF of it with llama.cpp's convert_lora_to_gguf.py"


def read_adapter(path: Path) -> ModelHeader:
    """The header of a LoRA adapter. Raises InputError for a file that is none, or one that would not act as it was trained to."""
    if path.suffix.lower() in (".safetensors", ".bin", ".pt"):
        raise InputError(f"{path} is no GGUF file; {CONVERT}.")
    header = read_gguf_header((path,))
    kind, form = header.metadata.get("general.type"), header.metadata.get("adapter.type")
    if kind != "adapter":
        raise InputError(f"{path} is no adapter: its general.type is {kind!r}; {CONVERT}.")
    if form != "lora":
        raise InputError(f"{path} is an adapter of type {form!r}; only `lora` is supported.")
    if "adapter.alora.invocation_tokens" in header.metadata:
        raise InputError(f"{path} is an activated LoRA, which acts from certain tokens on only; that is not supported, train a plain one.")
    other = next((tensor.name for tensor in header.tensors if not tensor.name.endswith((".lora_a", ".lora_b"))), "")
    if other:
        raise InputError(f"{path} holds {other}, which is no part of a LoRA and would be passed over; train it without whole tensors.")
    return header


def why_unfit(adapter: ModelHeader, model: ModelHeader) -> str:
    """Why a LoRA adapter is not for a GGUF model, as far as their headers tell; empty if it may be."""
    if adapter.architecture != model.architecture:
        return f"it is for the architecture {adapter.architecture}, and the model is {model.architecture}"
    shapes = {tensor.name: tensor.shape for tensor in model.tensors}
    for tensor in adapter.tensors:
        name, _, side = tensor.name.rpartition(".lora_")
        shape = shapes.get(name)
        if shape is None:
            return f"it changes {name}, which the model does not have"
        if name.endswith("token_embd.weight") or min(len(shape), len(tensor.shape)) < 2:
            continue  # llama.cpp looks at these itself, when it loads them
        # A row of the change has A's columns, a column of it B's rows.
        changed, there = (tensor.shape[-1], shape[-1]) if side == "a" else (tensor.shape[-2], shape[-2])
        if changed != there:
            return f"it changes {name} with {changed} {'columns' if side == 'a' else 'rows'}, and the model's has {there}"
    return ""
