"""Traffic logs of any OpenAI-style server to what is watched of each request. Which fields are read of which log: docs/signals.md.

Read line by line in bounded memory, whatever the log's size; what is put right or left out on the way is told at the end, as Faults.
"""

import dataclasses
import gzip
import hashlib
import heapq
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, cast

from trimtab.core.errors import InputError
from trimtab.core.watching import Late, Observed
from trimtab.watch.features import Vocabulary
from trimtab.watch.log_rows import Row, row_of
from trimtab.watch.observing import observed_of
from trimtab.watch.retries import Retries, Signature, signature
from trimtab.watch.seen import Seen

FaultKind = Literal["broken", "truncated", "too_long", "unknown", "duplicate", "unnamed", "untimed", "late", "clock", "ungrouped"]

LINE_BYTES = 16 * 2**20
WINDOW = 4096
"""So many items wait to be put into order."""
SET_BACK = 1000
"""So many in a row that come too late are a clock that was set back, and their times count as they are."""
_TEXTS: dict[FaultKind, str] = {
    "broken": "not valid JSON; left out",
    "truncated": "the file ends in the middle of a line or of its compressed data; what came before counts",
    "too_long": f"longer than {LINE_BYTES:,} bytes; left out",
    "unknown": "no request, answer or feedback that is known; left out",
    "duplicate": "an id that was there before; counted once",
    "unnamed": "no id: duplicates of them cannot be told, and nothing late can be joined to them",
    "untimed": "no time; that of the line before counts",
    "late": f"out of order by more than {WINDOW:,} lines; the time of those around them counts",
    "clock": "a time before 2000, in the future, or of a clock that was set back",
    "ungrouped": "no group given: they count in no comparison by group",
}
_YEAR_2000_S = 946_684_800.0
_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something about a log that the reader has put right or left out. One of each kind, after the log's last item.

    n: lines; lines: numbers of the first of them, from 1; text: what was done about them
    """

    kind: FaultKind
    n: int
    lines: tuple[int, ...]
    text: str


@dataclass
class _Faults:
    found: dict[FaultKind, list[int]] = field(default_factory=dict)
    counts: dict[FaultKind, int] = field(default_factory=dict)

    def note(self, kind: FaultKind, number: int) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        lines = self.found.setdefault(kind, [])
        if len(lines) < 5:
            lines.append(number)

    def told(self) -> Iterator[Fault]:
        for kind, lines in self.found.items():
            yield Fault(kind=kind, n=self.counts[kind], lines=tuple(lines), text=_TEXTS[kind])


Asked = tuple[str, Signature]
"""(key, signature) of a request whose text is known, for `retried`."""


def read_log(
    path: Path,
    *,
    refused: Callable[[str], bool] | None = None,
    text_pct: float = 100.0,
    now_s: float | None = None,
) -> Iterator[Observed | Late | Fault]:
    """Items in order of time, then the faults. Raises InputError where nothing can be read at all.

    path: a .jsonl or .jsonl.gz, or a folder of them (read in order of their names), such as the gateway's TRIMTAB_HOME/audit
    refused: as in `features`; text_pct: share of requests whose texts are looked at, chosen by their ids
    now_s: the present, None = the clock's
    """
    faults, retries = _Faults(), Retries()
    order = _Order(faults)
    rows = _Rows(faults, refused, text_pct, now_s if now_s is not None else time.time())
    for number, raw in _lines(path, faults):
        for at_s, item, asked in rows.items(number, raw):
            order.put(at_s, number, item, asked)
            while order.is_full:
                yield from _with_retries(order, retries)
    while len(order):
        yield from _with_retries(order, retries)
    yield from faults.told()


def _with_retries(order: "_Order", retries: Retries) -> Iterator[Observed | Late]:
    item, asked = order.pop()
    yield item
    if asked is not None:
        yield from retries.take(asked[0], item.request, asked[1], item.at_s)


@dataclass
class _Rows:
    """Lines to items. last_s: the time of the line before; 0 = there was none"""

    faults: _Faults
    refused: Callable[[str], bool] | None
    text_pct: float
    now_s: float
    last_s: float = 0.0
    seen: Seen = field(default_factory=Seen)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    def items(self, number: int, raw: bytes) -> Iterator[tuple[float, Observed | Late, Asked | None]]:
        import msgspec

        try:
            line = msgspec.json.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.faults.note("broken" if raw.endswith(b"\n") else "truncated", number)
            return
        row = row_of(line, number) if isinstance(line, dict) else "no object"
        if row is None:
            return
        if isinstance(row, str):
            self.faults.note("unknown", number)
        elif isinstance(row, Late):
            if self.seen.add(f"{row.request}\0{row.name}"):
                self.faults.note("duplicate", number)
                return
            at_s = self._time(row.at_s or None, number)
            yield at_s, dataclasses.replace(row, at_s=at_s), None
        else:
            yield from self._of_row(row, number)

    def _of_row(self, row: Row, number: int) -> Iterator[tuple[float, Observed | Late, Asked | None]]:
        request = row.facts.request
        if not row.has_id:
            self.faults.note("unnamed", number)
        elif self.seen.add(request):
            self.faults.note("duplicate", number)
            return
        at_s = self._time(row.facts.at_s if row.has_time else None, number)
        if not row.facts.groups:
            self.faults.note("ungrouped", number)
        exchange = row.exchange if self.text_pct >= 100.0 or _share(request) < self.text_pct else None
        facts = dataclasses.replace(row.facts, at_s=at_s)
        asked = (facts.key, signature(exchange.prompt)) if exchange is not None and facts.key else None
        yield at_s, observed_of(facts, exchange, refused=self.refused, vocabulary=self.vocabulary), asked
        for late in row.lates:
            if not self.seen.add(f"{request}\0{late.name}"):
                yield at_s, dataclasses.replace(late, at_s=at_s), None

    def _time(self, at_s: float | None, number: int) -> float:
        if at_s is None:
            self.faults.note("untimed", number)
            return self.last_s
        if not _YEAR_2000_S <= at_s <= self.now_s + _DAY_S:
            self.faults.note("clock", number)
            return self.last_s
        self.last_s = at_s
        return at_s


class _Order:
    """Items in order of their times, as far as WINDOW of them can be put right."""

    def __init__(self, faults: _Faults) -> None:
        self._faults = faults
        self._heap: list[tuple[float, int, int, Observed | Late, Asked | None]] = []
        self._last_s = 0.0
        self._n_put = self._n_late = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def is_full(self) -> bool:
        return len(self._heap) > WINDOW

    def put(self, at_s: float, number: int, item: Observed | Late, asked: Asked | None) -> None:
        self._n_put += 1
        heapq.heappush(self._heap, (at_s, self._n_put, number, item, asked))

    def pop(self) -> tuple[Observed | Late, Asked | None]:
        at_s, _, number, item, asked = heapq.heappop(self._heap)
        if at_s >= self._last_s:
            self._last_s, self._n_late = at_s, 0
            return item, asked
        self._n_late += 1
        if self._n_late > SET_BACK:
            self._faults.note("clock", number)
            self._last_s, self._n_late = at_s, 0
            return item, asked
        self._faults.note("late", number)
        return dataclasses.replace(item, at_s=self._last_s), asked


def _share(request: str) -> float:
    """A number from 0 to 100, always the same for a request."""
    return int.from_bytes(hashlib.sha256(request.encode("utf-8", "replace")).digest()[:8]) / 2**64 * 100.0


# Lines


def _lines(path: Path, faults: _Faults) -> Iterator[tuple[int, bytes]]:
    number = 0
    for file in _files(path):
        try:
            with cast(BinaryIO, gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")) as opened:
                for raw in _raw_lines(opened):
                    number += 1
                    if raw is None:
                        faults.note("too_long", number)
                    elif raw.strip():
                        yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        except (EOFError, zlib.error):
            faults.note("truncated", number + 1)
        except gzip.BadGzipFile:
            if number == 0:
                raise InputError(f"{file} is called .gz and is not compressed by gzip; name it .jsonl if it is plain.") from None
            faults.note("truncated", number + 1)
        except OSError as error:
            raise InputError(f"Cannot read the log {file}: {error.strerror or error}.") from error


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.iterdir() if one.name.endswith((".jsonl", ".jsonl.gz")))
    if not found:
        raise InputError(f"There is no .jsonl or .jsonl.gz in {path}; give a log, or a folder of logs.")
    return found


def _raw_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines with their ends; None for one that is too long."""
    while raw := file.readline(LINE_BYTES):
        if raw.endswith(b"\n") or len(raw) < LINE_BYTES:
            yield raw
            continue
        while (rest := file.readline(LINE_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None
