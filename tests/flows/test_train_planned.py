"""Plan meets run: what is predicted for a training here, what is refused before it starts, and what the next plan learns from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError, MissingError
from trimtab.core.planning import Architecture, Attention, Block, Feedforward
from trimtab.core.toml import to_toml
from trimtab.core.training import StepRecord, TrainConfig
from trimtab.flows.parts import train_planned
from trimtab.flows.parts.plan_predicted import predict_layout
from trimtab.flows.parts.train_planned import check_memory, met, plan_run, remember_run
from trimtab.testing.training_steps import step_of
from trimtab.train.config import config_of

SMALL = Architecture(
    name="small-test",
    d_model=256,
    vocab_size=8192,
    blocks=(Block(n_layers=6, attention=Attention(kind="full", n_heads=4, n_kv_heads=4, head_dim=64), feedforward=Feedforward(d_ff=768)),),
    tied=True,
)
HUGE = replace(SMALL, name="huge-test", d_model=8192, blocks=(replace(SMALL.blocks[0], n_layers=80, feedforward=Feedforward(d_ff=28672)),))


def config(**tables: dict[str, Any]) -> TrainConfig:
    run = {"steps": 40, "seq_tokens": 256, "global_batch_seqs": 8, "micro_batch_seqs": 4}
    return config_of({"model": {"source": "m"}, "data": {"files": ["a.txt"]}, "train": run} | tables)


@pytest.fixture
def measured_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TRIMTAB_HOME of a machine that `plan measure` knows: 100 GFLOP/s in fp32, 16 GB."""
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path))
    facts = {
        "fp32_flop_s": 1e11,
        "matmul_fp32_flop_s": 1e11,
        "memory_bytes": 16e9,
        "memory_nominal_bytes": 16e9,
        "memory_bytes_s": 15e9,
    }
    told = {key: {"value": value, "source": "measured here", "verified": True, "as_of": "2026-11-27"} for key, value in facts.items()}
    table = {"name": "this-machine", "vendor": "unknown", "kind": "cpu", "year": 2026, "aliases": [], "notes": "A machine of this test."}
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "this-machine.toml").write_text(to_toml(table | told))
    return tmp_path


def steps(step_s: float, memory_bytes: float, n: int = 10, data_wait_s: float = 0.0) -> list[StepRecord]:
    return [
        step_of(
            number,
            tokens=2048,
            step_s=step_s * (5 if number == 1 else 1),
            data_wait_s=data_wait_s,
            peak_memory_bytes=round(memory_bytes),
        )
        for number in range(1, n + 1)
    ]


def test_a_processor_is_shared_out_over_its_processes(measured_machine: Path) -> None:
    one, two = (plan_run(config(), SMALL, n) for n in (1, 2))
    assert one.is_known
    assert one.job.device.memory_bytes == 2 * two.job.device.memory_bytes
    assert one.peak_flop_s == two.peak_flop_s == 1e11
    assert (one.job.framework, one.job.n_devices, two.job.n_devices) == ("trimtab", 1, 2)
    assert two.layout.one(0)["dp"] == 2
    alone = {name: number.get("value", number.get("physics")) for name, number in one.numbers.items()}
    assert alone["tok_s"] == pytest.approx(8 * 256 / alone["step_time_s"])
    flops = alone["tok_s"] * one.flops_per_token
    assert 0 < flops <= one.peak_flop_s, "nothing is faster than its peak"


def test_what_a_run_took_corrects_the_next_plan_of_this_machine(measured_machine: Path) -> None:
    before = plan_run(config(), SMALL, 1)
    physics_s, physics_bytes = before.numbers["step_time_s"]["physics"], before.numbers["peak_memory_bytes"]["value"]
    took = steps(3.0 * physics_s, 0.6 * physics_bytes)
    rows = {row.quantity: row for row in met(before, took)}
    assert rows["step_time_s"].measured == pytest.approx(3.0 * physics_s), "the first steps are left out"
    assert rows["step_time_s"].inside is None, "physics alone has no interval"
    assert remember_run(before, took) == 2
    after = plan_run(config(), SMALL, 1)
    number = after.numbers["step_time_s"]
    assert abs(number["value"] - 3.0 * physics_s) < abs(physics_s - 3.0 * physics_s) / 2
    assert number["low"] < number["value"] < number["high"]
    held = after.numbers["peak_memory_bytes"]
    assert abs(held["value"] - 0.6 * physics_bytes) < 0.2 * physics_bytes
    again = {row.quantity: row for row in met(after, took)}
    assert again["step_time_s"].inside
    other = plan_run(config(train={"steps": 40, "seq_tokens": 128, "global_batch_seqs": 8}), SMALL, 1)
    assert other.numbers["step_time_s"]["value"] > physics_of(other), "another configuration here is slower than physics too"


def physics_of(planned: train_planned.Planned) -> float:
    return float(train_planned.step(planned.job, planned.layout).step_s[0])


def test_the_planner_itself_learns_it(measured_machine: Path) -> None:
    planned = plan_run(config(), SMALL, 1)
    remember_run(planned, steps(3.0 * planned.numbers["step_time_s"]["physics"], 1e9))
    speed, _ = predict_layout(planned.job, planned.layout)
    assert speed["value"] < float(train_planned.step(planned.job, planned.layout).tok_s_per_device[0])


@pytest.mark.parametrize(
    ("tables", "took"),
    [
        ({}, steps(1.0, 1e9, n=4)),
        ({}, steps(1.0, 1e9, data_wait_s=0.2)),
        ({"objective": {"kind": "distil", "teacher": "t"}}, steps(1.0, 1e9)),
        ({"model": {"source": "m", "grid": "Q4_0"}}, steps(1.0, 1e9)),
    ],
    ids=["few steps", "waited for data", "teacher", "grid"],
)
def test_what_would_teach_something_else_is_not_kept(measured_machine: Path, tables: dict[str, Any], took: list[StepRecord]) -> None:
    assert remember_run(plan_run(config(**tables), SMALL, 1), took) == 0
    assert not (measured_machine / "planner").exists()


def test_too_little_memory_is_refused_before_the_first_step(measured_machine: Path) -> None:
    planned = plan_run(config(), HUGE, 2)
    with pytest.raises(MissingError, match=r"needs about [\d,.]+ GB for each of 2 processes .*there are 8\.00 GB\. Fix: .*--lora"):
        check_memory(planned)
    check_memory(plan_run(config(), SMALL, 2))


def test_a_batch_that_does_not_divide_is_refused(measured_machine: Path) -> None:
    with pytest.raises(InputError, match="not divisible"):
        plan_run(config(), SMALL, 3)


def test_a_machine_that_nobody_measured_is_looked_at_and_not_taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path))
    monkeypatch.setattr(train_planned, "GLANCE_S", 0.05)
    planned = plan_run(config(), SMALL, 1)
    assert "plan measure" in " ".join(planned.notes)
    assert remember_run(planned, steps(1.0, 1e9)) == 0


def test_hardware_that_is_not_here_is_said(measured_machine: Path) -> None:
    planned = plan_run(config(hardware={"device": "h100-sxm", "n_devices": 8}), SMALL, 1)
    assert planned.job.device.name == "this-machine" or Path("/proc/driver/nvidia/version").exists()
    assert "Planned for h100-sxm" in " ".join(planned.notes) or Path("/proc/driver/nvidia/version").exists()
    with pytest.raises(InputError, match="h100"):
        plan_run(config(hardware={"device": "h100-smx"}), SMALL, 1)


def test_fp64_is_not_predicted(measured_machine: Path) -> None:
    run = {"steps": 4, "precision": "fp64"}
    planned = plan_run(config(train=run), SMALL, 1)
    assert planned.numbers == {}
    assert "fp64" in planned.why_not
    check_memory(planned)
