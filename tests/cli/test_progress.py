"""Progress: notes stay, counting phases have one bar each, and no line is made of a number that is not known."""

import io
import re

from rich.console import Console

from trimtab.cli.durations import duration, spoken
from trimtab.cli.progress import Lines, Live
from trimtab.flows.events import Event


def screen_of(*events: Event) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, no_color=True, highlight=False)
    with Live(console) as live:
        for event in events:
            live(event)
        live.view.refresh()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_live_shows_bars_notes_and_the_time_left() -> None:
    shown = screen_of(
        Event(phase="plan", message="screen 9 candidates"),
        Event(phase="screen", message="openvino int8", done=3, total=9, seconds_left=125.0),
    )
    assert "plan        screen 9 candidates" in shown
    assert "screen" in shown
    assert re.search(r"about 2 min 0[45] s left", shown)


def test_a_phase_that_counts_again_starts_anew() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Live(console) as live:
        for done in (0, 5, 10):
            live(Event(phase="certify", message="first", done=done, total=10))
        assert live.bars.tasks[0].finished
        live(Event(phase="certify", message="second", done=2, total=20))
        assert not live.bars.tasks[0].finished
        assert (live.bars.tasks[0].completed, live.bars.tasks[0].total) == (2, 20)
        assert len(live.bars.tasks) == 1


def lines_of(every_s: float, *events: Event) -> list[str]:
    stream = io.StringIO()
    lines = Lines(Console(file=stream, width=100, highlight=False), every_s=every_s)
    for event in events:
        lines(event)
    return stream.getvalue().splitlines()


def test_lines_thin_out_counting_and_keep_notes() -> None:
    counted = [Event(phase="score", message="reference", done=done, total=100) for done in range(101)]
    notes = [Event(phase="plan", message=f"line {number}") for number in range(3)]
    assert len(lines_of(10.0, *counted)) == 2, "the first and the end"
    assert len(lines_of(0.0, *counted)) == 101
    assert [line.split("  ")[-1] for line in lines_of(10.0, *notes)] == ["line 0", "line 1", "line 2"]


def test_lines_say_only_what_is_known() -> None:
    (line,) = lines_of(10.0, Event(phase="open", message="[model].gguf"))
    assert line.split() == ["0", "s", "open", "[model].gguf"]


def test_lengths_of_time() -> None:
    assert [spoken(seconds) for seconds in (-3, 8.4, 59.6, 125, 4200)] == ["0 s", "8 s", "1 min 00 s", "2 min 05 s", "1 h 10 min"]
    assert [duration(text) for text in ("90s", "10m", "1h30m", "1.5m", "45", "2H")] == [90, 600, 5400, 90, 45, 7200]
