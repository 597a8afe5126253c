"""Memory, energy and clock meters. What a machine does not expose is None with a reason, never 0."""

import ctypes
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

MemoryKind = Literal["pss", "uss", "rss"]


@dataclass(frozen=True, kw_only=True)
class MemoryReading:
    """Memory of a process tree. `bytes_used` None = not measured, `reason` says why.

    kind: `pss` counts a page shared by k processes as 1/k of it; `uss` leaves shared pages out; `rss` counts them fully
    """

    bytes_used: int | None
    kind: MemoryKind
    reason: str = ""


def process_tree(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """The process and its living descendants (Linux). A process that is gone has none."""
    tree, unseen = [], [pid]
    while unseen:
        current = unseen.pop()
        tree.append(current)
        for children in (proc / str(current) / "task").glob("*/children"):
            try:
                unseen += [int(child) for child in children.read_text().split()]
            except OSError:
                continue  # the thread ended meanwhile
    return tree


def parse_smaps_rollup(text: str) -> int:
    """PSS in bytes from the text of /proc/PID/smaps_rollup. Raises ValueError if it holds none."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no Pss line")


def parse_smaps(text: str, counted_fully: Collection[str]) -> int:
    """PSS in bytes from the text of /proc/PID/smaps, but RSS for mappings of the files named in `counted_fully`."""
    total, wanted = 0, "Pss:"
    for line in text.splitlines():
        key, *fields = line.split(maxsplit=5)
        if key == wanted:
            total += int(fields[0]) * 1024
        elif not key.endswith(":"):  # address perms offset dev inode [path]
            wanted = "Rss:" if len(fields) == 5 and fields[4] in counted_fully else "Pss:"
    return total


def files_mapped_together(pids: Collection[int], proc: Path = Path("/proc")) -> frozenset[str]:
    """Files that at least two of the processes map (Linux), such as one model file opened by two workers."""
    users: Counter[str] = Counter()
    for pid in set(pids):
        try:
            lines = (proc / str(pid) / "maps").read_text().splitlines()
        except OSError:
            continue
        users.update({fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6 and fields[5].startswith("/")})
    return frozenset(path for path, count in users.items() if count > 1)


def memory_of(pid: int, proc: Path = Path("/proc"), counted_fully: Collection[str] = ()) -> MemoryReading:
    """Memory of a process and its descendants: PSS where the kernel tells it, else USS or RSS by psutil, named as such.

    counted_fully: files whose pages count wholly although other processes map them too; give what workers that are only loaded side by
        side to be compared have in common, as each would need it alone
    """
    if not (proc / "self" / "smaps_rollup").exists():
        return _memory_by_psutil(pid)
    total, found = 0, False
    for member in process_tree(pid, proc):
        try:
            if counted_fully:
                total += parse_smaps((proc / str(member) / "smaps").read_text(), counted_fully)
            else:
                total += parse_smaps_rollup((proc / str(member) / "smaps_rollup").read_text())
            found = True
        except PermissionError:
            return MemoryReading(bytes_used=None, kind="pss", reason=f"process {member} belongs to another user")
        except (OSError, ValueError):
            continue  # ended meanwhile
    return (
        MemoryReading(bytes_used=total, kind="pss") if found else MemoryReading(bytes_used=None, kind="pss", reason="the process is gone")
    )


def _memory_by_psutil(pid: int) -> MemoryReading:
    import psutil

    kind: MemoryKind = "uss"
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                total += process.memory_full_info().uss
            except (psutil.AccessDenied, AttributeError):
                kind = "rss"
                total += process.memory_info().rss
    except psutil.Error as error:
        return MemoryReading(bytes_used=None, kind=kind, reason=f"psutil: {error}")
    return MemoryReading(bytes_used=total, kind=kind)


class PeakMemory:
    """Highest memory of a process tree, sampled in a thread while the `with` block runs, and once at its start and end.

    Use `reading` after the block. Reading PSS makes the kernel walk the process's pages, so keep it out of timed blocks.
    """

    def __init__(self, pid: int, period_s: float = 0.1, counted_fully: Collection[str] = ()) -> None:
        self.pid = pid
        self.counted_fully = counted_fully
        self.period_s = period_s
        self.reading = MemoryReading(bytes_used=None, kind="pss", reason="not sampled yet")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-peak-memory", daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(self.period_s):
            self._sample()

    def _sample(self) -> None:
        self.reading = higher(self.reading, memory_of(self.pid, counted_fully=self.counted_fully))


def higher(first: MemoryReading, second: MemoryReading) -> MemoryReading:
    """The reading with more bytes; one that was measured goes before one that was not."""
    if second.bytes_used is None:
        return first if first.bytes_used is not None else second
    return second if first.bytes_used is None or second.bytes_used > first.bytes_used else first


@dataclass(frozen=True, kw_only=True)
class EnergyReading:
    """Energy counters at one moment. `counters_uj`: domain -> (microjoules, value after which it wraps; 0 = unknown).

    Empty counters mean that energy cannot be measured; `reason` says why.
    """

    counters_uj: Mapping[str, tuple[int, int]]
    reason: str = ""


def read_energy(sys_root: Path = Path("/sys")) -> EnergyReading:
    """Package and memory counters of the machine: RAPL (Intel, and AMD since Linux 5.8), else the amd_energy driver.

    They count everything that runs on the machine. Kernel documentation: power/powercap, hwmon/amd_energy.
    """
    counters: dict[str, tuple[int, int]] = {}
    reason = "the machine exposes no energy counter"
    for zone in sorted((sys_root / "class" / "powercap").glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            # `core` and `uncore` are inside `package-N`; `psys` counts the packages again.
            if name.startswith("package") or name == "dram":
                counters[f"{zone.name} {name}"] = (_whole(zone / "energy_uj"), _whole(zone / "max_energy_range_uj"))
        except PermissionError:
            reason = "reading the energy counters needs root (/sys/class/powercap/intel-rapl*/energy_uj)"
        except (OSError, ValueError):
            continue
    if not counters:
        for driver in sorted((sys_root / "class" / "hwmon").glob("hwmon*")):
            counters |= _amd_sockets(driver)
    return EnergyReading(counters_uj=counters, reason="" if counters else reason)


def _amd_sockets(driver: Path) -> dict[str, tuple[int, int]]:
    """Socket counters of one hwmon folder, none if it is another driver's. They are 64 bits wide and do not wrap."""
    try:
        if (driver / "name").read_text().strip() != "amd_energy":
            return {}
        return {
            f"{driver.name} {text}": (_whole(label.with_name(label.name.replace("label", "input"))), 0)
            for label in sorted(driver.glob("energy*_label"))
            if (text := label.read_text().strip()).startswith("Esocket")
        }
    except (OSError, ValueError):
        return {}


def read_gpu_energy(library: Any = None) -> EnergyReading:
    """Counters of all NVIDIA devices of the machine, since the driver was loaded: NVML's nvmlDeviceGetTotalEnergyConsumption, Volta on.

    library: libnvidia-ml as ctypes gives it; None = the system's
    """
    try:
        library = library or ctypes.CDLL("libnvidia-ml.so.1")
        if library.nvmlInit_v2() != 0:
            return EnergyReading(counters_uj={}, reason="NVIDIA's management library does not start")
    except OSError:
        return EnergyReading(counters_uj={}, reason="there is no NVIDIA driver")
    count, counters = ctypes.c_uint(0), {}
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for number in range(count.value):
        device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong(0)
        found = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(device)) == 0
        if found and library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)) == 0:
            counters[f"nvml {number}"] = (millijoules.value * 1000, 0)
    library.nvmlShutdown()
    return EnergyReading(counters_uj=counters, reason="" if counters else "no NVIDIA device counts energy")


def joules_between(before: EnergyReading, after: EnergyReading) -> float | None:
    """Energy used between two readings, None = not measured. A counter may wrap once in between: keep the readings minutes apart."""
    total_uj = 0
    shared = before.counters_uj.keys() & after.counters_uj.keys()
    for name in shared:
        start, wraps_after = before.counters_uj[name]
        end = after.counters_uj[name][0]
        if end < start and not wraps_after:
            return None
        total_uj += end - start if end >= start else end + wraps_after - start
    # A counter that stands still (a virtual machine) measures nothing.
    return total_uj / 1e6 if total_uj else None


def clock_conditions(sys_root: Path = Path("/sys")) -> dict[str, str]:
    """Clock and temperature now, as text for a report: `cpu_mhz`, `temperature_c`, `thermal_throttles`; only what is exposed."""
    cpus = sys_root / "devices" / "system" / "cpu"
    khz = _readable(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    milli_c = [value for value in _readable((sys_root / "class" / "thermal").glob("thermal_zone*/temp")) if value > 0]
    throttles = _readable(cpus.glob("cpu[0-9]*/thermal_throttle/package_throttle_count"))
    found: dict[str, str] = {}
    if khz:
        found["cpu_mhz"] = f"{sum(khz) / len(khz) / 1000:.0f}"
    if milli_c:
        found["temperature_c"] = f"{max(milli_c) / 1000:.0f}"
    if throttles:
        found["thermal_throttles"] = str(max(throttles))
    return found


def _whole(path: Path) -> int:
    return int(path.read_text())


def _readable(paths: Iterable[Path]) -> list[int]:
    values = []
    for path in paths:
        try:
            values.append(_whole(path))
        except (OSError, ValueError):
            continue
    return values
