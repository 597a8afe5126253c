"""Matrices of low rank that compute nearly the same on the inputs that a layer sees.

The error on inputs is that of the matrix times the square root of H = mean of x x' (SVD-LLM, Wang et al. 2024, arXiv:2403.07378): what is
cut off is the least of W H^1/2. Factors [rows, rank] and [rank, columns] save work below rank rows * columns / (rows + columns). No
format of the engines here holds a layer as two factors, so what is exported is their product: a matrix of low rank in its full size. It
saves nothing there by itself; it is the form to train in, and the honest measure of how much rank a model has to spare.
"""

from dataclasses import dataclass

import torch

from trimtab.core.errors import InputError

LEAST_SHARE = 1e-6
"""Of H's largest eigenvalue, what every direction counts at least."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """up: [rows, rank]; down: [rank, columns]."""

    up: torch.Tensor
    down: torch.Tensor

    def merged(self) -> torch.Tensor:
        """The matrix [rows, columns] that they are."""
        return self.up @ self.down


def factored(weight: torch.Tensor, rank: int, product: torch.Tensor) -> Factors:
    """The factors of this rank with the least error on inputs. product: mean of x x', [columns, columns]. Raises InputError."""
    if not 0 < rank <= min(weight.shape):
        raise InputError(f"A matrix of {tuple(weight.shape)} has no part of rank {rank}.")
    values, vectors = torch.linalg.eigh(product.double())
    sizes = values.clamp_min(float(values.max()) * LEAST_SHARE).sqrt()
    left, shares, right = torch.linalg.svd(weight.double() @ vectors * sizes, full_matrices=False)
    up = left[:, :rank] * shares[:rank]
    down = right[:rank] / sizes @ vectors.t()
    return Factors(up=up.to(weight.dtype), down=down.to(weight.dtype))


def break_even_rank(rows: int, columns: int) -> int:
    """Below this rank two factors are smaller than the matrix."""
    return rows * columns // (rows + columns)
