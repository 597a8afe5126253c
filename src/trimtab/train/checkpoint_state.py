"""What of a run goes into a checkpoint, as named tensors, and back into a model and an optimizer on any number of processes.

Names: `model.<parameter or buffer>`, `optimizer.<parameter>.<state>`, `rng.<device>@<process>of<processes>`. Wrappers (DDP, compile,
recompute) leave no trace in them, so a checkpoint of one layout loads into every other. Parameters that are not trained stay out: they come
from the model's source each time. So do the optimizer's settings: they come from train.toml and the step.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from trimtab.core.errors import EngineRefused, InputError
from trimtab.train.checkpoint_manifest import Manifest
from trimtab.train.checkpoint_storage import dtype_name, read_whole

_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Everything that training changes, by name; the live tensors, not copies. Raises EngineRefused for a state that is no tensor.

    torchao's 8-bit states cannot be cut along a dimension once they are packed, so each process's part goes by itself, under the name of
    the state, the part (`@1of2`) and the field (`@codes`).
    """
    found = {f"model.{name}": tensor for name, tensor in _trained(model).items()}
    packed = type(optimizer).__module__.startswith("torchao")
    for name, value in _optimizer_states(model, optimizer):
        found.update(_fields(name, value) if packed else {name: value})
    return found


def _trained(model: nn.Module) -> dict[str, torch.Tensor]:
    once = {_plain(name): parameter for name, parameter in model.named_parameters()}
    every = {_plain(name) for name, _ in model.named_parameters(remove_duplicate=False)}
    left_out = (every - set(once)) | {name for name, parameter in once.items() if not parameter.requires_grad}
    found = {name: value for name, value in get_model_state_dict(model).items() if name not in left_out}
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise EngineRefused(
                f"The model keeps {name}, which is a {type(value).__name__} and no tensor; a checkpoint holds tensors only."
            )
    return found


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


def _optimizer_states(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    for parameter, states in get_optimizer_state_dict(model, optimizer)["state"].items():
        for key, value in states.items():
            if not isinstance(value, torch.Tensor):
                raise EngineRefused(f"The optimizer keeps {key} of {parameter} as {type(value).__name__}; a checkpoint holds tensors only.")
            yield f"optimizer.{parameter}.{key}", value


def _place(value: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """(what this process holds of a tensor, which part of how many that is)."""
    if isinstance(value, DTensor):
        return value.to_local(), value.device_mesh.get_local_rank(), value.device_mesh.size()
    return value, 0, 1


def _fields(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    local, part, parts = _place(value)
    if not hasattr(local, "__tensor_flatten__"):
        return {f"{name}@{part}of{parts}": local}
    return {f"{name}@{part}of{parts}@{field}": getattr(local, field) for field in local.__tensor_flatten__()[0]}


def rng_tensors(rank: int, world: int) -> dict[str, torch.Tensor]:
    """States of this process's random numbers: what dropout draws from."""
    found = {f"rng.cpu@{rank}of{world}": torch.get_rng_state()}
    if torch.cuda.is_available():
        found[f"rng.cuda@{rank}of{world}"] = torch.cuda.get_rng_state()
    return found


def set_rng(tensors: Mapping[str, torch.Tensor]) -> None:
    """Set what `rng_tensors` gave."""
    for name, state in tensors.items():
        (torch.cuda.set_rng_state if name.startswith("rng.cuda") else torch.set_rng_state)(state)


def has_dropout(model: nn.Module) -> bool:
    """Whether a step draws random numbers: layers of dropout, or attention's own (as Transformers' configurations name it)."""
    layers = any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in model.modules())
    return layers or float(getattr(getattr(model, "config", None), "attention_dropout", 0) or 0) > 0


def refuse_other(wanted: Mapping[str, torch.Tensor], manifest: Manifest, where: str) -> None:
    """Raises InputError when a checkpoint is of another model or optimizer than the run's, before anything of either is touched."""

    def states(names: Mapping[str, Any]) -> set[str]:
        return {name.split("@")[0] for name in names if not name.startswith("rng.")}

    odd = sorted(states(wanted) ^ states(manifest.tensors))
    for name, tensor in wanted.items():
        saved = manifest.tensors.get(name)
        if saved and not name.startswith("rng.") and (saved.shape != tuple(tensor.shape) or saved.dtype != dtype_name(tensor.dtype)):
            odd.append(f"{name} ({saved.dtype} {list(saved.shape)} there, {dtype_name(tensor.dtype)} {list(tensor.shape)} here)")
    if odd:
        raise InputError(
            f"{where} is of another model, optimizer or precision than this run's: {', '.join(odd[:3])}"
            f"{f' and {len(odd) - 3} more' if len(odd) > 3 else ''}. Start with the train.toml it was made with, or in a new folder."
        )


def load_repacked(model: nn.Module, optimizer: Optimizer, folder: Path, manifest: Manifest) -> int:
    """Optimizer states whose parts on this number of processes are not those of the checkpoint: unpacked, cut anew, packed again.

    Packing rounds, so these are within one step of the 8-bit scale of what was saved. Returns how many there were.
    """
    repacked = 0
    for name, value in _optimizer_states(model, optimizer):
        if name in manifest.tensors or all(field in manifest.tensors for field in _fields(name, value)):
            continue
        local, part, parts = _place(value)
        whole = _unpacked(name, folder, manifest)
        pieces = whole.chunk(parts, dim=0) if parts > 1 else (whole,)  # as FSDP2 cuts: the last parts may be short or missing
        if part < len(pieces):
            local.copy_(pieces[part].to(local.device))
        repacked += 1
    return repacked


def _unpacked(name: str, folder: Path, manifest: Manifest) -> torch.Tensor:
    """A state in float32 from the parts of all the processes that saved it. 8-bit blocks: value = table[code] * scale of the block."""
    found: dict[int, dict[str, torch.Tensor]] = {}
    for saved in manifest.tensors:
        if saved.startswith(f"{name}@"):
            _, part, *field = saved.split("@")
            found.setdefault(int(part.split("of")[0]), {})["".join(field)] = read_whole(folder, manifest, saved)
    parts = []
    for _, fields in sorted(found.items()):
        if "codes" in fields:
            table, codes, scale = fields["qmap"], fields["codes"], fields["scale"]
            parts.append((table[codes.int()].reshape(len(scale), -1) * scale[:, None]).reshape(codes.shape))
        else:
            parts.append(fields[""])
    return torch.cat(parts) if parts[0].ndim else parts[0]
