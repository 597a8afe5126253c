"""Demands and objectives that make no sense end the command with one sentence and its code, before anything is opened."""

import pytest

from trimtab.cli.main import main
from trimtab.flows.parts import objective
from trimtab.measure.meters import EnergyReading


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--slo", "fast"], "is no demand"),
        (["--slo", "ttft_p95>1s"], "must be 'ttft_p95<1s'"),
        (["--slo", "ttft_p95<0.4"], "has no unit; give ms or s"),
        (["--slo", "latency<4ms"], "unknown metric 'latency'"),
        (["--slo", "ttft_p95<400MB"], "has the unit 'MB'; give ms or s"),
        (["--slo", "ttft_p99.99<1s"], "give one of p50 to p99.9"),
        (["--slo", "ttft_p50<400ms,ttft_p99<100ms"], "were the limits swapped?"),
        (["--slo", "memory<1GiB,memory<2GiB"], "twice"),
        (["--slo", ""], "empty term"),
        (["--objective", "speed"], "Unknown objective 'speed'"),
        (["--objective", "cost"], "--price-per-hour"),
        (["--objective", "cost", "--price-per-hour", "nan"], "above zero"),
    ],
)
def test_one_sentence(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", "/nonexistent")
    assert main(["optimize", "no-such-model.gguf", *arguments, "-q"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_energy_without_a_meter_is_the_machines_lack(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "ENERGY_LOOK_S", 0.0)
    monkeypatch.setattr(objective, "read_energy", lambda: EnergyReading(counters_uj={}, reason="there is no counter"))
    assert main(["optimize", "no-such-model.gguf", "--objective", "energy", "-q"]) == 3
    error = capsys.readouterr().err
    assert "Energy cannot be measured here: there is no counter. Fix: choose another objective" in error
    assert error.count("\n") == 1
