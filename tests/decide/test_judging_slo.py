"""Demands judged: by exact counting, at every level, with failed requests as missed, and never met by luck in over 5 % of runs."""

import numpy as np
import pytest

from trimtab.core.workload import SloTerm
from trimtab.decide.slo import excess, judge_latency, judge_slo, judge_value, verdict_of

TTFT = SloTerm(metric="ttft", percentile=95.0, limit=400.0, upper=True, text="ttft_p95<400ms")
MEMORY = SloTerm(metric="memory", percentile=None, limit=1e9, upper=True, text="memory<1GB")
SPEED = SloTerm(metric="throughput", percentile=None, limit=20.0, upper=False, text="throughput>20tok/s")
ENERGY = SloTerm(metric="energy", percentile=None, limit=1.0, upper=True, text="energy<1J/token")


def test_met_missed_and_not_to_be_told():
    met = judge_latency(TTFT, [100.0] * 59)
    assert (met.verdict, met.n, met.n_within, met.more_needed) == ("pass", 59, 59, None)
    short = judge_latency(TTFT, [100.0] * 58)
    assert (short.verdict, short.more_needed) == ("inconclusive", 1)
    assert "at least 1 more requests would be needed" in short.reason
    missed = judge_latency(TTFT, [100.0] * 20 + [512.0] * 20, concurrency=4)
    assert missed.verdict == "fail"
    assert missed.reason == "Misses ttft_p95<400ms at concurrency 4: 512 ms, 20 of 40 requests within 400 ms, 28 % over."
    assert judge_latency(TTFT, []).verdict == "inconclusive"


def test_a_request_that_failed_did_not_keep_the_limit():
    assert judge_latency(TTFT, [100.0] * 93, n_failed=0).verdict == "pass"
    assert judge_latency(TTFT, [100.0] * 90, n_failed=3).verdict == "inconclusive"
    row = judge_latency(TTFT, [100.0] * 10, n_failed=30)
    assert (row.verdict, row.value) == ("fail", None)


@pytest.mark.parametrize("percentile", [50.0, 95.0, 99.0])
def test_one_that_truly_misses_is_called_good_in_at_most_5_percent_of_runs(percentile):
    """Latencies whose true percentile is just beyond the limit."""
    rng = np.random.default_rng(3)
    term = SloTerm(metric="e2e", percentile=percentile, limit=1000.0, upper=True, text="e2e<1s")
    scale = 1000.001 / -np.log(1 - percentile / 100)
    n_runs, wrong = 600, {60: 0, 300: 0}
    for n in wrong:
        for _ in range(n_runs):
            wrong[n] += judge_latency(term, rng.exponential(scale, n).tolist()).verdict == "pass"
    assert max(wrong.values()) / n_runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_runs)


def test_values_and_rounds():
    assert judge_value(MEMORY, [0.9e9], None).verdict == "pass"
    missed = judge_value(MEMORY, [2.5e9], None)
    assert missed.reason == "Misses memory<1GB: 2.5 GB, 2.5 times the limit."
    assert excess(missed) == pytest.approx(2.5)
    assert judge_value(MEMORY, [None], None).reason == "memory<1GB: memory was not measured here."
    assert judge_value(SPEED, [30.0, 31.0, 29.0], 4).verdict == "pass"
    assert judge_value(SPEED, [10.0, 40.0, 14.0], 4).verdict == "inconclusive"
    slow = judge_value(SPEED, [10.0, 11.0, 10.5], 4)
    assert slow.verdict == "fail"
    assert excess(slow) == pytest.approx(20 / 10.5)


def measurement(**more):
    points = [
        {
            "concurrency": level,
            "n_requests": 60,
            "failed": 0,
            "output_tok_s": 15.0 * level,
            "round_tok_s": [15.0 * level] * 3,
            "energy_j_per_token": None,
            "latencies_ms": {"ttft": [100.0 * level] * 60},
        }
        for level in (1, 4)
    ]
    return {"points": points, "peak_memory_bytes": 9e8, "load_s": None, "cold_ttft_ms": None, **more}


def test_a_latency_must_be_met_at_every_level_and_throughput_at_the_fullest():
    rows = judge_slo([TTFT, MEMORY, SPEED, ENERGY], measurement())
    assert [(row.metric, row.concurrency, row.verdict) for row in rows] == [
        ("ttft", 1, "pass"),
        ("ttft", 4, "pass"),
        ("memory", None, "pass"),
        ("throughput", 4, "pass"),
        ("energy", 4, "inconclusive"),
    ]
    assert verdict_of(rows) == "inconclusive"
    assert verdict_of(rows[:4]) == "pass"
    tight = SloTerm(metric="ttft", percentile=95.0, limit=200.0, upper=True, text="ttft_p95<200ms")
    rows = judge_slo([tight], measurement())
    assert [row.verdict for row in rows] == ["pass", "fail"]
    assert verdict_of(rows) == "fail"


def test_what_was_not_timed_or_kept_is_not_told():
    assert [row.verdict for row in judge_slo([TTFT, MEMORY], None)] == ["inconclusive", "inconclusive"]
    without = measurement()
    for point in without["points"]:
        del point["latencies_ms"], point["round_tok_s"]
    assert {row.verdict for row in judge_slo([TTFT], without)} == {"inconclusive"}
    assert judge_slo([SPEED], without)[0].verdict == "pass", "without rounds the mean itself is judged"
