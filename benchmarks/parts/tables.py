"""Intervals in words, and tables put where a page wants them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def interval(one: Mapping[str, Any] | None) -> str:
    """`-0.289 [-0.321, -0.258] *`: the star marks an interval that excludes zero."""
    if one is None or one["low"] is None:
        return "-"
    mark = " *" if one["low"] > 0 or one["high"] < 0 else ""
    return f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]{mark}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


def write_block(page: Path, name: str, lines: Sequence[str]) -> None:
    """Put lines between the marks `<!-- NAME: begin -->` and `<!-- NAME: end -->` of a page. Exits where there are none."""
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    head, found, rest = text.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        sys.exit(f"{page} has no marks {begin.strip()} and {end}; write them where the table goes.")
    page.write_text(f"{head}{begin}{chr(10).join(lines)}\n{end}{tail}", encoding="utf-8")
