"""Where the training of weights on a grid begins: scales that suit the inputs, and rounding whose error the columns to come make good.

A layer's error on its own inputs is (w - q) H (w - q)' for each row, with H the mean of x x' over calibration text. Columns are rounded
one by one, and what each is off by is taken out of the columns after it along H's inverse (GPTQ, Frantar et al. 2022, arXiv:2210.17323,
there for layers one after another; here all layers see the inputs of the unharmed model, so that one pass over the text is enough).
Scales of symmetric grids are searched first, so that the error weighted with H's diagonal is least, as llama.cpp does with an importance
matrix.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from trimtab.compress.grids import Codes, Floats, Halves, grid_named, quantize
from trimtab.core.errors import InfeasibleError

FACTORS = (1.0, 0.98, 0.95, 0.92, 0.89, 0.86, 0.83, 0.8, 0.76, 0.72, 1.03, 1.07)
"""Of the scale that just holds the extreme weight; each is tried with either sign."""
DAMPING = 0.01
"""Of the mean of H's diagonal, added to it."""
COLUMNS_AT_ONCE = 64
EDGE = 0.49
"""Beyond the outermost levels a weight goes no further than this, so that training can bring it back."""


class InputProducts:
    """Means of x x' of the inputs of linear layers. Layers that share their input (query, key and value) share one.

    products: by the name of the first layer of those that share it, float32 [columns, columns]; first: by layer, that name
    """

    def __init__(self) -> None:
        self.products: dict[str, torch.Tensor] = {}
        self.first: dict[str, str] = {}
        self.n_rows: dict[str, int] = {}
        self._last: tuple[torch.Tensor, str] | None = None

    def add(self, name: str, inputs: torch.Tensor) -> None:
        """Inputs [..., columns] of one call of a layer."""
        if self._last is not None and self._last[0] is inputs:
            self.first[name] = self._last[1]
            return
        self._last = (inputs, name)
        self.first[name] = name
        flat = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        with torch.autocast(inputs.device.type, enabled=False):  # 16 bits would leave no inverse: some inputs are a thousand times others
            product = torch.mm(flat.t(), flat)
        if name in self.products:
            self.products[name] += product
        else:
            self.products[name] = product
        self.n_rows[name] = self.n_rows.get(name, 0) + len(flat)

    def of(self, name: str) -> torch.Tensor:
        """The mean of x x' of a layer's inputs."""
        first = self.first[name]
        return self.products[first] / self.n_rows[first]


@contextmanager
def watched(layers: Mapping[str, nn.Module], products: InputProducts) -> Iterator[None]:
    """While it lasts, calls of these layers are added to `products`."""

    def hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _, inputs: products.add(name, inputs[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def input_products(model: nn.Module, layers: Mapping[str, nn.Module], sequences: Sequence[torch.Tensor]) -> InputProducts:
    """Over sequences [B,T] of token ids, one forward pass each; matrix products in bfloat16."""
    found = InputProducts()
    decoder = model.get_decoder()
    with watched(layers, found), torch.autocast("cpu", torch.bfloat16):
        for ids in sequences:
            decoder(input_ids=ids, use_cache=False)
    return found


@torch.no_grad()
def compensated(weight: torch.Tensor, grid: str, product: torch.Tensor) -> tuple[torch.Tensor, Codes]:
    """A matrix [rows, columns] as it is to be rounded plainly, and the codes that this gives.

    product: mean of x x' of its inputs, [columns, columns]. Rows do not depend on each other: layers with the same inputs may be given as
    one. Raises InputError as `quantize` does, InfeasibleError for products that are not finite.
    """
    if not torch.isfinite(product).all():
        raise InfeasibleError("The inputs of a layer are not finite on the calibration text; nothing can be fitted to them.")
    held = grid_named(grid)
    codes = quantize(weight.numpy(), grid)
    if held.offset == "none" and not held.table:
        codes = replace(codes, scales=_searched_scales(weight.numpy(), codes, product.diagonal().numpy()))
    grids = _ByColumn(codes)
    upper = _inverse_factor(product)
    left = weight.float().t().contiguous()  # [columns, rows]: a column is read and written as a whole
    wanted, levels = torch.empty_like(left), torch.empty_like(left)
    columns, rows = left.shape
    for start in range(0, columns, COLUMNS_AT_ONCE):
        end = min(start + COLUMNS_AT_ONCE, columns)
        errors = torch.empty(end - start, rows)
        for column in range(start, end):
            levels[column], wanted[column], value = grids.rounded(left[column], column)
            errors[column - start] = (left[column] - value) / upper[column, column]
            left[column + 1 : end] -= upper[column, column + 1 : end, None] * errors[column - start]
        left[end:] -= upper[start:end, end:].t() @ errors
    found = np.ascontiguousarray(levels.t().numpy()).astype(np.uint8 if held.low == 0 else np.int8)
    return wanted.t().contiguous(), replace(codes, levels=found)


class _ByColumn:
    """Rounding of one column at a time, with the scales and offsets of its blocks."""

    def __init__(self, codes: Codes) -> None:
        self.held = grid_named(codes.grid)
        self.group = codes.shape[1] // codes.scales.shape[1]
        self.scales = torch.from_numpy(codes.scales.astype(np.float32)).t().contiguous()
        self.safe = torch.where(self.scales == 0, torch.ones(()), self.scales)
        offsets = torch.zeros(()) if codes.offsets is None else torch.from_numpy(codes.offsets.astype(np.float32))
        self.offsets = offsets.expand(codes.scales.shape).t().contiguous()
        self.table = torch.tensor(self.held.table, dtype=torch.float32) if self.held.table else None

    def rounded(self, values: torch.Tensor, column: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Levels, the values themselves as far as the grid reaches, and what the levels stand for. All [rows]."""
        place = column // self.group
        scale, safe, offset = self.scales[place], self.safe[place], self.offsets[place]
        is_minimum = self.held.offset == "minimum"
        latent = (values - offset) / safe if is_minimum else values / safe + offset
        if self.table is None:
            levels = torch.round(latent).clamp_(self.held.low, self.held.high)
            latent = latent.clamp(self.held.low - EDGE, self.held.high + EDGE)
            units = levels
        else:
            levels = torch.bucketize(latent, (self.table[1:] + self.table[:-1]) / 2).float()
            units = self.table[levels.long()]
        if is_minimum:
            return levels, latent * scale + offset, units * scale + offset
        return levels, (latent - offset) * scale, (units - offset) * scale


def _inverse_factor(product: torch.Tensor) -> torch.Tensor:
    """Upper U with U' U = inverse of the damped product. Inputs that are always 0 count as independent."""
    damped = product.double().clone()
    diagonal = damped.diagonal()
    diagonal += DAMPING * diagonal.mean().clamp_min(1e-12)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()


def _searched_scales(weight: Floats, codes: Codes, importance: Floats) -> Halves:
    """Of FACTORS times the given scale, with either sign, the one with the least weighted squared error in each block, 16-bit floats."""
    held = grid_named(codes.grid)
    rows, n_groups = codes.scales.shape
    blocks = torch.from_numpy(weight).reshape(rows, n_groups, -1)
    weights = torch.from_numpy(importance.astype(np.float32)).reshape(1, n_groups, -1)
    best = torch.full((rows, n_groups), float("inf"))
    chosen = torch.from_numpy(codes.scales.astype(np.float32))
    given = chosen.clone()
    for factor in FACTORS:
        for sign in (1.0, -1.0):
            scale = (given * (factor * sign)).half().float()
            safe = torch.where(scale == 0, torch.ones(()), scale)[..., None]
            error = blocks - torch.round(blocks / safe).clamp_(held.low, held.high).mul_(scale[..., None])
            loss = error.square_().mul_(weights).sum(-1)
            better = loss < best
            best = torch.where(better, loss, best)
            chosen = torch.where(better, scale, chosen)
    halves: npt.NDArray[np.float16] = chosen.numpy().astype(np.float16)
    return halves
