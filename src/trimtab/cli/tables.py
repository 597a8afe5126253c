"""A decision as a person reads it: the answer, the candidates, the gates, where the files are. Pure: dicts in, renderables out."""

import shlex
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

from trimtab.cli.answers import prices_view
from trimtab.core.phrases import decimals_for, ended, fixed, is_number, line, megabytes, milliseconds, seconds, times, times_interval
from trimtab.decide.standing import lost_on_screen
from trimtab.record.demands import capacity_lines, demand_rows, objective_claim
from trimtab.record.explain import gate_change, headline, levels_of, noise_told
from trimtab.record.measured import ranked
from trimtab.record.prices import price_rows
from trimtab.record.worst import confirmation_lines

Plain = Mapping[str, Any]

WIDE = 110
LONGEST_REASON = 160
MOST_REASONS = 2
WORDS = {"pass": ("PASS", "green"), "fail": ("FAIL", "red"), "inconclusive": ("INCONCLUSIVE", "yellow")}
MARKS = {"pass": ("✓", "green"), "fail": ("✗", "red"), "inconclusive": ("?", "yellow")}
DEMAND_WORDS = {"pass": "met", "fail": "missed"}
STATUS_WORDS = {"dropped": "not tried", "infeasible": "cannot run", "screened": "looked at", "timed": "timed"}


def decision_view(decision: Plain, files: Mapping[str, str]) -> Iterator[RenderableType]:
    """All parts in reading order. files: name -> path of what was written."""
    yield answer(decision)
    if decision.get("candidates") and decision.get("kind") == "optimize":
        yield ByWidth(lambda width: candidates_table(decision, wide=width >= WIDE))
        yield why_list(decision)
    if decision.get("slo"):
        yield ByWidth(lambda width: demands_table(decision, wide=width >= WIDE))
    if decision.get("gates"):
        yield ByWidth(lambda width: gates_table(decision["gates"], wide=width >= WIDE))
    if (prices := price_rows(decision, ranked(decision))) and decision.get("kind") != "compare":
        yield from prices_view(prices)
    if files:
        yield files_list({**files, **_next_question(decision, files)})
    if is_number(decision.get("seconds")):
        work = decision.get("work") or {}
        known = f", {work['known']} of {work['known'] + work['computed']} results known from before" if work.get("known") else ""
        yield Text(f"{seconds(decision['seconds'])}{known}", style="dim")


def _next_question(decision: Plain, files: Mapping[str, str]) -> dict[str, str]:
    """How to ask what would be chosen under other demands, where something was timed."""
    if "decision" not in files or decision.get("kind") == "compare" or not any(map(_points, decision.get("candidates") or ())):
        return {}
    return {"what if": shlex.join(["trimtab", "runs", "show", str(Path(files["decision"]).parent), "--what-if", "memory<512MiB"])}


@dataclass(frozen=True)
class ByWidth:
    """Drawn for the width at hand: cells of two lines where there is no room for one."""

    make: Callable[[int], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self.make(options.max_width)


def answer(decision: Plain) -> Panel:
    """The answer in a box: what to run, why, and how much faster that is at each concurrency. What gates say stands with the gates."""
    word, style = WORDS.get(str(decision.get("verdict")), WORDS["inconclusive"])
    lines: list[RenderableType] = [Text(headline(decision), style="bold")]
    gates = tuple(f"{line(gate['name'])}{end}" for gate in decision.get("gates") or () for end in (":", " ("))
    lines.extend(Text(line(reason)) for reason in decision.get("reasons") or () if not line(reason).startswith(gates))
    if claim := objective_claim(decision):
        lines.append(Text(f"Ranked by {claim}."))
    if _speed_levels(decision):
        lines.append(Padding(speedup_table(decision), (1, 0)))
        lines += [Text(sentence, style="dim") for sentence in confirmation_lines(decision)]
    told: set[str] = set()
    for role, deployment in _roles(decision):
        if id_of(deployment) not in told:
            name = id_of(deployment).removeprefix(f"{role}: ")
            lines.append(Text.assemble((f"{role:<9} ", "dim"), name, (f"  {settings_text(deployment)}", "dim")))
        told.add(id_of(deployment))
    if noise := noise_told(decision):
        lines.append(Text(line(noise), style="yellow"))
    return Panel(Group(*lines), title=Text(f" {word} ", style=f"bold {style}"), title_align="left", border_style=style, padding=(0, 1))


def _roles(decision: Plain) -> list[tuple[str, Any]]:
    """The deployments that the answer is about, by what they are in it."""
    judged = ("candidate", _judged(decision)) if decision.get("kind") != "optimize" else ("chosen", decision.get("chosen"))
    roles = [judged, *((role, decision.get(role)) for role in ("reference", "baseline"))]
    return [(role, deployment) for role, deployment in roles if deployment]


def _speed_levels(decision: Plain) -> list[str]:
    """The concurrency levels at which the judged one was timed against the baseline."""
    return levels_of((decision.get("speedup") or {}).get("over_baseline") or {})


def speedup_table(decision: Plain) -> Table:
    """A row a concurrency: time of a request, and how many times faster than the baseline and than its engine's best."""
    best = decision["speedup"].get("over_best_of_baseline_engine") or {}
    judged = _judged(decision)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("requests at once")
    table.add_column("median request", justify="right")
    table.add_column("vs baseline", justify="right")
    if best:
        table.add_column(f"vs {id_of(best)}", justify="right", overflow="fold")
    for level in _speed_levels(decision):
        ratios = [ratio_text((over.get(level) or {}).get("e2e_ms_p50")) for over in (decision["speedup"]["over_baseline"], best)]
        table.add_row(level, _time(judged, int(level)), *(ratios if best else ratios[:1]))
    return table


def _judged(decision: Plain) -> Plain:
    """The candidate that the answer is about: the chosen one, or the one compared."""
    rows = decision.get("candidates") or ()
    wanted = id_of(decision.get("chosen"))
    found: Plain = next((row for row in rows if row["id"] == wanted), rows[0] if rows and decision.get("kind") != "optimize" else {})
    return found


def ratio_text(ratio: Plain | None) -> str:
    """`2.14× [2.08×, 2.20×]`; empty for what was not timed in turns with the other."""
    if not ratio or not is_number(ratio.get("ratio")):
        return ""
    return f"{times(ratio['ratio'])} {times_interval(ratio.get('low'), ratio.get('high'))}"


def id_of(candidate: Any) -> str:
    """`openvino int8-asym` of a candidate as a mapping, or the name that stands for it."""
    return line(candidate.get("id", "") if isinstance(candidate, Mapping) else candidate or "")


def settings_text(candidate: Any) -> str:
    """`threads=2 slots=4`; the settings left to the engine are not said."""
    settings = candidate.get("settings") or {} if isinstance(candidate, Mapping) else {}
    return line(" ".join(f"{key}={value}" for key, value in settings.items() if value is not None))


def candidates_table(decision: Plain, *, wide: bool) -> Table:
    """One row a candidate: time of a request at each concurrency, how many times faster than the baseline, memory, quality, verdict."""
    rows = decision["candidates"]
    levels = sorted({point["concurrency"] for row in rows for point in _points(row)})
    table = Table(box=box.SIMPLE_HEAD, title="Candidates", title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("candidate", overflow="fold", min_width=16)
    for level in levels:
        table.add_column(f"median request,\n{level} at once", justify="right", no_wrap=True)
    if levels:
        table.add_column("memory\n(peak)", justify="right", no_wrap=True)
    table.add_column("loss,\nnats/token", justify="right", no_wrap=True)
    if wide:
        table.add_column("", no_wrap=True)
    chosen_id, baseline_id = id_of(decision.get("chosen")), id_of(decision.get("baseline"))
    for row in sorted(rows, key=lambda row: _order(row, chosen_id)):
        chosen, baseline = row["id"] == chosen_id, row["id"] == baseline_id
        state = _state(row, decision, chosen=chosen, baseline=baseline)
        cells: list[RenderableType] = [id_of(row) if wide else Text.assemble(id_of(row), "\n", state)]
        for level in levels:
            time, over = _time(row, level), times(1) if baseline else _over_baseline(decision, row, level, chosen)
            cells.append(f"{time}  {over:>20}" if wide and time else f"{time}\n{over}".replace(" [", "\n[").rstrip())
        cells += [*([_memory(row)] if levels else []), _loss(row), *([state] if wide else [])]
        table.add_row(*cells, style="bold" if chosen else "dim" if row.get("status") in ("dropped", "infeasible") else "")
    return table


def _points(row: Plain) -> Sequence[Plain]:
    return (row.get("measurement") or {}).get("points") or ()


def _order(row: Plain, chosen_id: str) -> tuple[int, float]:
    """The chosen one, then what was timed from fast to slow, then the rest by how far it came."""
    points = _points(row)
    stage = 1 if points else {"certified": 1, "timed": 1, "screened": 2, "infeasible": 3, "dropped": 4}.get(str(row.get("status")), 5)
    return (0 if row["id"] == chosen_id else stage, points[0]["e2e_ms"]["p50"] if points else float("inf"))


def _time(row: Plain, concurrency: int) -> str:
    """Median end-to-end time of a request; empty for what was not timed."""
    found = next((point.get("e2e_ms") or {} for point in _points(row) if point["concurrency"] == concurrency), {})
    return milliseconds(found["p50"]) if is_number(found.get("p50")) else ""


def _over_baseline(decision: Plain, row: Plain, concurrency: int, chosen: bool) -> str:
    """The ratio with its interval where rounds were interleaved with the baseline; never one made of two separate sessions."""
    over = (row.get("details") or {}).get("speed_over_baseline") or {}
    measured = over.get(id_of(decision.get("baseline"))) or {}
    if chosen and not measured:
        measured = (decision.get("speedup") or {}).get("over_baseline") or {}
    return ratio_text((measured.get(str(concurrency)) or {}).get("e2e_ms_p50"))


def _memory(row: Plain) -> str:
    """Peak memory of what was run; empty for what was not."""
    measurement = row.get("measurement")
    return megabytes(measurement.get("peak_memory_bytes")) if measurement else ""


def _loss(row: Plain) -> str:
    """Nats per token lost against the reference on the screening text; below zero the candidate was better."""
    delta = ((row.get("evidence") or {}).get("screen") or {}).get("delta_nats_per_token")
    return fixed(-delta, 3, signed=True) if is_number(delta) else ""


def _state(row: Plain, decision: Plain, *, chosen: bool, baseline: bool) -> Text:
    """How far a candidate came, in three words at most."""
    mark, style = MARKS.get(str(row.get("verdict")), ("", ""))
    word = (
        "kept"
        if chosen and baseline
        else "chosen"
        if chosen
        else "baseline"
        if baseline
        else str(row.get("verdict") or _status_word(row, decision))
    )
    return Text(f"{mark} {word}".strip(), style=style)


def _status_word(row: Plain, decision: Plain) -> str:
    """What became of a candidate that was not certified. A short turn is all that was seen of one that is only screened."""
    if row.get("status") == "screened":
        return "loses too much" if lost_on_screen(row, decision) else "no finalist"
    return STATUS_WORDS.get(str(row.get("status")), "")


def why_list(decision: Plain) -> RenderableType:
    """Why each other candidate lost, in words; candidates that lost for the same reason share a line."""
    settled = {id_of(decision.get("chosen")), id_of(decision.get("baseline"))}
    by_reason: dict[str, list[str]] = {}
    for row in decision["candidates"]:
        if row["id"] not in settled and row.get("reasons"):
            by_reason.setdefault(_in_short(row["reasons"]), []).append(id_of(row))
    for thing in decision.get("skipped") or ():
        by_reason.setdefault(line(thing.get("why", "")), []).append(line(thing.get("what", "")))
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


def _in_short(reasons: Sequence[Any]) -> str:
    """The first reasons, none longer than a terminal line or two; the report has them whole."""
    shown = " ".join(ended(line(reason, LONGEST_REASON)) for reason in reasons[:MOST_REASONS])
    return shown + (f" (and {len(reasons) - MOST_REASONS} more in the report)" if len(reasons) > MOST_REASONS else "")


def demands_table(decision: Plain, *, wide: bool) -> RenderableType:
    """A row for each demand on each deployment: measured, requests within and what their share may be, verdict; then the capacity."""
    table = Table(box=box.SIMPLE_HEAD, title="Demands", title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("candidate", overflow="fold")
    table.add_column("demand", overflow="fold")
    table.add_column("at once", justify="right")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("within", justify="right", no_wrap=wide)
    if wide:
        table.add_column("may be", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in demand_rows(decision):
        mark, style = MARKS.get(row["verdict"], MARKS["inconclusive"])
        state = Text(f"{mark} {DEMAND_WORDS.get(row['verdict'], 'cannot tell')}", style=style)
        cells = [row["candidate"], row["demand"], row["at"], row["measured"], row["kept"], *([row["bound"]] if wide else [])]
        table.add_row(*cells, state)
    return Group(table, *(Text(sentence) for sentence in capacity_lines(decision)), Text(""))


def gates_table(gates: Sequence[Plain], *, wide: bool) -> RenderableType:
    """One row a gate: change with its interval, margin, n, whether the planted control was caught, verdict; then why any did not pass."""
    table = Table(box=box.SIMPLE_HEAD, title="Gates", title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("gate", no_wrap=True)
    table.add_column("change [interval]", justify="right", no_wrap=True)
    table.add_column("margin", justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("control", no_wrap=True)
    table.add_column("", no_wrap=True)
    for gate in gates:
        name = line(gate["name"]) + ("" if gate.get("required", True) else "\n(advisory)")
        change = gate_change(gate) if wide else gate_change(gate).replace(" [", "\n[").replace("] ", "]\n")
        missing = f" ({gate['n_missing']} missing)" if gate.get("n_missing") else ""
        margin = fixed(gate.get("margin"), decimals_for(gate.get("margin")))
        table.add_row(name, change, margin, f"{gate['n']}{missing}", _control(gate), _gate_state(gate))
    return Group(table, *_gate_remarks(gates))


def _gate_state(gate: Plain) -> Text:
    """The gate's word. One that cannot fail says nothing by passing."""
    if gate["verdict"] == "pass" and not gate.get("informative", True):
        return Text("? no proof", style="yellow")
    mark, style = MARKS.get(str(gate["verdict"]), MARKS["inconclusive"])
    return Text(f"{mark} {gate['verdict']}", style=style)


def _gate_remarks(gates: Sequence[Plain]) -> list[Text]:
    """Why a gate did not pass, a line each; and which could not have failed."""
    remarks = [
        Text(f"{line(gate['name'])}: {_in_short(gate['reasons'])}") for gate in gates if gate["verdict"] != "pass" and gate.get("reasons")
    ]
    blind = [line(gate["name"]) for gate in gates if gate["verdict"] == "pass" and not gate.get("informative", True)]
    if blind:
        remarks.append(Text(f"A pass proves nothing where the planted fault was not caught: {', '.join(blind)}.", style="yellow"))
    return [*remarks, Text("")] if remarks else []


def _control(gate: Plain) -> Text:
    """Whether the gate failed what was planted for it to fail; without that it is not informative."""
    control = gate.get("positive_control")
    if not control:
        return Text("none", style="yellow")
    return Text("caught", style="green") if control.get("caught") else Text("missed", style="red")


def files_list(files: Mapping[str, str]) -> Table:
    """Where to read on."""
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
        "items": "items.html",
        "outcomes": "items",
        "to deploy": "deploy.toml",
    }
    return {title: str(folder / name) for title, name in names.items() if (folder / name).exists()}
