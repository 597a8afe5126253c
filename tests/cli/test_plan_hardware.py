"""`trimtab plan hardware` and `trimtab plan measure` as they are typed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from trimtab.cli.plan_fit import fit
from trimtab.cli.plan_hardware import fact_text, hardware
from trimtab.cli.plan_measure import measure
from trimtab.core.errors import InputError


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")


def said(command: object, *words: str) -> str:
    result = CliRunner().invoke(command, words, standalone_mode=False)  # type: ignore[arg-type]
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_the_table_compares_devices() -> None:
    out = said(hardware)
    (row,) = [line for line in out.splitlines() if line.startswith("h100-sxm ")]
    assert row.split()[:7] == ["h100-sxm", "990", "bf16", "85.0", "3,350", "450", "8"]
    assert "3.99-" in row
    (plain,) = [line for line in out.splitlines() if line.startswith("core-i9-13900k ")]
    assert plain.split()[1] == "–"


def test_a_narrow_terminal_gets_fewer_columns_and_whole_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = said(hardware)
    assert "h100-sxm-96gb-hbm2e " in out
    assert "…" not in out
    assert max(map(len, out.splitlines()[:40])) <= 80


def test_names_show_every_number_with_its_source() -> None:
    out = said(hardware, "h100", "NVIDIA L40S")
    assert "bf16_flop_s" in out
    assert "990 TFLOP/s" in out
    assert "github.com/ai-dynamo" in out
    assert "Lambda" in out
    assert "also called" in out
    assert "l40s" in out


def test_json_and_filters() -> None:
    found = json.loads(said(hardware, "--vendor", "AMD", "--kind", "gpu", "--json"))
    assert found["schema"] == "trimtab.plan-hardware/1"
    assert {row["vendor"] for row in found["devices"]} == {"AMD"}
    assert "mi300x" in {row["name"] for row in found["devices"]}
    with pytest.raises(InputError, match="No device is called"):
        said(hardware, "warp-drive")


def test_a_machine_is_measured_listed_and_planned_for() -> None:
    found = json.loads(said(measure, "--for", "1s", "--json"))
    assert [Path(path).name for path in found["files"]][-1].startswith("this-machine")
    assert "measured here" in said(hardware, "this-machine")
    fits = json.loads(said(fit, "smollm2-135m", "--hardware", "this-machine", "--json"))
    assert fits["found"]


def test_too_short_a_measurement_is_refused() -> None:
    with pytest.raises(Exception, match="Less than a second"):
        said(measure, "--for", "0.1s")


def test_units() -> None:
    assert fact_text("bf16_flop_s", 989.5e12) == "990 TFLOP/s"
    assert fact_text("memory_bytes", 85e9) == "85.0 GB"
    assert fact_text("memory_bytes_s", 3.35e12) == "3,350 GB/s"
    assert fact_text("power_w", 700) == "700 W"
    assert fact_text("fp32_flop_s", 26.8e9) == "26.8 GFLOP/s"
    assert fact_text("disk_write_bytes_s", 182e6) == "182 MB/s"
    assert fact_text("devices_per_node", 8) == "8"
