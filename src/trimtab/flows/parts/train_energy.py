"""Energy of a training from this machine's counters, and what it costs in money and CO2. What is not measured is None, never 0."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.plan.prices import grid

EVERY_S = 30.0
JOULES_PER_KWH = 3.6e6


class EnergyMeter:
    """Sums the counters of a machine's processors and NVIDIA devices, read often enough that none wraps twice.

    It counts everything that runs on the machine. joules: None = nothing counted; parts: what did; reason: why processors did not
    """

    def __init__(self) -> None:
        from trimtab.measure.meters import read_energy, read_gpu_energy

        self._sources = {"processors": read_energy, "NVIDIA devices": read_gpu_energy}
        self._last = {name: read() for name, read in self._sources.items()}
        self.reason = self._last["processors"].reason
        self._joules: dict[str, float] = {}
        self._read_at = time.monotonic()

    @property
    def joules(self) -> float | None:
        return sum(self._joules.values()) if self._joules else None

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self._joules)

    def sample(self, *, now: bool = False) -> None:
        """Read the counters if it is time."""
        from trimtab.measure.meters import joules_between

        if not now and time.monotonic() - self._read_at < EVERY_S:
            return
        for name, read in self._sources.items():
            reading = read()
            found = joules_between(self._last[name], reading)
            if found is not None:
                self._joules[name] = self._joules.get(name, 0.0) + found
            self._last[name] = reading
        self._read_at = time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of this start of the run; None = not measured or not told. why: what was not measured, or of what the energy is."""

    joules: float | None
    kwh: float | None
    usd: float | None
    g_co2: float | None
    why: str
    sources: Mapping[str, str]


def cost(meter: EnergyMeter, wall_s: float, *, price_per_hour: float | None, region: str) -> Cost:
    """Money by the hour where a price was told, else of the electricity where a region was; CO2 by the region. Raises InputError."""
    kwh = meter.joules / JOULES_PER_KWH if meter.joules is not None else None
    usd = price_per_hour * wall_s / 3600.0 if price_per_hour is not None else None
    co2, sources = None, {}
    if region:
        here = grid(region)
        if kwh is not None and here.g_co2_kwh is not None:
            co2, sources["g_co2"] = kwh * here.g_co2_kwh.value, here.g_co2_kwh.source
        if usd is None and kwh is not None and here.usd_kwh is not None:
            usd, sources["usd"] = kwh * here.usd_kwh.value, here.usd_kwh.source
    why = f"Energy was not measured: {meter.reason or 'the counters stood still'}."
    if kwh is not None:
        why = f"Energy of the machine's {' and '.join(meter.parts)}, with all that ran on it."
    return Cost(joules=meter.joules, kwh=kwh, usd=usd, g_co2=co2, why=why, sources=sources)


def cost_row(found: Cost) -> dict[str, Any]:
    """As the document has it."""
    return {**vars(found), "sources": dict(found.sources)}
