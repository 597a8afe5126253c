"""Traces: what is read as it stands, and every fault named with its line."""

from pathlib import Path

import numpy as np
import pytest

from trimtab.core.errors import InputError
from trimtab.core.workload import Workload
from trimtab.plan.fleet.traces import faster, made_trace, read_fleet_trace

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens"


def written(folder: Path, *lines: str) -> Path:
    path = folder / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_trace_is_read_as_it_stands(tmp_path: Path) -> None:
    trace = read_fleet_trace(written(tmp_path, HEAD, "2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.6805900,3,1"))
    assert trace.arrival_s.tolist() == [0.0, 4.0]
    assert trace.prompt_tokens.tolist() == [374, 3]
    assert trace.output_tokens.tolist() == [44, 1]
    assert trace.prefix.tolist() == [-1, -1]


def test_prefixes_are_read(tmp_path: Path) -> None:
    head = "PrefixId,TIMESTAMP,ContextTokens,GeneratedTokens,PrefixTokens"
    rows = (
        "a,2023-11-16 00:00:00,100,5,60",
        ",2023-11-16 00:00:01,100,5,0",
        "b,2023-11-16 00:00:02,9,5,9",
        "a,2023-11-16 00:00:03,70,5,60",
    )
    trace = read_fleet_trace(written(tmp_path, head, *rows))
    assert trace.prefix.tolist() == [0, -1, 1, 0]
    assert trace.prefix_tokens.tolist() == [60, 0, 9, 60]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["TIMESTAMP,ContextTokens", "2023-11-16 00:00:00,1"], "lacks GeneratedTokens"),
        ([HEAD], "holds no requests"),
        ([HEAD, "2023-11-16 00:00:00,1"], "Line 2 of .* has 2 fields, not 3"),
        (
            [HEAD, "2023-11-16 00:00:00,1,1", "2023-11-16 00:00:00,-5,1"],
            "Line 3 of .*ContextTokens must be a whole number of at least 1, not '-5'",
        ),
        ([HEAD, "2023-11-16 00:00:00,1,"], "Line 2 of .*GeneratedTokens must be a whole number"),
        ([HEAD, "yesterday,1,1"], "Line 2 of .*'yesterday' is not a time"),
        ([HEAD, "2023-11-16 00:00:05,1,1", "", "2023-11-16 00:00:04,1,1"], "Line 4 of .* is earlier than the line before; sort"),
        ([HEAD + ",PrefixId", "2023-11-16 00:00:05,1,1,a"], "give both or neither"),
        ([HEAD + ",PrefixId,PrefixTokens", "2023-11-16 00:00:05,10,1,a,11"], "Line 2 of .*PrefixTokens must be"),
        ([HEAD + ",PrefixId,PrefixTokens", "2023-11-16 00:00:05,10,1,,4"], "Line 2 of .*PrefixTokens must be 0 without a PrefixId"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_fleet_trace(written(tmp_path, *lines))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_fleet_trace(tmp_path / "none.csv")


def test_a_long_pause_is_kept_and_noted(tmp_path: Path) -> None:
    rows = [f"2023-11-16 00:00:{i % 60:02d}.{i // 60:02d},5,5" for i in range(60)]
    rows = sorted({*rows, *(f"2023-11-16 00:01:{i:02d},5,5" for i in range(60)), *(f"2023-11-16 00:02:{i:02d},5,5" for i in range(60))})
    trace = read_fleet_trace(written(tmp_path, HEAD, *rows, "2023-11-17 12:00:00,5,5"))
    assert trace.span_s == 36 * 3600
    assert len(trace.notes) == 1
    assert "before line 182" in trace.notes[0]
    assert read_fleet_trace(written(tmp_path, HEAD, *rows)).notes == ()


def test_made_traffic_comes_at_its_rate() -> None:
    workload = Workload(name="w", prompt_tokens=100, output_tokens=20, concurrency=(1,), shared_prefix_tokens=60)
    trace = made_trace(workload, rate=50.0, seconds=400.0, seed=1)
    assert len(trace) == pytest.approx(20_000, rel=0.03)
    gaps = np.diff(trace.arrival_s)
    assert float(gaps.std() / gaps.mean()) == pytest.approx(1.0, rel=0.03)
    assert set(trace.prefix_tokens.tolist()) == {60}
    even = made_trace(workload, rate=50.0, seconds=4.0, burstiness=0.0)
    assert np.allclose(np.diff(even.arrival_s), 0.02)
    bursty = np.diff(made_trace(workload, rate=50.0, seconds=400.0, seed=1, burstiness=4.0).arrival_s)
    assert float(bursty.std() / bursty.mean()) == pytest.approx(2.0, rel=0.06)
    assert faster(trace, 2.0).span_s == pytest.approx(trace.span_s / 2)


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, 10.0), (-1.0, 10.0), (0.01, 10.0)])
def test_traffic_of_no_requests_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(InputError, match="make no request"):
        made_trace(Workload(name="w", prompt_tokens=1, output_tokens=1, concurrency=(1,)), rate=rate, seconds=seconds)
