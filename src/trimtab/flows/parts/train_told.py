"""What a verb passes on of a training that it follows."""

from collections.abc import Callable

from trimtab.flows.events import Event, OnEvent
from trimtab.flows.parts.train_launch import Follow


def told_by(on_event: OnEvent, loss: str) -> Callable[[Follow], None]:
    """What follows a training and tells of its new steps and events. loss: how a step's is written, such as `loss {:.4f}`."""
    is_first = True

    def follow(news: Follow) -> None:
        nonlocal is_first
        if is_first:  # what an earlier start left
            is_first = False
            return
        for step in news.steps:
            speed = step.tokens / max(step.step_s, 1e-9)
            on_event(Event(phase="train", message=f"step {step.step}: {loss.format(step.loss)}, {speed:.0f} tok/s"))
        for event in news.events:
            on_event(Event(phase="train", message=str(event.get("text", ""))))

    return follow
