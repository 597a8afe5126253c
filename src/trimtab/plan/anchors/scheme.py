"""Which features of an anchor may explain its residual, and the functions of them whose weights a fit learns.

Columns come in blocks; the weights of a block share one prior variance, learnt from the data (`residual.fit`), so a block that explains
nothing costs nothing. Per row: one intercept; one column for the level of each group; of each number a slope and bumps along its range;
waves over pairs of numbers (random Fourier functions); and inside the groups named for it slopes and bumps of each level's own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Features = Mapping[str, float | str]
Floats = npt.NDArray[np.float64]

UNITS = {
    "tok_s_per_device": "tokens/s",
    "step_time_s": "s",
    "peak_memory_bytes": "bytes",
    "ttft_ms": "ms",
    "tpot_ms": "ms",
    "decode_tok_s": "tokens/s",
    "prefill_tok_s": "tokens/s",
    "output_tok_s": "tokens/s",
}
N_BUMPS = 5
# A level has effects of its own along the numbers once it has this many rows; before that its intercept says all.
MIN_ROWS_INSIDE = 6
WAVE_LENGTH = 1.2
UNSEEN = -1
# Whose levels are kept whether or not a scheme gives them an effect: what is new in a prediction is told by them.
NAMED = ("model", "source", "device", "engine", "framework")


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One measurement beside what physics says of it.

    features: numbers on a scale on which effects are smooth (logarithms of sizes), or words (levels of groups)
    log_ratio: ln(measured / physics)
    setting: what repeats of one configuration share; model, source: what is left out together when a fit is judged
    id, measured: of the row, in the quantity's unit, for whoever shows it; a fit needs neither
    """

    quantity: str
    features: Features
    log_ratio: float
    setting: str
    model: str
    source: str
    id: str = ""
    measured: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """groups: names of features, or several joined by `*`: a shrunk effect for each of their levels; `model` and `source` are always known
    numbers: features with smooth effects; inside: by group, the numbers that have further effects in each of its levels
    waves_over: the numbers whose pairs act together, by `n_waves` functions. Leave out what tells models apart: a function of it is free
        between the models that were measured
    noise_by: the feature by whose levels measurements scatter differently
    """

    groups: tuple[str, ...]
    numbers: tuple[str, ...]
    inside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    waves_over: tuple[str, ...] = ()
    n_waves: int = 48
    noise_by: str = "source"


@dataclass(frozen=True)
class Block:
    """Columns `start` to `stop` of one kind. `group`: whose levels they repeat for, each `width` columns; "" = for every row."""

    kind: str
    group: str
    number: str
    start: int
    width: int
    n_levels: int

    @property
    def stop(self) -> int:
        return self.start + self.width * self.n_levels


@dataclass(frozen=True, kw_only=True)
class Basis:
    """The columns of a fit: levels of groups in order of first appearance, ranges of numbers, blocks.

    centre, spread, low, high: by number; low and high on the standardised scale
    waves: (n_waves, n_numbers) frequencies; phases: (n_waves,)
    """

    scheme: Scheme
    levels: Mapping[str, Mapping[str, int]]
    inside_levels: Mapping[str, Mapping[str, int]]
    centre: Floats
    spread: Floats
    low: Floats
    high: Floats
    waves: Floats
    phases: Floats
    blocks: tuple[Block, ...] = field(default=())

    @property
    def n_columns(self) -> int:
        return self.blocks[-1].stop


def full_features(anchor: Anchor) -> Features:
    """The features of an anchor with its model and source among them."""
    return {"model": anchor.model, "source": anchor.source, **anchor.features}


def setting_key(setting: str) -> int:
    """64 bits that stand for a setting where the setting itself is not kept."""
    return int.from_bytes(hashlib.sha256(setting.encode()).digest()[:8])


def level_of(features: Features, group: str) -> str:
    """The level of a group, crossed groups joined; "" when a part of it is not known."""
    parts = [str(features.get(name, "")) for name in group.split("*")]
    return "\x1f".join(parts) if all(parts) else ""


def basis_of(rows: Sequence[Features], scheme: Scheme) -> Basis:
    """The columns that these rows ask for."""
    raw = np.array([[_number(row, name) for name in scheme.numbers] for row in rows], dtype=float).reshape(len(rows), len(scheme.numbers))
    with np.errstate(all="ignore"):
        known = [column[np.isfinite(column)] for column in raw.T]
    centre = np.array([column.mean() if column.size else 0.0 for column in known])
    spread = np.array([column.std() if column.size else 0.0 for column in known])
    spread = np.where(spread > 1e-9, spread, 1.0)
    scaled = [(column - c) / s for column, c, s in zip(known, centre, spread, strict=True)]
    frequencies, phases = _waves(scheme)
    basis = Basis(
        scheme=scheme,
        levels={group: _levels(rows, group, 1) for group in dict.fromkeys((*scheme.groups, *NAMED))},
        inside_levels={group: _levels(rows, group, MIN_ROWS_INSIDE) for group in scheme.inside},
        centre=centre,
        spread=spread,
        low=np.array([column.min() if column.size else 0.0 for column in scaled]),
        high=np.array([column.max() if column.size else 0.0 for column in scaled]),
        waves=frequencies,
        phases=phases,
    )
    return replace(basis, blocks=_blocks(basis))


def _levels(rows: Sequence[Features], group: str, least: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        level = level_of(row, group)
        if level:
            counts[level] = counts.get(level, 0) + 1
    return {level: index for index, level in enumerate(level for level, n in counts.items() if n >= least)}


def _waves(scheme: Scheme) -> tuple[Floats, Floats]:
    """Fourier functions of two numbers each: together they are near a sum of smooth functions of all pairs."""
    n_waves, places = scheme.n_waves, [scheme.numbers.index(name) for name in scheme.waves_over]
    if len(places) < 2 or not n_waves:
        return np.zeros((0, len(scheme.numbers))), np.zeros(0)
    rng = np.random.default_rng(8)
    frequencies = np.zeros((n_waves, len(scheme.numbers)))
    pairs = [(i, j) for at, i in enumerate(places) for j in places[:at]]
    for k in range(n_waves):
        frequencies[k, list(pairs[k % len(pairs)])] = rng.normal(size=2) / WAVE_LENGTH
    return frequencies, rng.uniform(0, 2 * np.pi, size=n_waves)


def _blocks(basis: Basis) -> tuple[Block, ...]:
    """Where each kind of column stands. Blocks of no columns are left out."""
    scheme = basis.scheme
    wanted: list[tuple[str, str, str, int, int]] = [("mean", "", "", 1, 1)]
    wanted += [("level", group, "", 1, len(basis.levels[group])) for group in scheme.groups]
    moving = [name for name, low, high in zip(scheme.numbers, basis.low, basis.high, strict=True) if high > low]
    wanted += [("slope", "", name, 1, 1) for name in moving]
    wanted += [("bumps", "", name, N_BUMPS, 1) for name in moving]
    wanted.append(("waves", "", "", len(basis.phases), 1))
    for group, names in scheme.inside.items():
        n_levels = len(basis.inside_levels[group])
        wanted += [("slope", group, name, 1, n_levels) for name in names if name in moving]
        wanted += [("bumps", group, name, N_BUMPS, n_levels) for name in names if name in moving]
    blocks: list[Block] = []
    start = 0
    for kind, group, number, width, n_levels in wanted:
        if width * n_levels:
            blocks.append(Block(kind, group, number, start, width, n_levels))
            start = blocks[-1].stop
    return tuple(blocks)


def _number(features: Features, name: str) -> float:
    value = features.get(name)
    return float(value) if isinstance(value, (int, float)) else float("nan")


@dataclass(frozen=True)
class Columns:
    """A basis at some rows.

    values: (n, n_columns); beyond: (n, n_numbers) how far each number lies outside its range, in standard deviations
    unseen: (n, n_blocks) sum of squares of what the block's columns would hold for a level that no row had, else 0
    """

    values: Floats
    beyond: Floats
    unseen: Floats


def columns_at(basis: Basis, rows: Sequence[Features]) -> Columns:
    """The basis at these rows. A number outside the range of the anchors counts as the range's end; one not told as the mean."""
    names = basis.scheme.numbers
    raw = np.array([[_number(row, name) for name in names] for row in rows], dtype=float).reshape(len(rows), len(names))
    scaled = np.where(np.isfinite(raw), (raw - basis.centre) / basis.spread, 0.0)
    inside = np.clip(scaled, basis.low, basis.high)
    groups = {block.group for block in basis.blocks if block.group}
    levels = {group: [level_of(row, group) for row in rows] for group in groups}
    values = np.zeros((len(rows), basis.n_columns))
    unseen = np.zeros((len(rows), len(basis.blocks)))
    for index, block in enumerate(basis.blocks):
        functions = _functions(basis, block, inside)
        if not block.group:
            values[:, block.start : block.stop] = functions
            continue
        known = (basis.levels if block.kind == "level" else basis.inside_levels)[block.group]
        place = np.array([known.get(level, UNSEEN) for level in levels[block.group]], dtype=int)
        at = np.flatnonzero(place != UNSEEN)
        for k in range(block.width):
            values[at, block.start + place[at] * block.width + k] = functions[at, k]
        unseen[:, index] = np.where(place == UNSEEN, (functions**2).sum(axis=1), 0.0)
    return Columns(values, np.abs(scaled - inside), unseen)


def _functions(basis: Basis, block: Block, scaled: Floats) -> Floats:
    """(n, width): the functions of a block at standardised numbers, before they are put under a level."""
    if block.kind in ("mean", "level"):
        return np.ones((len(scaled), 1))
    if block.kind == "waves":
        functions: Floats = np.cos(scaled @ basis.waves.T + basis.phases) * np.sqrt(2 / len(basis.phases))
        return functions
    at = basis.scheme.numbers.index(block.number)
    x = scaled[:, at]
    if block.kind == "slope":
        return np.asarray(x[:, None])
    knots = np.linspace(basis.low[at], basis.high[at], N_BUMPS)
    width = knots[1] - knots[0]
    bumps: Floats = np.exp(-0.5 * ((x[:, None] - knots) / width) ** 2)
    return bumps
