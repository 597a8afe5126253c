import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.plan.search.queueing import BUSIEST, erlang_c, replicas_needed, wait_s
from trimtab.plan.search.serve import PROOF, ServeAsk, devices_of, jobs_of, label_of, search
from trimtab.plan.serving.memory import budget
from trimtab.plan.serving.time import predict
from trimtab.plan.slo import parse_slo

from .samples import GB80, dense


def ask(**changes: object) -> ServeAsk:
    plain = ServeAsk(
        architecture=dense(),
        devices=(GB80,),
        prompt_tokens=512,
        output_tokens=128,
        rate_per_s=20.0,
        slo=parse_slo("ttft_p95<500ms,tpot_p95<40ms"),
        engine="vllm",
        usd_per_device_hour={GB80.name: 2.0},
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_erlangs_formula() -> None:
    """Two places at half load: C = 1/3; one place: C = load."""
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(10, 0.0) == 0.0
    assert erlang_c(10, 10.0) == 1.0


def test_one_place_waits_as_an_mm1_queue() -> None:
    """P(W > t) = load * exp(-(1 - load) t / s)."""
    wait = wait_s(1, 0.8, 1.0, 95.0)
    assert 0.8 * math.exp(-0.2 * wait) == pytest.approx(0.05)
    assert wait_s(1, 1.0, 1.0, 95.0) == math.inf
    assert wait_s(100, 1.0, 1.0, 95.0) == 0.0


@settings(deadline=None, max_examples=40)
@given(
    rate=st.floats(0.1, 500),
    places=st.integers(1, 256),
    request=st.floats(0.05, 60),
    most=st.floats(0, 5),
    percentile=st.sampled_from([50.0, 95.0, 99.0]),
)
def test_replicas_are_the_fewest_that_do(rate: float, places: int, request: float, most: float, percentile: float) -> None:
    found = replicas_needed(rate, places, request, most, percentile, most=10**9)

    def does(n: int) -> bool:
        return n >= 1 and rate / n * request / places <= BUSIEST * (1 + 1e-9) and wait_s(places, rate / n, request, percentile) <= most

    assert does(found)
    assert not does(found - 1)


def test_demands_that_leave_no_time_have_no_replicas() -> None:
    assert replicas_needed(1.0, 8, 1.0, -0.1, 95.0) == 0
    assert replicas_needed(1e9, 1, 1.0, 0.0, 95.0, most=100) == 0


def test_what_is_recommended_keeps_what_was_asked() -> None:
    found = search(ask(weights=("bf16", "fp8"), kv=("", "fp8"), disaggregated=True))
    assert found.best
    for plan in found.best:
        time = predict(plan.job)
        assert plan.ttft_ms == time.ttft_ms
        assert plan.ttft_ms + plan.wait_ms <= 500.0
        assert plan.tpot_ms <= 40.0
        assert plan.busy <= BUSIEST * (1 + 1e-9)
        assert plan.n_devices == plan.replicas * devices_of(plan.job)
        assert plan.usd_per_hour == 2.0 * plan.n_devices
        assert plan.usd_per_million_tokens == pytest.approx(plan.usd_per_hour / (20 * 128 * 3600) * 1e6)
        assert plan.j_per_token == pytest.approx(700.0 * plan.n_devices / (20 * 128))
    money = [plan.usd_per_million_tokens for plan in found.best]
    assert money == sorted(money)  # type: ignore[type-var]


@settings(max_examples=15, deadline=None)
@given(
    gb=st.floats(8, 90),
    prompt=st.sampled_from([512, 8192, 60000]),
    kv=st.sampled_from(["", "fp8"]),
    engine=st.sampled_from(["vllm", "sglang", "trtllm", ""]),
)
def test_a_cache_that_does_not_fit_is_never_recommended(gb: float, prompt: int, kv: str, engine: str) -> None:
    device = replace(GB80, memory_bytes=gb * 1e9)
    found = search(ask(devices=(device,), prompt_tokens=prompt, kv=(kv,), engine=engine, slo=()))
    for plan in found.best:
        memory = budget(plan.job)
        decoders = max(1, plan.job.decode_devices // (plan.job.tp * plan.job.pp))
        assert memory.fits
        assert plan.job.concurrency <= memory.max_concurrency * decoders
        assert plan.headroom_bytes >= 0
    assert found.best or "needs" in found.none_because


def test_types_that_were_not_proven_say_so() -> None:
    plans = search(ask(weights=("bf16", "fp8"), kv=("", "fp8"), slo=())).best
    for plan in plans:
        assert (PROOF in plan.to_certify) == (plan.job.weights == "fp8" or plan.job.kv == "fp8")
    assert search(ask(weights=("fp8",), proven=("fp8", ""))).best[0].to_certify == ""
    as_published = replace(ask(weights=("fp8",)), architecture=replace(ask().architecture, published_weights="fp8"))
    assert search(as_published).best[0].to_certify == ""


def test_more_requests_take_more_devices_and_the_same_answer_comes_twice() -> None:
    counts = [search(ask(rate_per_s=rate, objective="devices")).best[0].n_devices for rate in (1.0, 20.0, 200.0, 2000.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert [label_of(plan.job) for plan in search(ask()).best] == [label_of(plan.job) for plan in search(ask()).best]


def test_experts_are_spread_over_all_ranks_or_none() -> None:
    moe = dense("test-moe", n_layers=32, n_experts=64, n_experts_used=4, d_ff=2048)
    for plan in search(ask(architecture=moe, slo=())).best:
        assert plan.job.ep in (1, plan.job.tp * plan.job.attention_dp)


def test_quiet_hours_take_fewer_replicas() -> None:
    found = search(ask(rate_per_s=400.0, least_rate_per_s=40.0))
    for plan in found.best:
        assert 1 <= plan.least_replicas <= plan.replicas
        assert plan.least_usd_per_hour == 2.0 * plan.least_replicas * devices_of(plan.job)
    assert any(plan.least_replicas < plan.replicas for plan in found.best)
    assert all(plan.least_replicas == plan.replicas for plan in search(ask()).best)


def test_without_a_rate_one_replica_is_weighed() -> None:
    plan = search(ask(rate_per_s=0.0)).best[0]
    assert plan.replicas == 1
    assert plan.output_tok_s == pytest.approx(plan.job.concurrency * 128 / plan.request_ms * 1000)


def test_what_cannot_be_met_by_this_load_is_said() -> None:
    found = search(
        ask(slo=parse_slo("tpot_p95<4ms"), rate_per_s=5.0, pinned={"tp": 1}, devices=(replace(GB80, memory_bytes_s=4e12 * 1.2),))
    )
    assert found.best == ()
    assert "tpot_p95<4ms is missed" in found.none_because
    few = search(ask(rate_per_s=2000.0, max_devices=4))
    assert few.best == ()
    assert "at most 4 may be used" in few.none_because


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"slo": parse_slo("ttft_p95<0.1ms")}, "below the speed of light"),
        ({"slo": parse_slo("tpot<0.1ms")}, "below the speed of light"),
        ({"slo": parse_slo("e2e_p95<20ms")}, "below the speed of light"),
        ({"slo": parse_slo("throughput>5000tok/s")}, "20 requests/s of 128 output tokens are 2,560 tok/s"),
        ({"slo": parse_slo("memory<0.1GB")}, "below the weights alone"),
        ({"slo": parse_slo("load<3s")}, "cannot be planned for"),
        ({"rate_per_s": -1.0}, "--rate"),
        ({"rate_per_s": math.nan}, "--rate"),
        ({"least_rate_per_s": 21.0}, "swap them"),
        ({"prompt_tokens": 0}, "A request of 0 and 128 tokens"),
        ({"cached_prompt_tokens": 513}, "513 cannot be in the prefix cache"),
        ({"devices": ()}, "--hardware"),
        ({"pinned": {"tp": 3}}, "tp=3 does not divide the 32 attention heads"),
        ({"pinned": {"dp": 3}}, "not dp"),
    ],
)
def test_a_contradiction_is_one_sentence(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as refused:
        search(ask(**changes))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_types_go_only_where_they_run() -> None:
    chip = replace(GB80, name="test-tpu", kind="tpu")
    types = {(job.device.kind, job.weights) for job in jobs_of(ask(devices=(chip, GB80), weights=("bf16", "Q4_K_M"), engine=""))}
    assert types == {("gpu", "Q4_K_M"), ("gpu", "bf16"), ("tpu", "bf16")}
    with pytest.raises(InputError, match="None of the devices runs Q4_K_M"):
        search(ask(devices=(chip,), weights=("Q4_K_M",)))
