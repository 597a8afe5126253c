"""Whether data comes as fast as a training step eats it: storage, network, and the workers that prepare it."""

import math
from dataclasses import dataclass

from trimtab.core.errors import InputError

RATES = {"B/s": 1.0, "KB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12}
EXAMPLE = "disk=2GB/s,network=10GB/s,workers=4x50000tok/s,bytes_per_token=2"

LEAST_SPARE = 1.5
"""Below so many times what is needed, a supply is called tight: a loader's rate swings while a step's does not."""


@dataclass(frozen=True, kw_only=True)
class Supply:
    """What brings tokens to the step. A rate of 0 is not known.

    disk_bytes_s, network_bytes_s: of the whole run together; worker_tok_s: of one worker process; workers_per_device: how many there are
    bytes_per_token: as stored: 2 for tokenised data below 65,536 words of vocabulary, 4 above, about 4 to 5 for plain English text
    readers_per_row: ranks that each read the same rows (1 where only one rank of a data-parallel group reads)
    """

    bytes_per_token: float = 4.0
    disk_bytes_s: float = 0.0
    network_bytes_s: float = 0.0
    worker_tok_s: float = 0.0
    workers_per_device: int = 0
    readers_per_row: int = 1


@dataclass(frozen=True, kw_only=True)
class Feed:
    """need_tok_s, need_bytes_s: of the whole run; spare: supply over need, by name, only those that are known
    unknown: names of supplies that nothing is known of; bound: the name of the supply that holds the step up, "" = none that is known
    most_tok_s: what the known supplies let through, infinite if none is known; why: one sentence
    """

    need_tok_s: float
    need_bytes_s: float
    spare: dict[str, float]
    unknown: tuple[str, ...]
    bound: str
    most_tok_s: float
    why: str


def parse_supply(text: str, flag: str = "--data") -> Supply:
    """`disk=2GB/s,network=10GB/s,workers=4x50000tok/s,bytes_per_token=2`; what is left out is not known. Raises InputError."""
    told: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key in ("disk", "network"):
            told[f"{key}_bytes_s"] = bytes_per_second(value, flag)
        elif key == "workers":
            count, _, rate = value.partition("x")
            told |= {
                "workers_per_device": _above_zero(count, part, flag),
                "worker_tok_s": _above_zero(rate.removesuffix("tok/s"), part, flag),
            }
        elif key in ("bytes_per_token", "readers_per_row"):
            told[key] = _above_zero(value, part, flag)
        else:
            raise InputError(f"{flag}: {part.strip()!r} is not known; write it as {EXAMPLE}.")
    whole = {name: int(told.pop(name)) for name in ("workers_per_device", "readers_per_row") if name in told}
    return Supply(**told, **whole)  # type: ignore[arg-type]


def bytes_per_second(text: str, flag: str) -> float:
    """`2GB/s`, as bytes a second. Raises InputError."""
    number = text.rstrip("BKMGT/sbkmgt ")
    factor = next((size for unit, size in RATES.items() if unit.lower() == text[len(number) :].strip().lower()), None)
    if factor is None:
        raise InputError(f"{flag}: {text!r} is no rate; give a number and one of {', '.join(RATES)}.")
    return _above_zero(number, text, flag) * factor


def _above_zero(number: str, part: str, flag: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{flag}: {number.strip()!r} in {part.strip()!r} is no number above zero; write it as {EXAMPLE}.")
    return value


def feed(tok_s_per_device: float, n_devices: int, supply: Supply) -> Feed:
    """Hold what a step eats against what comes. Raises InputError for rates below zero."""
    if n_devices < 1 or tok_s_per_device <= 0:
        raise InputError(f"{n_devices} devices at {tok_s_per_device:g} tokens/s eat nothing; give a number of each above zero.")
    below = [name for name, value in vars(supply).items() if value < 0]
    if below or supply.bytes_per_token == 0:
        raise InputError(f"The data feed's {(below or ['bytes_per_token'])[0]} cannot be that small; give a number above zero.")
    need_tok_s = tok_s_per_device * n_devices
    read = supply.bytes_per_token * supply.readers_per_row
    most = {
        "disk": supply.disk_bytes_s / read,
        "network": supply.network_bytes_s / read,
        "workers": supply.worker_tok_s * supply.workers_per_device * n_devices / supply.readers_per_row,
    }
    spare = {name: tok_s / need_tok_s for name, tok_s in most.items() if tok_s > 0}
    unknown = tuple(name for name in most if name not in spare)
    tightest = min(spare, key=lambda name: (spare[name], name)) if spare else ""
    bound = tightest if tightest and spare[tightest] < 1.0 else ""
    return Feed(
        need_tok_s=need_tok_s,
        need_bytes_s=need_tok_s * read,
        spare=spare,
        unknown=unknown,
        bound=bound,
        most_tok_s=spare[tightest] * need_tok_s if spare else float("inf"),
        why=_why(need_tok_s, need_tok_s * read, tightest, spare, unknown),
    )


def _why(need_tok_s: float, need_bytes_s: float, tightest: str, spare: dict[str, float], unknown: tuple[str, ...]) -> str:
    need = f"the step eats {need_tok_s:,.0f} tokens/s ({need_bytes_s / 1e6:,.1f} MB/s)"
    if not spare:
        return f"{need}; nothing is known of disk, network and workers, so whether they keep up is not either"
    rest = f"; of {' and '.join(unknown)} nothing is known" if unknown else ""
    times = spare[tightest]
    if times < 1.0:
        return f"{need}, and {tightest} brings {100 * times:.0f} % of it: the step waits{rest}"
    word = "tight" if times < LEAST_SPARE else "enough"
    return f"{need}, and {tightest} brings {times:.3g} times that: {word}{rest}"
