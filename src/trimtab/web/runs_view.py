"""Run folders in the words of the page: found, summed up, and one whole. Reads files; writes none."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.phrases import fixed, interval, is_number, line, significant, times, times_interval
from trimtab.flows.runs import Run, find_runs, load_run, summary
from trimtab.record.explain import headline, levels_of
from trimtab.web.plots import without_styles

Plain = Mapping[str, Any]
KEY_DIGITS = 12
MOST_BYTES = 32 * 2**20
"""Of a file of a run that is shown."""
VERDICTS = ("pass", "fail", "inconclusive")
SHIPPED_FILES = {"report.html": "text/html", "items.html": "text/html"}
"""Files of a run that a browser may open, each in a sandbox of its own."""


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One row of the list. key: of its address; place: folder between it and the one that was named

    speed, speed_range: end to end over the baseline at `level` in flight
    """

    key: str
    name: str
    place: str
    verb: str
    state: str
    verdict: str
    model: str
    winner: str
    speed: str
    speed_range: str
    level: str
    started: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A candidate that was judged on certify items, as the journal has it. number: of the attempt"""

    number: str
    candidate: str


def runs_by_key(folders: Sequence[Path]) -> dict[str, Path]:
    """Every run directory in the folders, by the key of its address."""
    return {key: path for key, (path, _) in _found(folders).items()}


def _found(folders: Sequence[Path]) -> dict[str, tuple[Path, str]]:
    """Run directories and what lies between each and the folder that was named."""
    found = [(path, folder) for folder in folders if folder.is_dir() for path, _ in find_runs(folder)]
    return {key_of(path): (path, "" if path in (folder, folder / path.name) else path.parent.name) for path, folder in found}


def key_of(path: Path) -> str:
    """A run's key: the same as long as its folder stays where it is, and it names no place."""
    return hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:KEY_DIGITS]


def run_lines(folders: Sequence[Path]) -> list[RunLine]:
    """A row for every run, the newest first."""
    rows = [_line(key, path, place) for key, (path, place) in _found(folders).items()]
    return sorted(rows, key=lambda row: (row.started, row.name), reverse=True)


def chosen_lines(rows: Sequence[RunLine], *, verdict: str = "", verb: str = "", text: str = "") -> list[RunLine]:
    """The rows with a verdict, of a verb, and with a text in name, model or winner."""
    wanted = text.casefold()
    return [
        row
        for row in rows
        if (not verdict or row.verdict == verdict)
        and (not verb or row.verb == verb)
        and (not wanted or any(wanted in one.casefold() for one in (row.name, row.model, row.winner, row.place)))
    ]


def _line(key: str, path: Path, place: str) -> RunLine:
    try:
        stamps = tuple((path / name).stat().st_mtime_ns if (path / name).is_file() else 0 for name in _READ)
    except OSError:
        stamps = ()
    return _line_of(key, path, place, stamps)


_READ = ("run.json", "decision.json", "evaluation.json", "journal.jsonl", "candidates.jsonl")


@lru_cache(maxsize=4096)
def _line_of(key: str, path: Path, place: str, stamps: tuple[int, ...]) -> RunLine:
    """stamps: when its files were written; another time is another answer."""
    try:
        run = load_run(path)
        row = summary(run)
        speed, speed_range, level = speed_of(run.decision or {})
    except (TrimtabError, KeyError, TypeError, AttributeError, ValueError) as error:
        problem = str(error) if isinstance(error, TrimtabError) else "a file of it has another shape than trimtab writes"
        empty = dict.fromkeys(("verb", "verdict", "model", "winner", "speed", "speed_range", "level", "started"), "")
        return RunLine(key=key, name=line(path.name), place=line(place), state="damaged", problem=line(problem), **empty)
    return RunLine(
        key=key,
        name=line(path.name),
        place=line(place),
        verb=row["verb"],
        state=row["state"],
        verdict=row["verdict"] or "",
        model=line(row["model"] or ""),
        winner=line(row["chosen"] or ""),
        speed=speed,
        speed_range=speed_range,
        level=level,
        started=str(row["started"] or ""),
        problem="",
    )


def speed_of(decision: Plain) -> tuple[str, str, str]:
    """Ratio end to end over the baseline, its interval, and with how many in flight: at the most that were timed; empty if it was not."""
    over = (decision.get("speedup") or {}).get("over_baseline") or {}
    for level in reversed(levels_of(over)):
        ratio = over[level].get("e2e_ms_p50") or {}
        if is_number(ratio.get("ratio")):
            return times(ratio["ratio"]), times_interval(ratio.get("low"), ratio.get("high")), level
    return "", "", ""


def run_at(folders: Sequence[Path], key: str) -> Path:
    """The folder of a run. Raises InputError."""
    found = runs_by_key(folders).get(key)
    if found is None:
        raise InputError("There is no such run; it may have been moved or removed. The list of runs shows which there are.")
    return found


def whole_page(run: Run) -> dict[str, Any] | None:
    """What report.html says of a decision, its plots without inline styles; None before there is a decision. Raises InputError."""
    if run.decision is None:
        return None
    stamp = (run.path / "decision.json").stat().st_mtime_ns
    return _whole_page(run.path, stamp)


@lru_cache(maxsize=32)
def _whole_page(path: Path, stamp: int) -> dict[str, Any]:
    """Drawing takes about a second, so that it is done once for each decision.json."""
    from trimtab.record.view import page_of

    decision = load_run(path).decision
    assert decision is not None
    try:
        page = page_of(decision)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError) as error:
        raise InputError(f"decision.json of this run is not whole ({type(error).__name__}: {error}).") from error
    page["forest"] = without_styles(page["forest"])
    for plot in (*page["trade"], *((page["front"] or {}).get("plots") or ())):
        plot["svg"] = without_styles(plot["svg"])
    return page


def attempts_of(run: Run) -> tuple[Attempt, ...]:
    """Candidates that were judged on certify items, in order."""
    names = {
        digest: line(row.get("id", key))
        for key, row in run.candidates.items()
        if (digest := (row.get("details") or {}).get("deployment_sha256") or row.get("deployment_sha256"))
    }
    found = [key.partition("/")[2] for key in run.step_keys if key.startswith("attempt/")]
    return tuple(Attempt(number=str(number), candidate=names.get(digest, digest[:KEY_DIGITS])) for number, digest in enumerate(found, 1))


def told(run: Run) -> str:
    """The answer in one sentence."""
    if run.decision is not None:
        return headline(run.decision)
    if run.evaluation is not None:
        return "Levels with intervals; an evaluation has no verdict, because that takes a policy."
    if run.state == "in use":
        return "This run is at work; its answer is not known yet."
    return "This run was not finished; start it again with the same request, and it goes on where it stopped."


def candidate_lines(run: Run) -> list[tuple[str, str, str]]:
    """Id, status and first reason of every candidate of a run without a decision."""
    rows = run.candidates.values()
    return [(line(row.get("id", "")), line(row.get("status", "")), line(next(iter(row.get("reasons") or ()), ""))) for row in rows]


def lock_text(path: Path) -> str:
    """deploy.toml; empty if the run has none."""
    return (read_file(path / "deploy.toml") or b"").decode(errors="replace")


def read_file(path: Path) -> bytes | None:
    """A file of a run, None where there is none: a link, or more than a page can show, is none. Runs may come from elsewhere."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        return path.read_bytes()
    except OSError:
        return None


def difference_rows(found: Plain) -> dict[str, list[tuple[str, ...]]]:
    """What `runs diff` found, as rows of texts: asked, answer, candidates, gates, speed."""
    asked: list[tuple[str, ...]] = [(line(row["what"]), _shown(row["a"]), _shown(row["b"])) for row in (*found["answer"], *found["asked"])]
    candidates: list[tuple[str, ...]] = [
        (line(row["id"]), line(row["what"]), _shown(row["a"]), _shown(row["b"])) for row in found["candidates"]
    ]
    gates: list[tuple[str, ...]] = [
        (
            line(row["gate"]),
            line(row["id"]),
            _gate(row["a"]),
            _gate(row["b"]),
            {True: "apart", False: "not told apart"}.get(row["apart"], "–"),
        )
        for row in found["gates"]
    ]
    speed: list[tuple[str, ...]] = [
        (line(row["id"]), str(row["concurrency"]), *(_speed(row[side]) for side in "ab")) for row in found["speed"]
    ]
    return {"asked": asked, "candidates": candidates, "gates": gates, "speed": speed}


def _gate(gate: Plain) -> str:
    ends = interval(gate["low"], gate["high"], 4)
    return f"{fixed(gate['delta'], 4, signed=True)} {ends} {line(gate['unit'] or '')}, {line(gate['verdict'])}"


def _speed(side: Plain) -> str:
    ratio = side["over_baseline"] or {}
    over = f", {times(ratio['ratio'])} {times_interval(ratio['low'], ratio['high'])}" if is_number(ratio.get("ratio")) else ""
    return f"{significant(side['e2e_ms_p50'])} ms{over}"


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_shown(one)}" for key, one in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value)) or "–"
    return line(value, 80)
