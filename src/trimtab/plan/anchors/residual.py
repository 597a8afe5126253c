"""The statistical half of every prediction: ln(measured) = ln(physics) + residual(features).

A hierarchical Bayesian regression in the columns of `scheme`: the weights of a block share a prior variance, so levels with few rows are
drawn to the mean and an unseen level is the mean with that variance added. Noise is Student-t, its variance by source, so a wild row
moves little. Variances and noise are set by marginal likelihood (MacKay 1992, "Bayesian interpolation"; the t as a scale mixture,
Lange et al. 1989). What is kept are weights and their precision, no rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from trimtab.core.errors import InputError
from trimtab.plan.anchors.scheme import Anchor, Basis, Block, Columns, Features, Floats, Scheme, basis_of, columns_at, full_features

__all__ = ["Anchor", "Fitted", "Residual", "Scheme", "Shifts", "fit", "fitted_with_rows", "prior_of"]

# Degrees of freedom of the noise: outliers count for little, the bulk as if it were normal.
TAIL = 4.0
# Prior guess of a block's standard deviation, worth this many weights: a group of three levels cannot claim to have no variance.
PRIOR_SD = 0.1
PRIOR_WEIGHTS = 2.0
PRIOR_NOISE_ROWS = 5.0
N_ROUNDS = 7
N_STEPS = 4
N_ROUNDS_WARM = 3
LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class Shifts:
    """ln(measured / physics) at some rows: mean, sd of a new measurement, and nearness: the share, 0 to 1, of what could vary there that
    anchors have settled. All (n,)."""

    mean: Floats
    sd: Floats
    nearness: Floats


@dataclass(frozen=True, kw_only=True)
class Residual:
    """What a fit learnt. `shift` is all that a prediction needs.

    variances: (n_blocks,) prior variance of each block's weights; precision: (p, p) of the weights, from data alone
    weights: (p,) posterior mean; noise: variance by level of `scheme.noise_by`, "" = of a level not seen
    n_anchors: how many rows it rests on
    """

    basis: Basis
    variances: Floats
    precision: Floats
    weights: Floats
    noise: dict[str, float]
    n_anchors: int

    def shift(self, rows: Sequence[Features]) -> Shifts:
        """Mean, sd and nearness at each row's features; `source` absent means a source of the user's own."""
        if not rows:
            return Shifts(np.zeros(0), np.zeros(0), np.zeros(0))
        columns = columns_at(self.basis, rows)
        known = np.einsum("ij,ij->i", columns.values @ self.covariance, columns.values)
        return self._shifts(columns, rows, columns.values @ self.weights, known)

    def means(self, rows: Sequence[Features]) -> Floats:
        """The means of `shift` alone, for many rows."""
        return columns_at(self.basis, rows).values @ self.weights

    def knows(self, group: str, level: str) -> bool:
        """Whether an anchor of this level took part."""
        return level in self.basis.levels.get(group, {})

    def updated(self, anchors: Sequence[Anchor]) -> "Residual":
        """The exact posterior with further anchors, variances as they are. Levels of theirs that are new become known."""
        if not anchors:
            return self
        rows = [full_features(anchor) for anchor in anchors]
        grown = _grown(self, rows)
        values = columns_at(grown.basis, rows).values
        y = np.array([anchor.log_ratio for anchor in anchors])
        row_precision = 1 / grown._noise_at(rows)
        old = (grown.precision + np.diag(1 / grown._prior)) @ grown.weights
        precision = grown.precision + (values * row_precision[:, None]).T @ values
        weights = np.linalg.solve(precision + np.diag(1 / grown._prior), old + values.T @ (row_precision * y))
        return replace(grown, precision=precision, weights=weights, n_anchors=self.n_anchors + len(anchors))

    @cached_property
    def covariance(self) -> Floats:
        return _inverse(self.precision + np.diag(1 / self._prior))

    @property
    def _prior(self) -> Floats:
        return prior_of(self.basis, self.variances)

    def _noise_at(self, rows: Sequence[Features]) -> Floats:
        by = self.basis.scheme.noise_by
        return np.array([self.noise.get(str(row.get(by, "")), self.noise[""]) for row in rows])

    def _shifts(self, columns: Columns, rows: Sequence[Features], mean: Floats, known: Floats) -> Shifts:
        """From the variance that remains in the known columns to the whole, with levels not seen and numbers out of range."""
        outside = columns.unseen @ self.variances + columns.beyond**2 @ self._variance_of_numbers
        prior = (columns.values**2) @ self._prior + outside
        settled = np.clip(1 - (known + outside) / np.maximum(prior, 1e-12), 0.0, 1.0)
        return Shifts(mean, np.sqrt(np.maximum(known, 0.0) + outside + self._noise_at(rows)), settled)

    @cached_property
    def _variance_of_numbers(self) -> Floats:
        """(n_numbers,): how much a number's effect may change over one standard deviation outside its range."""
        total = np.zeros(len(self.basis.scheme.numbers))
        for block, variance in zip(self.basis.blocks, self.variances, strict=True):
            if block.number:
                total[self.basis.scheme.numbers.index(block.number)] += variance
        return total


def fit(anchors: Sequence[Anchor], scheme: Scheme) -> Residual:
    """The residual of these anchors, all of one quantity. Raises `InputError` for none, for several quantities, and for log ratios that are
    no numbers."""
    return fitted_with_rows(anchors, scheme).residual


@dataclass(frozen=True)
class Fitted:
    """A residual together with the rows that it was fitted on, for calibration: y (n,), row_precision (n,) as weighted at the end."""

    residual: Residual
    anchors: tuple[Anchor, ...]
    columns: Columns
    y: Floats
    row_precision: Floats

    def left_out(self, groups: Sequence[str]) -> Shifts:
        """What the fit would say of each row without the rows of the same group (variances as they are): exact, one system a group."""
        residual, values = self.residual, self.columns.values
        miss = self.y - values @ residual.weights
        spread = values @ residual.covariance
        mean, known = np.zeros(len(self.y)), np.zeros(len(self.y))
        members: dict[str, list[int]] = {}
        for index, group in enumerate(groups):
            members.setdefault(group, []).append(index)
        for rows in members.values():
            at = np.array(rows)
            shared = spread[at] @ values[at].T
            system = np.eye(len(at)) - shared * self.row_precision[at]
            solved = np.linalg.solve(system, np.column_stack([miss[at], shared]))
            mean[at] = self.y[at] - solved[:, 0]
            known[at] = np.diag(solved[:, 1:])
        return residual._shifts(self.columns, [full_features(a) for a in self.anchors], mean, known)


def fitted_with_rows(anchors: Sequence[Anchor], scheme: Scheme, start: Residual | None = None) -> Fitted:
    """`fit`, and what calibration needs of it. start: a fit of nearly the same anchors, whose variances are where the search begins"""
    _check(anchors)
    rows = [full_features(anchor) for anchor in anchors]
    y = np.array([anchor.log_ratio for anchor in anchors])
    basis = basis_of(rows, scheme)
    columns = columns_at(basis, rows)
    learnt = _learn(basis, columns.values, y, [str(row.get(scheme.noise_by, "")) for row in rows], start)
    residual = Residual(
        basis=basis,
        variances=learnt.variances,
        precision=learnt.precision,
        weights=learnt.weights,
        noise=learnt.noise,
        n_anchors=len(anchors),
    )
    return Fitted(residual, tuple(anchors), columns, y, learnt.row_precision)


def _check(anchors: Sequence[Anchor]) -> None:
    if not anchors:
        raise InputError("There is no anchor to fit: give at least one row that can be predicted.")
    if len({anchor.quantity for anchor in anchors}) > 1:
        raise InputError("The anchors are of several quantities; fit each quantity by itself.")
    for anchor in anchors:
        if not np.isfinite(anchor.log_ratio):
            raise InputError(f"The anchor {anchor.setting!r} of {anchor.source} has no finite ratio of measured to physics.")


@dataclass(frozen=True)
class _Learnt:
    weights: Floats
    precision: Floats
    variances: Floats
    noise: dict[str, float]
    row_precision: Floats


def _learn(basis: Basis, values: Floats, y: Floats, labels: Sequence[str], start: Residual | None) -> _Learnt:
    """Weights, data precision, block variances, noise by label and precision by row."""
    names, index = np.unique(np.array(labels), return_inverse=True)
    sizes = np.bincount(index, minlength=len(names)).astype(float)
    variances = _first_variances(basis, start)
    overall = max(float(np.var(y)) / 4, 1e-4) if start is None else start.noise[""]
    noise = np.array([overall if start is None else start.noise.get(str(name), overall) for name in names])
    trust = np.ones(len(y))
    for _ in range(N_ROUNDS if start is None else N_ROUNDS_WARM):
        row_precision = trust / noise[index]
        precision = (values * row_precision[:, None]).T @ values
        pull = values.T @ (row_precision * y)
        for _ in range(N_STEPS):
            half = _half_inverse(precision + np.diag(1 / prior_of(basis, variances)))
            weights = half.T @ (half @ pull)
            variances = _variances(basis.blocks, variances, weights, np.einsum("ij,ij->j", half, half))
        square = (y - values @ weights) ** 2 + np.sum((values @ half.T) ** 2, axis=1)
        trust = (TAIL + 1) / (TAIL + square / noise[index])
        overall = max(float(np.mean(trust * square)), 1e-6)
        weighted = np.bincount(index, weights=trust * square, minlength=len(names))
        noise = (weighted + PRIOR_NOISE_ROWS * overall) / (sizes + PRIOR_NOISE_ROWS)
    row_precision = trust / noise[index]
    precision = (values * row_precision[:, None]).T @ values
    half = _half_inverse(precision + np.diag(1 / prior_of(basis, variances)))
    weights = half.T @ (half @ (values.T @ (row_precision * y)))
    # A source not seen scatters like the typical source, not like the one with most rows.
    by_name = {str(name): float(variance) for name, variance in zip(names, noise, strict=True)}
    return _Learnt(weights, precision, variances, by_name | {"": float(np.median(noise))}, row_precision)


def _first_variances(basis: Basis, start: Residual | None) -> Floats:
    """Where the search for variances begins: the prior guess, or what another fit in the same scheme found."""
    found = {} if start is None else {_kind(block): float(v) for block, v in zip(start.basis.blocks, start.variances, strict=True)}
    guess = {True: 1.0, False: PRIOR_SD**2}
    return np.array([found.get(_kind(block), guess[block.kind == "mean"]) for block in basis.blocks])


def _kind(block: Block) -> tuple[str, str, str]:
    return block.kind, block.group, block.number


def _variances(blocks: Sequence[Block], variances: Floats, weights: Floats, spread: Floats) -> Floats:
    """MacKay's update of each block's variance, drawn to the prior guess. spread: (p,) posterior variance of each weight"""
    updated = variances.copy()
    for at, block in enumerate(blocks):
        if block.kind == "mean":
            continue
        part = slice(block.start, block.stop)
        determined = float(np.sum(1 - spread[part] / variances[at]))
        size = float(weights[part] @ weights[part])
        updated[at] = (size + PRIOR_WEIGHTS * PRIOR_SD**2) / (max(determined, 0.0) + PRIOR_WEIGHTS)
    return np.maximum(updated, LEAST_VARIANCE)


def prior_of(basis: Basis, variances: Floats) -> Floats:
    """(p,): the prior variance of each weight."""
    return np.repeat(variances, [block.stop - block.start for block in basis.blocks])


def _half_inverse(matrix: Floats) -> Floats:
    """The inverse L^-1 of the Cholesky factor: matrix^-1 = L^-T L^-1."""
    from scipy.linalg import lapack

    root, failed = lapack.dpotrf(matrix, lower=1)
    if failed:
        raise InputError("The anchors leave the fit undetermined; are numbers among them not finite?")
    half, _ = lapack.dtrtri(root, lower=1)
    found: Floats = np.tril(half)
    return found


def _inverse(matrix: Floats) -> Floats:
    """The inverse of a symmetric positive definite matrix."""
    half = np.linalg.inv(np.linalg.cholesky(matrix))
    inverse: Floats = half.T @ half
    return inverse


def _grown(residual: Residual, rows: Sequence[Features]) -> Residual:
    """The same knowledge in a basis that also has the levels of these rows, each at its prior."""
    fresh = basis_of(rows, residual.basis.scheme)
    old = residual.basis
    levels = {group: dict(known) for group, known in old.levels.items()}
    for group, known in levels.items():
        for level in fresh.levels[group]:
            known.setdefault(level, len(known))
    blocks: list[Block] = []
    places: list[int] = []
    start = 0
    for block in old.blocks:
        n_levels = len(levels[block.group]) if block.kind == "level" else block.n_levels
        blocks.append(replace(block, start=start, n_levels=n_levels))
        places += range(start, start + block.stop - block.start)
        start = blocks[-1].stop
    weights, precision = np.zeros(start), np.zeros((start, start))
    weights[places] = residual.weights
    precision[np.ix_(places, places)] = residual.precision
    return replace(residual, basis=replace(old, levels=levels, blocks=tuple(blocks)), weights=weights, precision=precision)
