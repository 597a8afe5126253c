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
import torch
from torch import nn

from trimtab.compress.grids import Codes, Levels, grid_named, quantize
from trimtab.core.errors import InfeasibleError

FACTORS = (*(0.85 + 0.03 * step for step in range(12)), *(-0.85 - 0.05 * step for step in range(4)))
"""Of the inverse scale that just holds the extreme weight at the lowest level; below 0 it is held at the other end."""
DAMPING = 0.02
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
    grids = _ByColumn(codes, product.diagonal())
    upper = _inverse_factor(product)
    left = weight.float().t().contiguous()  # [columns, rows]: a column is read and written as a whole
    wanted, levels = torch.empty_like(left), torch.empty_like(left)
    columns, rows = left.shape
    step = max(grids.group, COLUMNS_AT_ONCE)  # whole blocks
    for start in range(0, columns, step):
        end = min(start + step, columns)
        errors = torch.empty(end - start, rows)
        for column in range(start, end):
            if column % grids.group == 0:
                grids.search(left, column)
            levels[column], wanted[column], value = grids.rounded(left[column], column)
            errors[column - start] = (left[column] - value) / upper[column, column]
            left[column + 1 : end] -= upper[column, column + 1 : end, None] * errors[column - start]
        left[end:] -= upper[start:end, end:].t() @ errors
    whole = levels.t().contiguous().numpy()
    found: Levels = whole.astype(np.uint8) if held.low == 0 else whole.astype(np.int8)
    return wanted.t().contiguous(), replace(codes, levels=found, scales=grids.scales.t().contiguous().numpy().astype(np.float16))


class _ByColumn:
    """Rounding of one column at a time, with the scales and offsets of its blocks."""

    def __init__(self, codes: Codes, importance: torch.Tensor) -> None:
        self.held = grid_named(codes.grid)
        self.importance = importance
        self.group = codes.shape[1] // codes.scales.shape[1]
        self.scales = torch.from_numpy(codes.scales.astype(np.float32)).t().contiguous()
        self.safe = torch.where(self.scales == 0, torch.ones(()), self.scales)
        offsets = torch.zeros(()) if codes.offsets is None else torch.from_numpy(codes.offsets.astype(np.float32))
        self.offsets = offsets.expand(codes.scales.shape).t().contiguous()
        self.table = torch.tensor(self.held.table, dtype=torch.float32) if self.held.table else None

    def search(self, left: torch.Tensor, column: int) -> None:
        """The scales of the block that begins at a column, for the weights as they are now. left: [columns, rows]. Symmetric grids only.

        For each way to round the best scale is that of least squares, and the best way the one with the least weighted error (as ggml's
        make_qx_quants).
        """
        if self.held.offset != "none" or self.held.table:
            return
        block, weights = left[column : column + self.group], self.importance[column : column + self.group, None]
        extreme = block.gather(0, block.abs().argmax(0, keepdim=True))[0]
        best = torch.zeros_like(extreme)
        chosen = self.scales[column // self.group]
        weighted = block * weights
        for factor in FACTORS:
            inverse = self.held.low * factor / torch.where(extreme == 0, torch.ones(()), extreme)
            levels = torch.round(block * inverse).clamp_(self.held.low, self.held.high)
            size = (levels.square() * weights).sum(0).clamp_min(1e-30)
            likeness = (weighted * levels).sum(0)
            gain = likeness.square() / size
            scale = (likeness / size).half().float()
            better = (gain > best) & torch.isfinite(scale)
            best, chosen = torch.where(better, gain, best), torch.where(better, scale, chosen)
        place = column // self.group
        self.scales[place] = chosen
        self.safe[place] = torch.where(chosen == 0, torch.ones(()), chosen)

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
