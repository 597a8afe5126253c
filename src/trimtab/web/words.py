"""Filters of the templates: times, digests and counts as people read them."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from trimtab.core.phrases import count, line, megabytes, percent, significant, visible
from trimtab.decide.release_book import moment


def when(value: Any) -> str:
    """`27 Nov 2026, 11:42 UTC` of an ISO 8601 time, or of seconds since 1970."""
    try:
        at = datetime.fromtimestamp(value, UTC) if isinstance(value, (int, float)) else moment(str(value))
    except (ValueError, OverflowError, OSError):
        return line(value, 40)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def machine_time(value: Any) -> str:
    """For the attribute of <time>."""
    try:
        at = datetime.fromtimestamp(value, UTC) if isinstance(value, (int, float)) else moment(str(value))
    except (ValueError, OverflowError, OSError):
        return ""
    return at.isoformat(timespec="seconds")


def short(value: Any) -> str:
    """The beginning of a digest."""
    return str(value)[:12]


FILTERS: Mapping[str, Callable[..., str]] = {
    "when": when,
    "machine_time": machine_time,
    "short": short,
    "count": count,
    "megabytes": megabytes,
    "percent": percent,
    "significant": significant,
    "line": line,
    "visible": visible,
}
