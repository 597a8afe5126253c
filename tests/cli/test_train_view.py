"""What a training looks like on a terminal, and what it says where there is none."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from trimtab.cli.train_view import View, block_rows, hung_line, plan_lines, step_line, summary
from trimtab.core.planning import Device, TrainJob
from trimtab.core.training import StepRecord, TrainConfig, TrainData, TrainModel, TrainRun
from trimtab.flows.parts.train_launch import Follow
from trimtab.flows.parts.train_planned import Planned
from trimtab.plan.architectures import architecture
from trimtab.plan.training.layouts import layouts
from trimtab.testing.training_steps import step_of

CONFIG = TrainConfig(model=TrainModel(source="m"), data=TrainData(files=("a",)), train=TrainRun(steps=200, seq_tokens=100))
DEVICE = Device(name="this-machine", vendor="", kind="cpu", year=2026)
JOB = TrainJob(architecture=architecture("llama-3.1-8b"), device=DEVICE, n_devices=2, seq_tokens=100, global_batch_seqs=8)


FOUND: dict[str, Any] = {
    "result": {"first_loss": 6.0, "last_loss": 0.25, "steps": 3000, "tokens_seen": 123456},
    "pace": {"tok_s": 1234.0, "mfu": 0.31, "mfu_convention": "megatron-causal", "data_wait_share": 0.01},
    "planned": {
        "met": [
            {"quantity": "step_time_s", "unit": "s", "predicted": 0.4, "low": 0.3, "high": 0.6, "measured": 0.5, "inside": True},
            {"quantity": "tok_s", "unit": "tok/s", "predicted": None, "low": None, "high": None, "measured": 9.0, "inside": None},
        ]
    },
    "cost": {"kwh": None, "usd": 2.0, "g_co2": None},
    "model_folder": "runs/a/model",
    "report": "runs/a/report.html",
}


def step(number: int, loss: float = 2.0) -> StepRecord:
    return step_of(number, tokens=790, loss=loss, grad_norm=1.234, lr=1e-4, data_wait_s=0.01, peak_memory_bytes=600_000_000)


def number(**told: Any) -> dict[str, Any]:
    return {"unit": "s", "value": 0.5, "low": 0.4, "high": 0.7, "basis": "measured"} | told


def plan(**numbers: dict[str, Any]) -> Planned:
    return Planned(
        job=JOB,
        layout=layouts(dp=2),
        processes=2,
        is_known=True,
        numbers=numbers,
        flops_per_token=1e9,
        peak_flop_s=1e13,
        notes=("A note.",),
    )


def test_the_lines_of_the_block() -> None:
    rows = dict(block_rows([step(n, 4.0 - n / 50) for n in range(1, 101)], CONFIG, 200, plan()))
    assert rows["step"] == "100 of 200, about 50 s left"
    assert rows["loss"].startswith("  2.000  █")
    assert rows["loss"].endswith("▁")
    assert rows["speed"] == "1,580 tok/s, a step 0.500 s, MFU 16.0 % (megatron-causal, of 10,000 GFLOP/s)"
    assert rows["data"].startswith("2.0 %")
    assert rows["memory"].startswith("600 MB")
    assert dict(block_rows([step(1)], CONFIG, None, None))["speed"] == "1,580 tok/s, a step 0.500 s"


def said(*news: Follow, verbose: bool = False, steps: int = 200) -> str:
    out = io.StringIO()
    config = replace(CONFIG, train=replace(CONFIG.train, steps=steps))
    view = View(config, Console(file=out, width=200), verbose=verbose)
    view.planned(plan(step_time_s=number()))
    for one in news:
        view(one)
    return out.getvalue()


def test_where_there_is_no_terminal_only_what_matters_is_told() -> None:
    event = {"kind": "rollback", "text": "Back to step 2\x1b[31m."}
    text = said(
        Follow(steps=(step(1), step(2)), phase="training"),
        Follow(events=(event,), phase="training"),
        Follow(phase="training", silent_s=400.0, hung=True),
        Follow(phase="training", silent_s=401.0, hung=True),
        Follow(phase="stopping"),
    )
    assert "a step 0.500 s (0.400 s to 0.700 s)" in text
    assert "A note." in text
    assert "step 1/" not in text
    assert "rollback" in text
    assert "\x1b[31m" not in text
    assert text.count("Nothing was heard for 6 min 40 s since step 2") == 1
    assert text.count("Stopping:") == 1


def test_every_step_with_v_and_steps_done_again_take_the_place_of_the_old() -> None:
    view = View(CONFIG, Console(file=io.StringIO()), verbose=False)
    view(Follow(steps=(step(1), step(2), step(3)), total_steps=9))
    view(Follow(steps=(step(2, 1.5),)))
    assert [(one.step, one.loss) for one in view.steps] == [(1, 2.0), (2, 1.5)]
    assert view.total == 9
    assert "step 1/200  loss 2.0000  norm 1.23  lr 1.00e-04  1,580 tok/s  600 MB" in said(Follow(steps=(step(1),)), verbose=True)


def test_what_the_planner_expects() -> None:
    unknown = {"unknown": "nothing", "physics": 0.4, "unit": "s"}
    counted = number(value=8e9, low=8e9, high=8e9, unit="bytes")
    lines = plan_lines(plan(step_time_s=unknown, tok_s=unknown, peak_memory_bytes=counted))
    assert "a step 0.400 s by physics alone" in lines[0]
    assert "8.0 GB, counted from the shape" in lines[0] or "8.00 GB, counted" in lines[0]
    assert plan_lines(replace(plan(), why_not="Not predicted.")) == ["Not predicted.", "A note."]


def test_a_run_that_hangs_before_its_first_step() -> None:
    assert "no step was made yet" in hung_line(1000.0, [])


def test_step_line_of_a_step_whose_loss_is_no_number() -> None:
    assert "loss not measured" in step_line(replace(step(3), loss=float("nan")), None)


@pytest.mark.parametrize("width", [60, 120])
def test_the_table_at_the_end_fits(width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width).print(*summary(FOUND))
    assert "nats a token" in out.getvalue()
    assert all(len(row) <= width for row in out.getvalue().splitlines())
