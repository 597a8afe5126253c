"""Linear layers whose weights see a grid of compress/grids.py in the forward pass, while the gradient passes straight through.

What is trained is a weight in units of its block's scale: level, minimum and zero point apart. The forward pass rounds it to the nearest
level that the grid has (the straight-through estimator of Bengio et al. 2013, arXiv:1308.3432) and multiplies with the scale as the file
will hold it. One learning rate then means the same for all blocks, in levels a step. Scales stay. `bake` ends it: the layers become plain
ones, and their weights are, bit for bit, the numbers that the engine will compute from the exported file.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from trimtab.compress.grids import Codes, Grid, dequantize, grid_named, quantize
from trimtab.core.errors import InputError

KEEP = "keep"


class GridLinear(nn.Module):
    """A linear layer on a grid.

    weight: [rows, columns], in units of the block's scale, offset left out; trained
    scales: [rows, groups] float32, signed, each a 16-bit float; offsets: minima or zero points [rows, groups], or None
    """

    def __init__(self, codes: Codes, weight: torch.Tensor | None, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.grid: Grid = grid_named(codes.grid)
        self.out_features, self.in_features = codes.shape
        scales = torch.from_numpy(codes.scales.astype(np.float32))
        offsets = None if codes.offsets is None else torch.from_numpy(codes.offsets.astype(np.float32))
        self.register_buffer("scales", scales)
        self.register_buffer("offsets", offsets)
        table = torch.tensor(self.grid.table, dtype=torch.float32) if self.grid.table else None
        self.register_buffer("table", table, persistent=False)
        latent = self._latent(dequantize_or(weight, codes))
        self.weight = nn.Parameter(latent.to(dtype))
        self.bias = bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        kind = inputs.device.type
        if torch.is_autocast_enabled(kind):
            inputs = inputs.to(torch.get_autocast_dtype(kind))
        outputs: torch.Tensor = _GridProduct.apply(inputs, self.weight, self)
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, grid={self.grid.name}"

    @torch.no_grad()
    def codes(self) -> Codes:
        """What the layer's weights are on the grid now."""
        stood_for = _snap(_whole(self.weight).float(), self.grid, self.table)
        if self.table is not None:
            stood_for = torch.searchsorted(self.table, stood_for.contiguous())
        kind = np.uint8 if self.grid.low == 0 else np.int8
        offsets = None
        if self.offsets is not None:
            offsets = self.offsets.numpy().astype(np.float16 if self.grid.offset == "minimum" else np.uint8)
        return Codes(
            grid=self.grid.name,
            levels=stood_for.cpu().numpy().astype(kind),
            scales=self.scales.cpu().numpy().astype(np.float16),
            offsets=offsets,
        )

    def values(self) -> torch.Tensor:
        """[rows, columns] float32: the numbers that the engine computes with."""
        return torch.from_numpy(dequantize(self.codes()))

    def _latent(self, values: torch.Tensor) -> torch.Tensor:
        """Weights [rows, columns] in units of their block's scale. A block whose scale is 0 can only hold its offset: 0."""
        rows, columns = values.shape
        scales = self.scales[..., None]
        blocks = values.float().reshape(rows, self.scales.shape[1], -1)
        if self.offsets is not None and self.grid.offset == "minimum":
            blocks = blocks - self.offsets[..., None]
        units = torch.where(scales == 0, torch.zeros(()), blocks / torch.where(scales == 0, torch.ones(()), scales))
        if self.offsets is not None and self.grid.offset == "zero-point":
            units = units + self.offsets[..., None]
        return units.reshape(rows, columns)


def dequantize_or(weight: torch.Tensor | None, codes: Codes) -> torch.Tensor:
    """The weights before they were rounded, or if these are not known the numbers on the grid."""
    return torch.from_numpy(dequantize(codes)) if weight is None else weight.detach()


class _GridProduct(torch.autograd.Function):
    """inputs @ values.T, of which the weights' gradient is that of the values, in units of the scale."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, latent: torch.Tensor, layer: GridLinear) -> torch.Tensor:
        scales: torch.Tensor = layer.scales
        values = _values(latent, scales, layer).to(inputs.dtype)
        flat = inputs.reshape(-1, inputs.shape[-1])
        ctx.save_for_backward(flat, latent, values, scales)
        ctx.shape = inputs.shape
        return torch.mm(flat, values.t()).reshape(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, latent, values, scales = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        to_inputs = torch.mm(grad, values).reshape(ctx.shape) if ctx.needs_input_grad[0] else None
        to_values = torch.mm(grad.t(), flat).to(latent.dtype)
        blocks = to_values.reshape(*scales.shape, -1)
        return to_inputs, (blocks * scales[..., None]).reshape(latent.shape), None


def _snap(latent: torch.Tensor, grid: Grid, table: torch.Tensor | None) -> torch.Tensor:
    """The nearest number that a level of the grid stands for, before scale and offset."""
    if table is None:
        return torch.round(latent).clamp_(grid.low, grid.high)
    return table[torch.bucketize(latent, (table[1:] + table[:-1]) / 2)].to(latent.dtype)


def _values(latent: torch.Tensor, scales: torch.Tensor, layer: GridLinear) -> torch.Tensor:
    """[rows, columns]: latent weights rounded, times scale, with the offset. In the order of operations of `dequantize`."""
    blocks = _snap(latent, layer.grid, layer.table).reshape(*scales.shape, -1)
    if layer.offsets is None:
        blocks = blocks * scales[..., None]
    elif layer.grid.offset == "minimum":
        blocks = blocks * scales[..., None] + layer.offsets[..., None]
    else:
        blocks = (blocks - layer.offsets[..., None]) * scales[..., None]
    return blocks.reshape(latent.shape)


def apply(
    model: nn.Module,
    grid: str,
    tensors: Mapping[str, str] | None = None,
    *,
    start: Mapping[str, Codes] | None = None,
) -> dict[str, str]:
    """Put the linear layers of a model's blocks on a grid, in place; embedding and head stay as they are. Gives the grid of each weight.

    grid: of all weights that no pattern of `tensors` finds; tensors: regular expressions, searched for in names such as
        `model.layers.3.mlp.down_proj.weight`, to grids or `keep`
    start: codes to begin with, by weight (a quantiser's that chose better than plain rounding); else `compress.grids.quantize`'s
    Everything but the weights on a grid is frozen. Raises InputError for an unknown grid, rows that its groups do not divide, a pattern
    that finds nothing, and patterns that disagree.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = {f"{name}.weight": (name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear and layer is not head}
    chosen = chosen_grids(tuple(linear), grid, tensors or {})
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for weight_name, (name, layer) in linear.items():
        if chosen[weight_name] == KEEP:
            continue
        weight = _whole(layer.weight).detach().float()
        codes = (start or {}).get(weight_name) or quantize(weight.numpy(), chosen[weight_name])
        parent = model.get_submodule(name.rpartition(".")[0])
        placed = GridLinear(codes, weight, layer.bias, layer.weight.dtype)
        setattr(parent, name.rpartition(".")[2], placed)
    return {name: held for name, held in chosen.items() if held != KEEP}


def bake(model: nn.Module) -> dict[str, Codes]:
    """Make layers on a grid plain ones again, in place: weights are the numbers on the grid. Gives the codes by weight."""
    found: dict[str, Codes] = {}
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, GridLinear):
            continue
        codes = layer.codes()
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(torch.from_numpy(dequantize(codes)).to(layer.weight.dtype), requires_grad=False)
        plain.bias = layer.bias
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], plain)
        found[f"{name}.weight"] = codes
    return found


def chosen_grids(names: tuple[str, ...], grid: str, tensors: Mapping[str, str]) -> dict[str, str]:
    """The grid, or `keep`, of each weight. Raises InputError; see `apply`."""
    for each in (grid, *tensors.values()):
        if each != KEEP:
            grid_named(each)
    chosen: dict[str, str] = {}
    for pattern, held in tensors.items():
        try:
            found = [name for name in names if re.search(pattern, name)]
        except re.error as error:
            raise InputError(f"[model] tensors: {pattern!r} is not a regular expression ({error}).") from None
        if not found:
            raise InputError(f"[model] tensors: no weight's name matches {pattern!r}; names look like {next(iter(names), '')!r}.")
        for name in found:
            if chosen.setdefault(name, held) != held:
                raise InputError(f"[model] tensors: two patterns give {name!r} different grids; write patterns that do not overlap.")
    return {name: chosen.get(name, grid) for name in names}


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """All rows of a weight that may be sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
