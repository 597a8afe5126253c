"""Matrix rates through torch's own names: a torch without arithmetic stands in for it, with types that it refuses and two kinds of GPU."""

import types
from typing import Any

import numpy as np
import pytest

from trimtab.core.errors import MissingError
from trimtab.measure import matrix_rates
from trimtab.measure.matrix_rates import cpu_matmul_flop_s, cuda_devices


class Tensor:
    def __init__(self, values: Any, dtype: str = "") -> None:
        self.values, self.dtype = values, dtype

    def copy_(self, other: "Tensor") -> None:
        CLOCK.now_s += len(self.values) * 1e-10


class Clock:
    """Time that passes only where products and copies say so."""

    now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


CLOCK = Clock()


def a_torch(names: tuple[str, ...] = (), refused: tuple[str, ...] = ("float16",), emulated: str = "") -> Any:
    """As much of torch as is used. Types of `refused` cannot be multiplied, one takes long; tf32 is as fast as fp32."""
    waited: list[str] = []

    def ones(size: int, dtype: str, device: str) -> Tensor:
        if dtype in refused:
            raise RuntimeError("out of memory")
        return Tensor(np.ones(size, dtype=np.uint8))

    def matmul(left: Tensor, right: Tensor) -> Tensor:
        CLOCK.now_s += len(left.values) ** 3 * (1e-8 if left.dtype == emulated else 1e-10)
        return left

    def randn(size: tuple[int, int], dtype: str, device: str) -> Tensor:
        if dtype in refused:
            raise RuntimeError(f"not implemented for {dtype}")
        return Tensor(np.zeros(size, dtype=np.uint8), dtype)

    return types.SimpleNamespace(
        ones=ones,
        randn=randn,
        empty_like=lambda tensor: Tensor(np.empty_like(tensor.values)),
        matmul=matmul,
        backends=types.SimpleNamespace(cuda=types.SimpleNamespace(matmul=types.SimpleNamespace(allow_tf32=False))),
        cuda=types.SimpleNamespace(
            is_available=lambda: bool(names),
            device_count=lambda: len(names),
            get_device_name=lambda index: names[index],
            get_device_properties=lambda index: types.SimpleNamespace(total_memory=85_000_000_000 + index),
            synchronize=waited.append,
        ),
        waited=waited,
        **{name: name for name in ("float32", "float16", "bfloat16", "uint8")},
    )


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_rates, "time", CLOCK)
    monkeypatch.setattr(matrix_rates, "CUDA_SIZES", (64, 128))
    monkeypatch.setattr(matrix_rates, "CPU_SIZES", (64,))
    monkeypatch.setattr(matrix_rates, "COPY_BYTES", 1 << 16)


def test_types_that_are_refused_are_left_out() -> None:
    torch = a_torch()
    rates = cpu_matmul_flop_s(torch, seconds=0.01)
    assert set(rates) == {"fp32", "bf16"}
    assert all(rate > 1e6 for rate in rates.values())
    assert torch.waited == []


def test_emulated_types_are_left_out() -> None:
    assert set(cpu_matmul_flop_s(a_torch(refused=(), emulated="bfloat16"), seconds=0.01)) == {"fp32", "fp16"}


def test_each_kind_of_gpu_is_measured_once_and_waited_for() -> None:
    torch = a_torch(("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", "NVIDIA T4"))
    found = cuda_devices(torch, seconds=0.02)
    assert [(gpu.name, gpu.count, gpu.memory_bytes) for gpu in found] == [
        ("NVIDIA H100 80GB HBM3", 2, 85_000_000_000),
        ("NVIDIA T4", 1, 85_000_000_002),
    ]
    assert set(torch.waited) == {"cuda:0", "cuda:2"}
    for gpu in found:
        # tf32 is no faster than fp32 here: the device does not have it.
        assert set(gpu.matmul_flop_s) == {"fp32", "bf16"}
        assert gpu.memory_bytes_s > 1e6
    assert torch.backends.cuda.matmul.allow_tf32 is False


def test_a_gpu_that_others_fill_is_told() -> None:
    with pytest.raises(MissingError, match=r"are free on NVIDIA T4\. Fix: stop what uses it"):
        cuda_devices(a_torch(("NVIDIA T4",), refused=("uint8",)))


def test_without_torch_or_cuda_there_are_no_gpus() -> None:
    assert cuda_devices(None) == ()
    assert cuda_devices(a_torch()) == ()
