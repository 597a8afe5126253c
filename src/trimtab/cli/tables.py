"""A decision as a person reads it: the answer, the candidates, the gates, where the files are. Pure: dicts in, renderables out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

Plain = Mapping[str, Any]

WIDE = 110

WORDS = {"pass": ("PASS", "green"), "fail": ("FAIL", "red"), "inconclusive": ("INCONCLUSIVE", "yellow")}
MARKS = {"pass": ("✓", "green"), "fail": ("✗", "red"), "inconclusive": ("?", "yellow")}
STATUS_WORDS = {"dropped": "not tried", "infeasible": "cannot run", "screened": "screened out", "timed": "timed"}


def decision_view(decision: Plain, files: Mapping[str, str]) -> Iterator[RenderableType]:
    """All parts in reading order. files: name -> path of what was written."""
    yield headline(decision)
    if decision.get("candidates"):
        yield ByWidth(lambda width: candidates_table(decision, wide=width >= WIDE))
        yield why_list(decision)
    if decision.get("gates"):
        yield ByWidth(lambda width: gates_table(decision["gates"], wide=width >= WIDE))
    if files:
        yield files_list(files)


@dataclass(frozen=True)
class ByWidth:
    """Drawn for the width at hand: cells of two lines where there is no room for one."""

    make: Callable[[int], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self.make(options.max_width)


def headline(decision: Plain) -> Panel:
    """The answer in a box: which deployment, how much faster at each concurrency, and whether it is shown to be no worse."""
    verdict = str(decision.get("verdict", "inconclusive"))
    word, style = WORDS.get(verdict, WORDS["inconclusive"])
    lines: list[RenderableType] = []
    chosen = decision.get("chosen")
    if chosen:
        lines.append(Text.assemble(("Use ", "bold"), (id_of(chosen), f"bold {style}"), (f"  {settings_text(chosen)}", "dim")))
    lines.extend(Text(str(reason)) for reason in decision.get("reasons") or ())
    if speedup_levels(decision):
        lines.append(Padding(speedup_table(decision), (1, 0)))
    for role in ("reference", "baseline"):
        if decision.get(role):
            lines.append(Text.assemble((f"{role:<9} ", "dim"), id_of(decision[role]), (f"  {settings_text(decision[role])}", "dim")))
    return Panel(Group(*lines), title=Text(f" {word} ", style=f"bold {style}"), title_align="left", border_style=style, padding=(0, 1))


def speedup_levels(decision: Plain) -> list[int]:
    """The concurrency levels at which the chosen one was timed against the baseline."""
    over = (decision.get("speedup") or {}).get("over_baseline") or {}
    return sorted(int(key) for key in over if key.isdigit())


def speedup_table(decision: Plain) -> Table:
    """A row a concurrency: time of a request, and how many times faster than the baseline and than its engine's best."""
    speedup = decision["speedup"]
    best = speedup.get("over_best_of_baseline_engine") or {}
    rows = decision.get("candidates") or ()
    chosen: Plain = next((row for row in rows if row["id"] == id_of(decision.get("chosen"))), {})
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("requests at once")
    table.add_column("median request", justify="right")
    table.add_column("vs baseline", justify="right")
    if best:
        table.add_column(f"vs {id_of(best)}", justify="right", overflow="fold")
    for level in speedup_levels(decision):
        ratios = [(over.get(str(level)) or {}).get("e2e_ms_p50") for over in (speedup["over_baseline"], best)]
        table.add_row(str(level), _ms(_p50(chosen, level)), *(ratio_text(ratio) for ratio in ratios[: 2 if best else 1]))
    return table


def ratio_text(ratio: Plain | None) -> str:
    if not ratio or ratio.get("ratio") is None:
        return ""
    text = f"{ratio['ratio']:.2f}x"
    if ratio.get("low") is not None and ratio.get("high") is not None:
        text += f" [{ratio['low']:.2f}–{ratio['high']:.2f}]"
    return text


def id_of(candidate: Any) -> str:
    """`openvino int8-asym` of a candidate as a mapping, or the name that stands for it."""
    return str(candidate.get("id", "")) if isinstance(candidate, Mapping) else str(candidate or "")


def settings_text(candidate: Any) -> str:
    """`threads=2 slots=4`; the settings left to the engine are not said."""
    settings = candidate.get("settings") or {} if isinstance(candidate, Mapping) else {}
    return " ".join(f"{key}={value}" for key, value in settings.items() if value is not None)


def candidates_table(decision: Plain, *, wide: bool) -> Table:
    """One row a candidate: time of a request at each concurrency, how many times faster than the baseline, memory, quality, verdict."""
    candidates = decision["candidates"]
    levels = sorted({point["concurrency"] for row in candidates for point in (row.get("measurement") or {}).get("points", ())})
    table = Table(box=box.SIMPLE_HEAD, title="Candidates", title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("candidate", overflow="fold", min_width=16)
    for level in levels:
        table.add_column(f"median request,\n{level} at once", justify="right", no_wrap=True)
    table.add_column("memory\n(peak)", justify="right", no_wrap=True)
    table.add_column("loss,\nnats/token", justify="right", no_wrap=True)
    if wide:
        table.add_column("", no_wrap=True)
    chosen_id, baseline_id = id_of(decision.get("chosen")), id_of(decision.get("baseline"))
    for row in sorted(candidates, key=lambda row: _order(row, chosen_id)):
        chosen = row["id"] == chosen_id
        state = _state(row, chosen=chosen, baseline=row["id"] == baseline_id)
        cells: list[RenderableType] = [id_of(row) if wide else Text.assemble(id_of(row), "\n", state)]
        for level in levels:
            over = "1x" if row["id"] == baseline_id else _over_baseline(decision, row, level, chosen)
            time = _ms(_p50(row, level))
            cells.append(f"{time}  {over:>17}" if wide and time else f"{time}\n{over}".rstrip())
        cells += [_memory(row), _loss(row), *([state] if wide else [])]
        table.add_row(*cells, style="bold" if chosen else "dim" if row.get("status") in ("dropped", "infeasible") else "")
    return table


def _order(row: Plain, chosen_id: str) -> tuple[int, float]:
    """The chosen one, then what was timed from fast to slow, then the rest by how far it came."""
    points = (row.get("measurement") or {}).get("points") or ()
    stage = {"certified": 1, "timed": 1, "screened": 2, "infeasible": 3, "dropped": 4}.get(str(row.get("status")), 5)
    if points:
        stage = min(stage, 1)
    return (0 if row["id"] == chosen_id else stage, points[0]["e2e_ms"]["p50"] if points else float("inf"))


def _p50(row: Plain, concurrency: int) -> float | None:
    for point in (row.get("measurement") or {}).get("points", ()):
        if point["concurrency"] == concurrency and point.get("e2e_ms"):
            value = point["e2e_ms"].get("p50")
            return None if value is None else float(value)
    return None


def _over_baseline(decision: Plain, row: Plain, concurrency: int, chosen: bool) -> str:
    """The ratio with its interval where rounds were interleaved with the baseline; never one made of two separate sessions."""
    measured = (row.get("details") or {}).get("over_baseline") or {}
    if chosen and not measured:
        measured = (decision.get("speedup") or {}).get("over_baseline") or {}
    return ratio_text((measured.get(str(concurrency)) or {}).get("e2e_ms_p50"))


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def bytes_text(value: float | None) -> str:
    """Bytes in kB, MB or GB of 1000s, three digits; empty for what was not measured."""
    if value is None:
        return ""
    size, unit = next(((size, unit) for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if value >= size), (1.0, "B"))
    return f"{value / size:.{2 if value < 10 * size else 1 if value < 100 * size else 0}f} {unit}" if size > 1 else f"{value:.0f} B"


def _memory(row: Plain) -> str:
    return bytes_text((row.get("measurement") or {}).get("peak_memory_bytes"))


def _loss(row: Plain) -> str:
    """Nats per token lost against the reference on the screening text; below zero the candidate was better."""
    screen = (row.get("evidence") or {}).get("screen") or {}
    delta = screen.get("delta_nats_per_token")
    return "" if delta is None else f"{-delta:+.3f}"


def _state(row: Plain, *, chosen: bool, baseline: bool) -> Text:
    """How far a candidate came, in two words at most."""
    mark, style = MARKS.get(str(row.get("verdict")), ("", ""))
    word = "chosen" if chosen else "baseline" if baseline else str(row.get("verdict") or STATUS_WORDS.get(str(row.get("status")), ""))
    return Text(f"{mark} {word}".strip(), style=style)


def why_list(decision: Plain) -> RenderableType:
    """Why each other candidate lost, in words; candidates that lost for the same reason share a line."""
    chosen_id = id_of(decision.get("chosen"))
    by_reason: dict[str, list[str]] = {}
    for row in decision["candidates"]:
        if row["id"] != chosen_id and row.get("reasons"):
            by_reason.setdefault("; ".join(str(reason) for reason in row["reasons"]), []).append(id_of(row))
    if not by_reason:
        return Text("")
    table = Table(
        box=None,
        show_header=False,
        title="Why each other one lost",
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column(ratio=2, overflow="fold")
    table.add_column(ratio=3, overflow="fold")
    for reason, names in by_reason.items():
        table.add_row("\n".join(names), reason)
    return Padding(table, (0, 0, 1, 0))


def gates_table(gates: Sequence[Plain], *, wide: bool) -> RenderableType:
    """One row a gate: change with its interval, margin, n, whether the planted control was caught, verdict; then why any did not pass."""
    table = Table(box=box.SIMPLE_HEAD, title="Gates", title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("gate", overflow="fold")
    table.add_column("change [interval]", justify="right", no_wrap=True)
    table.add_column("margin", justify="right")
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("control", no_wrap=True)
    table.add_column("", no_wrap=True)
    for gate in gates:
        mark, style = MARKS.get(str(gate["verdict"]), MARKS["inconclusive"])
        name = str(gate["name"]) + ("" if gate.get("required", True) else " (report only)")
        change = change_text(gate)
        margin = f"{gate['margin']:g} {gate.get('unit', '')}"
        missing = f" (-{gate['n_missing']})" if gate.get("n_missing") else ""
        if not wide:
            change, margin = change.replace(" [", "\n["), margin.replace(" ", "\n", 1)
        table.add_row(name, change, margin, f"{gate['n']}{missing}", _control_cell(gate), Text(f"{mark} {gate['verdict']}", style=style))
    open_ends = [gate for gate in gates if gate["verdict"] != "pass" and gate.get("reasons")]
    reasons = [Text(f"{gate['name']}: {'; '.join(map(str, gate['reasons']))}") for gate in open_ends]
    return Group(table, *reasons, *([Text("")] if reasons else []))


def _control_cell(gate: Plain) -> Text:
    """Whether the gate failed what was planted for it to fail; without that it is not informative."""
    control = gate.get("positive_control")
    if not control:
        return Text("none", style="yellow")
    return Text("caught", style="green") if control.get("caught") else Text("missed", style="red")


def change_text(gate: Plain) -> str:
    """`-0.0021 [-0.0054, +0.0012]`; a missing number is said to be missing."""
    if gate.get("delta") is None:
        return "not measured"
    text = f"{gate['delta']:+.4f}"
    ends = [f"{gate[end]:+.4f}" if gate.get(end) is not None else ("-inf" if end == "low" else "+inf") for end in ("low", "high")]
    return f"{text} [{ends[0]}, {ends[1]}]"


def files_list(files: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, path in files.items():
        table.add_row(name, path)
    return table


def files_of(folder: Path) -> dict[str, str]:
    """What a run folder holds for a person, in the order to read it; only what is there."""
    names = {
        "report": "report.html",
        "decision": "decision.json",
        "candidates": "candidates.jsonl",
        "items": "items",
        "to deploy": "deploy.toml",
    }
    return {title: str(folder / name) for title, name in names.items() if (folder / name).exists()}
