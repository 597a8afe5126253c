"""What a verb passes on of a training: what is new."""

from trimtab.flows.events import Event
from trimtab.flows.parts.train_launch import Follow
from trimtab.flows.parts.train_told import told_by
from trimtab.testing.training_steps import step_of


def test_steps_and_events_are_told_and_not_what_an_earlier_start_left() -> None:
    told: list[Event] = []
    follow = told_by(told.append, "loss {:.2f}")
    follow(Follow(steps=(step_of(1), step_of(2)), events=({"text": "Stopped as asked."},)))
    assert told == []
    follow(Follow(events=({"text": "Going on after step 2."},)))
    follow(Follow(steps=(step_of(3), step_of(4, loss=1.5))))
    assert [event.message for event in told] == ["Going on after step 2.", "step 3: loss 2.00, 200 tok/s", "step 4: loss 1.50, 200 tok/s"]
