"""Rates of large matrix products and of memory by torch, on a processor or CUDA devices; torch is used only where it is installed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.errors import MissingError

CUDA_SIZES = (4096, 8192)
CPU_SIZES = (1024,)
COPY_BYTES = 1 << 30
TYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LEAST_RUNS = 3
PROBE_SIZE = 512
EMULATED_SHARE = 0.25
"""Of the float32 rate: a type below it is emulated: one large product takes seconds, and no device is planned for by it."""


@dataclass(frozen=True, kw_only=True)
class CudaDevice:
    """One kind of GPU as torch sees it. count: how many of it; memory_bytes: what programs may allocate of one

    memory_bytes_s: copies within it, reads and writes counted; matmul_flop_s: by type, the best of a few sizes
    """

    name: str
    count: int
    memory_bytes: int
    memory_bytes_s: float
    matmul_flop_s: Mapping[str, float] = field(default_factory=dict)


def installed_torch() -> Any:
    """The torch module, or None."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def cpu_matmul_flop_s(torch: Any, seconds: float = 2.0) -> dict[str, float]:
    """FLOP/s by type on the processor: those types that torch multiplies there."""
    return _matmul_flop_s(torch, "cpu", ("fp32", "bf16", "fp16"), CPU_SIZES, seconds)


def cuda_devices(torch: Any, seconds: float = 2.0) -> tuple[CudaDevice, ...]:
    """One entry a kind of GPU, in torch's order; the first of each kind is measured. Empty without CUDA.

    Raises MissingError for a GPU that others fill.
    """
    if torch is None or not torch.cuda.is_available():
        return ()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = []
    for name in dict.fromkeys(names):
        index = names.index(name)
        where = f"cuda:{index}"
        found.append(
            CudaDevice(
                name=name,
                count=names.count(name),
                memory_bytes=int(torch.cuda.get_device_properties(index).total_memory),
                memory_bytes_s=_copy_bytes_s(torch, where, name, seconds / 4),
                matmul_flop_s=_matmul_flop_s(torch, where, tuple(TYPES), CUDA_SIZES, seconds),
            )
        )
    return tuple(found)


def _matmul_flop_s(torch: Any, where: str, types: tuple[str, ...], sizes: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Best over sizes of the median rate; n x n products count 2 n^3. Types that the device refuses or emulates are left out."""
    rates: dict[str, float] = {}
    float32_s = _product_s(torch, where, "fp32", PROBE_SIZE, 0.0)
    share = seconds / len(types) / len(sizes)
    allowed = torch.backends.cuda.matmul.allow_tf32
    for dtype in types:
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        try:
            if _product_s(torch, where, dtype, PROBE_SIZE, 0.0) * EMULATED_SHARE > float32_s:
                continue
            for size in sizes:
                rates[dtype] = max(rates.get(dtype, 0.0), 2 * size**3 / _product_s(torch, where, dtype, size, share))
        except RuntimeError:  # not implemented for this type, or no room
            continue
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed
    if rates.get("tf32", 0.0) < 1.5 * rates.get("fp32", 0.0):
        rates.pop("tf32", None)  # a device without it does plain fp32
    return rates


def _product_s(torch: Any, where: str, dtype: str, size: int, seconds: float) -> float:
    """Median time of one product. Raises RuntimeError for a type that the device does not multiply."""
    # Random numbers: a chip that multiplies ones draws less power and clocks higher.
    left = torch.randn((size, size), dtype=getattr(torch, TYPES[dtype]), device=where)
    return _median_s(torch, where, lambda: torch.matmul(left, left), seconds)


def _copy_bytes_s(torch: Any, where: str, name: str, seconds: float) -> float:
    try:
        source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=where)
        target = torch.empty_like(source)
    except RuntimeError:
        raise MissingError(
            f"Less than {2 * COPY_BYTES / 1e9:.1f} GB are free on {name}.", "stop what uses it, then measure again."
        ) from None
    return 2 * COPY_BYTES / _median_s(torch, where, lambda: target.copy_(source), seconds)


def _median_s(torch: Any, where: str, work: Callable[[], object], seconds: float) -> float:
    """Median time of `work` once it is warm, each run waited for."""

    def wait() -> None:
        if where != "cpu":
            torch.cuda.synchronize(where)

    work()
    wait()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
