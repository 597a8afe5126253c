"""Progress on stderr: a live block on a terminal, plain lines elsewhere, nothing with -q."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from trimtab.cli.durations import spoken
from trimtab.flows.events import Event, OnEvent, ignore

PLAIN_EVERY_S = 10.0


@contextmanager
def show_progress(*, quiet: bool, verbose: bool, no_color: bool) -> Iterator[OnEvent]:
    """Gives the `on_event` for a flow. -v prints every event as a line; so does a pipe, but no phase more often than each 10 s."""
    console = Console(stderr=True, no_color=no_color or None, highlight=False)
    if quiet:
        yield ignore
    elif verbose or not console.is_terminal:
        yield Lines(console, every_s=0.0 if verbose else PLAIN_EVERY_S)
    else:
        with Live(console) as live:
            yield live


class Lines:
    """One line an event: `  12 s  screen  3 of 9: openvino int8`. Events without a message only count."""

    def __init__(self, console: Console, *, every_s: float) -> None:
        self.console = console
        self.every_s = every_s
        self.started = time.monotonic()
        self.last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        ended = event.total is not None and event.done == event.total
        due = now - self.last.get(event.phase, float("-inf")) >= self.every_s
        if not (event.message or self.every_s == 0.0) or not (due or ended):
            return
        self.last[event.phase] = now
        parts = [f"{spoken(now - self.started):>12}", event.phase]
        if event.done is not None and event.total:
            parts.append(f"{event.done / event.total:.0%}")
        if event.message:
            parts.append(event.message)
        if event.seconds_left is not None:
            parts.append(f"(about {spoken(event.seconds_left)} left)")
        self.console.print(Text("  ".join(parts)), soft_wrap=True)


class Elapsed(ProgressColumn):
    """How long a phase has taken."""

    def render(self, task: Task) -> Text:
        return Text(spoken(task.finished_time if task.finished_time is not None else task.elapsed or 0.0), style="dim")


class Live:
    """A bar a phase, redrawn in place, with the time left for the whole below. Finished phases keep their line."""

    def __init__(self, console: Console) -> None:
        self.bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("[bold]{task.description:<9}"),
            BarColumn(bar_width=20),
            Elapsed(),
            TextColumn("{task.fields[message]}", style="dim", markup=False),
            console=console,
        )
        self.view = RichLive(get_renderable=self.render, console=console, refresh_per_second=4)
        self.tasks: dict[str, TaskID] = {}
        self.ends_at: float | None = None

    def __enter__(self) -> "Live":
        self.view.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.ends_at = None
        self.view.stop()

    def render(self) -> Group:
        if self.ends_at is None:
            return Group(self.bars.get_renderable())
        return Group(self.bars.get_renderable(), Text(f"  about {spoken(self.ends_at - time.monotonic())} left", style="dim"))

    def __call__(self, event: Event) -> None:
        if event.phase not in self.tasks:
            for task in self.bars.tasks:  # a new phase begins: those whose length nobody knew are over
                if task.total is None:
                    self.bars.update(task.id, total=1.0, completed=1.0)
            self.tasks[event.phase] = self.bars.add_task(event.phase, total=event.total, message="")
        task_id = self.tasks[event.phase]
        if event.message:
            self.bars.update(task_id, message=event.message)
        self.bars.update(task_id, total=event.total, completed=event.done)
        if event.seconds_left is not None:
            self.ends_at = time.monotonic() + event.seconds_left
