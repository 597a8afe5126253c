"""What is dropped unseen, and that nothing that may win is."""

from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.measurement import Estimate
from trimtab.plan.tuning.shortlist import drop_hopeless, kind_of, spread


def estimate(low, high, unit="ms"):
    return Estimate(value=(low + high) / 2, low=low, high=high, unit=unit, basis="")


def forecast(*times, memory=(1e9, 2e9)):
    """Estimates at concurrency 1, 2, ... from (low, high) end-to-end times."""
    return {level: {"e2e_ms": estimate(*ends), "memory_bytes": estimate(*memory, "bytes")} for level, ends in enumerate(times, 1)}


def test_hopeless_against_the_baseline():
    found = drop_hopeless({"base": forecast((50, 100)), "slow": forecast((150, 300))}, memory_bytes=10**10, baseline="base")
    assert found.kept == ("base",)
    assert found.dropped == {"slow": "Its best case, 150 ms at concurrency 1, does not beat the baseline's worst, 100 ms."}


def test_one_faster_rival_is_not_enough_because_it_may_fail_on_quality():
    """But three are, as no more are tried; with n_rivals=1 one is."""
    estimates = {"base": forecast((500, 900)), "a": forecast((10, 20)), "slow": forecast((100, 400))}
    assert drop_hopeless(estimates, memory_bytes=10**10, baseline="base").kept == ("a", "slow", "base")
    assert drop_hopeless(estimates, memory_bytes=10**10, baseline="base", n_rivals=1).kept == ("a", "base")
    estimates |= {"b": forecast((10, 30)), "c": forecast((10, 40))}
    found = drop_hopeless(estimates, memory_bytes=10**10, baseline="base")
    assert found.dropped == {"slow": "Its best case, 100 ms at concurrency 1, is behind the worst case of 3 others, such as a at 20 ms."}
    assert drop_hopeless(estimates, memory_bytes=10**10, baseline="base", keep=["slow"]).dropped == {}


def test_a_candidate_that_may_win_at_one_level_stays():
    estimates = {"base": forecast((50, 100), (500, 1000)), "batcher": forecast((150, 300), (300, 600))}
    assert drop_hopeless(estimates, memory_bytes=10**10, baseline="base").dropped == {}


def test_a_timed_baseline_drops_more():
    estimates = {"base": forecast((50, 500)), "slow": forecast((150, 300)), "unsure": forecast((90, 300))}
    assert drop_hopeless(estimates, memory_bytes=10**10, baseline="base").dropped == {}
    assert set(drop_hopeless(estimates, memory_bytes=10**10, baseline="base", observed={"base": {1: 120.0}}).dropped) == {"slow"}
    # What ran, fits.
    large = {"base": forecast((50, 500), memory=(20e9, 30e9)), "slow": forecast((150, 300))}
    assert set(drop_hopeless(large, memory_bytes=10**10, baseline="base", observed={"base": {1: 120.0}}).dropped) == {"slow"}
    assert drop_hopeless(large, memory_bytes=10**10, baseline="base").dropped == {}


def test_spread_takes_turns_between_kinds():
    groups = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b", "c1": "c"}
    order = ["a1", "a2", "b1", "a3", "b2", "c1"]
    assert spread(order, groups, 4) == ("a1", "b1", "c1", "a2")
    assert spread(order, groups, 99) == ("a1", "b1", "c1", "a2", "b2", "a3")
    assert spread(order, groups, 0) == ()


def test_kinds():
    assert len({kind_of("llamacpp", bits) for bits in (2.96, 4.5, 5.5, 6.6, 8.5, 16, 32)}) == 4
    assert kind_of("llamacpp", 8.5) != kind_of("openvino", 8.5)


def test_memory():
    estimates = {
        "base": forecast((50, 100), memory=(20e9, 40e9)),
        "large": forecast((5, 10), memory=(12.3e9, 20e9)),
        "unsure": forecast((5, 10), memory=(5e9, 20e9)),
        "slow": forecast((500, 600)),
    }
    found = drop_hopeless(estimates, memory_bytes=10**10, baseline="base", n_rivals=1)
    # `unsure` may not fit, and neither may the baseline, so neither can stand in for `slow`.
    assert found.kept == ("unsure", "base", "slow")
    assert found.dropped == {"large": "It needs at least 12.3 GB of memory; this machine has 10.0 GB."}


interval = st.tuples(st.floats(1, 100), st.floats(0, 100), st.floats(0, 1))


@given(
    times=st.lists(st.tuples(interval, interval), min_size=1, max_size=9),
    memories=st.lists(interval, min_size=9, max_size=9),
    n_rivals=st.integers(1, 4),
    timed=st.sets(st.integers(0, 8)),
)
def test_never_drops_what_is_truly_among_the_best(times, memories, n_rivals, timed):
    """With every truth inside its interval: a dropped candidate does not fit, or at every level is no better than the baseline or
    than n_rivals others that fit."""
    estimates = {
        str(index): forecast(*((low, low + width) for low, width, _ in pair), memory=(memory[0], memory[0] + memory[1]))
        for index, (pair, memory) in enumerate(zip(times, memories, strict=False))
    }
    truth = {str(index): [low + width * at for low, width, at in pair] for index, pair in enumerate(times)}
    size = {str(index): low + width * at for index, (low, width, at) in enumerate(memories)}
    observed = {name: dict(enumerate(truth[name], 1)) for name in estimates if int(name) in timed and size[name] <= 90}
    found = drop_hopeless(estimates, memory_bytes=90, baseline="0", n_rivals=n_rivals, observed=observed)
    assert "0" in found.kept
    assert set(found.kept) | set(found.dropped) == set(estimates)
    for name in found.dropped:
        fits = [other for other in estimates if other != name and size[other] <= 90 * (1 + 1e-9)]
        too_large = size[name] > 90
        for level in (0, 1):
            no_worse = [other for other in fits if truth[other][level] <= truth[name][level] * (1 + 1e-9)]
            assert too_large or "0" in no_worse or len(no_worse) >= n_rivals
