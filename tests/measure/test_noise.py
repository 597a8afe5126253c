"""Noise verdicts from injected counters; parsers on sample text; the real machine."""

import subprocess
import sys
import time

import pytest

from trimtab.measure.noise import CalibrationKernel, CpuCounters, NoiseWatch, judge, parse_pid_stat, parse_proc_stat, read_counters

PROC_STAT = """cpu  33320 10 5338 151811 216 7 58 27 0 0
cpu0 15000 4 1803 78483 12 3 11 16 0 0
cpu1 18320 6 3535 73328 203 4 47 11 0 0
intr 12345
"""


def test_proc_stat():
    busy_s, stolen_s = parse_proc_stat(PROC_STAT, 100, [0, 1])
    assert busy_s == pytest.approx((33320 + 10 + 5338 + 7 + 58) / 100)
    assert stolen_s == pytest.approx(0.27)


def test_proc_stat_of_our_cores_only():
    assert parse_proc_stat(PROC_STAT, 100, [1]) == (pytest.approx((18320 + 6 + 3535 + 4 + 47) / 100), pytest.approx(0.11))
    with pytest.raises(ValueError):
        parse_proc_stat(PROC_STAT, 100, [5])


def test_proc_stat_of_an_old_kernel_without_steal():
    assert parse_proc_stat("cpu0 1 2 3 4 5 6 7\n", 1, [0]) == (19, 0)


def test_pid_stat_with_a_nasty_name():
    text = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 150 50 30 20 20 0 1 0 100 0 0"
    assert parse_pid_stat(text, 100) == pytest.approx(2.5)


def watch_of(blocks, kernel_s=(0.01,)):
    """A watch that saw blocks of (seconds, busy, stolen, own), and calibrated once per entry of kernel_s."""
    now = [0.0, 0.0, 0.0, 0.0]
    runs = iter([value for value in kernel_s for _ in range(3)])
    watch = NoiseWatch(2, lambda: next(runs), lambda pids: CpuCounters(at_s=now[0], busy_s=now[1], stolen_s=now[2], own_s=now[3]))
    for _ in kernel_s:
        watch.calibrate()
    for block in blocks:
        now = [total + 5 for total in now]  # what happens between blocks does not count
        watch.begin([1])
        now = [total + step for total, step in zip(now, block, strict=True)]
        watch.end()
    return watch


def test_our_own_work_is_not_noise():
    found = watch_of([(10, 20, 0, 20), (10, 19.9, 0, 19.8)], [0.01] * 5).verdict()
    assert not found.noisy
    assert found.others_cores == pytest.approx(0.005)
    assert found.spread == 0
    assert found.sentence == "The machine was quiet."


def test_another_process_is_noise():
    found = watch_of([(10, 20, 0, 12)]).verdict()
    assert found.noisy
    assert found.sentence == "The machine was noisy: other processes used 0.8 of 2 cores."


def test_a_hypervisor_that_withholds_is_noise():
    assert "the hypervisor withheld 0.5 of 2 cores" in watch_of([(10, 15, 5, 15)]).verdict().sentence


def test_a_machine_of_varying_speed_is_noise():
    found = watch_of([(10, 20, 0, 20)], [0.010, 0.010, 0.0125, 0.0125, 0.010, 0.0125]).verdict()
    assert found.noisy
    # Speeds of 100 and 80, three each: quartiles 80 and 100, median 90.
    assert found.spread == pytest.approx(20 / 90)
    assert "varied by 22 % (IQR) between rounds" in found.sentence


def test_ticks_below_zero_are_a_quiet_machine():
    assert watch_of([(10, 19.98, 0, 20)]).verdict().others_cores == 0


def test_others_may_use_cores_that_we_may_not():
    assert not judge(n_cores=2, others_cores=5.0, stolen_cores=0.0, kernel_s=[], spare_cores=6).noisy
    assert judge(n_cores=2, others_cores=7.0, stolen_cores=0.0, kernel_s=[], spare_cores=6).noisy


def test_what_is_not_exposed_is_not_known():
    def nothing(pids):
        raise OSError

    watch = NoiseWatch(2, lambda: 0.01, nothing)
    watch.begin([])
    watch.end()
    found = watch.verdict()
    assert (found.others_cores, found.stolen_cores, found.spread) == (None, None, None)
    assert not found.noisy
    assert "not known" in found.sentence


def test_three_kernel_runs_are_too_few_for_a_spread():
    assert judge(n_cores=2, others_cores=0.0, stolen_cores=0.0, kernel_s=[0.01, 0.02, 0.03]).spread is None


BURN = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


@pytest.mark.parametrize("own", [True, False])
def test_a_real_busy_process_is_told_from_our_own(own):
    """0.3 CPU seconds of a child: ours if its pid is given, else others' until it has ended and counts as our child."""
    process = subprocess.Popen([sys.executable, "-c", BURN + "\ntime.sleep(30)"])
    try:
        pids = [process.pid] if own else []
        before = read_counters(pids)
        at_least_s, until_s = read_counters([process.pid]).own_s + 0.2, time.monotonic() + 30.0
        while read_counters([process.pid]).own_s < at_least_s and time.monotonic() < until_s:
            time.sleep(0.1)
        after = read_counters(pids)
    finally:
        process.kill()
        process.wait()
    used_s = after.own_s - before.own_s
    assert used_s >= 0.1 if own else used_s < 0.1
    assert after.busy_s - before.busy_s >= 0.1
    assert 0.1 <= after.at_s - before.at_s < 35


def test_calibration_kernel_takes_time_and_ends():
    kernel = CalibrationKernel(2)
    assert 0.001 < kernel() < 5
    kernel.close()
