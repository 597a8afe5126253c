"""Demands and objectives that make no sense end the command with one sentence and its code, before anything is opened."""

import pytest

from trimtab.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--slo", "fast"], "is no demand"),
        (["--slo", "ttft_p95>1s"], "must be 'ttft_p95<1s'"),
        (["--slo", "ttft_p95<0.4"], "has no unit; give ms or s"),
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
