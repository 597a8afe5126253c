"""Dated list prices of devices (catalog/prices.toml), and what their electricity costs and emits (catalog/grids.toml)."""

import tomllib
from datetime import date
from functools import cache
from importlib import resources
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.planning import Device, Grid, Price
from trimtab.plan.device_files import fact_of

STALE_DAYS = 120
COMMITMENTS = ("on-demand", "spot", "1-year", "3-year", "lowest listed")
HIGHEST_USD_H = 1000.0
"""A device and hour; above it a price is one of a node that does not say how many devices that has."""


def prices(device: Device) -> tuple[Price, ...]:
    """Every list price of a device, on-demand first, then by what a device and hour costs. Empty = the catalog has none."""
    found = [price for price in _all_prices() if price.device == device.name]
    return tuple(sorted(found, key=lambda price: (COMMITMENTS.index(price.commitment), price.usd_per_device_hour)))


def usual_price(device: Device, *, commitment: str = "on-demand", provider: str = "") -> Price | None:
    """The middle one of a device's prices of that kind (of an even number the lower), at one provider if it is named. None = not known.

    Where nothing is on-demand, the market place's lowest stands in. Raises InputError for a kind that there is not.
    """
    if commitment not in COMMITMENTS:
        raise InputError(f"No prices are kept for {commitment!r}; there are {', '.join(COMMITMENTS)}.")
    known = [price for price in prices(device) if not provider or price.provider.lower() == provider.lower()]
    wanted = [price for price in known if price.commitment == commitment]
    if not wanted and commitment == "on-demand":
        wanted = [price for price in known if price.commitment == "lowest listed"]
    return wanted[(len(wanted) - 1) // 2] if wanted else None


def age_days(price: Price, today: date) -> int:
    """Above `STALE_DAYS` a price is to be looked up again."""
    return (today - date.fromisoformat(price.as_of)).days


def grids() -> tuple[Grid, ...]:
    """Electricity by country; the first is the world's mean."""
    return tuple(_parse_grid(row) for row in _tables("grids.toml")["grids"])


def grid(region: str) -> Grid:
    """By code (`de`, `us`) or name, any case. Raises InputError if there is none."""
    wanted = region.strip().lower()
    for entry in grids():
        if wanted in (entry.region, entry.name.lower()):
            return entry
    raise InputError(f"No electricity is known of {region!r}; there are {', '.join(entry.region for entry in grids())}.")


def parse_prices(text: str, where: str) -> tuple[Price, ...]:
    """Prices from the text of a TOML of `[[prices]]`. Raises InputError with one sentence on the first mistake."""
    try:
        rows = tomllib.loads(text).get("prices")
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is not valid TOML: {error}.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{where} has no [[prices]].")
    return tuple(_parse_price(row, f"{where}, price {number}") for number, row in enumerate(rows, 1))


def _parse_price(row: dict[str, Any], where: str) -> Price:
    kinds: dict[str, type | tuple[type, ...]] = {
        "device": str,
        "provider": str,
        "commitment": str,
        "usd_per_hour": (int, float),
        "devices": int,
        "as_of": str,
        "source": str,
        "verified": bool,
        "region": str,
    }
    for key in row:
        if key not in kinds:
            raise InputError(f"{where} has an unknown key {key!r}; a price has {', '.join(kinds)}.")
    for key, kind in kinds.items():
        value = row.get(key, "" if key == "region" else None)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or (key == "source" and not value):
            raise InputError(f"{where}: {key} is missing or not of its kind: {value!r}.")
    if row["commitment"] not in COMMITMENTS:
        raise InputError(f"{where}: commitment {row['commitment']!r} is none of {', '.join(COMMITMENTS)}.")
    if row["devices"] < 1 or not 0 < row["usd_per_hour"] / row["devices"] <= HIGHEST_USD_H:
        raise InputError(f"{where}: {row['usd_per_hour']:g} USD an hour for {row['devices']} devices cannot be; write both of one node.")
    try:
        date.fromisoformat(row["as_of"])
    except ValueError:
        raise InputError(f"{where}: as_of {row['as_of']!r} is no date; write one such as 2026-11-01.") from None
    named = {key: value for key, value in row.items() if key not in ("usd_per_hour", "devices")}
    return Price(usd_per_hour=float(row["usd_per_hour"]), n_devices=row["devices"], **named)


def _parse_grid(row: dict[str, Any]) -> Grid:
    numbers = {
        key: fact_of(row[key], f"grids.toml, {row['region']}: {key}", low, high, "a number") if key in row else None
        for key, low, high in (("g_co2_kwh", 0.1, 2000.0), ("usd_kwh", 0.001, 5.0))
    }
    return Grid(region=row["region"], name=row["name"], **numbers)


@cache
def _all_prices() -> tuple[Price, ...]:
    return parse_prices(_text("prices.toml"), "prices.toml")


@cache
def _tables(name: str) -> dict[str, Any]:
    return tomllib.loads(_text(name))


def _text(name: str) -> str:
    return (resources.files("trimtab") / "catalog" / name).read_text(encoding="utf-8")
