"""Energy of a training is what counters say, or is not measured; money and CO2 follow from it."""

import ctypes
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.flows.parts.train_energy import EnergyMeter, cost
from trimtab.measure.meters import EnergyReading, joules_between, read_gpu_energy
from trimtab.plan.prices import grid


class Nvml:
    """Two devices, the second of which does not count."""

    def __init__(self) -> None:
        self.millijoules = 5000

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: ctypes.c_uint, device: Any) -> int:
        device._obj.value = 100 + number.value
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: ctypes.c_void_p, millijoules: Any) -> int:
        millijoules._obj.value = self.millijoules
        return 0 if device.value == 100 else 3


def test_devices_that_count_are_counted() -> None:
    library = Nvml()
    before = read_gpu_energy(library)
    assert before.counters_uj == {"nvml 0": (5_000_000, 0)}
    library.millijoules += 3_600
    assert joules_between(before, read_gpu_energy(library)) == 3.6


def counted(monkeypatch: pytest.MonkeyPatch, processors_j: list[float], devices_j: list[float]) -> EnergyMeter:
    def reader(values: list[float]) -> Any:
        left = iter(values)
        return lambda: EnergyReading(
            counters_uj={"x": (round(next(left) * 1e6), 0)} if values else {}, reason="" if values else "no counter"
        )

    monkeypatch.setattr("trimtab.measure.meters.read_energy", reader(processors_j))
    monkeypatch.setattr("trimtab.measure.meters.read_gpu_energy", reader(devices_j))
    meter = EnergyMeter()
    meter.sample()  # it is not time
    meter.sample(now=True)
    return meter


def test_both_are_summed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cost(counted(monkeypatch, [1e6, 4.6e6], [0.0, 3.6e6]), 7200.0, price_per_hour=None, region="DE")
    assert (found.joules, found.kwh) == (7.2e6, 2.0)
    assert "processors and NVIDIA devices" in found.why
    here = grid("DE")
    assert here.g_co2_kwh is not None
    assert found.g_co2 == pytest.approx(2.0 * here.g_co2_kwh.value)
    assert here.usd_kwh is None or found.usd == pytest.approx(2.0 * here.usd_kwh.value)


def test_what_was_not_measured_is_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cost(counted(monkeypatch, [], []), 3600.0, price_per_hour=2.0, region="DE")
    assert (found.joules, found.kwh, found.g_co2, found.usd) == (None, None, None, 2.0)
    assert found.why == "Energy was not measured: no counter."
    still = cost(counted(monkeypatch, [5.0, 5.0], []), 3600.0, price_per_hour=None, region="")
    assert still.joules is None
    assert "stood still" in still.why
    with pytest.raises(InputError):
        cost(counted(monkeypatch, [], []), 1.0, price_per_hour=None, region="ZZ")
