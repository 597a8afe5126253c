"""What a training looks like while it runs: a live block on a terminal, its events and troubles elsewhere, and the table at its end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trimtab.cli.durations import spoken
from trimtab.core import phrases
from trimtab.core.training import StepRecord, TrainConfig
from trimtab.flows.parts.train_launch import Follow
from trimtab.flows.parts.train_planned import Planned
from trimtab.record.train_report import QUANTITIES, amount, cost_rows, met_row
from trimtab.train.meters import mfu, pace, sparkline, steps_asked

SPARK_COLUMNS, BAR_COLUMNS = 40, 24
STYLES = {"spike": "red", "rollback": "red", "fallback": "yellow", "data-bound": "yellow"}


@contextmanager
def show_training(config: TrainConfig, *, quiet: bool, verbose: bool, no_color: bool) -> Iterator["View"]:
    """The view of one run, on stderr. Where that is no terminal, steps are told with -v only."""
    console = Console(stderr=True, no_color=no_color or None, highlight=False, quiet=quiet)
    view = View(config, console, verbose=verbose)
    if quiet or not console.is_terminal or verbose:
        yield view
        return
    with Live(get_renderable=view.block, console=console, refresh_per_second=4, transient=True) as live:
        view.live = live
        yield view


class View:
    """Takes the plan and then the news of a run, and draws them."""

    def __init__(self, config: TrainConfig, console: Console, *, verbose: bool) -> None:
        self.config, self.console, self.verbose = config, console, verbose
        self.live: Live | None = None
        self.plan: Planned | None = None
        self.steps: list[StepRecord] = []
        self.total = steps_asked(config)
        self.phase = "starting"
        self.told_hung = False

    def planned(self, plan: Planned) -> None:
        """Before the first step: what the planner expects."""
        self.plan = plan
        for text in plan_lines(plan):
            self.console.print(Text(text, style="dim"), soft_wrap=True)

    def __call__(self, news: Follow) -> None:
        self.total = news.total_steps or self.total
        for step in news.steps:
            self.steps = [one for one in self.steps if one.step < step.step] if self._goes_back(step) else self.steps
            self.steps.append(step)
            if self.verbose:
                self.console.print(Text(step_line(step, self.total)), soft_wrap=True)
        for event in news.events:
            self._tell(event)
        if news.phase == "stopping" and self.phase != "stopping":
            self.console.print(Text("Stopping: the step that runs is finished and a checkpoint is written. Ctrl-C again ends it at once."))
        if news.hung and not self.told_hung:
            self.console.print(Text(hung_line(news.silent_s, self.steps), style="yellow"), soft_wrap=True)
        self.phase, self.told_hung = news.phase, news.hung

    def _goes_back(self, step: StepRecord) -> bool:
        return bool(self.steps) and step.step <= self.steps[-1].step

    def _tell(self, event: Mapping[str, Any]) -> None:
        kind, text = str(event.get("kind", "note")), phrases.line(event.get("text", ""))
        self.console.print(Text.assemble((f"{kind:<10} ", STYLES.get(kind, "dim")), text), soft_wrap=True)

    def block(self) -> RenderableType:
        """The lines that change in place."""
        if not self.steps:
            return Text("stopping ..." if self.phase == "stopping" else "starting the processes and reading the data ...", style="dim")
        last = self.steps[-1]
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for name, value in block_rows(self.steps, self.config, self.total, self.plan):
            table.add_row(name, value)
        if self.total:
            bar = ProgressBar(total=self.total, completed=last.step, width=BAR_COLUMNS)
            return Group(bar, table)
        return table


def block_rows(steps: list[StepRecord], config: TrainConfig, total: int | None, plan: Planned | None) -> list[tuple[str, str]]:
    """Name and value of each line of the live block."""
    last = steps[-1]
    now = pace(steps, config.train.seq_tokens * config.train.global_batch_seqs)
    left = f", about {spoken((total - last.step) * now.step_s)} left" if total and now else ""
    rows = [
        ("step", f"{last.step:,}{f' of {total:,}' if total else ''}{left}"),
        ("loss", f"{phrases.fixed(last.loss, 3):>7}  {sparkline([step.loss for step in steps], SPARK_COLUMNS)}"),
    ]
    if now:
        rows.append(("speed", f"{now.tok_s:,.0f} tok/s, a step {phrases.significant(now.step_s)} s{_use(now.computed_tok_s, plan)}"))
        rows.append(("data", f"{100 * now.data_wait_share:.1f} % of the time is waiting for it"))
    rows.append(("memory", f"{phrases.megabytes(last.peak_memory_bytes or None)} at most in a process"))
    return rows


def _use(computed_tok_s: float, plan: Planned | None) -> str:
    share = mfu(computed_tok_s, plan.flops_per_token, plan.peak_flop_s) if plan else None
    return f", MFU {100 * share:.1f} % ({plan.convention}, of {plan.peak_flop_s / 1e9:,.0f} GFLOP/s)" if share and plan else ""


def step_line(step: StepRecord, total: int | None) -> str:
    """A step as a line of its own."""
    of = f"/{total}" if total else ""
    rate = step.tokens / step.step_s if step.step_s > 0 else 0.0
    return (
        f"step {step.step}{of}  loss {phrases.fixed(step.loss, 4)}  norm {phrases.significant(step.grad_norm)}  lr {step.lr:.2e}  "
        f"{rate:,.0f} tok/s  {phrases.megabytes(step.peak_memory_bytes or None)}"
    )


def hung_line(silent_s: float, steps: list[StepRecord]) -> str:
    """That nothing comes any more, and what to do."""
    since = f"since step {steps[-1].step}" if steps else "and no step was made yet"
    return (
        f"Nothing was heard for {spoken(silent_s)} {since}: a process may hang, swap, or wait for data. Ctrl-C stops it with a checkpoint; "
        "the processes' own words are in logs/ of the run folder."
    )


def plan_lines(plan: Planned) -> list[str]:
    """What the planner expects, in a line or two."""
    lines = []
    if plan.why_not:
        lines.append(plan.why_not)
    told = [f"{QUANTITIES[name]} {_expected(number)}" for name, number in plan.numbers.items() if name != "tok_s"]
    if told:
        lines.append(f"Predicted for {plan.job.device.name}, {plan.processes} process(es): {'; '.join(told)}.")
    return [*lines, *plan.notes]


def _expected(number: Mapping[str, Any]) -> str:
    unit = number["unit"]
    if "unknown" in number:
        return f"{amount(number.get('physics'), unit)} by physics alone (nothing like it was measured here yet)"
    if number["low"] == number["high"]:
        return f"{amount(number['value'], unit)}, counted from the shape"
    return f"{amount(number['value'], unit)} ({amount(number['low'], unit)} to {amount(number['high'], unit)})"


def summary(found: Mapping[str, Any]) -> list[RenderableType]:
    """The end of a run: what came out, plan against run, and where everything is."""
    result, rate = found["result"], found["pace"]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    loss = f"{phrases.fixed(result['first_loss'], 3)} to {phrases.fixed(result['last_loss'], 3)} nats a token"
    table.add_row("loss", f"{loss}, {result['steps']:,} steps, {result['tokens_seen']:,} tokens")
    if rate:
        use = f", MFU {phrases.percent(rate['mfu'], 1)} ({rate['mfu_convention']})" if rate["mfu"] else ""
        table.add_row("speed", f"{rate['tok_s']:,.0f} tok/s{use}; {phrases.percent(rate['data_wait_share'], 1)} waiting for data")
    for row in map(met_row, found["planned"]["met"]):
        ends = f" ({row['range']})" if row["range"] else ""
        table.add_row(row["what"], f"{row['measured']} measured, {row['predicted']}{ends} predicted, {row['said']}")
    for name, value in cost_rows(found["cost"]):
        table.add_row(name, value)
    table.add_row("model", phrases.line(found["model_folder"]))
    table.add_row("report", phrases.line(found["report"]))
    return [table]
