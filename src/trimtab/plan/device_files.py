"""A device as its TOML file has it: words, and numbers `{value, source, verified}` with their unit in their key. Read and checked."""

import difflib
import math
import tomllib
from collections.abc import Mapping
from datetime import date
from typing import Any, get_args, get_type_hints

from trimtab.core.errors import InputError
from trimtab.core.planning import DTYPES, Device, Fact

KINDS = get_args(get_type_hints(Device)["kind"])
STRINGS = ("name", "vendor", "kind", "link_name", "notes")
FLOP_S = (1e7, 1e18, "FLOP/s, such as 989.5e12 for 989.5 TFLOP/s")
BYTES = (1e8, 1e13, "bytes, such as 80e9 for 80 GB")
BYTES_S = (1e7, 1e14, "bytes/s, such as 3.35e12 for 3.35 TB/s")
RANGES: Mapping[str, tuple[float, float, str]] = {
    **{f"{dtype}_flop_s": FLOP_S for dtype in DTYPES},
    **{f"matmul_{dtype}_flop_s": FLOP_S for dtype in DTYPES},
    "memory_bytes": BYTES,
    "memory_nominal_bytes": BYTES,
    "memory_share": (0.01, 1.0, "a share from 0 to 1"),
    **dict.fromkeys(
        (
            "memory_bytes_s",
            "read_bytes_s",
            "link_bytes_s",
            "bridge_bytes_s",
            "network_bytes_s",
            "host_link_bytes_s",
        ),
        BYTES_S,
    ),
    **dict.fromkeys(("disk_read_bytes_s", "disk_write_bytes_s"), (1e5, 1e13, "bytes/s, such as 3.5e9 for 3.5 GB/s")),
    "devices_per_node": (1, 100_000, "a whole number of devices"),
    "n_cores": (1, 100_000, "a whole number of cores"),
    "power_w": (0.1, 100_000, "watts"),
}
"""What a number may lie between, and how to write it. Beyond `Device`'s own fields:

memory_nominal_bytes: as sold; memory_share: of memory that is built in sizes (systems on a chip), how much the accelerator may use
read_bytes_s: reads as measured, where `memory_bytes_s` is the rate on paper
bridge_bytes_s: of an optional bridge between few cards, one direction
disk_read_bytes_s, disk_write_bytes_s: of a measured machine's disk, past the page cache
"""
WHOLE = ("devices_per_node", "n_cores")


def parse_device(text: str, where: str) -> Device:
    """A device from the text of its TOML. Raises InputError with one sentence on the first mistake; `where` names the file."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is not valid TOML: {error}.") from None
    known = {*STRINGS, "year", "aliases", *RANGES}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known), 1)
            raise InputError(
                f"{where} has an unknown key {key!r}{f'; did you mean {near[0]!r}?' if near else '; see docs/plan-hardware.md.'}"
            )
    _check_words(table, where)
    facts = {key: fact_of(table[key], f"{where}: {key}", *RANGES[key]) for key in RANGES if key in table}
    for key in WHOLE:
        if key in facts and not facts[key].value.is_integer():
            raise InputError(f"{where}: {key} is {facts[key].value:g}; write {RANGES[key][2]}.")
    return device_of({key: table[key] for key in table if key not in RANGES}, facts)


def _check_words(table: Mapping[str, Any], where: str) -> None:
    for key in ("name", "vendor", "kind", "year"):
        if key not in table:
            raise InputError(f"{where} has no {key!r}; a device needs name, vendor, kind and year.")
    for key in STRINGS:
        if key in table and (not isinstance(table[key], str) or (not table[key].strip() and key in ("name", "vendor"))):
            raise InputError(f"{where}: {key} must be text, not {table[key]!r}.")
    if table["kind"] not in KINDS:
        raise InputError(f"{where}: kind {table['kind']!r} is none of {', '.join(KINDS)}.")
    if type(table["year"]) is not int or not 1990 <= table["year"] <= 2100:
        raise InputError(f"{where}: year must be a year such as 2024, not {table['year']!r}.")
    aliases = table.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(alias, str) and alias.strip() for alias in aliases):
        raise InputError(f"{where}: aliases must be a list of texts such as ['H100', 'H100-SXM5'].")


def fact_of(table: object, what: str, low: float, high: float, example: str) -> Fact:
    """One number with its source, checked. what: the number as a message names it; example: how it is written."""
    if not isinstance(table, Mapping):
        raise InputError(f"{what} must be a table such as {{ value = 1e12, source = 'https://...', verified = true }}, not {table!r}.")
    if unknown := sorted(set(table) - {"value", "source", "verified", "as_of"}):
        raise InputError(f"{what} has an unknown entry {unknown[0]!r}; it takes value, source, verified and as_of.")
    value, source, verified, as_of = table.get("value"), table.get("source"), table.get("verified"), table.get("as_of", "")
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{what} has no value that is a number; write {example}.")
    if value <= 0:
        raise InputError(f"{what} is {value:g}, and must be above 0; leave out what is not known.")
    if not low <= value <= high:
        raise InputError(f"{what} is {value:g}, outside of {low:g} to {high:g}; write {example}.")
    if not isinstance(source, str) or not source.strip():
        raise InputError(f"{what} has no source; say where the number is from (an address, or 'measured here').")
    if not isinstance(verified, bool):
        raise InputError(f"{what} does not say whether it is verified; write verified = true if it was read at its source.")
    as_of = as_of.isoformat() if isinstance(as_of, date) else as_of
    if not isinstance(as_of, str) or (as_of and not _is_date(as_of)):
        raise InputError(f"{what} has as_of {as_of!r}; write a date such as '2026-11-01'.")
    return Fact(value=float(value), source=source, verified=verified, as_of=as_of)


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def device_of(words: Mapping[str, Any], facts: Mapping[str, Fact]) -> Device:
    """A device from its words and its facts, both checked before."""

    def number(key: str) -> float:
        return facts[key].value if key in facts else 0.0

    return Device(
        name=words["name"],
        vendor=words["vendor"],
        kind=words["kind"],
        year=words["year"],
        aliases=tuple(words.get("aliases", ())),
        peak_flop_s={dtype: number(f"{dtype}_flop_s") for dtype in DTYPES if f"{dtype}_flop_s" in facts},
        matmul_flop_s={dtype: number(f"matmul_{dtype}_flop_s") for dtype in DTYPES if f"matmul_{dtype}_flop_s" in facts},
        memory_bytes=number("memory_bytes"),
        memory_bytes_s=number("memory_bytes_s"),
        link_name=words.get("link_name", ""),
        link_bytes_s=number("link_bytes_s"),
        devices_per_node=int(number("devices_per_node")) or 1,
        network_bytes_s=number("network_bytes_s"),
        host_link_bytes_s=number("host_link_bytes_s"),
        power_w=number("power_w"),
        facts=dict(facts),
        notes=words.get("notes", ""),
    )
