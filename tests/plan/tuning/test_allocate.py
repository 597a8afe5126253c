"""Types for groups of weights: the best mix within a budget, the rates behind it, and what counts as new."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.core.model import TensorInfo
from trimtab.plan.tuning.allocate import FrontPoint, Option, allocate, allocations, fit_rates, surely_dominated, uniform
from trimtab.plan.tuning.tensor_groups import tensor_groups

TURN = {"prompt_tokens": 512, "output_tokens": 64}


def options_of(seed: int, n_groups: int = 4, types: tuple[str, ...] = ("keep", "Q8_0", "Q4_0")) -> dict[str, list[Option]]:
    """Random options: fewer bits cost more quality and take fewer bytes, times are anything."""
    rng = random.Random(seed)
    return {
        f"g{index}": [
            Option(
                type_name=name,
                kl_nats=0.0 if name == "keep" else rng.expovariate(1 / 0.01),
                prefill_ms=rng.uniform(-1, 1),
                decode_ms=rng.uniform(-2, 2),
                size_bytes=rng.randrange(10**6, 10**8),
            )
            for name in types
        ]
        for index in range(n_groups)
    }


@given(st.integers(0, 10**6), st.floats(0.0, 0.1))
@settings(max_examples=60, deadline=None)
def test_the_mix_is_the_best_of_all_within_the_budget(seed: int, budget: float) -> None:
    options = options_of(seed)
    best = allocate(options, budget_nats=budget, **TURN)
    assert best is not None, "keep is always within the budget"
    assert best.kl_nats <= budget + 1e-6
    every = [
        sum(512 * one.prefill_ms + 64 * one.decode_ms for one in chosen)
        for chosen in itertools.product(*options.values())
        if sum(one.kl_nats for one in chosen) <= budget
    ]
    spread = sum(
        max(512 * o.prefill_ms + 64 * o.decode_ms for o in own) - min(512 * o.prefill_ms + 64 * o.decode_ms for o in own)
        for own in options.values()
    )
    assert best.turn_ms <= min(every) + 1e-5 * spread
    assert allocate(options, budget_nats=budget, **TURN) == best


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_no_uniform_type_within_the_budgets_is_faster(seed: int) -> None:
    options = options_of(seed, n_groups=13)
    for name in ("keep", "Q8_0", "Q4_0"):
        plain = uniform(options, name, **TURN)
        assert plain is not None
        mix = allocate(options, budget_nats=plain.kl_nats * (1 + 1e-9), limit_bytes=plain.size_bytes, **TURN)
        assert mix is not None
        assert mix.turn_ms <= plain.turn_ms + 1e-3
        assert mix.size_bytes <= plain.size_bytes * (1 + 1e-6)


def test_a_type_that_one_group_cannot_have_is_no_uniform_choice() -> None:
    options = options_of(0)
    options["g0"] = [one for one in options["g0"] if one.type_name != "Q4_0"]
    assert uniform(options, "Q4_0", **TURN) is None


def test_budgets_that_nothing_meets_and_groups_without_types() -> None:
    options = {name: [one for one in own if one.type_name == "Q4_0"] for name, own in options_of(1).items()}
    assert allocate(options, budget_nats=0.0, **TURN) is None
    with pytest.raises(InputError, match="g0"):
        allocate({"g0": []}, budget_nats=1.0, **TURN)


def test_wider_budgets_give_faster_mixes_each_once() -> None:
    mixes = allocations(options_of(3, n_groups=8), budgets_nats=(0.0, 0.01, 0.02, 0.02, 10.0), **TURN)
    assert [mix.turn_ms for mix in mixes] == sorted(mix.turn_ms for mix in mixes)
    assert len({tuple(mix.types.items()) for mix in mixes}) == len(mixes) > 1
    assert [mix.kl_nats for mix in mixes] == sorted((mix.kl_nats for mix in mixes), reverse=True)


def test_rates_predict_mixes_from_whole_models() -> None:
    """Times that are a constant plus a rate for each place and type are foretold for mixes that were never timed."""
    rates = {("blocks", "A"): 0.03, ("blocks", "B"): 0.05, ("blocks", "C"): 0.02, ("head", "A"): 0.04, ("head", "B"): 0.01}

    def build(a: float, b: float, head: str) -> dict[tuple[str, str], float]:
        return {("blocks", "A"): 100 * a, ("blocks", "B"): 100 * b, ("blocks", "C"): 100 * (1 - a - b), ("head", head): 28.0}

    def time_of(one: dict[tuple[str, str], float]) -> float:
        return 3.0 + sum(rates[column] * n for column, n in one.items())

    seen = [build(1, 0, "A"), build(0, 1, "A"), build(0, 0, "A"), build(1, 0, "B")]
    fitted = fit_rates(seen, [time_of(one) for one in seen])
    unseen = build(0.3, 0.25, "B")
    assert sum(fitted[column] * n for column, n in unseen.items()) == pytest.approx(time_of(unseen))
    with pytest.raises(InputError, match="3 timings"):
        fit_rates(seen[1:], [time_of(one) for one in seen[1:]])


def test_a_point_is_new_only_if_it_surely_beats_each_other_in_something() -> None:
    def point(name: str, ms: float, kl: float, size: int) -> FrontPoint:
        return FrontPoint(name=name, turn_ms=(ms - 1, ms, ms + 1), kl_nats=(kl * 0.9, kl, kl * 1.1), size_bytes=size)

    shelf = [point("exact", 100, 0.001, 200), point("small", 50, 0.3, 100)]
    assert surely_dominated(point("between", 70, 0.01, 150), shelf) == []
    assert surely_dominated(point("slow and big", 101, 0.01, 200), shelf) == ["exact"]
    assert surely_dominated(point("perhaps faster", 99, 0.001, 200), shelf) == ["exact"], "its interval overlaps"
    assert surely_dominated(shelf[0], shelf) == []


def test_groups_cover_the_matrices_of_neighbouring_layers() -> None:
    def info(name: str, *shape: int) -> TensorInfo:
        return TensorInfo(name=name, shape=shape, type_name="F16", size_bytes=2)

    words = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_inp")
    tensors = [info("token_embd.weight", 100, 64), info("output_norm.weight", 64)]
    tensors += [info(f"blk.{layer}.{word}.weight", 64, 64) for layer in range(12) for word in words]
    groups = tensor_groups(tensors, 3)
    names = [tensor.name for group in groups for tensor in group.tensors]
    assert len(groups) == 4 * 3 + 1
    assert len(names) == len(set(names)) == 12 * 7 + 1, "each once, without the router"
    import re

    for group in groups:
        found = {tensor.name for tensor in tensors if re.search(group.pattern, tensor.name)}
        assert found == {tensor.name for tensor in group.tensors}
    assert [group.place for group in groups if group.place != "blocks"] == ["head"], "a tied embedding is the output matrix"
    untied = tensor_groups([*tensors, info("output.weight", 100, 64)], 3)
    assert {group.name: group.place for group in untied if group.place != "blocks"} == {"output": "head", "token_embd": "table"}
    assert tensor_groups([info("token_embd.weight", 100, 64)], 3)[0].n_params == 6400
