"""Was the machine quiet while we timed? What other processes used, what the hypervisor took, and how steady its own speed was."""

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.measure.meters import process_tree

OTHERS_LIMIT = 0.10
"""Share of the machine that other processes may use before it counts as noisy."""
STOLEN_LIMIT = 0.05
SPREAD_LIMIT = 0.10
"""Interquartile range of the calibration kernel over its median."""

READ_BYTES = 64 << 20
MOST_READ_BYTES = 1 << 30
HASH_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class CpuCounters:
    """CPU seconds since some start, summed over all cores. `own_s` is what the measured processes and we used of `busy_s`."""

    at_s: float
    busy_s: float
    stolen_s: float
    own_s: float


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Verdict over one session.

    sentence: why it is noisy, or that it was quiet; reads on its own
    others_cores: cores' worth of CPU time that other processes used, on average; stolen_cores: that the hypervisor withheld
    spread: interquartile range over median of the calibration kernel's speed; None under 4 runs
    load_average: the system's one-minute load at the end, None where there is none
    """

    noisy: bool
    sentence: str
    others_cores: float | None
    stolen_cores: float | None
    spread: float | None
    load_average: float | None


def parse_proc_stat(text: str, ticks_per_s: int, cores: Collection[int]) -> tuple[float, float]:
    """(busy seconds, stolen seconds) of the given cores from the text of /proc/stat (proc(5)); guest time is inside user time."""
    wanted = {f"cpu{core}" for core in cores}
    busy = stolen = n_found = 0
    for line in text.splitlines():
        name, *fields = line.split() or [""]
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, *rest = (int(field) for field in fields)
            busy += user + nice + system + irq + softirq
            stolen += rest[0] if rest else 0
            n_found += 1
    if not n_found:
        raise ValueError("none of our cores is listed")
    return busy / ticks_per_s, stolen / ticks_per_s


def parse_pid_stat(text: str, ticks_per_s: int) -> float:
    """CPU seconds of a process and of its children that ended, from the text of /proc/PID/stat. Its name may hold spaces and brackets."""
    fields = text[text.rindex(")") + 2 :].split()
    return sum(int(field) for field in fields[11:15]) / ticks_per_s


def read_counters(pids: Sequence[int], proc: Path = Path("/proc")) -> CpuCounters:
    """Counters now; `pids` are the measured processes (their descendants count too). Raises OSError where nothing is exposed."""
    if not (proc / "stat").exists():
        return _counters_by_psutil(pids)
    ticks = os.sysconf("SC_CLK_TCK")
    at_s = time.monotonic()
    busy_s, stolen_s = parse_proc_stat((proc / "stat").read_text(), ticks, os.sched_getaffinity(0))
    own_s = 0.0
    for member in {member for pid in pids for member in process_tree(pid, proc)} | {os.getpid()}:
        try:
            own_s += parse_pid_stat((proc / str(member) / "stat").read_text(), ticks)
        except (OSError, ValueError):
            continue  # gone
    return CpuCounters(at_s=at_s, busy_s=busy_s, stolen_s=stolen_s, own_s=own_s)


def _counters_by_psutil(pids: Sequence[int]) -> CpuCounters:
    import psutil

    at_s = time.monotonic()
    times = psutil.cpu_times()
    own_s = 0.0
    for pid in {*pids, os.getpid()}:
        try:
            used = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        own_s += used.user + used.system + used.children_user + used.children_system
    return CpuCounters(at_s=at_s, busy_s=times.user + times.system + getattr(times, "nice", 0.0), stolen_s=0.0, own_s=own_s)


class CalibrationKernel:
    """A fixed piece of work on all cores, some twenty milliseconds: read memory larger than a core's cache and hash some of it.

    Both release the interpreter's lock. No BLAS: its threads spin for a while after each call and would disturb the next timing.
    """

    def __init__(self, n_cores: int) -> None:
        each_bytes = min(READ_BYTES, MOST_READ_BYTES // n_cores)
        self._arrays = [np.arange(each_bytes // 8, dtype=np.uint64) for _ in range(n_cores)]
        self._pool = ThreadPoolExecutor(n_cores, thread_name_prefix="trimtab-calibration")

    def __call__(self) -> float:
        start = time.perf_counter()
        for _ in self._pool.map(_work, self._arrays):
            pass
        return time.perf_counter() - start

    def close(self) -> None:
        self._pool.shutdown()
        self._arrays.clear()


def _work(array: "np.ndarray[Any, np.dtype[np.uint64]]") -> None:
    np.bitwise_or.reduce(array)
    hashlib.sha256(array[: HASH_BYTES // 8].data).digest()


class NoiseWatch:
    """Collects counters around timed blocks and kernel times between them; `verdict` judges them.

    Use: `begin(pids)` just before a timed block, `end()` just after it, `calibrate()` between blocks.
    n_cores: cores we may keep busy; kernel: returns the seconds of one fixed piece of work; read: the counters now
    """

    def __init__(self, n_cores: int, kernel: Callable[[], float], read: Callable[[Sequence[int]], CpuCounters]) -> None:
        self.n_cores = n_cores
        self.kernel_s: list[float] = []
        self._kernel = kernel
        self._read = read
        self._pids: Sequence[int] = ()
        self._start: CpuCounters | None = None
        self._seconds = self._others_s = self._stolen_s = 0.0

    def begin(self, pids: Sequence[int]) -> None:
        """`pids`: the measured processes, in this block."""
        self._pids = pids
        self._start = self._try_read()

    def end(self) -> None:
        """Add the block since `begin`; a block whose counters are missing is left out."""
        start, now = self._start, self._try_read()
        self._start = None
        if start is None or now is None:
            return
        self._seconds += now.at_s - start.at_s
        # The two are read one after the other and in ticks of 10 ms, so a quiet machine may come out just below 0.
        self._others_s += (now.busy_s - start.busy_s) - (now.own_s - start.own_s)
        self._stolen_s += now.stolen_s - start.stolen_s

    def calibrate(self) -> None:
        """Median of three kernel runs, so that one late wake-up does not count as a slow machine."""
        self.kernel_s.append(statistics.median(self._kernel() for _ in range(3)))

    def verdict(self) -> Noise:
        known = self._seconds > 0
        n_visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or self.n_cores
        return judge(
            n_cores=self.n_cores,
            spare_cores=max(0, n_visible - self.n_cores),
            others_cores=max(0.0, self._others_s) / self._seconds if known else None,
            stolen_cores=self._stolen_s / self._seconds if known else None,
            kernel_s=self.kernel_s,
            load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        )

    def _try_read(self) -> CpuCounters | None:
        try:
            return self._read(self._pids)
        except (OSError, ValueError):
            return None


def judge(
    *,
    n_cores: int,
    others_cores: float | None,
    stolen_cores: float | None,
    kernel_s: Sequence[float],
    load_average: float | None = None,
    spare_cores: int = 0,
) -> Noise:
    """Noisy if others used over 10 % of our cores, the hypervisor withheld over 5 %, or the kernel's speed varied by over 10 %.

    spare_cores: cores that we see but may not fill (a CPU quota): others may use those
    """
    spread = relative_iqr([1 / seconds for seconds in kernel_s]) if len(kernel_s) >= 4 else None
    why = []
    if others_cores is not None and others_cores > OTHERS_LIMIT * n_cores + spare_cores:
        why.append(f"other processes used {others_cores:.1f} of {n_cores + spare_cores} cores")
    if stolen_cores is not None and stolen_cores > STOLEN_LIMIT * n_cores:
        why.append(f"the hypervisor withheld {stolen_cores:.1f} of {n_cores} cores")
    if spread is not None and spread > SPREAD_LIMIT:
        why.append(f"the machine's speed varied by {100 * spread:.0f} % (IQR) between rounds")
    if why:
        sentence = f"The machine was noisy: {'; '.join(why)}."
    elif others_cores is None and spread is None:
        sentence = "Whether the machine was quiet is not known: it exposes no CPU counters and too few rounds were run."
    else:
        sentence = "The machine was quiet."
    return Noise(
        noisy=bool(why),
        sentence=sentence,
        others_cores=others_cores,
        stolen_cores=stolen_cores,
        spread=spread,
        load_average=load_average,
    )


def relative_iqr(values: Sequence[float]) -> float:
    """Interquartile range over median. Needs at least two values."""
    low, middle, high = np.percentile(np.asarray(values, dtype=np.float64), [25, 50, 75])
    return float((high - low) / middle)
