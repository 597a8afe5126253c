"""Quantities as people write them: 300B tokens, 8..512 devices, 100000usd, 20/s, 30d. What cannot be meant is refused in a sentence."""

import math
import re
from collections.abc import Mapping

from trimtab.core.errors import InputError

COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
MONEY = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}
TIMES_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
RATES = {"s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0, "d": 86_400.0}
MOST_DEVICES = 1_000_000
MOST_COUNTS = 64
"""Numbers of devices that one plan tries."""
NUMBER = r"(?:\d+(?:[_,]\d{3})*(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?"


def token_count(text: str, flag: str = "--tokens") -> float:
    """`300B`, `1.5T`, `20M`, `2e12` or a plain number of tokens, at least 1. Raises InputError."""
    found = re.fullmatch(rf"({NUMBER})\s*([kmbt]?)(?:\s*(?:tok|tokens))?", text.strip(), re.IGNORECASE)
    value = _number(found[1]) * COUNTS[found[2].lower()] if found else math.nan
    if not (math.isfinite(value) and value >= 1):
        raise InputError(f"{flag}: {text!r} is no number of tokens; write it as 300B, 1.5T or 20M.")
    return value


def device_counts(text: str, flag: str = "--devices") -> tuple[int, ...]:
    """`64`, `8,16,64`, or `8..512`: 8 doubled again and again, and 512 itself. Rising, each once. Raises InputError."""
    found: set[int] = set()
    for part in text.split(","):
        low, dots, high = (piece.strip() for piece in part.partition(".."))
        first = _count(low, text, flag)
        last = _count(high, text, flag) if dots else first
        if last < first:
            raise InputError(f"{flag}: {part.strip()!r} runs backwards; write the smaller number first, as in 8..512.")
        found.add(last)
        while first < last:
            found.add(first)
            first *= 2
    if len(found) > MOST_COUNTS:
        raise InputError(f"{flag}: {text!r} names {len(found)} numbers of devices; name {MOST_COUNTS} at most.")
    return tuple(sorted(found))


def money_usd(text: str, flag: str = "--budget") -> float:
    """`100000usd`, `$100k`, `2.5M usd`: US dollars above zero. Raises InputError, also for another currency."""
    plain = text.strip().lower().replace("us$", "$")
    found = re.fullmatch(rf"\$?\s*({NUMBER})\s*([kmb]?)\s*(?:usd|\$|dollars?)?", plain)
    value = _number(found[1]) * MONEY[found[2]] if found else math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{flag}: {text!r} is no sum in US dollars; write it as 100000usd or $100k.")
    return value


def per_second(text: str, flag: str = "--rate") -> float:
    """`20/s`, `1200/min`, `5000/h`: requests a second, above zero. Raises InputError."""
    found = re.fullmatch(rf"({NUMBER})\s*([km]?)\s*(?:requests?|req|r)?\s*(?:/|p(?=s$)| per )\s*([a-z]+)", text.strip().lower())
    value = _number(found[1]) * COUNTS[found[2]] / RATES[found[3]] if found and found[3] in RATES else math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{flag}: {text!r} is no rate of requests; write it as 20/s, 1200/min or 5000/h.")
    return value


def busy_and_quiet(text: str, flag: str = "--rate") -> tuple[float, float]:
    """`20/s` is 20 at all hours; `2..20/s` is 20 in busy hours and 2 in quiet ones. (busy, quiet; 0 = the same). Raises InputError."""
    quiet, dots, busy = text.partition("..")
    if not dots:
        return per_second(text, flag), 0.0
    most = per_second(busy, flag)
    least = per_second(quiet if "/" in quiet else quiet.strip() + busy.strip().lstrip("0123456789.,eE+- "), flag)
    if least > most:
        raise InputError(f"{flag}: the range {text!r} runs backwards; write quiet hours first.")
    return most, least


def seconds_of(text: str, flag: str = "--deadline") -> float:
    """`30d`, `2w`, `36h`, `1d12h`: a length of time in seconds, above zero. Raises InputError."""
    plain = text.strip().lower().replace(" ", "")
    parts = re.findall(rf"({NUMBER})(min|[smhdw])", plain)
    is_whole = "".join(number + unit for number, unit in parts) == plain
    value = sum(_number(number) * TIMES_S[unit] for number, unit in parts) if parts and is_whole else math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{flag}: {text!r} is no length of time; write it as 30d, 36h or 2w.")
    return value


def whole(text: str, flag: str, *, least: int = 1, most: int = 10**9) -> int:
    """A whole number of tokens, sequences or devices: `8192`, `8k` (8,000), `8Ki` (8,192). Raises InputError."""
    factors: Mapping[str, int] = {"": 1, "k": 1000, "ki": 1024, "m": 10**6, "mi": 2**20}
    found = re.fullmatch(r"(\d+(?:[_,]\d{3})*)\s*(ki?|mi?|)", text.strip().lower())
    value = int(_number(found[1])) * factors[found[2]] if found else -1
    if not least <= value <= most:
        raise InputError(f"{flag}: {text!r} is no whole number of {least:,} to {most:,}; write it as 8192 or 8Ki.")
    return value


def listed(text: str, flag: str) -> tuple[str, ...]:
    """Names with commas between them, each once, in the order given. Raises InputError for none or an empty one."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise InputError(f"{flag}: {text!r} holds an empty name; write names with commas between them, such as h100-sxm,l40s.")
    twice = next((name for place, name in enumerate(found) if name in found[:place]), "")
    if twice:
        raise InputError(f"{flag}: {twice!r} is named twice in {text!r}; name it once.")
    return found


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("_", ""))


def _count(text: str, whole_text: str, flag: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= MOST_DEVICES):
        raise InputError(f"{flag}: {whole_text!r} is no number of devices; write it as 64, as 8,16,64 or as 8..512.")
    return int(text)
