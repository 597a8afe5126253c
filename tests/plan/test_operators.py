import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture, Attention, Block, Feedforward
from trimtab.plan import operators
from trimtab.plan.architectures import architecture, architectures
from trimtab.plan.stored_types import bits_by_part, weight_types

GIB = 2**30


def one(**sizes):
    layers, heads, experts = sizes.get("n_layers", 4), sizes.get("n_heads", 8), sizes.get("n_experts", 0)
    network = Feedforward(d_ff=256, n_experts=experts, n_experts_used=min(experts, 2))
    attention = Attention(kind="full", n_heads=heads, n_kv_heads=heads, head_dim=16)
    return Architecture(
        name="one", d_model=128, vocab_size=1000, blocks=(Block(n_layers=layers, attention=attention, feedforward=network),)
    )


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 70))
def test_pairs_are_those_counted_one_by_one(context, queries, window):
    queries = min(queries, context)
    expected = sum(min(seen, window) if window else seen for seen in range(context - queries + 1, context + 1))
    assert float(operators.visible_pairs(queries, context, window)) == pytest.approx(expected)


@given(st.integers(1, 40), st.integers(1, 16), st.integers(2, 32), st.sampled_from(["bf16", "fp8", "nvfp4", "Q4_K_M"]))
def test_more_of_anything_never_costs_less(layers, heads, experts, weight_type):
    base = one(n_layers=layers, n_heads=heads, n_experts=experts)
    for more in (
        one(n_layers=layers + 1, n_heads=heads, n_experts=experts),
        one(n_layers=layers, n_heads=heads + 1, n_experts=experts),
        one(n_layers=layers, n_heads=heads, n_experts=experts + 1),
    ):
        assert operators.n_params(more) > operators.n_params(base)
        assert operators.weight_bytes(more, weight_type) > operators.weight_bytes(base, weight_type)
        assert operators.kv_bytes(more, 100) >= operators.kv_bytes(base, 100)
        assert operators.attention_flops(more, 10, 100) >= operators.attention_flops(base, 10, 100)
        assert operators.matmul_flops(more) >= operators.matmul_flops(base)


@pytest.mark.parametrize("shape", architectures(), ids=lambda shape: shape.name)
def test_every_shape_keeps_the_laws(shape):
    params = operators.shape_params(shape)
    lengths = np.array([1, 128, 4096, 131072])
    full = dataclasses.replace(
        shape,
        blocks=tuple(
            dataclasses.replace(b, attention=dataclasses.replace(b.attention, kind="full", window_tokens=0))
            if b.attention is not None and b.attention.kind == "sliding"
            else b
            for b in shape.blocks
        ),
    )
    kept = operators.kv_bytes(shape, lengths)
    assert (np.diff(kept) >= 0).all()
    assert (kept <= operators.kv_bytes(full, lengths) + 1e-6).all()
    for weight_type in weight_types():
        least = min(bits_by_part(weight_type, shape).values())
        size = operators.weight_bytes(shape, weight_type)
        assert size >= params * least / 8 - 1
        read = operators.active_weight_bytes(shape, weight_type, np.array([1, 8, 512, 10**6]))
        assert (np.diff(read) >= -1e-6).all()
        assert 0 < read[0] <= read[-1] <= size + 1e-3
    assert operators.active_params(shape) <= params + shape.vocab_size * shape.d_model
    causal, whole = (operators.attention_flops(shape, lengths, lengths, causal=flag) for flag in (True, False))
    assert (causal <= whole + 1e-6).all()


def test_latents_of_deepseek_v3_are_576_values_a_layer():
    shape = architecture("deepseek-v3")
    assert float(operators.kv_bytes(shape, 1, "fp8")) == 576 * 61
    assert float(operators.kv_bytes(shape, 1000, "bf16")) == 576 * 61 * 2 * 1000
    full = architecture("llama-3.1-405b")
    assert float(operators.kv_bytes(full, 1)) / (576 * 61 * 2) == pytest.approx(7.34, abs=0.01)


@pytest.mark.parametrize(
    ("name", "tokens", "full_is_over_by"),
    [("gemma-2-27b", 8192, 0.33), ("gpt-oss-120b", 131072, 0.99), ("gemma-3-27b", 131072, 4.96)],
)
def test_a_sliding_window_keeps_no_more_than_its_length(name, tokens, full_is_over_by):
    shape = architecture(name)
    by_kind = operators.kv_bytes_by_kind(shape, tokens)
    assert set(by_kind) == {"sliding", "full"}
    every = sum(b.n_layers * operators.kv_values_per_token(b.attention) for b in shape.blocks if b.attention is not None) * 2.0 * tokens
    assert every / float(operators.kv_bytes(shape, tokens)) - 1 == pytest.approx(full_is_over_by, rel=0.05)


@pytest.mark.parametrize(
    ("name", "weight_type", "published_bytes", "within"),
    [
        ("llama-2-7b", "Q4_0", 3.56 * GIB, 0.005),  # llama.cpp, tools/quantize/README.md and README.md
        ("llama-2-7b", "Q8_0", 6.67 * GIB, 0.005),
        ("llama-2-7b", "F16", 12.55 * GIB, 0.005),
        ("llama-2-7b", "Q4_K_M", 3.80 * GIB, 0.005),
        ("llama-2-7b", "Q6_K", 5.15 * GIB, 0.005),
        ("llama-2-7b", "Q5_K_M", 4.45 * GIB, 0.01),
        ("llama-2-7b", "Q3_K_M", 3.07 * GIB, 0.01),
        ("llama-2-7b", "Q2_K", 2.63 * GIB, 0.01),
        ("llama-3-8b", "Q4_0", 4.33 * GIB, 0.005),
        ("llama-3-8b", "Q4_K_M", 4.58 * GIB, 0.01),
        ("llama-3-70b", "Q4_K_M", 39.6 * GIB, 0.01),
        ("gpt-oss-120b", "mxfp4", 65.25e9, 0.005),
        ("gpt-oss-20b", "mxfp4", 13.76e9, 0.005),
        ("llama-3.1-8b", "bf16", 16.06e9, 0.001),
        ("kimi-k2", "int4_experts", 594e9, 0.01),
    ],
)
def test_stored_sizes_meet_published_files(name, weight_type, published_bytes, within):
    assert operators.weight_bytes(architecture(name), weight_type) == pytest.approx(published_bytes, rel=within)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("FP16", "fp16"),
        ("fp8_e4m3", "fp8"),
        ("W4A16", "int4"),
        ("q4", "mlx_q4"),
        ("Q5 g32", "mlx_q5_g32"),
        ("fp4", "nvfp4"),
        ("Q4_K", "Q4_K_M"),
    ],
)
def test_types_are_taken_as_people_write_them(written, meant):
    assert bits_by_part(written, one()) == bits_by_part(meant, one())


def test_a_batch_touches_more_experts_up_to_all():
    network = Feedforward(d_ff=2048, n_experts=256, n_experts_used=8)
    touched = operators.experts_touched(network, np.array([0, 1, 32, 10_000]))
    assert touched[0] == 0
    assert touched[1] == pytest.approx(8)
    assert touched[2] == pytest.approx(256 * (1 - (1 - 8 / 256) ** 32))
    assert touched[3] == pytest.approx(256)


def test_one_token_reads_what_it_passes():
    for name in ("mixtral-8x7b", "llama-3.1-8b", "deepseek-v3", "nemotron-3-nano"):
        shape = architecture(name)
        assert float(operators.active_weight_bytes(shape, "bf16", 1)) == pytest.approx(2 * operators.active_params(shape), rel=1e-3)


def test_absorbed_latents_cost_more_flops_and_fewer_bytes():
    shape = architecture("deepseek-v3")
    plain, absorbed = (float(operators.attention_flops(shape, 1, 1000, absorbed=flag)) for flag in (False, True))
    assert plain == 61 * 1000 * 2 * 128 * (192 + 128)
    assert absorbed == 61 * 1000 * 2 * 128 * (2 * 512 + 64)


def test_a_state_does_not_grow():
    shape = architecture("mamba2-2.7b")
    assert float(operators.kv_bytes(shape, 1)) == float(operators.kv_bytes(shape, 10**6)) > 0
    hybrid = operators.kv_bytes_by_kind(architecture("qwen3.5-397b-a17b"), np.array([1, 1000]), "fp8")
    assert hybrid["recurrent"][0] == hybrid["recurrent"][1]
    assert hybrid["full"][1] == 1000 * hybrid["full"][0]


def test_unknown_types_are_named():
    shape = one()
    with pytest.raises(InputError, match="'fp7' is not known; use one of"):
        operators.weight_bytes(shape, "fp7")
    with pytest.raises(InputError, match="cache type 'fp7'"):
        operators.kv_bytes(shape, 1, "fp7")


def test_weights_of_a_file_are_those_of_the_file():
    shape = dataclasses.replace(one(), weight_bytes=12345.0)
    assert operators.weight_bytes(shape, "stored") == pytest.approx(12345.0)
