"""What a verb passes on of a training that it follows."""

from collections.abc import Callable

from trimtab.core.training import StepRecord
from trimtab.flows.events import Event, OnEvent
from trimtab.flows.parts.train_launch import Follow


def told_by(on_event: OnEvent, loss: str) -> Callable[[Follow], None]:
    """What follows a training and tells of its new steps and events, of each once. loss: how a step's is written, such as `loss {:.4f}`."""
    known: set[StepRecord] | None = None

    def follow(news: Follow) -> None:
        nonlocal known
        if known is None:  # what an earlier start left
            known = set(news.steps)
            return
        for step in news.steps:
            if step in known:  # a run that is taken up again writes its steps anew
                continue
            known.add(step)
            speed = step.tokens / max(step.step_s, 1e-9)
            on_event(Event(phase="train", message=f"step {step.step}: {loss.format(step.loss)}, {speed:.0f} tok/s"))
        for event in news.events:
            on_event(Event(phase="train", message=str(event.get("text", ""))))

    return follow
