"""What a verb passes on of a training: what is new, once."""

from trimtab.core.training import StepRecord
from trimtab.flows.events import Event
from trimtab.flows.parts.train_launch import Follow
from trimtab.flows.parts.train_told import told_by


def step(number: int, loss: float = 2.0) -> StepRecord:
    return StepRecord(
        step=number,
        tokens=100,
        tokens_seen=100 * number,
        loss=loss,
        grad_norm=1.0,
        lr=1e-3,
        step_s=0.5,
        data_wait_s=0.0,
        peak_memory_bytes=10**9,
        time="2026-11-28T09:00:00Z",
    )


def test_what_an_earlier_start_left_is_not_told_and_steps_written_anew_are_told_once() -> None:
    told: list[Event] = []
    follow = told_by(told.append, "loss {:.2f}")
    follow(Follow(steps=(step(1), step(2)), events=({"text": "Stopped as asked."},)))
    assert told == []
    follow(Follow(steps=(step(1), step(2)), events=({"text": "Going on after step 2."},)))
    follow(Follow(steps=(step(3),)))
    follow(Follow(steps=(step(1), step(2, 1.5), step(3, 1.4))))  # back to step 1, and on from there
    assert [event.message for event in told] == [
        "Going on after step 2.",
        "step 3: loss 2.00, 200 tok/s",
        "step 2: loss 1.50, 200 tok/s",
        "step 3: loss 1.40, 200 tok/s",
    ]
