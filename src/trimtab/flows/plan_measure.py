"""Measure this machine and write it into the user's catalog: TRIMTAB_HOME/hardware/this-machine.toml, which any plan can name."""

import platform
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from trimtab.core.deployment import Machine
from trimtab.core.errors import InputError
from trimtab.core.files import to_plain, write_atomic
from trimtab.core.planning import Device
from trimtab.core.toml import to_toml
from trimtab.flows.parts.own_hardware import THIS_MACHINE, own_hardware

SCHEMA = "trimtab.plan-measure/1"
SOURCE = "measured here"
VENDORS = ("Intel", "AMD", "Apple", "NVIDIA", "Ampere", "AWS")


def measure_this_machine(*, seconds: float = 10.0, disk: Path | None = None, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure memory, matrix products, disk and GPUs for about `seconds`; write a file a device; return them as JSON types.

    disk: a folder on the disk where weights and checkpoints lie, default TRIMTAB_HOME. Raises InputError, MissingError.
    """
    from trimtab.measure.machine import machine
    from trimtab.measure.matrix_rates import cuda_devices, installed_torch
    from trimtab.plan.device_files import parse_device

    folder = own_hardware()
    today = datetime.now(UTC).date()
    here, torch = machine(), installed_torch()
    if disk is not None and not disk.is_dir():
        raise InputError(f"--disk {disk} is no folder; name one on the disk where weights lie.")
    numbers = {**_processor(here, torch, seconds / 2, say), **_disk(disk or folder, seconds / 4, say)}
    say("GPUs")
    tables = [_gpu_table(gpu, n, today) for n, gpu in enumerate(cuda_devices(torch, seconds / 4), 1)]
    tables.append(_processor_table(here, numbers, today, name=f"{THIS_MACHINE}-host" if tables else THIS_MACHINE))
    made = []
    for table in tables:
        text = to_toml(table)
        path = folder / f"{table['name']}.toml"
        made.append((path, parse_device(text, str(path))))
        write_atomic(path, text)
    return {
        "schema": SCHEMA,
        "files": [str(path) for path, _ in made],
        "torch": None if torch is None else str(torch.__version__),
        "devices": [to_plain(entry) for _, entry in made],
    }


def _processor(here: Machine, torch: Any, seconds: float, say: Callable[[str], None]) -> dict[str, float]:
    """Memory and matrix rates of the processor; with torch by type, without it float32 by numpy."""
    from trimtab.measure.machine import measure_rates
    from trimtab.measure.matrix_rates import cpu_matmul_flop_s

    say("memory and matrix products")
    read_gb_s, gflop_s = measure_rates(seconds / 2, here.n_cores)
    rates = {"fp32": gflop_s * 1e9}
    for dtype, flop_s in (cpu_matmul_flop_s(torch, seconds / 2) if torch is not None else {}).items():
        rates[dtype] = max(flop_s, rates.get(dtype, 0.0))
    # A processor's own peak is not told by it: what it reached is the only ceiling that is known.
    peaks = {f"{dtype}_flop_s": flop_s for dtype, flop_s in rates.items()}
    reached = {f"matmul_{dtype}_flop_s": flop_s for dtype, flop_s in rates.items()}
    memory = float(here.memory_bytes)
    return {
        **peaks,
        **reached,
        "memory_bytes": memory,
        "memory_nominal_bytes": memory,
        "memory_bytes_s": read_gb_s * 1e9,
        "n_cores": here.n_cores,
    }


def _disk(folder: Path, seconds: float, say: Callable[[str], None]) -> dict[str, float]:
    from trimtab.measure.disk import disk_rates
    from trimtab.record.disk import sentences

    say("disk")
    with sentences(folder, "measure the disk of"):
        folder.mkdir(parents=True, exist_ok=True)
        found = disk_rates(folder, seconds)
    return {"disk_read_bytes_s": found.read_bytes_s, "disk_write_bytes_s": found.write_bytes_s}


def _processor_table(here: Machine, numbers: Mapping[str, float], today: date, name: str) -> dict[str, Any]:
    vendor = next((vendor for vendor in VENDORS if vendor.lower() in here.cpu.lower()), "unknown")
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    words: dict[str, Any] = {
        "name": name,
        "vendor": vendor,
        "kind": "soc" if apple else "cpu",
        "year": today.year,
        "aliases": [],
        "notes": f"{here.cpu}; {here.n_cores} cores that trimtab may use; {here.system}. Rates are medians of short runs; measure again "
        "when the machine is quiet.",
    }
    return {**words, **{key: _measured(value, today) for key, value in numbers.items()}}


def _gpu_table(gpu: Any, number: int, today: date) -> dict[str, Any]:
    """Numbers of the catalog's entry of that name, where there is one, with those that were measured in their place."""
    from trimtab.plan.devices import device, with_measured

    numbers: dict[str, float] = {
        "memory_bytes": float(gpu.memory_bytes),
        "read_bytes_s": gpu.memory_bytes_s,
        **{f"matmul_{dtype}_flop_s": flop_s for dtype, flop_s in gpu.matmul_flop_s.items()},
    }
    try:
        known: Device | None = device(gpu.name)
    except InputError:
        known = None
    words: dict[str, Any] = {
        "name": THIS_MACHINE if number == 1 else f"{THIS_MACHINE}-{number}",
        "vendor": known.vendor if known else "unknown",
        "kind": "gpu",
        "year": known.year if known else today.year,
        "aliases": [],
        "link_name": known.link_name if known else "",
        "notes": f"{gpu.count} x {gpu.name}." + (f" What was not measured is of {known.name} in the catalog." if known else ""),
    }
    if known is None:
        peaks = {f"{dtype}_flop_s": flop_s for dtype, flop_s in gpu.matmul_flop_s.items()}
        measured = {**numbers, **peaks, "memory_nominal_bytes": float(gpu.memory_bytes), "memory_bytes_s": gpu.memory_bytes_s}
        return {**words, **{key: _measured(value, today) for key, value in {**measured, "devices_per_node": gpu.count}.items()}}
    merged = with_measured(known, {**numbers, "devices_per_node": gpu.count}, source=SOURCE, as_of=today.isoformat())
    return {**words, **{key: _fact_table(to_plain(fact)) for key, fact in merged.facts.items()}}


def _measured(value: float, today: date) -> dict[str, Any]:
    return {"value": float(value), "source": SOURCE, "verified": True, "as_of": today.isoformat()}


def _fact_table(fact: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fact.items() if value != ""}
