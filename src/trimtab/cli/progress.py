"""Progress on stderr: a live block on a terminal, plain lines elsewhere, nothing with -q."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.spinner import Spinner
from rich.text import Text

from trimtab.cli.durations import spoken
from trimtab.flows.events import Event, OnEvent, ignore

PLAIN_EVERY_S = 10.0


@contextmanager
def show_progress(*, quiet: bool, verbose: bool, no_color: bool) -> Iterator[OnEvent]:
    """Gives the `on_event` for a flow. -v prints every event as a line; so does a pipe, but counts no phase more often than each 10 s."""
    console = Console(stderr=True, no_color=no_color or None, highlight=False)
    if quiet:
        yield ignore
    elif verbose or not console.is_terminal:
        yield Lines(console, every_s=0.0 if verbose else PLAIN_EVERY_S)
    else:
        with Live(console) as live:
            yield live


class Lines:
    """One line an event: `  12 s  screen  33%  openvino int8`. Events that count are thinned out, notes are not."""

    def __init__(self, console: Console, *, every_s: float) -> None:
        self.console = console
        self.every_s = every_s
        self.started = time.monotonic()
        self.last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event.done is not None:
            due = now - self.last.get(event.phase, float("-inf")) >= self.every_s
            if not due and event.done != event.total:
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
    """A bar for each phase that counts, what is being done now, and the time left. Notes (events that count nothing) stay above."""

    def __init__(self, console: Console) -> None:
        self.bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("[bold]{task.description:<9}"),
            BarColumn(bar_width=20),
            Elapsed(),
            TextColumn("{task.fields[message]}", style="dim", markup=False),
            console=console,
        )
        self.tasks: dict[str, TaskID] = {}
        self.spinner = Spinner("dots")
        self.now = ""
        self.ends_at: float | None = None
        self.view = RichLive(get_renderable=self.render, console=console, refresh_per_second=4)

    def __enter__(self) -> "Live":
        self.view.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.now = ""
        self.view.stop()

    def render(self) -> Group:
        """The block as it stands; the last line counts down by itself."""
        if not self.now:
            return Group(self.bars.get_renderable())
        left = f"   about {spoken(self.ends_at - time.monotonic())} left" if self.ends_at is not None else ""
        self.spinner.update(text=Text(self.now + left, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(self.bars.get_renderable(), self.spinner)

    def __call__(self, event: Event) -> None:
        if event.seconds_left is not None:
            self.ends_at = time.monotonic() + event.seconds_left
        if event.message:
            self.now = f"{event.phase}: {event.message}"
        if event.done is None:
            self.view.console.print(Text(f"{event.phase:<11} {event.message}", style="dim"), soft_wrap=True)
        else:
            self._count(event, event.done)

    def _count(self, event: Event, done: float) -> None:
        """Move the phase's bar; a phase that ended and counts again starts anew."""
        if event.phase not in self.tasks:
            self.tasks[event.phase] = self.bars.add_task(event.phase, total=event.total, message="")
        task = self.tasks[event.phase]
        if self.bars.tasks[self.bars.task_ids.index(task)].finished and done != event.total:
            self.bars.reset(task)
        self.bars.update(task, total=event.total, completed=done)
        if event.message:
            self.bars.update(task, message=event.message)
