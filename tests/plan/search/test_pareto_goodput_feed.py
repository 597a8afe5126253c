import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trimtab.core.errors import InputError
from trimtab.plan.search.feed import Supply, feed, parse_supply
from trimtab.plan.search.goodput import (
    FAILURE_RATES,
    STORAGES,
    best_interval_s,
    goodput,
    parse_failures,
    parse_storage,
    useful_share,
)
from trimtab.plan.search.pareto import front

POINTS = hnp.arrays(np.float64, st.tuples(st.integers(1, 25), st.just(3)), elements=st.integers(0, 4).map(float))


@settings(deadline=None)
@given(POINTS)
def test_the_front_is_what_nothing_beats(points: np.ndarray) -> None:
    def beaten(row: int) -> bool:
        as_good = (points <= points[row]).all(axis=1)
        better = as_good & (points < points[row]).any(axis=1)
        return bool(better.any() or as_good[:row].any())  # an equal row before it stands for it

    assert front(points).tolist() == [row for row in range(len(points)) if not beaten(row)]


def test_rows_that_cannot_run_are_not_on_the_front_and_unknown_columns_do_not_count() -> None:
    points = np.array([[1.0, np.nan, 5.0], [np.inf, np.nan, 0.0], [2.0, np.nan, 4.0], [2.0, np.nan, 6.0]])
    assert front(points).tolist() == [0, 2]
    assert front(np.empty((0, 3))).tolist() == []
    priced = np.array([[2.0, 5.0], [1.0, np.nan], [3.0, np.nan], [4.0, 4.0]])
    assert front(priced).tolist() == [0, 1, 3]  # the fastest has no known price and is on the front all the same


@pytest.mark.parametrize(("mtbf_min", "minutes"), [(24 * 60, 117), (6 * 60, 57), (15, 9.1)])
def test_the_interval_is_dalys(mtbf_min: float, minutes: float) -> None:
    """Figures 3 to 5 of his paper: dumps of 5 minutes."""
    assert best_interval_s(300.0, mtbf_min * 60.0) / 60.0 == pytest.approx(minutes, rel=0.01)


@settings(deadline=None)
@given(pause=st.floats(1.0, 600.0), mtbf=st.floats(3600.0, 1e6), factor=st.sampled_from([0.5, 0.8, 1.25, 2.0]))
def test_no_other_interval_leaves_more(pause: float, mtbf: float, factor: float) -> None:
    best = best_interval_s(pause, mtbf)
    assert useful_share(best, pause, 600.0, mtbf) >= useful_share(best * factor, pause, 600.0, mtbf) * (1 - 1e-4)


def test_llama3_kept_more_than_90_percent() -> None:
    """Its paper: over 90 % effective training time, on average an interruption every three hours."""
    found = goodput(405e9, 16384, storage=STORAGES["tectonic"])
    assert found.mtbf_s / 3600.0 == pytest.approx(54 * 24 / 419, rel=1e-6)
    assert 0.90 < found.share < 0.95
    assert "arXiv:2407.21783" in found.why


@pytest.mark.parametrize("name", FAILURE_RATES)
def test_more_devices_fail_more_often(name: str) -> None:
    shares = [goodput(70e9, n, rate=FAILURE_RATES[name]).share for n in (8, 512, 16384)]
    assert shares == sorted(shares, reverse=True)
    assert 0.97 < shares[0] < 1.0


def test_nothing_stays_where_failures_come_faster_than_restarts() -> None:
    assert useful_share(60.0, 60.0, 1e6, 60.0) == 0.0
    assert goodput(1e13, 10**7, storage=STORAGES["gpfs-nvme"]).share < 0.01


def test_impossible_runs_are_refused() -> None:
    with pytest.raises(InputError, match="0 devices"):
        goodput(1e9, 0)
    with pytest.raises(InputError, match="below zero"):
        goodput(1e9, 8, restart_s=-1.0)


def test_the_tightest_supply_is_named() -> None:
    found = feed(10_000.0, 64, Supply(bytes_per_token=4.0, disk_bytes_s=2e6, worker_tok_s=50_000.0, workers_per_device=1))
    assert found.need_tok_s == 640_000.0
    assert found.bound == "disk"
    assert found.unknown == ("network",)
    assert found.most_tok_s == pytest.approx(500_000.0)
    assert "78 %" in found.why
    assert "network" in found.why


def test_enough_tight_and_unknown_are_told_apart() -> None:
    assert "enough" in feed(100.0, 1, Supply(disk_bytes_s=1e9)).why
    assert "tight" in feed(100.0, 1, Supply(disk_bytes_s=480.0)).why
    nothing = feed(100.0, 1, Supply())
    assert nothing.bound == ""
    assert math.isinf(nothing.most_tok_s)
    assert "nothing is known" in nothing.why
    assert feed(100.0, 1, Supply(disk_bytes_s=480.0, readers_per_row=8)).bound == "disk"


def test_impossible_feeds_are_refused() -> None:
    with pytest.raises(InputError, match="disk_bytes_s"):
        feed(100.0, 1, Supply(disk_bytes_s=-1.0))
    with pytest.raises(InputError, match="0 devices"):
        feed(100.0, 0, Supply())


def test_what_a_user_writes_of_data_failures_and_storage() -> None:
    told = parse_supply("disk=2GB/s, workers=4x50000tok/s,bytes_per_token=2,readers_per_row=8")
    assert told == Supply(disk_bytes_s=2e9, worker_tok_s=50_000.0, workers_per_device=4, bytes_per_token=2.0, readers_per_row=8)
    assert parse_supply("network=500mb/s").network_bytes_s == 5e8
    assert parse_failures("bloom") is FAILURE_RATES["bloom"]
    assert parse_failures("1e-5").per_device_hour == pytest.approx(1e-5)
    assert parse_storage("parallel-nvme") is STORAGES["parallel-nvme"]
    assert parse_storage("20GB/s").write_bytes_s == 20e9


@pytest.mark.parametrize(
    ("parse", "text", "words"),
    [
        (parse_supply, "disc=2GB/s", "'disc=2GB/s' is not known"),
        (parse_supply, "disk=2", "'2' is no rate"),
        (parse_supply, "disk=0GB/s", "no number above zero"),
        (parse_supply, "workers=4", "no number above zero"),
        (parse_supply, "bytes_per_token=nan", "no number above zero"),
        (parse_failures, "often", "neither one of llama3"),
        (parse_failures, "0", "neither one of"),
        (parse_failures, "2", "neither one of"),
        (parse_storage, "tape", "neither one of usual"),
        (parse_storage, "3 parsecs", "is no rate"),
    ],
)
def test_what_cannot_be_meant_is_refused(parse: Callable[[str], object], text: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        parse(text)
    assert words in str(refused.value)
