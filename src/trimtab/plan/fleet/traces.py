"""Traffic for a simulated fleet: a recorded trace, or requests made up by rate.

A trace is a CSV file with TIMESTAMP, ContextTokens and GeneratedTokens (as Azure publishes them) and, if prompts share beginnings,
PrefixId (any text) and PrefixTokens (how many tokens at the start of this prompt are those of that prefix).
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import InputError
from trimtab.core.workload import Workload
from trimtab.plan.requests import TRACE_COLUMNS, trace_row

PREFIX_COLUMNS = ("PrefixId", "PrefixTokens")
LONG_GAP = 100.0
"""A pause between two requests is named if it is this many times the mean one."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Requests in order of arrival, one place of each array a request.

    arrival_s [n]: after the start; prompt_tokens, output_tokens [n]: at least 1
    prefix [n]: number of the prefix that its prompt begins with, -1 = none; prefix_tokens [n]: of prompt_tokens, 0 = none
    notes: what a reader should know, one sentence each
    """

    name: str
    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    prefix: Ints
    prefix_tokens: Ints
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def span_s(self) -> float:
        return float(self.arrival_s[-1])


def read_fleet_trace(path: Path) -> Trace:
    """A recorded trace; arrivals count from its first row. Nothing is closed up, and a very long pause is noted.

    Raises InputError, which names the line and what is wrong with it.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read(path, csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV file: {error}.") from None


def _read(path: Path, rows: "csv._reader") -> Trace:  # type: ignore[name-defined]  # the type of csv.reader has no public name
    head = [name.strip() for name in next(rows, [])]
    lacks = [name for name in TRACE_COLUMNS if name not in head]
    if lacks:
        raise InputError(f"{path} must begin with a line of column names; it lacks {', '.join(lacks)} of {', '.join(TRACE_COLUMNS)}.")
    if (PREFIX_COLUMNS[0] in head) != (PREFIX_COLUMNS[1] in head):
        raise InputError(f"{path} has one of the columns {' and '.join(PREFIX_COLUMNS)}; give both or neither.")
    places = [head.index(name) for name in TRACE_COLUMNS]
    shared = [head.index(name) for name in PREFIX_COLUMNS if name in head]
    first = before = None
    arrivals, prompts, outputs, lines = [], [], [], []
    prefixes: list[int] = []
    prefix_tokens: list[int] = []
    names: dict[str, int] = {}
    for row in rows:
        if not row:
            continue
        where = f"Line {rows.line_num} of {path}"
        if len(row) != len(head):
            raise InputError(f"{where} has {len(row)} fields, not {len(head)}.")
        moment, prompt, output = trace_row([row[place] for place in places], where)
        if before is not None and moment < before:
            raise InputError(f"{where} is earlier than the line before; sort the trace by time.")
        first, before = first or moment, moment
        arrivals.append((moment - first).total_seconds())
        prompts.append(prompt)
        outputs.append(output)
        lines.append(rows.line_num)
        if shared:
            name, tokens = row[shared[0]].strip(), row[shared[1]].strip() or "0"
            if not tokens.isdecimal() or int(tokens) > prompt or bool(name) != bool(int(tokens)):
                raise InputError(f"{where}: PrefixTokens must be 0 without a PrefixId, else 1 to ContextTokens ({prompt}), not {tokens!r}.")
            prefixes.append(names.setdefault(name, len(names)) if name else -1)
            prefix_tokens.append(int(tokens))
    if not arrivals:
        raise InputError(f"{path} holds no requests.")
    n = len(arrivals)
    return Trace(
        name=path.name,
        arrival_s=np.array(arrivals),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        prefix=np.array(prefixes) if shared else np.full(n, -1),
        prefix_tokens=np.array(prefix_tokens) if shared else np.zeros(n, int),
        notes=_gap_note(arrivals, lines),
    )


def _gap_note(arrivals: Sequence[float], lines: Sequence[int]) -> tuple[str, ...]:
    gaps = np.diff(arrivals)
    if len(gaps) < 2 or gaps.max() <= LONG_GAP * gaps.mean():
        return ()
    at = int(gaps.argmax())
    return (f"Nothing came for {gaps[at]:,.0f} s before line {lines[at + 1]}; the pause is kept, so the fleet is idle in it.",)


def made_trace(workload: Workload, *, rate: float, seconds: float, seed: int = 0, burstiness: float = 1.0) -> Trace:
    """Requests of a workload at `rate` a second for `seconds`, with gamma-distributed gaps.

    burstiness: squared coefficient of variation of the gaps: 1 = Poisson, above = bursts, 0 = evenly spaced
    A workload with requests of its own lends their lengths in turn by chance; else all are alike. Raises InputError.
    """
    if not (rate > 0 and seconds > 0 and rate * seconds >= 1):
        raise InputError(f"{rate:g} requests a second for {seconds:g} s make no request; raise one of them.")
    rng = np.random.default_rng([seed, 1])
    n = int(rate * seconds + 6 * (rate * seconds * max(1.0, burstiness)) ** 0.5 + 8)
    gaps = rng.gamma(1 / burstiness, burstiness / rate, n) if burstiness > 0 else np.full(n, 1 / rate)
    arrivals = np.cumsum(gaps)
    arrivals = arrivals[: max(1, int(np.searchsorted(arrivals, seconds, side="right")))]
    n = len(arrivals)
    rows = workload.requests
    picked = rng.integers(0, len(rows), n) if rows else np.zeros(n, int)
    lengths = np.array([(row.prompt_tokens, row.output_tokens) for row in rows] or [(workload.prompt_tokens, workload.output_tokens)])
    prompts = lengths[picked, 0]
    shared = np.minimum(workload.shared_prefix_tokens, prompts)
    return Trace(
        name=f"{workload.name} at {rate:g}/s",
        arrival_s=arrivals,
        prompt_tokens=prompts,
        output_tokens=lengths[picked, 1],
        prefix=np.where(shared > 0, 0, -1),
        prefix_tokens=shared,
    )


def faster(trace: Trace, speed: float) -> Trace:
    """The trace played `speed` times as fast."""
    if not speed > 0:
        raise InputError(f"A trace cannot be played {speed:g} times as fast; give a number above 0.")
    return replace(trace, arrival_s=trace.arrival_s / speed) if speed != 1 else trace
