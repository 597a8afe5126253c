"""Times move as physics says they must, and a closed loop keeps its requests."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.plan.serving.loads import multiplied_in
from trimtab.plan.serving.time import StepModel, predict, speed_of_light, tokens_per_step

from .shapes import DENSE, DEVICE, LATENT, SLIDING, job

BIG = replace(DEVICE, memory_bytes=2000e9)
JOBS = st.builds(
    job,
    architecture=st.sampled_from([DENSE, SLIDING, LATENT]),
    device=st.just(BIG),
    weights=st.sampled_from(["bf16", "fp8", "nvfp4", "Q4_K_M"]),
    engine=st.sampled_from(["vllm", "sglang", "trtllm", "llamacpp"]),
    tp=st.sampled_from([1, 2, 8]),
    attention_dp=st.sampled_from([1, 2]),
    concurrency=st.sampled_from([1, 3, 16, 200]),
    prompt_tokens=st.sampled_from([128, 2048, 20000]),
    output_tokens=st.sampled_from([32, 1024]),
)


@settings(max_examples=80, deadline=None)
@given(asked=JOBS, factor=st.floats(1.01, 4.0), what=st.sampled_from(["memory_bytes_s", "link_bytes_s", "peak"]))
def test_a_faster_device_is_never_slower(asked, factor, what) -> None:
    peaks = {kind: rate * factor for kind, rate in asked.device.peak_flop_s.items()}
    faster = replace(asked.device, **({"peak_flop_s": peaks} if what == "peak" else {what: getattr(asked.device, what) * factor}))
    before, after = predict(asked), predict(replace(asked, device=faster))
    steps = StepModel(asked), StepModel(replace(asked, device=faster))
    assert steps[1].decode_s(20.0, 3000.0) <= steps[0].decode_s(20.0, 3000.0) * (1 + 1e-9)
    assert after.prefill_ms <= before.prefill_ms * (1 + 1e-9)
    assert after.output_tok_s >= before.output_tok_s * (1 - 1e-6)


@settings(max_examples=80, deadline=None)
@given(asked=JOBS)
def test_nothing_beats_peak_rates(asked) -> None:
    real, light = predict(asked), speed_of_light(asked)
    assert light.request_ms < real.request_ms
    assert light.prefill_ms < real.prefill_ms
    assert light.output_tok_s > real.output_tok_s


@settings(max_examples=60, deadline=None)
@given(asked=JOBS, context=st.floats(16.0, 50000.0), batch=st.floats(1.0, 100.0))
def test_larger_steps_take_longer_and_hold_more(asked, context, batch) -> None:
    model = StepModel(asked)
    assert model.decode_s(batch + 1, context) > model.decode_s(batch, context)
    assert model.decode_s(batch, context + 100) >= model.decode_s(batch, context)
    assert (batch + 1) / model.decode_s(batch + 1, context) > batch / model.decode_s(batch, context) * (1 - 1e-9)
    assert model.mixed_s(batch, context, 256.0) > model.decode_s(batch, context)
    assert model.prefill_s(512.0, context) >= model.prefill_s(512.0, 0.0)
    assert model.decode_s(batch, context) == pytest.approx(sum(model.decode_parts(batch, context).values()))


@settings(max_examples=60, deadline=None)
@given(asked=JOBS)
def test_a_closed_loop_keeps_its_requests(asked) -> None:
    """Little's law: requests in flight = rate x time."""
    told = predict(asked)
    assert told.output_tok_s / asked.output_tokens * told.request_ms / 1000 == pytest.approx(asked.concurrency, rel=1e-6)
    assert told.batch + told.waiting == pytest.approx(asked.concurrency)
    assert 0 <= told.prefill_share < 1


def test_arrays_and_floats_agree() -> None:
    model = StepModel(job(architecture=SLIDING))
    batches, contexts = np.array([1.0, 8.0, 64.0]), np.array([100.0, 3000.0, 9000.0])
    told = model.decode_s(batches, contexts)
    assert told.tolist() == pytest.approx([model.decode_s(b, c) for b, c in zip(batches.tolist(), contexts.tolist(), strict=True)])


def test_a_step_costs_microseconds_to_ask() -> None:
    """The fleet simulator asks a million times; ten seconds for a million are allowed here with room for a busy machine."""
    model = StepModel(job(architecture=LATENT, device=BIG, weights="fp8"))
    best = min(_seconds(model) for _ in range(5))
    assert best / 2000 < 30e-6


def _seconds(model: StepModel) -> float:
    start = time.perf_counter()
    for _ in range(2000):
        model.mixed_s(32.0, 1500.0, 512.0)
    return time.perf_counter() - start


def test_a_batch_of_tokens_touches_experts_one_after_the_other() -> None:
    """One token reads 8 of 256 experts, a thousand read nearly all."""
    parts = [StepModel(job(architecture=LATENT, device=BIG, weights="fp8")).decode_parts(b, 1.0)["experts"] for b in (1.0, 16.0, 1000.0)]
    assert parts[1] / parts[0] > 8
    assert parts[2] / parts[0] > 28


def test_prefix_hits_shorten_the_first_token_only() -> None:
    cold, warm = predict(job(prompt_tokens=8000)), predict(job(prompt_tokens=8000, cached_prompt_tokens=7000))
    assert warm.ttft_ms < cold.ttft_ms / 2
    assert warm.tpot_ms < cold.tpot_ms


def test_accepted_drafts_are_tokens() -> None:
    assert tokens_per_step(job(draft_tokens=3, accept_rate=0.0)) == 1
    assert tokens_per_step(job(draft_tokens=3, accept_rate=1.0)) == 4
    assert tokens_per_step(job(draft_tokens=2, accept_rate=0.5)) == 1.75
    plain, drafted = predict(job(concurrency=1)), predict(job(concurrency=1, draft_tokens=3, accept_rate=0.8))
    assert drafted.tpot_ms < plain.tpot_ms / 2


def test_separate_pools_keep_prompts_out_of_decoding() -> None:
    asked = job(concurrency=64, prompt_tokens=4096, output_tokens=256, tp=2)
    together, apart = predict(asked), predict(replace(asked, prefill_devices=4, decode_devices=2))
    assert apart.tpot_ms < together.tpot_ms
    starved = predict(replace(asked, concurrency=400, prefill_devices=2, decode_devices=16))
    assert starved.ttft_ms > 3 * apart.ttft_ms


def test_a_pipeline_holds_more_and_answers_no_sooner() -> None:
    one, four = job(concurrency=64), job(concurrency=64, pp=4)
    assert predict(four).output_tok_s > 1.2 * predict(one).output_tok_s
    single = replace(one, concurrency=1)
    assert predict(replace(single, pp=4)).tpot_ms >= predict(single).tpot_ms


def test_links_between_nodes_are_slower() -> None:
    asked = job(architecture=LATENT, device=BIG, weights="fp8", tp=16, concurrency=64)
    inside = replace(asked, device=replace(BIG, devices_per_node=72))
    assert predict(asked).tpot_ms > predict(inside).tpot_ms


@pytest.mark.parametrize(
    ("weights", "operand"), [("nvfp4", "bf16"), ("fp8", "fp8"), ("int4", "bf16"), ("Q4_K_M", "bf16"), ("bf16", "bf16")]
)
def test_weights_are_multiplied_in_what_the_device_has(weights, operand) -> None:
    assert multiplied_in(weights, DEVICE) == operand


@pytest.mark.parametrize(
    ("changes", "said"), [({"memory_bytes_s": 0.0}, "memory bandwidth"), ({"peak_flop_s": {}}, "No rate of matrix products")]
)
def test_what_is_not_known_of_a_device_is_said(changes, said) -> None:
    with pytest.raises(InputError, match=said):
        predict(job(device=replace(DEVICE, **changes)))
