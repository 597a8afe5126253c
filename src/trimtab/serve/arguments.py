"""The arguments of a call as guards read them, and back: JSON whose escapes are undone, for `\\u0040` is an @ to whoever is called.

What goes out is the JSON as it came but for what was replaced. A replacement stays inside the string it is made in; one that reaches
further would break the JSON, so it is not made.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from trimtab.core.guarding import Finding

_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_TOKEN = re.compile(rf"{_PAIR}|\\u[0-9a-fA-F]{{4}}|\\[^u]|.", re.DOTALL)
_UNFINISHED = re.compile(r"\\(?:u[0-9a-fA-F]{0,3}|u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?)?\Z")
_SHORT = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
Kind = Literal["inside", "opening", "closing", "outside"]
"""Where a character stands: inside a string, as the quote before or behind one, or outside."""


class Replaced(Protocol):
    """What a guard's stream gives: see guard.pipeline.Part."""

    @property
    def text(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def finding(self) -> Finding | None: ...
    @property
    def is_last(self) -> bool: ...


class BreaksJson(Exception):
    """A redaction would break the JSON of a call's arguments."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.rule)
        self.finding = finding


class Arguments:
    """The arguments of one call, in pieces. `read` gives what a guard's stream is to see, `written` what of its parts goes out."""

    def __init__(self) -> None:
        self._held = ""  # the beginning of an escape
        self._is_inside = False
        self._cells: list[tuple[str, Kind]] = []  # what was written, for each character that was read and has not gone out
        self._start = 0  # number of the first of them

    def read(self, piece: str, *, is_end: bool = False) -> str:
        """The next piece of the JSON as guards read it. What is half of a character waits for the other half."""
        text, self._held = self._held + piece, ""
        seen: list[str] = []
        place = 0
        while place < len(text):
            letter = text[place]
            if self._is_inside and letter == "\\":
                if not is_end and _UNFINISHED.match(text, place):
                    self._held = text[place:]
                    break
                token = _TOKEN.match(text, place)
                assert token is not None
                seen.append(self._keep(token[0], _character(token[0]), "inside"))
                place = token.end()
                continue
            kind: Kind = "inside" if self._is_inside else "outside"
            if letter == '"':
                kind = "closing" if self._is_inside else "opening"
                self._is_inside = not self._is_inside
            seen.append(self._keep(letter, letter, kind))
            place += 1
        return "".join(seen)

    def again(self) -> None:
        """Another guard's stream begins, which counts its characters from 0. All that was read must have gone out."""
        self._start = 0

    def written(self, parts: Iterable[Replaced]) -> str:
        """The JSON of what may go out. Raises BreaksJson."""
        out = []
        for part in parts:
            cells = self._cells[part.start - self._start : part.end - self._start]
            if part.finding is None:
                out.append("".join(written for written, _ in cells))
            else:
                out.append(_replaced(cells, part.text, part.finding, is_last=part.is_last))
            self._cells = self._cells[part.end - self._start :]
            self._start = part.end
        return "".join(out)

    def _keep(self, written: str, seen: str, kind: Kind) -> str:
        self._cells.append((written, kind))
        return seen


def _replaced(cells: Sequence[tuple[str, Kind]], text: str, finding: Finding, *, is_last: bool) -> str:
    """What stands in the place of these characters. The quotes of a string stay around it."""
    kinds = [kind for _, kind in cells]
    before = '"' if kinds[:1] == ["opening"] else ""
    behind = '"' if kinds[len(before) :][-1:] == ["closing"] else ""
    inside = kinds[len(before) : len(kinds) - len(behind)]
    if is_last or any(kind != "inside" for kind in inside) or not (inside or before):
        raise BreaksJson(finding)
    return before + json.dumps(text, ensure_ascii=False)[1:-1] + behind


def _character(token: str) -> str:
    """The one character that an escape stands for."""
    if len(token) == 2:
        return _SHORT.get(token[1], token[1])
    if len(token) < 6:
        return token
    found = str(json.loads(f'"{token}"'))
    return "\ufffd" if "\ud800" <= found <= "\udfff" else found
