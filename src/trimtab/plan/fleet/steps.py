"""How long one step of an engine takes, in the form in which many steps are summed at once.

Between two changes of a batch each decode step has one token more of context per sequence, so if a step's time is affine in the mean
context, k steps take a sum that is known in closed form. `tabled` brings any `StepModel` into that form and says how far it departs.
"""

import math
import tomllib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trimtab.core.errors import InputError

KNOTS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
COEFFICIENTS = ("fixed_s", "sequence_s", "context_token_s", "prompt_token_s", "prompt_pair_s")


class StepModel(Protocol):
    """Seconds of one step of a replica's engine."""

    def decode_s(self, batch: int, mean_context: float) -> float:
        """One token for each of `batch` sequences that hold `mean_context` tokens each in the mean."""

    def prefill_s(self, tokens: int, context: float) -> float:
        """`tokens` of prompts, of which `context` tokens are in the cache already; no sequence decodes."""

    def mixed_s(self, batch: int, mean_context: float, prefill_tokens: int) -> float:
        """One token for each of `batch` sequences, and `prefill_tokens` of prompts that have nothing in the cache yet."""


@dataclass(frozen=True, kw_only=True)
class AffineSteps:
    """A step model of a few measured coefficients.

    fixed_s: of each step; sequence_s: of each sequence that decodes; context_token_s: of each token of its context
    prompt_token_s: of each prompt token; prompt_pair_s: of each prompt token for each token before it
    decode_knots_s: (batch, seconds at no context), rising in batch, in place of fixed_s + sequence_s * batch; linear between
        them and beyond. An engine changes its kernels with the batch, which no straight line follows.
    """

    fixed_s: float = 0.0
    sequence_s: float = 0.0
    context_token_s: float = 0.0
    prompt_token_s: float = 0.0
    prompt_pair_s: float = 0.0
    decode_knots_s: tuple[tuple[int, float], ...] = ()

    def decode_s(self, batch: int, mean_context: float) -> float:
        return self._base_s(batch) + self.context_token_s * batch * mean_context

    def prefill_s(self, tokens: int, context: float) -> float:
        return self.fixed_s + self.prompt_token_s * tokens + self.prompt_pair_s * tokens * (context + (tokens - 1) / 2)

    def mixed_s(self, batch: int, mean_context: float, prefill_tokens: int) -> float:
        return self.decode_s(batch, mean_context) + self.prefill_s(prefill_tokens, 0.0) - self.fixed_s

    def _base_s(self, batch: int) -> float:
        knots = self.decode_knots_s
        if not knots:
            return self.fixed_s + self.sequence_s * batch
        if len(knots) == 1:
            return knots[0][1]
        after = min(max(1, bisect_right(knots, batch, key=lambda knot: knot[0])), len(knots) - 1)
        (b0, s0), (b1, s1) = knots[after - 1], knots[after]
        return max(0.0, s0 + (s1 - s0) * (batch - b0) / (b1 - b0))


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """A step model whose times of decoding and of prompts measurements have shown to be off by a factor each."""

    model: StepModel
    decode: float
    prefill: float

    def decode_s(self, batch: int, mean_context: float) -> float:
        return self.model.decode_s(batch, mean_context) * self.decode

    def prefill_s(self, tokens: int, context: float) -> float:
        return self.model.prefill_s(tokens, context) * self.prefill

    def mixed_s(self, batch: int, mean_context: float, prefill_tokens: int) -> float:
        alone = self.model.decode_s(batch, mean_context)
        return alone * self.decode + (self.model.mixed_s(batch, mean_context, prefill_tokens) - alone) * self.prefill


@dataclass(frozen=True, kw_only=True)
class StepTable:
    """A step model as the simulation reads it: plain lists, seconds.

    decode of `b` sequences at mean context c: base_s[b] + slope_s[b] * c; index 0 is a step without decoding, 0 and 0
    prompts: extra_s[b][i] more for knots[i] prompt tokens (linear between them), and pair_s for each prompt token and token before it
    departure: largest relative difference from the model it was made of, at the places looked at
    """

    base_s: list[float]
    slope_s: list[float]
    knots: list[int]
    extra_s: list[list[float]]
    pair_s: float
    departure: float = 0.0

    @property
    def max_batch(self) -> int:
        return len(self.base_s) - 1

    def decode_s(self, batch: int, mean_context: float) -> float:
        return self.base_s[batch] + self.slope_s[batch] * mean_context

    def mixed_s(self, batch: int, mean_context: float, prompt_tokens: int, pairs: float) -> float:
        """A step with prompts of at least one token; pairs: sum over prompt tokens of the tokens before them in their own sequence."""
        knots, extra = self.knots, self.extra_s[batch]
        i = bisect_right(knots, prompt_tokens) - 1
        if i >= len(knots) - 1:
            i = len(knots) - 2
        low = knots[i]
        share = (prompt_tokens - low) / (knots[i + 1] - low)
        more = extra[i] + share * (extra[i + 1] - extra[i])
        return self.base_s[batch] + self.slope_s[batch] * mean_context + more + self.pair_s * pairs


def tabled(model: StepModel, *, max_batch: int, batch_tokens: int, contexts: tuple[float, float] = (128.0, 4096.0)) -> StepTable:
    """A model as a table for batches up to `max_batch`; exact for `AffineSteps`.

    contexts: mean contexts between which the line of each batch is drawn. Batches between KNOTS are interpolated.
    """
    low, high = contexts
    batches = [b for b in KNOTS if b < max_batch] + [max_batch]
    if isinstance(model, AffineSteps):
        batches = sorted({*batches, *(b for b, _ in model.decode_knots_s if b <= max_batch)})
    knots = sorted({0, 1, *(n for n in KNOTS if n < batch_tokens), max(2, batch_tokens)})
    middle = (low + high) / 2
    slopes = [(model.decode_s(b, high) - model.decode_s(b, low)) / (high - low) for b in batches]
    bases = [model.decode_s(b, low) - slope * low for b, slope in zip(batches, slopes, strict=True)]
    far = min(batch_tokens, 512)
    pair_s = max(0.0, (model.prefill_s(far, high) - model.prefill_s(far, 0.0)) / (far * high))
    within = [pair_s * n * (n - 1) / 2 for n in knots]
    extras = [
        [
            0.0,
            *(
                max(0.0, model.mixed_s(b, middle, n) - model.decode_s(b, middle) - own)
                for n, own in zip(knots[1:], within[1:], strict=True)
            ),
        ]
        for b in batches
    ]
    alone = [0.0, *(max(0.0, model.prefill_s(n, 0.0) - own) for n, own in zip(knots[1:], within[1:], strict=True))]
    every = np.arange(1, max_batch + 1)
    rows = np.array(extras)
    by_batch = np.stack([np.interp(every, batches, rows[:, i]) for i in range(len(knots))], axis=1)
    table = StepTable(
        base_s=[0.0, *np.interp(every, batches, bases).tolist()],
        slope_s=[0.0, *np.interp(every, batches, slopes).tolist()],
        knots=knots,
        extra_s=[alone, *by_batch.tolist()],
        pair_s=pair_s,
    )
    return StepTable(**{**vars(table), "departure": _departure(model, table, batches, knots, low, high)})


def _departure(model: StepModel, table: StepTable, batches: Sequence[int], knots: Sequence[int], low: float, high: float) -> float:
    worst = 0.0
    for batch in batches:
        for context in (low, (low + high) / 2, high):
            said, meant = table.decode_s(batch, context), model.decode_s(batch, context)
            worst = max(worst, abs(said / meant - 1.0) if meant > 0 else 0.0)
    for tokens in knots[1:]:
        meant = model.prefill_s(tokens, high / 2)
        pairs = tokens * (high / 2 + (tokens - 1) / 2)
        worst = max(worst, abs(table.mixed_s(0, 0.0, tokens, pairs) / meant - 1.0) if meant > 0 else 0.0)
    return worst


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One timed step: `batch` sequences of `mean_context` tokens decoded, `prompt_tokens` computed after `context` of the same prompt."""

    seconds: float
    batch: int = 0
    mean_context: float = 0.0
    prompt_tokens: int = 0
    context: float = 0.0


def fitted(rows: Sequence[Observed], *, knots: Sequence[int] = ()) -> AffineSteps:
    """Coefficients (none negative) with the least squared relative error over timed steps. knots: batches of decode_knots_s; () = a line.

    Raises InputError where the rows cannot tell the coefficients.
    """
    from scipy.optimize import nnls

    if len(rows) < 3 or not any(row.prompt_tokens for row in rows) or not any(row.batch for row in rows):
        raise InputError("Step times are fitted on three timed steps or more, with and without prompt tokens; give more rows.")
    if any(not (row.seconds > 0 and math.isfinite(row.seconds)) for row in rows):
        raise InputError("A timed step took no time; every row needs seconds above 0.")
    columns = []
    for row in rows:
        weights = _knot_weights(row.batch, knots)
        pairs = row.prompt_tokens * (row.context + (row.prompt_tokens - 1) / 2) if row.prompt_tokens else 0.0
        straight = [1.0, float(row.batch)] if not knots else [1.0 if row.batch == 0 else 0.0, 0.0]
        columns.append([*straight, row.batch * row.mean_context, float(row.prompt_tokens), pairs, *weights])
    scale = np.array([1.0 / row.seconds for row in rows])
    matrix = np.array(columns) * scale[:, None]
    reach = np.maximum(matrix.max(axis=0), 1e-300)  # columns of one size, or the smallest are lost
    found, _ = nnls(matrix / reach, np.ones(len(rows)))
    values = (found / reach).tolist()
    nothing = [batch for batch, seconds in zip(knots, values[5:], strict=True) if seconds <= 0]
    if nothing:
        raise InputError(f"The timed steps do not tell how long a batch of {nothing[0]} takes; time it at short and at long contexts.")
    straight_s = dict(zip(COEFFICIENTS, values[:5], strict=True))
    return AffineSteps(**straight_s, decode_knots_s=tuple(zip(knots, values[5:], strict=True)))


def _knot_weights(batch: int, knots: Sequence[int]) -> list[float]:
    """Share of each knot in the time of a batch (linear between them); of no knot without decoding."""
    if batch == 0 or not knots:
        return [0.0] * len(knots)
    return [float(np.interp(batch, knots, [float(i == j) for j in range(len(knots))])) for i in range(len(knots))]


def read_steps(path: Path) -> AffineSteps:
    """The step model of a TOML file: coefficients by name, or `[[step]]` rows of timed steps to fit them on. Raises InputError."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as step times ({error}).") from None
    if "step" in document:
        rows = document["step"]
        if not isinstance(rows, list):
            raise InputError(f"{path}: timed steps are written as [[step]] tables.")
        knots = document.get("knots", [])
        if not isinstance(knots, list) or not all(isinstance(one, int) and one > 0 for one in knots) or knots != sorted(set(knots)):
            raise InputError(f"{path}: knots must be rising batch sizes, such as [1, 2, 4, 8].")
        return fitted([_observed(row, f"{path}: step {number}") for number, row in enumerate(rows, 1)], knots=knots)
    for key in document:
        if key not in (*COEFFICIENTS, "decode_knots_s"):
            raise InputError(f"{path}: {key!r} is no coefficient; there are {', '.join(COEFFICIENTS)} and decode_knots_s.")
    values = {key: _seconds(document[key], f"{path}: {key}") for key in COEFFICIENTS if key in document}
    knots_s = document.get("decode_knots_s", [])
    if not isinstance(knots_s, list) or not all(isinstance(one, list) and len(one) == 2 for one in knots_s):
        raise InputError(f"{path}: decode_knots_s must be pairs of batch and seconds, such as [[1, 0.01], [8, 0.03]].")
    pairs = tuple((int(b), _seconds(s, f"{path}: decode_knots_s")) for b, s in knots_s)
    if [b for b, _ in pairs] != sorted({b for b, _ in pairs}):
        raise InputError(f"{path}: the batches of decode_knots_s must rise.")
    if not pairs and values.get("fixed_s", 0.0) + values.get("sequence_s", 0.0) <= 0:
        raise InputError(f"{path}: a step must take time; give fixed_s, sequence_s or decode_knots_s.")
    return AffineSteps(**values, decode_knots_s=pairs)


def _observed(row: Any, where: str) -> Observed:
    known = tuple(Observed.__dataclass_fields__)
    if not isinstance(row, Mapping) or "seconds" not in row or set(row) - set(known):
        raise InputError(f"{where} needs seconds, and may say {', '.join(known[1:])}.")
    numbers = {key: _seconds(value, f"{where}, {key}") for key, value in row.items()}
    return Observed(
        seconds=numbers["seconds"],
        batch=int(numbers.get("batch", 0)),
        mean_context=numbers.get("mean_context", 0.0),
        prompt_tokens=int(numbers.get("prompt_tokens", 0)),
        context=numbers.get("context", 0.0),
    )


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise InputError(f"{where} must be a number of at least 0, not {value!r}.")
    return float(value)
