"""The prior: wide enough for what was observed, monotone, and it never drops what may win."""

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trimtab.core.deployment import Machine, Recipe
from trimtab.core.errors import InputError
from trimtab.core.measurement import Estimate
from trimtab.core.model import KvLayers, ModelCard
from trimtab.core.workload import Workload
from trimtab.plan.prior import drop_hopeless, efficiency_of, predict, shipped_efficiencies, weight_bits

# SmolLM2-135M-Instruct, 4-bit file.
CARD = ModelCard(
    name="smol",
    architecture="llama",
    format="gguf",
    quantization="gguf",
    n_params=134_515_008,
    active_params=134_515_008,
    n_params_by_part={},
    bytes_by_type={},
    size_bytes=98_000_000,
    decode_bytes_per_token=98_000_000,
    flops_per_token=269e6,
    attn_flops_per_token_per_context_token=30 * 4 * 576.0,
    kv_layers=(KvLayers(kind="full", n_layers=30, values_per_token=384),),
    n_layers=30,
    hidden_size=576,
    context_tokens=8192,
    vocab_size=49152,
    licence="apache-2.0",
    chat_template_sha256="",
)
MACHINE = Machine(cpu="test", n_cores=2, memory_bytes=24 * 10**9, flags=("avx2", "avx512_vnni"), read_gb_s=15.0, matmul_gflop_s=200.0)
CHAT = Workload(name="chat", prompt_tokens=512, output_tokens=128, concurrency=(1, 4))


def recipe(bits, engine="llamacpp", **parameters):
    return Recipe(name=f"{engine}-{bits}", family="gguf", engine=engine, parameters=parameters, bits_per_weight=bits)


SHIPPED = recipe(16.0, type="as-shipped")


@pytest.mark.parametrize(
    ("engine", "made", "decode_tok_s", "prefill_tok_s"),
    [
        ("llamacpp", recipe(16.0), 51, 532),
        ("llamacpp", recipe(8.5), 88, 505),
        ("llamacpp", recipe(6.56), 91, 574),
        ("llamacpp", recipe(4.85), 99, 504),
        ("llamacpp", SHIPPED, 110, 287),
        ("llamacpp", recipe(4.5), 140, 732),
        ("openvino", recipe(16.0, "openvino"), 58, 590),
        ("openvino", recipe(8.0, "openvino"), 91, 1520),
        ("openvino", SHIPPED, 105, 1507),
        ("openvino", recipe(4.5, "openvino"), 104, 1450),
    ],
)
def test_intervals_hold_what_was_observed(engine, made, decode_tok_s, prefill_tok_s):
    """Single runs on a 15 GB/s machine."""
    estimates = predict(CARD, made, engine, CHAT, MACHINE, 1)
    ttft_ms, tpot_ms = 1000 * 512 / prefill_tok_s, 1000 / decode_tok_s
    observed = {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms, "e2e_ms": ttft_ms + 127 * tpot_ms}
    for name, value in observed.items():
        assert estimates[name].low < value < estimates[name].high
        assert estimates[name].low <= estimates[name].value <= estimates[name].high
    assert estimates["memory_bytes"].low < 500e6 < estimates["memory_bytes"].high


@pytest.mark.parametrize(
    ("engine", "bits", "tok_s"), [("llamacpp", 8.5, 180), ("llamacpp", 5.8, 157), ("openvino", 8.0, 307), ("openvino", 5.0, 311)]
)
def test_intervals_hold_the_batched_rates_observed(engine, bits, tok_s):
    """Four at once: a step that gives four tokens took 4 / (tokens per second)."""
    estimates = predict(CARD, recipe(bits, engine), engine, CHAT, MACHINE, 4)
    assert estimates["tpot_ms"].low < 4000 / tok_s < estimates["tpot_ms"].high


def test_what_an_estimate_rests_on_is_told():
    estimates = predict(CARD, recipe(8.5), "llamacpp", CHAT, MACHINE, 1)
    assert "15 GB/s and 200 GFLOP/s" in estimates["e2e_ms"].basis
    assert {name: one.unit for name, one in estimates.items()} == {
        "ttft_ms": "ms",
        "tpot_ms": "ms",
        "e2e_ms": "ms",
        "memory_bytes": "bytes",
    }


def test_rates_that_were_not_measured_are_not_made_up():
    with pytest.raises(InputError, match="measure them first"):
        predict(CARD, SHIPPED, "llamacpp", CHAT, dataclasses.replace(MACHINE, read_gb_s=None), 1)


def test_file_as_shipped_counts_with_its_own_bytes():
    low, high = weight_bits(CARD, SHIPPED)
    assert low < 8 * 98e6 / 134_515_008 < high < 8
    assert weight_bits(CARD, recipe(16.0))[0] > 15
    # Two nominal bits came out as 5.2 on this model: rows that do not divide fall back to wider types.
    assert weight_bits(CARD, recipe(2.96))[0] < 5.2 < weight_bits(CARD, recipe(2.96))[1]


def test_table_is_sound():
    for entry in shipped_efficiencies():
        for low, high in (entry.bits, entry.decode_of_read, entry.prefill_of_matmul, entry.batch_of_matmul):
            assert 0 <= low < high
        # Honest means wide: a factor of two and a half at least.
        assert entry.decode_of_read[1] / entry.decode_of_read[0] >= 2.5
        assert entry.prefill_of_matmul[1] / entry.prefill_of_matmul[0] >= 10


def test_special_instructions_widen_and_unknown_engines_get_the_widest():
    amx = dataclasses.replace(MACHINE, flags=("amx_int8",))
    assert efficiency_of("openvino", 8.0, amx).prefill_of_matmul[1] > efficiency_of("openvino", 8.0, MACHINE).prefill_of_matmul[1]
    assert efficiency_of("newcomer", 8.0, MACHINE).engine == "*"
    with pytest.raises(InputError):
        efficiency_of("llamacpp", 65.0, MACHINE)


@given(
    bits=st.sampled_from([2.96, 4.5, 5.5, 8.5, 16.0]),
    engine=st.sampled_from(["llamacpp", "openvino", "other"]),
    growth=st.floats(1, 50),
    level=st.integers(1, 16),
    faster=st.floats(1, 20),
)
def test_monotone(bits, engine, growth, level, faster):
    """A larger model is never predicted faster or smaller, a faster machine never slower, more load never a shorter wait."""
    grown = dataclasses.replace(
        CARD,
        n_params=int(CARD.n_params * growth),
        active_params=int(CARD.active_params * growth),
        flops_per_token=CARD.flops_per_token * growth,
    )
    better = dataclasses.replace(MACHINE, read_gb_s=15.0 * faster, matmul_gflop_s=200.0 * faster)
    base = predict(CARD, recipe(bits, engine), engine, CHAT, MACHINE, level)
    larger = predict(grown, recipe(bits, engine), engine, CHAT, MACHINE, level)
    quicker = predict(CARD, recipe(bits, engine), engine, CHAT, better, level)
    busier = predict(CARD, recipe(bits, engine), engine, CHAT, MACHINE, level + 1)
    for name in base:
        for more, less in ((larger, base), (base, quicker), (busier, base)):
            assert more[name].low >= less[name].low * (1 - 1e-9)
            assert more[name].high >= less[name].high * (1 - 1e-9)


@given(fewer=st.floats(2, 15.9), more_bits=st.floats(0, 14), engine=st.sampled_from(["llamacpp", "openvino"]))
def test_monotone_in_bytes(fewer, more_bits, engine):
    """At one efficiency, more bytes a weight never mean a faster step or less memory."""
    more = min(16.0, fewer + more_bits)
    assume(efficiency_of(engine, fewer, MACHINE) == efficiency_of(engine, more, MACHINE))
    small, large = (predict(CARD, recipe(bits, engine), engine, CHAT, MACHINE, 1) for bits in (fewer, more))
    for name in ("tpot_ms", "e2e_ms", "memory_bytes"):
        assert small[name].low <= large[name].low * (1 + 1e-9)
        assert small[name].high <= large[name].high * (1 + 1e-9)


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
    assert drop_hopeless(estimates, memory_bytes=10**10, baseline="base").kept == ("base", "a", "slow")
    assert drop_hopeless(estimates, memory_bytes=10**10, baseline="base", n_rivals=1).kept == ("base", "a")
    estimates |= {"b": forecast((10, 30)), "c": forecast((10, 40))}
    found = drop_hopeless(estimates, memory_bytes=10**10, baseline="base")
    assert found.dropped == {"slow": "Its best case, 100 ms at concurrency 1, is behind the worst case of 3 others, such as a at 20 ms."}
    assert drop_hopeless(estimates, memory_bytes=10**10, baseline="base", keep=["slow"]).dropped == {}


def test_a_candidate_that_may_win_at_one_level_stays():
    estimates = {"base": forecast((50, 100), (500, 1000)), "batcher": forecast((150, 300), (300, 600))}
    assert drop_hopeless(estimates, memory_bytes=10**10, baseline="base").dropped == {}


def test_memory():
    estimates = {
        "base": forecast((50, 100), memory=(20e9, 40e9)),
        "large": forecast((5, 10), memory=(12.3e9, 20e9)),
        "unsure": forecast((5, 10), memory=(5e9, 20e9)),
        "slow": forecast((500, 600)),
    }
    found = drop_hopeless(estimates, memory_bytes=10**10, baseline="base", n_rivals=1)
    # `unsure` may not fit, and neither may the baseline, so neither can stand in for `slow`.
    assert found.kept == ("base", "unsure", "slow")
    assert found.dropped == {"large": "It needs at least 12.3 GB of memory; this machine has 10.0 GB."}


interval = st.tuples(st.floats(1, 100), st.floats(0, 100), st.floats(0, 1))


@given(
    times=st.lists(st.tuples(interval, interval), min_size=1, max_size=9),
    memories=st.lists(interval, min_size=9, max_size=9),
    n_rivals=st.integers(1, 4),
)
def test_never_drops_what_is_truly_among_the_best(times, memories, n_rivals):
    """With every truth inside its interval: a dropped candidate does not fit, or at every level is no better than the baseline or
    than n_rivals others that fit."""
    estimates = {
        str(index): forecast(*((low, low + width) for low, width, _ in pair), memory=(memory[0], memory[0] + memory[1]))
        for index, (pair, memory) in enumerate(zip(times, memories, strict=False))
    }
    truth = {str(index): [low + width * at for low, width, at in pair] for index, pair in enumerate(times)}
    size = {str(index): low + width * at for index, (low, width, at) in enumerate(memories)}
    found = drop_hopeless(estimates, memory_bytes=90, baseline="0", n_rivals=n_rivals)
    assert "0" in found.kept
    assert set(found.kept) | set(found.dropped) == set(estimates)
    for name in found.dropped:
        fits = [other for other in estimates if other != name and size[other] <= 90 * (1 + 1e-9)]
        too_large = size[name] > 90
        for level in (0, 1):
            no_worse = [other for other in fits if truth[other][level] <= truth[name][level] * (1 + 1e-9)]
            assert too_large or "0" in no_worse or len(no_worse) >= n_rivals
