"""KV budgets: what is kept by each kind of layer, what an engine gives it, and that nothing is promised twice."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.plan import operators
from trimtab.plan.serving.loads import cache_of, weight_bytes_per_device
from trimtab.plan.serving.memory import budget, longest_context
from trimtab.plan.serving.time import predict

from .shapes import DENSE, DEVICE, LATENT, SLIDING, job


def test_a_window_is_kept_no_longer_than_it_is() -> None:
    """Half of the layers keep 1,024 of 32,768 tokens: the cache of all-full layers would be 94 % too large."""
    full, sliding = cache_of(DENSE).bytes_at(32768), cache_of(SLIDING).bytes_at(32768)
    assert full == 32 * 2 * 8 * 128 * 2 * 32768
    assert sliding == 16 * 2 * 8 * 128 * 2 * (32768 + 1024)
    assert full / sliding == pytest.approx(1.94, abs=0.01)


def test_latents_are_one_row_a_layer_and_repeated_over_tp_but_not_over_attention_data_parallelism() -> None:
    assert cache_of(LATENT).full == 60 * (512 + 64) * 2
    assert cache_of(LATENT, tp=8).full == cache_of(LATENT).full
    device = replace(DEVICE, memory_bytes=1000e9)
    tensor = budget(job(architecture=LATENT, device=device, weights="fp8", tp=8))
    data = budget(job(architecture=LATENT, device=device, weights="fp8", tp=1, attention_dp=8, ep=8))
    assert tensor.kv_bytes_per_sequence == data.kv_bytes_per_sequence
    assert data.max_concurrency > 7 * tensor.max_concurrency


def test_key_value_heads_fewer_than_tp_are_repeated() -> None:
    assert cache_of(DENSE, tp=8).full == cache_of(DENSE).full / 8
    assert cache_of(DENSE, tp=16).full == cache_of(DENSE, tp=8).full


def test_the_cache_agrees_with_the_counts_of_operators() -> None:
    for architecture in (DENSE, SLIDING, LATENT):
        assert cache_of(architecture, kv="fp8").bytes_at(5000) == float(operators.kv_bytes(architecture, 5000, "fp8"))


def test_budgets_of_engines_differ_as_their_rules_do() -> None:
    of_total, of_free = budget(job(engine="vllm")), budget(job(engine="trtllm"))
    work = of_total.activation_bytes + of_total.overhead_bytes
    assert of_total.kv_budget_bytes == pytest.approx(0.9 * 80e9 - of_total.weights_bytes - work)
    assert of_free.kv_budget_bytes == pytest.approx(0.9 * (80e9 - of_free.weights_bytes - work))
    assert budget(job(), fraction=0.5).kv_budget_bytes < of_total.kv_budget_bytes


def test_what_the_cache_cannot_hold_queues() -> None:
    small = replace(DEVICE, memory_bytes=24e9)
    asked = job(device=small, concurrency=512, prompt_tokens=4096)
    memory = budget(asked)
    assert 0 < memory.max_concurrency < 40
    most = budget(asked, context_tokens=4096 + 128).max_concurrency
    loaded, alone = predict(asked), predict(replace(asked, concurrency=most))
    assert loaded.batch <= most < 1.05 * memory.max_concurrency
    assert loaded.tpot_ms == pytest.approx(alone.tpot_ms, rel=1e-3)
    assert loaded.ttft_ms > alone.ttft_ms + loaded.request_ms / 2
    assert loaded.output_tok_s == pytest.approx(alone.output_tok_s, rel=1e-3)


def test_what_does_not_fit_is_refused_in_one_sentence() -> None:
    tight = job(device=replace(DEVICE, memory_bytes=16e9))
    assert not budget(tight).fits
    assert budget(tight).max_concurrency == 0
    with pytest.raises(InputError, match=r"does not fit round-80gb .* GB\.$"):
        predict(tight)


@settings(max_examples=60, deadline=None)
@given(
    architecture=st.sampled_from([DENSE, SLIDING, LATENT]),
    weights=st.sampled_from(["bf16", "fp8", "nvfp4", "int4", "Q4_K_M"]),
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4]),
    gigabytes=st.integers(8, 2000),
    engine=st.sampled_from(["vllm", "sglang", "trtllm", "llamacpp"]),
)
def test_memory_is_never_less_than_weights_and_the_budget_never_more_than_what_is_left(
    architecture, weights, tp, pp, gigabytes, engine
) -> None:
    asked = job(
        architecture=architecture, weights=weights, tp=tp, pp=pp, engine=engine, device=replace(DEVICE, memory_bytes=gigabytes * 1e9)
    )
    memory = budget(asked)
    assert memory.total_bytes >= memory.weights_bytes
    assert tp * pp * memory.weights_bytes >= operators.weight_bytes(architecture, weights) * 0.999
    assert memory.kv_bytes_per_sequence * memory.max_concurrency <= memory.kv_budget_bytes + 1
    assert memory.weights_bytes + memory.kv_budget_bytes <= memory.memory_bytes or memory.kv_budget_bytes == 0
    larger = budget(replace(asked, device=replace(DEVICE, memory_bytes=gigabytes * 1e9 + 8e9)))
    assert larger.max_concurrency >= memory.max_concurrency


def test_narrower_weights_and_caches_take_less() -> None:
    assert weight_bytes_per_device(job(weights="fp8")) < weight_bytes_per_device(job(weights="bf16"))
    assert budget(job(kv="fp8")).max_concurrency >= 2 * budget(job()).max_concurrency - 1


def test_the_longest_context_is_the_last_that_fits() -> None:
    asked = job(engine="llamacpp", device=replace(DEVICE, memory_bytes=24e9))
    longest = longest_context(asked)
    assert 8192 < longest < 131072
    assert budget(asked, context_tokens=longest).fits
    assert not budget(asked, context_tokens=longest + 1).fits


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tp": 0}, "`tp` of a serving job is 0"),
        ({"ep": 4}, "no experts to spread"),
        ({"architecture": LATENT, "tp": 2, "ep": 3}, "ep=3 does not divide"),
        ({"pp": 64}, "too few for a pipeline of 64"),
        ({"cached_prompt_tokens": 5000}, "do not fit a prompt"),
        ({"accept_rate": 2.0, "draft_tokens": 2}, "makes no sense"),
        ({"weights": "int77"}, "int77"),
        ({"kv": "fp99"}, "fp99"),
        ({"device": replace(DEVICE, memory_bytes=0)}, "memory of round-80gb is not known"),
    ],
)
def test_bad_input_is_one_sentence(changes, said) -> None:
    with pytest.raises(InputError) as caught:
        budget(job(**changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_share_of_memory_must_be_one() -> None:
    with pytest.raises(InputError, match="makes no sense"):
        budget(job(), fraction=1.5)
