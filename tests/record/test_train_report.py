"""The page of a training tells its numbers, escapes what others wrote, and loads nothing."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.files import to_plain
from trimtab.core.training import StepRecord, TrainConfig, TrainData, TrainModel, TrainRun
from trimtab.record.train_report import cost_rows, met_row, render_train_report, running_mean, tick, write_train_report
from trimtab.testing.training_steps import step_of

CONFIG = TrainConfig(model=TrainModel(source="m<b>"), data=TrainData(files=("a&b.jsonl",)), train=TrainRun(steps=30))


def records(n: int = 30) -> list[StepRecord]:
    return [
        step_of(number, loss=math.nan if number == 7 else 6.0 / number, lr=1e-4, data_wait_s=0.01, peak_memory_bytes=6 * 10**8)
        for number in range(1, n + 1)
    ]


def document(**change: Any) -> dict[str, Any]:
    met = {"quantity": "step_time_s", "unit": "s", "predicted": 0.4, "low": 0.3, "high": 0.6, "measured": 0.5, "inside": True}
    alone = {"quantity": "peak_memory_bytes", "unit": "bytes", "predicted": 1e9, "low": None, "high": None, "measured": 6e8, "inside": None}
    found = {
        "schema": "trimtab.training/1",
        "kind": "finetune",
        "model": "hf:org/<script>alert(1)</script>",
        "model_sha256": "ab" * 32,
        "out": "runs/x",
        "model_folder": "runs/x/model",
        "config": to_plain(CONFIG),
        "processes": 2,
        "result": {
            "steps": 30, "tokens_seen": 3000, "first_loss": 6.0, "last_loss": 0.2, "wall_s": 15.0, "cpu_s": 29.0, "world": 2,
            "peak_memory_bytes": 6 * 10**8, "resumed": 1, "rollbacks": 0, "notes": [], "model": "model",
        },
        "pace": {
            "tok_s": 200.0, "step_s": 0.5, "computed_tok_s": 210.0, "data_wait_share": 0.02, "mfu": 0.31,
            "mfu_convention": "megatron-causal", "flops_per_token": 8e8, "peak_flop_s": 1e11,
        },
        "planned": {"device": "this-machine", "numbers": {}, "why_not": "", "notes": ["a `note`"], "met": [met, alone], "n_learnt": 2},
        "cost": {"joules": None, "kwh": None, "usd": None, "g_co2": None, "why": "Energy was not measured: no counter.", "sources": {}},
        "events": [
            {"kind": "spike", "text": "The loss of step 7 <i>jumped</i>.", "step": 7, "time": "2026-11-27T12:00:00+00:00"},
            {"text": "odd line of somebody else"},
        ],
        "run": {"digests": {"data": "cd" * 32}, "versions": {"torch": "2.13.0"}},
        "report": "runs/x/report.html",
    }  # fmt: skip
    return found | change


def test_the_page(tmp_path: Path) -> None:
    write_train_report(tmp_path / "report.html", document(), records())
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "<i>jumped" not in page
    assert not re.search(r"""(src|href)=["'](?!#)""", page)
    assert page.count("<svg") == 6
    for words in (
        "6.000 to 0.200 nats",
        "31.0 %",
        "megatron-causal",
        "inside the interval",
        "physics alone",
        "not measured",
        "cdcd",
        "1.25×",
    ):
        assert words in page
    assert "Taken up again 1 time(s)" in page
    assert "later plans of this-machine are corrected" in page


def test_a_run_of_one_step_and_one_without_a_pace() -> None:
    page = render_train_report(document(pace={}, events=[]), records(1))
    assert "Fewer than two steps" in page
    assert "There were none" in page


def test_words_of_rows() -> None:
    assert (
        met_row({"quantity": "tok_s", "unit": "tok/s", "predicted": None, "low": None, "high": None, "measured": 3.0, "inside": None})[
            "said"
        ]
        == "not predicted"
    )
    told = {"kwh": 0.5, "usd": 2.0, "g_co2": None, "why": "", "sources": {}}
    assert cost_rows(told) == [("energy", "0.500 kWh"), ("money", "2.00 USD")]


def test_running_mean_leaves_out_what_is_no_number() -> None:
    assert running_mean([1.0, math.nan, 3.0], 3) == [1.0, 2.0, 3.0]
    assert math.isnan(running_mean([math.nan], 3)[0])


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (2e-5, "2e-5"), (0.25, "0.25"), (1234.0, "1,234")])
def test_ticks(value: float, text: str) -> None:
    assert tick(value) == text


def test_the_data_and_whether_they_keep_up_are_told() -> None:
    plain = render_train_report(document(), records())
    assert "an epoch:" not in plain
    held = {"n_sequences": 1649, "n_documents": 59, "n_tokens": 210995, "padding_share": 0.0004}
    told = document(run={"digests": {}, "versions": {}, "data": held}, feed={"why": "the step eats 200 tokens/s & more"})
    page = render_train_report(told, records())
    assert "an epoch: 59 documents, 210,995 tokens; 0.04 % of their places are padding, no token is lost" in page
    assert "the step eats 200 tokens/s &amp; more" in page
