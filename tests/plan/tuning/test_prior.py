"""The prior: wide enough for what was observed, monotone, and it never drops what may win."""

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trimtab.core.deployment import Machine, Recipe
from trimtab.core.errors import InputError
from trimtab.core.model import KvLayers, ModelCard
from trimtab.core.workload import Workload
from trimtab.plan.tuning.prior import efficiency_of, predict, shipped_efficiencies, weight_bits

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
    # A point estimate is not far off where its efficiencies come from.
    assert 0.5 < estimates["e2e_ms"].value / observed["e2e_ms"] < 2
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
    shipped = weight_bits(CARD, SHIPPED)
    assert shipped.typical == 8 * 98e6 / 134_515_008
    assert shipped.low < shipped.typical < shipped.high < 8
    assert weight_bits(CARD, recipe(16.0)).low > 15
    # Two nominal bits came out as 5.2 on this model: rows that do not divide fall back to wider types.
    assert weight_bits(CARD, recipe(2.96)).low < 5.2 < weight_bits(CARD, recipe(2.96)).high


def test_table_is_sound():
    for entry in shipped_efficiencies():
        assert 0 <= entry.bits[0] < entry.bits[1]
        for share in (entry.decode_of_read, entry.prefill_of_matmul, entry.batch_of_matmul):
            assert 0 < share.low < share.typical < share.high
        # Honest means wide.
        assert entry.decode_of_read.high / entry.decode_of_read.low >= 2
        assert entry.prefill_of_matmul.high / entry.prefill_of_matmul.low >= 8


def test_special_instructions_widen_and_unknown_engines_get_the_widest():
    amx = dataclasses.replace(MACHINE, flags=("amx_int8",))
    assert efficiency_of("openvino", 8.0, amx).prefill_of_matmul.high > efficiency_of("openvino", 8.0, MACHINE).prefill_of_matmul.high
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
