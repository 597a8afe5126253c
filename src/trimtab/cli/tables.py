"""A decision as a person reads it: the answer, the candidates, the gates, where the files are. Pure: dicts in, renderables out."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

Plain = Mapping[str, Any]

WORDS = {"pass": ("PASS", "green"), "fail": ("FAIL", "red"), "inconclusive": ("INCONCLUSIVE", "yellow")}
MARKS = {"pass": ("✓", "green"), "fail": ("✗", "red"), "inconclusive": ("?", "yellow")}
SHORT_STATUS = {"dropped": "not tried", "infeasible": "cannot run", "screened": "screened out", "timed": "slower", "certified": ""}


def decision_view(decision: Plain, files: Mapping[str, str]) -> Iterator[RenderableType]:
    """All parts in reading order. files: name -> path of what was written."""
    yield headline(decision)
    candidates = decision.get("candidates") or []
    if candidates:
        yield candidates_table(decision)
        yield why_list(decision)
    if decision.get("gates"):
        yield gates_table(decision["gates"])
    if files:
        yield files_list(files)


def headline(decision: Plain) -> Panel:
    """The answer in a box: which deployment, how much faster at each concurrency, and whether it is shown to be no worse."""
    verdict = str(decision.get("verdict", "inconclusive"))
    word, style = WORDS.get(verdict, WORDS["inconclusive"])
    lines: list[Text] = []
    chosen = decision.get("chosen")
    if chosen:
        lines.append(Text.assemble(("Use ", "bold"), (name_of(chosen), f"bold {style}")))
    speedup = decision.get("speedup") or {}
    for title, ratios in (
        ("faster than the baseline", speedup.get("over_baseline")),
        ("faster than the best other candidate of the baseline's engine", speedup.get("over_best_of_baseline_engine")),
    ):
        line = _ratios_line(ratios)
        if line:
            lines.append(Text(f"{line} {title}"))
    lines.extend(Text(str(reason)) for reason in decision.get("reasons") or ())
    for role in ("reference", "baseline"):
        if decision.get(role):
            lines.append(Text(f"{role}: {name_of(decision[role])}", style="dim"))
    return Panel(Group(*lines), title=Text(f" {word} ", style=f"bold {style}"), title_align="left", border_style=style, padding=(0, 1))


def _ratios_line(ratios: Plain | None) -> str:
    """`2.14x [2.08-2.20] at 1 in flight, 3.1x [...] at 4`; empty without ratios."""
    parts = []
    for concurrency in levels(ratios or {}):
        ratio = (ratios or {})[concurrency].get("e2e_ms_p50")
        if ratio and ratio.get("ratio") is not None:
            parts.append(f"{ratio_text(ratio)} at {concurrency}")
    return f"{', '.join(parts)} in flight:" if parts else ""


def levels(by_concurrency: Plain) -> list[str]:
    """The keys that are concurrency levels, in order."""
    return sorted((key for key in by_concurrency if key.isdigit()), key=int)


def ratio_text(ratio: Plain | None) -> str:
    if not ratio or ratio.get("ratio") is None:
        return ""
    text = f"{ratio['ratio']:.2f}x"
    if ratio.get("low") is not None and ratio.get("high") is not None:
        text += f" [{ratio['low']:.2f}–{ratio['high']:.2f}]"
    return text


def name_of(candidate: Any) -> str:
    """`openvino · int8_asym · kv_type=u8`. The settings left to the engine are not said."""
    if not isinstance(candidate, Mapping):
        return str(candidate)
    parts = [str(candidate[key]) for key in ("engine", "recipe") if candidate.get(key)]
    settings = candidate.get("settings") or {}
    parts.extend(f"{key}={value}" for key, value in settings.items() if value is not None)
    return " · ".join(parts) or str(candidate.get("id", ""))


def candidates_table(decision: Plain) -> Table:
    """One row a candidate: time of a request at each concurrency, how many times faster than the baseline, memory, quality, verdict."""
    candidates = decision["candidates"]
    concurrencies = sorted({point["concurrency"] for row in candidates for point in (row.get("measurement") or {}).get("points", ())})
    table = Table(box=box.SIMPLE_HEAD, title="Candidates", title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("candidate", ratio=1, overflow="fold", min_width=18)
    for level in concurrencies:
        table.add_column(f"p50 at {level}", justify="right", no_wrap=True)
        table.add_column("vs baseline", justify="right", min_width=6)
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("loss/token", justify="right")
    table.add_column("", no_wrap=True)
    chosen_id, baseline_id = _id(decision.get("chosen")), _id(decision.get("baseline"))
    for row in sorted(candidates, key=lambda row: _order(row, chosen_id)):
        chosen = row["id"] == chosen_id
        cells: list[RenderableType] = [name_of(row)]
        for level in concurrencies:
            cells.append(_ms(_p50(row, level)))
            cells.append("1x (baseline)" if row["id"] == baseline_id else _over_baseline(decision, row, level, chosen))
        cells += [_memory(row), _loss(row), _verdict_cell(row, chosen)]
        table.add_row(*cells, style="bold" if chosen else "dim" if row.get("status") in ("dropped", "infeasible") else "")
    return table


def _id(candidate: Any) -> str:
    return str(candidate.get("id", "")) if isinstance(candidate, Mapping) else str(candidate or "")


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
    """Bytes in MB or GB of 1000s; empty for what was not measured."""
    if value is None:
        return ""
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def _memory(row: Plain) -> str:
    return bytes_text((row.get("measurement") or {}).get("peak_memory_bytes"))


def _loss(row: Plain) -> str:
    """Nats per token lost against the reference on the screening text; below zero the candidate was better."""
    screen = (row.get("evidence") or {}).get("screen") or {}
    delta = screen.get("delta_nats_per_token")
    return "" if delta is None else f"{-delta:+.3f} nats"


def _verdict_cell(row: Plain, chosen: bool) -> Text:
    verdict = row.get("verdict")
    if verdict in MARKS:
        mark, style = MARKS[verdict]
        return Text(f"{mark} {'chosen' if chosen else verdict}", style=style)
    return Text("chosen" if chosen else SHORT_STATUS.get(str(row.get("status")), str(row.get("status", ""))))


def why_list(decision: Plain) -> RenderableType:
    """Why each other candidate lost, in words; candidates that lost for the same reason share a line."""
    chosen_id = _id(decision.get("chosen"))
    by_reason: dict[str, list[str]] = {}
    for row in decision["candidates"]:
        if row["id"] != chosen_id and row.get("reasons"):
            by_reason.setdefault("; ".join(str(reason) for reason in row["reasons"]), []).append(name_of(row))
    if not by_reason:
        return Text("")
    table = Table(box=None, show_header=False, title="Why each other one lost", title_justify="left", title_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(ratio=2, overflow="fold")
    table.add_column(ratio=3, overflow="fold")
    for reason, names in by_reason.items():
        table.add_row("\n".join(names), reason)
    return Padding(table, (0, 0, 1, 0))


def gates_table(gates: Sequence[Plain]) -> Table:
    """One row a gate: change, interval, margin, n, whether the planted control was caught, verdict."""
    table = Table(box=box.SIMPLE_HEAD, title="Gates", title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("gate", no_wrap=True)
    table.add_column("change [interval]", justify="right")
    table.add_column("margin", justify="right")
    table.add_column("unit", overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("control", no_wrap=True)
    table.add_column("", no_wrap=True)
    for gate in gates:
        mark, style = MARKS.get(str(gate["verdict"]), MARKS["inconclusive"])
        control = gate.get("positive_control")
        caught = Text("none", style="yellow") if not control else Text("caught", style="green") if control.get("caught") else Text("missed", style="red")
        name = str(gate["name"]) + ("" if gate.get("required", True) else " (report only)")
        missing = f" (-{gate['n_missing']})" if gate.get("n_missing") else ""
        table.add_row(name, change_text(gate), f"{gate['margin']:g}", str(gate.get("unit", "")), f"{gate['n']}{missing}", caught, Text(f"{mark} {gate['verdict']}", style=style))
        if gate["verdict"] != "pass":
            for reason in gate.get("reasons") or ():
                table.add_row("", Text(str(reason), style="dim"), "", "", "", "", "")
    return table


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
    names = {"report": "report.html", "decision": "decision.json", "candidates": "candidates.jsonl", "items": "items", "to deploy": "deploy.toml"}
    return {title: str(folder / name) for title, name in names.items() if (folder / name).exists()}
