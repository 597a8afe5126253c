"""Published rows become jobs: names and precisions as they are written, layouts as they are meant, one measurement once."""

import math

import pytest

from trimtab.plan.architectures import architecture
from trimtab.plan.serving.features import SCHEMES, physics
from trimtab.plan.serving.rows import anchors, cases, engine_of, family_of, weights_of
from trimtab.plan.serving.time import StepModel

SWEEP = {
    "id": "a",
    "silicon_data_source": "source_file=2031-01-01.csv; model=Llama-3.1-70B; silicon_concurrency=16; wip=False",
    "backend": "trtllm",
    "model_path": "meta-llama/Llama-3.1-70B",
    "system": "b200_sxm",
    "precision": "fp8",
    "mode": "agg",
    "isl": "1000",
    "osl": "500",
    "gemm_quant_mode": "fp8",
    "tp_size": "4",
    "pp_size": "1",
    "attention_dp_size": "1",
    "moe_tp_size": "4",
    "moe_ep_size": "1",
    "silicon_ttft_ms": "200",
    "silicon_tpot_ms": "8",
}
FIGURE = {
    "id": "b",
    "model": "Llama-3-8B",
    "device": "4090 24GB",
    "n_devices": "1",
    "engine": "llama.cpp (2031-01)",
    "precision": "Q4_K_M",
    "batch_or_concurrency": "1",
    "isl": "512",
    "osl": "1024",
    "tok_s_per_user": "130",
    "prefill_tok_s": "6500",
    "scenario": "llama-bench tg1024 / pp512 (separate tests)",
    "source": "somewhere",
}


def test_a_row_of_a_sweep_is_a_job_under_its_load() -> None:
    (case,), refused = cases([SWEEP])
    assert not refused
    assert (case.job.architecture.name, case.job.device.name, case.job.engine) == ("llama-3.1-70b", "b200-sxm", "trtllm")
    assert (case.job.weights, case.job.kv, case.job.tp, case.job.concurrency) == ("fp8", "fp8", 4, 16)
    assert (case.form, case.measured, case.source) == ("aggregated", {"ttft_ms": 200.0, "tpot_ms": 8.0}, "2031-01-01.csv")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (("16", "1", "4", "4"), (4, 4, 1)),  # tp=4 and ep=4 on four devices, multiplied
        (("1", "64", "8", "8"), (1, 8, 8)),
        (("4", "4", "1", "16"), (1, 4, 4)),  # tp and dp flags of one group
        (("4", "1", "2", "2"), (2, 2, 1)),
        (("8", "1", "1", "8"), (8, 8, 1)),
        (("8", "1", "4", "2"), (8, 2, 1)),
        (("36", "1", "36", "1"), (1, 36, 36)),  # 36 does not divide 128 heads
        (("8", "", "", ""), (8, 1, 1)),
        (("1", "0", "0", "0"), (1, 1, 1)),
    ],
)
def test_layouts_are_read_as_they_are_meant(written, meant) -> None:
    names = ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    (case,), _ = cases([SWEEP | {"model_path": "deepseek-ai/DeepSeek-R1", **dict(zip(names, written, strict=True))}])
    assert (case.job.tp, case.job.ep, case.job.attention_dp) == meant


def test_one_measurement_is_kept_once_and_pools_must_be_told() -> None:
    apart = SWEEP | {"id": "c", "mode": "disagg", "silicon_ttft_ms": "201"}
    workers = apart | {"id": "d", "prefill_num_workers": "2", "prefill_tp_size": "2", "decode_num_workers": "1", "decode_tp_size": "4"}
    unloaded = SWEEP | {"id": "e", "silicon_data_source": "nothing"}
    found, refused = cases([SWEEP, SWEEP | {"id": "again"}, apart, workers, unloaded])
    assert [case.id for case in found] == ["a", "d"]
    assert (found[1].job.prefill_devices, found[1].job.decode_devices, found[1].job.prefill_tp) == (4, 4, 2)
    why = {row.id: row.why for row in refused}
    assert why["again"] == "It repeats the measurement of a."
    assert "workers are not told" in why["c"]
    assert why["e"] == "Its concurrency is not told."


def test_a_local_row_tells_two_rates_each_timed_by_itself() -> None:
    (case,), _ = cases([FIGURE])
    assert (case.form, case.measured) == ("alone", {"decode_tok_s": 130.0, "prefill_tok_s": 6500.0})
    assert physics(case, "decode_tok_s") == pytest.approx(1 / StepModel(case.job).decode_s(1.0, 512.0))
    assert 0.5 < physics(case, "decode_tok_s") / 130 < 2
    assert 0.3 < physics(case, "prefill_tok_s") / 6500 < 3


def test_layers_are_split_over_several_local_devices() -> None:
    (case,), _ = cases([FIGURE | {"n_devices": "4"}])
    assert (case.job.tp, case.job.pp) == (1, 4)


def test_a_server_as_full_as_it_gets_batches_what_its_cache_holds() -> None:
    row = FIGURE | {
        "engine": "TensorRT-LLM",
        "device": "H100-SXM-80GB",
        "precision": "fp8",
        "batch_or_concurrency": "",
        "out_tok_s_total": "20000",
    }
    (case,), _ = cases([row | {"scenario": "max-load offline throughput"}])
    assert case.form == "full"
    assert 100 < case.job.concurrency <= 2048
    assert set(case.measured) == {"output_tok_s"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"device": "HAL-9000"}, "HAL-9000"),
        ({"model": "no-such-model-12b"}, "no-such-model-12b"),
        ({"precision": "int3.7"}, "precision"),
        ({"precision": "not stated"}, "precision"),
        ({"n_devices": ""}, "number of devices"),
        ({"n_devices": "many"}, "no number"),
        ({"tok_s_per_user": "", "prefill_tok_s": "nan"}, "no rate"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(change, said) -> None:
    found, (refused,) = anchors([FIGURE | change])
    assert not found
    assert said in refused.why
    assert refused.why.endswith(".")


def test_weights_that_cannot_fit_mean_that_the_layout_is_not_what_it_says() -> None:
    found, (refused,) = anchors([SWEEP | {"model_path": "deepseek-ai/DeepSeek-R1", "tp_size": "1", "moe_tp_size": "1"}])
    assert not found
    assert "do not fit b200-sxm" in refused.why


def test_anchors_hold_what_the_schemes_ask_for() -> None:
    found, _ = anchors([SWEEP, FIGURE])
    assert {anchor.quantity for anchor in found} == {"ttft_ms", "tpot_ms", "decode_tok_s", "prefill_tok_s"}
    for anchor in found:
        scheme = SCHEMES[anchor.quantity]
        words = {name for group in scheme.groups for name in group.split("*")} - {"model", "source"}
        assert words | set(scheme.numbers) <= set(anchor.features)
        assert math.isfinite(anchor.log_ratio)


@pytest.mark.parametrize(
    ("text", "hint", "model", "kind"),
    [
        ("nvfp4", "", "deepseek-v3", "nvfp4"),
        ("gemm fp8 / moe fp8_block", "", "deepseek-v3", "fp8"),
        ("fp4", "", "gpt-oss-120b", "mxfp4"),
        ("int4_wo", "", "kimi-k2.5", "int4_experts"),
        ("", "Qwen3-32B-NVFP4", "qwen3-32b", "nvfp4"),
        ("", "Qwen3-32B", "qwen3-32b", "bf16"),
        ("int8 weight-only", "", "llama-2-70b", "int8"),
        ("int4 g32", "", "llama-2-70b", "int4_g32"),
        ("F16", "", "llama-3-8b", "fp16"),
    ],
)
def test_precisions_as_they_are_written(text, hint, model, kind) -> None:
    assert weights_of(text, architecture(model), hint) == kind


def test_engines_and_sources_as_they_are_written() -> None:
    assert engine_of("TensorRT 10.11, CUDA 12.9") == "trtllm"
    assert engine_of("vLLM 0.9.0, PyTorch 2.7.0") == "vllm"
    assert engine_of("something else") == ""
    assert family_of("db-dump/2031-04-27; config_id=7") == "db-dump"
    assert family_of("source_file=/a/b/c/auto-gap-analysis/data/x.csv; y") == "auto-gap-analysis"
