"""Steps of a training that never was."""

from typing import Any

from trimtab.core.training import StepRecord


def step_of(step: int = 1, **told: Any) -> StepRecord:
    """A step of 100 target tokens and half a second; what a test is about is told."""
    tokens = told.get("tokens", 100)
    plain = {
        "tokens": tokens,
        "tokens_seen": step * tokens,
        "loss": 2.0,
        "grad_norm": 1.0,
        "lr": 1e-3,
        "step_s": 0.5,
        "data_wait_s": 0.0,
        "peak_memory_bytes": 10**9,
        "time": "2026-11-27T12:00:00+00:00",
    }
    return StepRecord(step=step, **(plain | told))
