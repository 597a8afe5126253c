"""The catalog of devices as JSON types: all of it, a part of it, or every number of a few with its source."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.core.planning import Device
from trimtab.flows.parts.own_hardware import own_hardware

SCHEMA = "trimtab.plan-hardware/1"


def list_hardware(names: Sequence[str] = (), *, vendor: str = "", kind: str = "", today: date | None = None) -> dict[str, Any]:
    """Devices by name, or all that are of a vendor and kind ("" = any), each with its list prices. Raises InputError.

    Each device: fields of `Device`, and `prices` (fields of `Price`, `usd_per_device_hour`, `age_days`, `is_stale`).
    """
    from trimtab.plan.devices import device, devices

    folder = own_hardware()
    found = [device(name, folder) for name in names] if names else list(devices(folder))
    if vendor:
        _check_filter("vendor", vendor, {entry.vendor for entry in devices(folder)})
    chosen = [entry for entry in found if (not vendor or entry.vendor.lower() == vendor.lower()) and (not kind or entry.kind == kind)]
    if not chosen:
        raise InputError("No device of the catalog is of that vendor and kind; `trimtab plan hardware` lists them all.")
    day = today or datetime.now(UTC).date()
    return {"schema": SCHEMA, "folder": str(folder), "devices": [{**to_plain(entry), "prices": _prices(entry, day)} for entry in chosen]}


def _check_filter(name: str, value: str, known: set[str]) -> None:
    if value.lower() not in {entry.lower() for entry in known}:
        raise InputError(f"--{name} {value!r} makes none of the catalog's devices; there are {', '.join(sorted(known))}.")


def _prices(entry: Device, day: date) -> list[dict[str, Any]]:
    from trimtab.plan.prices import STALE_DAYS, age_days, prices

    return [
        {
            **to_plain(price),
            "usd_per_device_hour": price.usd_per_device_hour,
            "age_days": age_days(price, day),
            "is_stale": age_days(price, day) > STALE_DAYS,
        }
        for price in prices(entry)
    ]
