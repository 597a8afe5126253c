"""Which type each group of weights gets: least time of a turn within a budget of quality, and of bytes.

Two things are taken to add up over groups, and `flows` measures how far they do on what comes out:
- loss: small errors of different weights are nearly independent, and KL divergence is quadratic in them, so the divergence of a mix is
  about the sum of what each group costs alone, with all others exact;
- time: at batch 1 a matrix costs what its bytes cost to read (decode) or its products to compute (prefill), each in proportion to its
  number of weights, at a rate of its type. Rates are fitted to whole-model timings; what no type changes falls out of differences.

With both, the choice is a multiple-choice knapsack, solved exactly by scipy's mixed-integer solver (HiGHS), which is deterministic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.core.errors import InputError

BYTES_TIE = 1e-6
"""Of two mixes that are as fast, the smaller: this share of the time range is spread over the range of bytes."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One type for one group.

    kl_nats: what the divergence from the reference rises by, per token, when this group alone has the type
    prefill_ms: of one prompt token; decode_ms: of one output token; both relative to any common zero, so they may be negative
    """

    type_name: str
    kl_nats: float
    prefill_ms: float
    decode_ms: float
    size_bytes: int


Options = Mapping[str, Sequence[Option]]
"""By group, what it may have."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A type for each group, and what the model above predicts: sums over groups. turn_ms: of a prompt and its answer."""

    types: Mapping[str, str]
    kl_nats: float
    turn_ms: float
    size_bytes: int


def allocate(
    options: Options, *, budget_nats: float, prompt_tokens: int, output_tokens: int, limit_bytes: int | None = None
) -> Allocation | None:
    """The fastest mix within the budget of loss (and of bytes); None if there is none. Raises InputError for a group without options."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    for name, own in options.items():
        if not own:
            raise InputError(f"Group {name!r} has no type to choose from.")
    flat = [(name, option) for name, own in options.items() for option in own]
    ms = np.array([_turn_ms(option, prompt_tokens, output_tokens) for _, option in flat])
    sizes = np.array([option.size_bytes for _, option in flat], float)
    losses = np.array([option.kl_nats for _, option in flat])
    one_each = np.array([[float(name == group) for name, _ in flat] for group in options])
    constraints = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(losses[None] / max(budget_nats, 1e-9), -np.inf, budget_nats / max(budget_nats, 1e-9)),
    ]
    if limit_bytes is not None:
        constraints.append(LinearConstraint(sizes[None] / limit_bytes, -np.inf, 1.0))
    tie = BYTES_TIE * max(float(np.ptp(ms)), 1e-9) / max(float(np.ptp(sizes)), 1.0)
    found = milp(
        ms + tie * sizes, integrality=np.ones(len(flat)), bounds=Bounds(0, 1), constraints=constraints, options={"mip_rel_gap": 0.0}
    )
    if found.x is None:
        return None
    return _sums([pair for pair, taken in zip(flat, found.x, strict=True) if taken > 0.5], prompt_tokens, output_tokens)


def uniform(options: Options, type_name: str, *, prompt_tokens: int, output_tokens: int) -> Allocation | None:
    """The mix that gives every group the same type; None where a group cannot have it."""
    chosen = [(name, option) for name, own in options.items() for option in own if option.type_name == type_name]
    return _sums(chosen, prompt_tokens, output_tokens) if len(chosen) == len(options) else None


def _sums(chosen: Sequence[tuple[str, Option]], prompt_tokens: int, output_tokens: int) -> Allocation:
    return Allocation(
        types={name: option.type_name for name, option in chosen},
        kl_nats=sum(option.kl_nats for _, option in chosen),
        turn_ms=sum(_turn_ms(option, prompt_tokens, output_tokens) for _, option in chosen),
        size_bytes=sum(option.size_bytes for _, option in chosen),
    )


def _turn_ms(option: Option, prompt_tokens: int, output_tokens: int) -> float:
    return prompt_tokens * option.prefill_ms + output_tokens * option.decode_ms


def allocations(
    options: Options, *, budgets_nats: Sequence[float], prompt_tokens: int, output_tokens: int, limits_bytes: Sequence[int | None] = (None,)
) -> list[Allocation]:
    """The fastest mix for each pair of budgets, each mix once, fastest first."""
    found = [
        allocate(options, budget_nats=budget, prompt_tokens=prompt_tokens, output_tokens=output_tokens, limit_bytes=limit)
        for budget in budgets_nats
        for limit in limits_bytes
    ]
    distinct = {tuple(sorted(mix.types.items())): mix for mix in found if mix is not None}
    return sorted(distinct.values(), key=lambda mix: (mix.turn_ms, mix.kl_nats))


Column = tuple[str, str]
"""Place and type: ("blocks", "Q8_0"). See TensorGroup.place."""


def fit_rates(builds: Sequence[Mapping[Column, float]], ms: Sequence[float]) -> dict[Column, float]:
    """Milliseconds per million weights of each place and type, by least squares on the whole-model times of several builds.

    builds: millions of weights in each place and type; ms: of one token
    Every build has the same number of weights in a place, so a rate common to a place cannot be told from what no type changes: of all
    solutions the smallest is taken, and only differences between mixes mean something. Raises InputError for fewer builds than that needs.
    """
    columns = sorted({column for build in builds for column in build})
    n_unknown = len(columns) - len({place for place, _ in columns}) + 1
    if len(builds) < n_unknown or len(builds) != len(ms):
        raise InputError(f"{len(ms)} timings of {len(builds)} builds cannot tell the rates of {len(columns)} places and types.")
    matrix = np.array([[build.get(column, 0.0) for column in columns] for build in builds])
    rates = np.linalg.lstsq(matrix, np.asarray(ms, float), rcond=None)[0]
    return {column: float(rate) for column, rate in zip(columns, rates, strict=True)}


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """Something measured: low, best guess and high of what should be small. size_bytes is exact."""

    name: str
    turn_ms: tuple[float, float, float]
    kl_nats: tuple[float, float, float]
    size_bytes: int


def surely_dominated(point: FrontPoint, others: Sequence[FrontPoint]) -> list[str]:
    """Names of others that are at least as good in time, loss and bytes, as far as their intervals can tell.

    An other one counts unless the point surely beats it in something: its interval of time or loss lies wholly below the other's, or its
    bytes are fewer. So what is not on the list is shown to be reached by none.
    """
    return [
        other.name
        for other in others
        if other.name != point.name
        and not (point.turn_ms[2] < other.turn_ms[0] or point.kl_nats[2] < other.kl_nats[0] or point.size_bytes < other.size_bytes)
    ]
