"""What a verb passes on of a training that it follows."""

from collections.abc import Callable

from trimtab.flows.events import Event, OnEvent
from trimtab.flows.parts.train_launch import Follow


def told_by(on_event: OnEvent, loss: str) -> Callable[[Follow], None]:
    """What follows a training and tells of its steps and events. loss: how a step's is written, such as `loss {:.4f}`."""

    def follow(news: Follow) -> None:
        for step in news.steps:
            speed = step.tokens / max(step.step_s, 1e-9)
            on_event(Event(phase="train", message=f"step {step.step}: {loss.format(step.loss)}, {speed:.0f} tok/s"))
        for event in news.events:
            on_event(Event(phase="train", message=str(event.get("text", ""))))

    return follow
