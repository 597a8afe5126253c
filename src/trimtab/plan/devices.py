"""The catalog of devices: one TOML each in catalog/hardware, and of a user's own in a folder of theirs. Found by any usual name."""

import dataclasses
import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.planning import Device, Fact
from trimtab.plan.device_files import RANGES, device_of, fact_of, parse_device

SILENT_WORDS = frozenset(
    {"nvidia", "amd", "intel", "google", "aws", "apple", "habana", "instinct", "geforce", "tesla", "radeon"}
    | {"virtualized", "gpu", "cpu", "accelerator", "processor", "r", "tm"}  # "Xeon(R)"
)
MEMORY_WORD = re.compile(r"(\d+(?:\.\d+)?)(?:gb|gib|g)")
MEMORY_KIND = re.compile(r"(?:hbm|gddr|lpddr|ddr)\w*")
PACKAGING = re.compile(r"\d+w|nps\d|spx|oam|cts|ac")
"""Watts, partitions and boards that lists of systems add to a name (`MI300X-NPS1-SPX-192GB-750W`, `B300 SXM6 AC`)."""
SMALL_APPLE_BYTES = 32e9
SAME_MEMORY = 0.1
"""`GB200-192GB` and `GB200-186GB` are one device by two ways to count."""


@dataclass(frozen=True, kw_only=True)
class _Names:
    """Devices by what they are called.

    whole: by all telling words of a name or alias
    short: by those without memory and packaging (`h100sxm` of `H100-SXM-80GB`); first the one that is called just that
    """

    whole: Mapping[str, Device]
    short: Mapping[str, tuple[Device, ...]]


def device(name: str, folder: Path | None = None) -> Device:
    """The device of a name or alias: case, punctuation, vendor and memory words are forgiven (`NVIDIA H100-SXM-80GB`, `3090 24GB`).

    A system on a chip or a CPU takes a memory size: `m4-max-64gb` has that much, less what its system keeps.
    folder: of TOML files of the user's own, which win; absent is no mistake. Raises InputError with near names if there is none.
    """
    known = _names(folder)
    words, memory_bytes = _words(name)
    for tried in (words, _words(re.sub(r"\(.*?\)", " ", name))[0]):  # "TPU-v3 (chip)"
        if found := known.whole.get("".join(tried)):
            return found
        if found := _by_memory(known.short.get(_bare(tried), ()), memory_bytes):
            return found
    if words and words[-1].isdigit():  # a slice of a pod: "v6e-8", "v5litepod-16"
        found = known.whole.get("".join(words[:-1]))
        if found and found.kind == "tpu":
            return found
    raise InputError(_no_such_device(name, _bare(words), known))


def _by_memory(candidates: tuple[Device, ...], memory_bytes: float) -> Device | None:
    """Of devices that differ in memory alone, the one with `memory_bytes` (0 = not told: the first)."""
    if not candidates or not memory_bytes:
        return candidates[0] if candidates else None
    if candidates[0].kind in ("soc", "cpu"):
        return _with_memory(candidates[0], memory_bytes)
    off, best = min(((abs(_nominal_bytes(entry) / memory_bytes - 1), entry) for entry in candidates), key=lambda pair: pair[0])
    return best if off <= SAME_MEMORY else None


def devices(folder: Path | None = None) -> tuple[Device, ...]:
    """All devices, those of `folder` first, by kind, vendor and year."""
    own = _own(folder)
    rest = [entry for entry in _catalog() if entry.name not in {mine.name for mine in own}]
    kinds = ("gpu", "tpu", "accelerator", "soc", "cpu")
    return (*own, *sorted(rest, key=lambda entry: (kinds.index(entry.kind), entry.vendor, entry.year, entry.name)))


def with_measured(known: Device, numbers: Mapping[str, float], *, source: str = "measured here", as_of: str = "") -> Device:
    """The device with numbers of yours in place of the catalog's. Keys as in its TOML: `matmul_bf16_flop_s`, `read_bytes_s`, ...

    Raises InputError for a key or a value that no device has.
    """
    for key in numbers:
        if key not in RANGES:
            raise InputError(f"{key!r} is no number of a device; the numbers are {', '.join(RANGES)}.")
    given = {"source": source, "verified": True, "as_of": as_of}
    facts = {key: fact_of({"value": value, **given}, key, *RANGES[key]) for key, value in numbers.items()}
    return _rebuilt(known, {**known.facts, **facts})


def _rebuilt(known: Device, facts: Mapping[str, Fact]) -> Device:
    return device_of({field.name: getattr(known, field.name) for field in dataclasses.fields(Device)}, facts)


def _with_memory(known: Device, memory_bytes: float) -> Device:
    """The same chip built with `memory_bytes` (2**30 a GB, as memory is sold), of which its share is usable."""
    built = memory_bytes * 2**30 / 1e9
    share = known.facts["memory_share"].value if "memory_share" in known.facts else 1.0
    if known.vendor == "Apple" and memory_bytes <= SMALL_APPLE_BYTES:
        share = 2 / 3  # what Metal recommends of 32 GB and less; of more it is 3/4
    nominal = Fact(value=built, source="as named", verified=True)
    usable = Fact(value=built * share, source=f"{share:.0%} of the memory that was named", verified=True)
    facts = {**known.facts, "memory_nominal_bytes": nominal, "memory_bytes": usable}
    return dataclasses.replace(_rebuilt(known, facts), name=f"{known.name}-{memory_bytes / 1e9:g}gb")


def _nominal_bytes(entry: Device) -> float:
    return entry.facts["memory_nominal_bytes"].value if "memory_nominal_bytes" in entry.facts else entry.memory_bytes


def _words(name: str) -> tuple[list[str], float]:
    """(telling words of a name, memory in it in bytes or 0)."""
    plain = unicodedata.normalize("NFKC", name).lower()
    plain = re.sub(r"(\d+)\W?(?:core|cu)s?\b", r"\1c", plain)  # "40-core"
    plain = re.sub(r"\bsxm\d\b", "sxm", plain)
    words = [word for word in re.split(r"[^a-z0-9.]+", plain) if word.strip(".") and word not in SILENT_WORDS]
    sizes = [float(match[1]) * 1e9 for word in words if (match := MEMORY_WORD.fullmatch(word))]
    return words, sizes[0] if sizes else 0.0


def _bare(words: Iterable[str]) -> str:
    """Without memory and packaging: `h100sxm` of `H100-SXM-80GB`."""
    dropped = (MEMORY_WORD, MEMORY_KIND, PACKAGING)
    return "".join(word for word in words if not any(pattern.fullmatch(word) for pattern in dropped))


def _no_such_device(name: str, short: str, known: _Names) -> str:
    near = dict.fromkeys(known.whole[key].name for key in difflib.get_close_matches(short, list(known.whole), 8, 0.5))
    hint = f"near are {', '.join(list(near)[:4])}" if near else "`trimtab plan hardware` lists them"
    return f"No device is called {name!r}; {hint}, and a TOML file adds one of yours."


def _names(folder: Path | None) -> _Names:
    """A user's own win over the catalog's."""
    catalog, own = _catalog_names(), _keyed(_own(folder))
    return _Names(whole={**catalog.whole, **own.whole}, short={**catalog.short, **own.short}) if own.whole else catalog


@cache
def _catalog_names() -> _Names:
    return _keyed(_catalog())


def _keyed(entries: tuple[Device, ...]) -> _Names:
    """Raises InputError if two devices share a name."""
    whole: dict[str, Device] = {}
    short: dict[str, tuple[Device, ...]] = {}
    for entry in entries:
        for name in (entry.name, *entry.aliases):
            words, _ = _words(name)
            other = whole.setdefault("".join(words), entry)
            if other is not entry:
                raise InputError(f"Two devices are called {name!r}: {other.name} and {entry.name}; take the name from one of them.")
            key = _bare(words)
            if entry not in short.get(key, ()):
                short[key] = (*short.get(key, ()), entry)
    first = {key: tuple(sorted(found, key=lambda entry: whole.get(key) is not entry)) for key, found in short.items()}
    return _Names(whole=whole, short=first)


@cache
def _catalog() -> tuple[Device, ...]:
    files = sorted((resources.files("trimtab") / "catalog" / "hardware").iterdir(), key=lambda entry: entry.name)
    return tuple(parse_device(entry.read_text(encoding="utf-8"), entry.name) for entry in files if entry.name.endswith(".toml"))


def _own(folder: Path | None) -> tuple[Device, ...]:
    if folder is None or not folder.is_dir():
        return ()
    found = []
    for path in sorted(folder.glob("*.toml")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The device file {path} cannot be read: {error}.") from None
        found.append(parse_device(text, str(path)))
    return tuple(found)
