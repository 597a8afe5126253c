"""Markdown in which a text from outside stays a text: no markup, no link, no cell or line of its own."""

import re
from collections.abc import Iterable, Sequence

from trimtab.core.phrases import line

LONGEST = 2000
"""Characters of one text; what is longer is cut, and shows that it was."""
_SPECIAL = re.compile(r"([\\`*\[\]|~<>&]|(?<!\w)_|_(?!\w))")
_AT_START = re.compile(r"^(\d*)((?<=\d)\.(?=\s|$)|(?<!\d)[-+=#])")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def md(text: object, longest: int = LONGEST) -> str:
    """One line in which every character means itself."""
    escaped = _SPECIAL.sub(lambda found: _ENTITIES.get(found[1], f"\\{found[1]}"), line(text, longest))
    return _AT_START.sub(r"\1\\\2", escaped)


def code(text: object, longest: int = LONGEST) -> str:
    """A digest, a name or a command, set as code."""
    return f"`{line(text, longest).replace('`', chr(39)).replace('|', chr(166))}`"


def bullets(texts: Iterable[object]) -> str:
    """A list, one text each, each escaped; ends with a blank line."""
    return "".join(f"- {md(text)}\n" for text in texts) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. heads: trusted; cells: escaped already."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n\n"
