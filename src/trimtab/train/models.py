"""A Hugging Face directory to a model that can be trained: shapes first, then values, block by block.

`load_model(meta=True)` makes a model of shapes only. `Weights.fill` then gives one part of it memory and values; sharding.py shards each
block as soon as it is filled, so that a process never holds more than its own shards and one block, or the embedding, whole. Random weights
depend on the seed and the parameter's name only: they are the same on any number of processes.
"""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from trimtab.core.errors import InputError
from trimtab.core.files import sync_folder
from trimtab.core.training import Precision, TrainConfig, TrainModel

DTYPES: Mapping[Precision, torch.dtype] = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.float32}
"""Of the weights that the optimizer changes."""
ADAPTER = "default"
TOKENIZER_FILES = (
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
    ),
    *("chat_template.jinja", "generation_config.json"),
)


class Weights:
    """Values for a model's parameters: from a Hugging Face directory, or drawn anew.

    whole: this architecture's files name their tensors otherwise, so transformers has read all of them into this process's memory
    """

    def __init__(self, model: PreTrainedModel, folder: Path, *, random: bool, seed: int) -> None:
        self.random, self.seed, self.root = random, seed, model
        self.names = {id(module): name for name, module in model.named_modules()}
        self.tied: Mapping[str, str] = model.all_tied_weights_keys  # a name, and that of the parameter it shares
        self.files = {} if random else _tensor_files(folder)
        self.values: Mapping[str, torch.Tensor] = {}
        self.of_parts: dict[str, torch.Tensor] = {}  # drawn with the module they are a part of, which has a say in them
        self.whole = not random and not all(self._stored(name) for name, _ in _own_parameters(model))
        if self.whole:
            self.values = _read_whole(model, folder)

    def fill(self, part: nn.Module, device: torch.device) -> None:
        """Memory and values for what is still without in this part of the model. Raises InputError for tensors that do not fit."""
        prefix = self.names[id(part)]
        for name, module in part.named_modules(prefix=prefix):
            if any(tensor.is_meta for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
                self._fill_one(name, module, device)
        if part is self.root:
            self.root.tie_weights()

    def _fill_one(self, name: str, module: nn.Module, device: torch.device) -> None:
        """One module's own parameters and buffers; its children are left alone."""
        drawn = self._drawn(name, module) if self._needs_drawing(name, module) else {}
        for key, old in list(module.named_parameters(recurse=False)):
            full = f"{name}.{key}".removeprefix(".")
            if _plain(full) not in self.tied:
                value = drawn[key] if key in drawn else self._read(full, old)
                module.register_parameter(key, nn.Parameter(value.to(device, old.dtype, copy=True), requires_grad=old.requires_grad))
        for key, old in list(module.named_buffers(recurse=False)):
            full = f"{name}.{key}".removeprefix(".")
            value = self._read(full, old) if self._stored(full) else drawn[key]
            module.register_buffer(key, value.to(device, old.dtype), persistent=key not in module._non_persistent_buffers_set)

    def _needs_drawing(self, name: str, module: nn.Module) -> bool:
        return self.random or ".lora_" in name or any(True for _ in module.buffers(recurse=False))

    def _drawn(self, name: str, module: nn.Module) -> dict[str, torch.Tensor]:
        """A fresh module as its architecture initialises it; adapters as PEFT does (B is 0, so that they change nothing)."""
        fresh = copy.deepcopy(module).to_empty(device="cpu")
        for part in fresh.modules():
            part._parameters = {key: _drawn_into(value) for key, value in part._parameters.items()}
        digest = hashlib.sha256(f"{self.seed} {_plain(name)}".encode()).digest()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest[:7], "little"))
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(fresh.weight, a=5**0.5)
            elif ".lora_B." in name:
                nn.init.zeros_(fresh.weight)
            else:
                for part in reversed(list(fresh.modules())):  # as transformers does: what a module does to its parts comes last
                    self.root._init_weights(part)
        kept = list(fresh.named_parameters()) if self.random or ".lora_" in name else []
        own = {key: self.of_parts.pop(f"{name}.{key}", value) for key, value in kept if "." not in key}
        self.of_parts.update({f"{name}.{key}": value for key, value in kept if "." in key})
        return {**own, **dict(fresh.named_buffers(recurse=False))}

    def _stored(self, name: str) -> str | None:
        """The stored name of a parameter or of one it is tied to; directories of bare models leave the first part out."""
        plain = _plain(name)
        names = (plain, *(other for other, source in self.tied.items() if source == plain))
        either = (found for long in names for found in (long, long.removeprefix(f"{self.root.base_model_prefix}.")))
        return next((found for found in either if found in self.files or found in self.values), None)

    def _read(self, name: str, old: torch.Tensor) -> torch.Tensor:
        stored = self._stored(name)
        if stored is None:
            raise InputError(f"The model's files hold no tensor {_plain(name)}; give a directory that is whole.")
        if stored in self.values:
            value = self.values[stored]
        else:
            with safe_open(self.files[stored], framework="pt") as file:
                value = file.get_tensor(stored)  # a view of the mapped file; whoever keeps it copies
        if value.shape != old.shape:
            raise InputError(
                f"{stored} has shape {tuple(value.shape)}, and config.json asks for {tuple(old.shape)}; they belong to two models."
            )
        return value


def load_model(config: TrainConfig, folder: Path, device: torch.device, *, meta: bool) -> nn.Module:
    """The causal language model in a Hugging Face directory, adapters in place; with `meta` without memory, see `weights_of`.

    Raises InputError for a directory that holds none.
    """
    hf_config = _read_config(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config, dtype=DTYPES[config.train.precision], attn_implementation=_attention(hf_config))
    model.tie_weights()
    if config.model.lora_rank:
        _add_adapters(model, config.model)
    if not meta:
        weights_of(model, config, folder).fill(model, device)
    trained: nn.Module = model.train()
    return trained


def weights_of(model: nn.Module, config: TrainConfig, folder: Path) -> Weights:
    """What fills a model of shapes."""
    assert isinstance(model, PreTrainedModel)
    return Weights(model, folder, random=config.model.init == "random", seed=config.train.seed)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks, first to last: the longest list of modules in the decoder."""
    lists = [list(child) for child in model.get_decoder().children() if isinstance(child, nn.ModuleList)]
    return max(lists, key=len) if lists else []


def export_model(model: nn.Module, tokenizer_folder: Path, out: Path) -> None:
    """Write a Hugging Face directory that is either whole or absent: adapters merged, float32, tokenizer and template beside it.

    Every process calls this; process 0 gathers the whole model in its memory and writes. Raises OSError (disk full).
    """
    values = _whole_state(model)
    if dist.is_initialized() and dist.get_rank() > 0:
        return
    hf_config = copy.deepcopy(model.config)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(hf_config, dtype=torch.float32)
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    plain.save_pretrained(aside, state_dict=values)
    for name in TOKENIZER_FILES:
        if (tokenizer_folder / name).is_file():
            shutil.copyfile(tokenizer_folder / name, aside / name)
    for path in aside.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    shutil.rmtree(out, ignore_errors=True)
    aside.replace(out)
    sync_folder(out.parent)


def _whole_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every value under the architecture's own name, float32, on the host; on process 0 only, elsewhere nothing stays."""
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    adapters = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    whole: dict[str, torch.Tensor] = {}
    for name in [name for name in state if ".lora_" not in name]:
        value = state[name].double()
        layer = name.removesuffix(".base_layer.weight")
        if layer in adapters:
            down, up = (state[f"{layer}.lora_{half}.{ADAPTER}.weight"].double() for half in "AB")
            value += (up @ down) * adapters[layer].scaling[ADAPTER]
        whole[_plain(name)] = value.float()
    return whole


def _add_adapters(model: PreTrainedModel, choice: TrainModel) -> None:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) beside frozen weights; everything else is frozen too."""
    linear = sorted(
        {name.rsplit(".", 1)[-1] for block in blocks_of(model) for name, kind in block.named_modules() if isinstance(kind, nn.Linear)}
    )
    missing = sorted(set(choice.lora_targets) - set(linear))
    if missing:
        raise InputError(
            f"[model] lora_targets names {', '.join(missing)}; the linear layers of this model's blocks are {', '.join(linear)}."
        )
    targets = list(choice.lora_targets or linear)
    adapters = LoraConfig(r=choice.lora_rank, lora_alpha=choice.lora_alpha, target_modules=targets, bias="none")
    inject_adapter_in_model(adapters, model, adapter_name=ADAPTER, low_cpu_mem_usage=True)
    for name, part in model.named_modules():
        if ".lora_" in name:
            part.to(model.dtype)  # PEFT makes them float32
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def _own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, value) for name, value in model.named_parameters() if ".lora_" not in name)


def _plain(name: str) -> str:
    """A parameter's name in the architecture itself, without adapters."""
    return name.replace(".base_layer.", ".").removesuffix(".base_layer")


def _drawn_into(value: nn.Parameter | None) -> nn.Parameter | None:
    """float32 whatever it will be, so that a precision changes no weight."""
    return None if value is None else nn.Parameter(torch.empty_like(value, dtype=torch.float32))


def _tensor_files(folder: Path) -> dict[str, Path]:
    """Which file holds each stored tensor. Raises InputError for a directory without safetensors."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    single = folder / "model.safetensors"
    if not single.is_file():
        raise InputError(
            f'{folder} holds no model.safetensors; give a Hugging Face directory with weights, or set [model] init = "random".'
        )
    with safe_open(single, framework="pt") as file:
        return dict.fromkeys(file.keys(), single)


def _read_whole(model: PreTrainedModel, folder: Path) -> Mapping[str, torch.Tensor]:
    """All values under this architecture's names. Raises InputError for files that lack some."""
    whole, told = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype, output_loading_info=True)
    if told["missing_keys"]:
        raise InputError(f"The files in {folder} hold no tensor {min(told['missing_keys'])}; give a directory that is whole.")
    values: Mapping[str, torch.Tensor] = whole.state_dict()
    return values


def _read_config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no config.json; give a Hugging Face directory of a causal language model.")
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(f"transformers does not know the model in {folder}: {error}") from None


def _attention(config: PreTrainedConfig) -> str | None:
    """None, which is `sdpa` where the architecture has it, unless attention caps its scores, which torch's fused kernels cannot."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else None
