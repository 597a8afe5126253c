"""This machine: what it has, and how fast it reads memory and multiplies matrices, measured."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from trimtab.core.deployment import Machine
from trimtab.core.model import ModelCard

X86_FLAGS = frozenset(
    ["sse4_2", "f16c", "fma", "avx", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8"]
)
ARM_FLAGS = frozenset(["asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme"])
TELLING_FLAGS = X86_FLAGS | ARM_FLAGS
"""CPU features that engines choose kernels by (names of /proc/cpuinfo on x86 and Arm)."""
READ_BYTES = 64 << 20
MOST_READ_BYTES = 2 << 30
MATMUL_SIZES = (512, 1024)


def machine(root: Path = Path("/")) -> Machine:
    """What this process may use: affinity and cgroup limits are honoured. Rates are None; see `measure_rates`."""
    cpu, flags = cpu_model(root)
    return Machine(
        cpu=cpu,
        n_cores=available_cores(root),
        memory_bytes=available_memory_bytes(root),
        flags=flags,
        accelerators=accelerators(root),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def cpu_model(root: Path = Path("/")) -> tuple[str, tuple[str, ...]]:
    """(model name, telling flags in order of name)."""
    try:
        return parse_cpuinfo((root / "proc" / "cpuinfo").read_text())
    except OSError:
        return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine(), ()


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Model name and telling flags from the text of /proc/cpuinfo (first core)."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip().lower(), value.strip())
    flags = set((values.get("flags") or values.get("features") or "").split())
    arm = f"Arm part {values['cpu part']}" if "cpu part" in values else ""
    return values.get("model name") or arm or platform.machine(), tuple(sorted(flags & TELLING_FLAGS))


def available_cores(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: its affinity mask, cut by the cgroup's CPU quota (rounded up)."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in cgroup_folders(root, "cpu"):
        quota = _cpu_quota(folder)
        if quota is not None:
            n_cores = min(n_cores, max(1, int(-(-quota // 1))))
    return n_cores


def _cpu_quota(folder: Path) -> float | None:
    """Cores' worth of CPU time that a cgroup folder grants (v2 `cpu.max`, v1 `cpu.cfs_*`), None = no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None  # absent, or the word `max`


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Memory of the machine, cut by the cgroup's limit. 0 only if neither can be read."""
    limits = []
    try:
        line = next(line for line in (root / "proc" / "meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
        limits.append(int(line.split()[1]) * 1024)
    except (OSError, StopIteration):
        import psutil

        limits.append(int(psutil.virtual_memory().total))
    for folder in cgroup_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                limits.append(int((folder / name).read_text()))
            except (OSError, ValueError):
                continue  # absent, or the word `max`
    return min(limits)


def cgroup_folders(root: Path, controller: str) -> list[Path]:
    """Folders of this process's cgroup and its parents, for one controller, v1 and v2. A limit of any of them holds."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    top = root / "sys" / "fs" / "cgroup"
    folders = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        base = top / controllers if controllers else top
        if controllers and not base.exists():
            base = top / controller
        here = base / path.lstrip("/")
        # Inside a container the path may be the host's, and its own limits lie at the mount itself.
        folders += [folder for folder in (here, *here.parents) if folder == base or base in folder.parents]
    return folders


def accelerators(root: Path = Path("/")) -> tuple[str, ...]:
    """Names of accelerator devices: NVIDIA GPUs by model where the driver tells it, else device files."""
    found = []
    for info in sorted((root / "proc" / "driver" / "nvidia" / "gpus").glob("*/information")):
        try:
            lines = info.read_text().splitlines()
        except OSError:
            lines = []
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), "")
        found.append(model or f"nvidia {info.parent.name}")
    if not found:
        found += [path.name for path in sorted((root / "dev").glob("nvidia[0-9]*"))]
    found += [f"dri/{path.name}" for path in sorted((root / "dev" / "dri").glob("renderD*"))]
    found += [f"accel/{path.name}" for path in sorted((root / "dev" / "accel").glob("accel*"))]
    return tuple(found)


def measure_rates(seconds: float = 1.5, n_cores: int | None = None) -> tuple[float, float]:
    """(memory read GB/s, float32 matrix multiplication GFLOP/s) with all cores, medians over short repeats.

    Read: OR-reductions of one array a core (64 MiB, less on many cores, more than its share of the cache); each byte is read once.
    Matrix multiplication: NumPy's BLAS at 512 and 1,024, the better of the two medians; a product of n x n matrices counts 2 n^3
    operations. GB = 1e9 bytes.
    """
    n_cores = n_cores or available_cores()
    each_bytes = min(READ_BYTES, MOST_READ_BYTES // n_cores)
    arrays = [np.ones(each_bytes // 8, dtype=np.uint64) for _ in range(n_cores)]
    with ThreadPoolExecutor(n_cores) as pool:
        read_s = _median_seconds(lambda: list(pool.map(np.bitwise_or.reduce, arrays)), seconds / 2)
    gflop_s = 0.0
    for size in MATMUL_SIZES:
        square = np.random.default_rng(0).random((size, size), dtype=np.float32)
        out = np.empty_like(square)
        took = _median_seconds(partial(np.matmul, square, square, out), seconds / 2 / len(MATMUL_SIZES))
        gflop_s = max(gflop_s, 2 * size**3 / took / 1e9)
    return n_cores * each_bytes / read_s / 1e9, gflop_s


def _median_seconds(work: Callable[[], object], seconds: float) -> float:
    """Median time of `work`, repeated for `seconds` and at least three times after one run that is not counted."""
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def roofline_share(card: ModelCard, decode_tok_s: float, read_gb_s: float, context_tokens: float = 0) -> float:
    """Bytes that decoding read per second over what the memory delivers, 0..1.

    card: of the weights that ran, not of the source they were made from
    decode_tok_s: of one request alone; context_tokens: mean context while decoding, whose F16 cache is read too
    Above 1 the read rate was measured too low (a noisy machine) or the weights stayed in cache.
    """
    return (card.decode_bytes_per_token + card.kv_bytes(int(context_tokens))) * decode_tok_s / (read_gb_s * 1e9)


def _sysctl(name: str) -> str:
    try:
        return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
