"""Lengths of time as people write them: 90s, 10m, 1h30m."""

import re

import click

SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
PATTERN = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?")


def duration(text: str) -> float:
    """`1h30m`, `10m`, `90s` or plain seconds as seconds above zero. Raises click.BadParameter."""
    match = PATTERN.fullmatch(text.strip().lower())
    seconds = sum(SECONDS[unit] * float(count) for unit, count in match.groupdict().items() if count) if match else 0.0
    if seconds <= 0:
        raise click.BadParameter(f"{text!r} is not a length of time; write it as 90s, 10m or 1h30m.")
    return seconds


def spoken(seconds: float) -> str:
    """A length of time for a terminal: `8 s`, `2 min 05 s`, `1 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
