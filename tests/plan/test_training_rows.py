"""Rows of published training runs: what they mean where they are told, where they are not, and when they are refused."""

import csv
from pathlib import Path

import numpy as np
import pytest

from trimtab.plan.operators import active_params, n_params
from trimtab.plan.training.rows import anchors, read

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "planner"

TOLD = {
    "id": "r1", "model": "Llama-3.1-8B", "device": "H100-SXM-80GB", "n_devices": "64", "tp": "2", "pp": "4", "vp": "2", "cp": "1",
    "micro_batch": "1", "global_batch_seqs": "128", "seq_len": "8192", "precision": "FP8-CS (FP8-MX)", "act_ckpt": "seqpar+selective",
    "sharding": "ZeRO-1", "framework": "Megatron-Bridge 26.02", "tok_s_per_device": "9000", "kind": "measured", "source": "here",
}  # fmt: skip


def one(**changes):
    runs, refused = read([{**TOLD, **changes}])
    assert not refused, refused
    return runs[0]


def test_a_row_that_tells_all_is_taken_at_its_word():
    run = one()
    degrees = run.layout.one(0)
    told = {"dp": 8, "tp": 2, "pp": 4, "vp": 2, "micro_batch": 1, "grad_accum": 16, "zero_stage": 1, "recompute": 1, "sequence_parallel": 1}
    assert {name: degrees[name] for name in told} == told
    assert (run.job.precision, run.job.framework, run.job.global_batch_seqs) == ("fp8", "nemo", 128)
    assert run.measured == {"tok_s_per_device": 9000}
    assert run.assumed == ()


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"framework": "Composer/PyTorch FSDP", "sharding": "FSDP FULL_SHARD", "tp": "1", "pp": "1", "vp": ""}, "zero_stage", 3),
        ({"framework": "Composer/PyTorch FSDP", "sharding": "FSDP SHARD_GRAD_OP", "tp": "1", "pp": "1"}, "zero_stage", 2),
        ({"sharding": "Megatron-FSDP=64"}, "zero_stage", 3),
        ({"sharding": "HSDP"}, "zero_stage", 3),
        ({"sharding": "distributed optimizer"}, "zero_stage", 1),
        ({"sharding": "DDP"}, "zero_stage", 0),
        ({"sharding": "ZeRO-3 + optimizer offload"}, "offload", 1),
        ({"sharding": "ZeRO-3, param and optimizer offload"}, "offload", 2),
        ({"act_ckpt": "op-level"}, "recompute", 1),
        ({"act_ckpt": "none (8K)"}, "recompute", 0),
        ({"act_ckpt": "full"}, "recompute", 2),
        ({"act_ckpt": "", "device": "TPU-v5p", "framework": "MaxText", "tp": "", "pp": ""}, "recompute", 2),
        ({"micro_batch": "", "grad_accum": "4"}, "grad_accum", 4),
        ({"dp": "8", "n_devices": ""}, "dp", 8),
        ({"device": "A100-SXM-80GB", "framework": "Megatron-DeepSpeed", "precision": "fp16"}, "flash_attention", 0),
        ({"framework": "torchtitan", "micro_batch": "16", "global_batch_seqs": "128"}, "grad_accum", 4),
    ],
)
def test_words_of_frameworks(changes, field, value):
    assert one(**changes).layout.one(0)[field] == value


@pytest.mark.parametrize(
    ("text", "is_type"),
    [("MXFP8", "mxfp8"), ("FP8-MX", "mxfp8"), ("amp_bf16/DEFAULT", "bf16"), ("float8 rowwise", "fp8"), ("NVFP4", "nvfp4"),
     ("mixed fp16/bf16", "fp16"), ("", "fp8"), ("bf16/PURE", "bf16"), ("FP8 hybrid", "fp8")],
)  # fmt: skip
def test_words_of_types(text, is_type):
    assert one(precision=text).job.precision == is_type


def test_tokens_a_second_are_derived_from_what_is_nearest_to_them():
    assert one(tok_s_per_device="", step_time_s="2").measured == {"tok_s_per_device": 128 * 8192 / 2 / 64, "step_time_s": 2.0}
    by_flops = one(tok_s_per_device="", tflops_per_device="600", tflops_kind="model")
    assert by_flops.measured["tok_s_per_device"] == pytest.approx(600e12 / 5.2e10, rel=0.1)
    assert by_flops.derived.startswith("tflops_per_device as megatron")
    hours = one(tok_s_per_device="", device_hours="1000", total_tokens="15e12 (stated as 15T+)")
    assert hours.measured["tok_s_per_device"] == pytest.approx(15e12 / 3.6e6)
    memory = one(tok_s_per_device="", peak_mem_value="60", peak_mem_unit="GiB")
    assert memory.measured == {"peak_memory_bytes": 60 * 2**30}


def test_numbers_as_people_write_them():
    assert one(tok_s_per_device="~9,000", cp="n/a", vp="-").measured == {"tok_s_per_device": 9000}
    assert one(tok_s_per_device="", device_hours="1.5M", total_tokens="15T+").measured["tok_s_per_device"] == pytest.approx(15e12 / 5.4e9)


def test_low_rank_adapters_cost_less_than_all_weights():
    adapters, whole = one(notes="task: LoRA Performance"), one(notes="task: SFT")
    assert (adapters.job.trains, whole.job.trains) == ("adapters", "all")
    fast, slow = (anchors([{**TOLD, "notes": notes}])[0][0].log_ratio for notes in ("LoRA", "SFT"))
    assert fast < slow  # physics expects more tokens/s of adapters, so the same measurement lies lower


def test_configurations_repeat_whatever_the_release_and_models_whatever_the_remark():
    first, second = one(), one(framework="Megatron-Bridge 26.04", tok_s_per_device="9100")
    assert first.setting == second.setting
    assert one(micro_batch="2").setting != first.setting
    assert one(model="DeepSeekV3 (w/o MTP)").model == one(model="DeepSeekV3").model


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"device": ""}, "names no device"),
        ({"device": "H900"}, "H900"),
        ({"model": "No-Such-7"}, "No architecture of the catalog is called 'No-Such-7', and the row tells neither its shape nor its size"),
        ({"tok_s_per_device": ""}, "tells nothing measured"),
        ({"tok_s_per_device": "fast"}, "Column tok_s_per_device holds 'fast', which is no number"),
        ({"tp": "128"}, "tp=128 x pp=4 x cp=1 does not divide the 64 devices of the row"),
    ],
)
def test_rows_that_cannot_be_predicted_say_why_in_a_sentence(changes, says):
    runs, refused = read([{**TOLD, **changes}])
    assert not runs
    assert says in refused[0].why
    assert refused[0].id == "r1"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tok_s_per_device": "9000000"}, "more than the peak of a h100-sxm allows"),
        ({"tok_s_per_device": "", "peak_mem_value": "180", "peak_mem_unit": "GB"}, "180 GB are more than a h100-sxm has"),
        ({"params_b": "-3", "model": "Mine"}, "below zero"),
    ],
)
def test_measurements_that_cannot_be_are_refused(changes, says):
    found, refused = anchors([{**TOLD, **changes}])
    assert not found
    assert says in refused[0].why


def test_a_shape_stands_in_for_a_name():
    run = one(model="MyGPT", d_model="4096", n_layers="32", n_heads="32", notes="vocab 65536")
    assert (run.job.architecture.d_model, run.job.architecture.n_layers, run.job.architecture.vocab_size) == (4096, 32, 65536)


@pytest.mark.parametrize(("total", "active"), [("30", ""), ("400", "17")])
def test_a_size_stands_in_for_a_shape(total, active):
    run = one(model="MyModel", params_b=total, active_params_b=active, tp="1", pp="1", vp="")
    assert n_params(run.job.architecture) == pytest.approx(float(total) * 1e9, rel=0.1)
    assert active_params(run.job.architecture) == pytest.approx(float(active or total) * 1e9, rel=0.25)
    assert "shape" in run.assumed


def test_vtrains_columns():
    row = {
        "# GPUs": "8", "global batch": "32", "micro batch": "4", "hidden size": "1024", "attention heads": "16", "# layers": "24",
        "sequence length": "1024", "tensor parallelism": "2", "data parallelism": "2", "pipeline parallelism": "2",
        "iteration time (ms)": "250",
    }  # fmt: skip
    found, refused = anchors([row])
    assert not refused
    assert [(anchor.quantity, anchor.measured) for anchor in found] == [("step_time_s", 0.25)]
    assert abs(found[0].log_ratio) < 0.5


@pytest.mark.skipif(not DATA.is_dir(), reason="the published runs are not here")
def test_published_runs_are_read_and_physics_alone_is_near_them():
    with (DATA / "train.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "measured"]
    found, refused = anchors(rows)
    rates = np.array([anchor.log_ratio for anchor in found if anchor.quantity == "tok_s_per_device"])
    assert len(refused) < 0.03 * len(rows), [item.why for item in refused]
    assert np.median(np.abs(np.expm1(-rates))) < 0.13  # a constant 40 % MFU: 0.21
    assert all(item.why.endswith(".") for item in refused)
