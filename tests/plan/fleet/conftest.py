"""Traffic and engines for simulated fleets."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from trimtab.plan.fleet.settings import Batching, Fleet, Kind, policy_of
from trimtab.plan.fleet.steps import AffineSteps, tabled
from trimtab.plan.fleet.traces import Trace

STEPS = AffineSteps(fixed_s=0.01, sequence_s=0.001, context_token_s=1e-6, prompt_token_s=1e-4, prompt_pair_s=1e-8)


@pytest.fixture
def trace() -> Callable[..., Trace]:
    def make(rows: Sequence[tuple[float, int, int]], prefix: Sequence[tuple[int, int]] | None = None) -> Trace:
        at, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
        shared = np.array(prefix if prefix is not None else [(-1, 0)] * len(rows))
        return Trace(
            name="t", arrival_s=at * 1.0, prompt_tokens=prompt, output_tokens=output, prefix=shared[:, 0], prefix_tokens=shared[:, 1]
        )

    return make


@pytest.fixture
def fleet() -> Callable[..., Fleet]:
    def make(n: int = 1, *, policy: str = "fixed", steps: AffineSteps = STEPS, kind: Any = None, **rules: Any) -> Fleet:
        of_fleet = {key: rules.pop(key) for key in tuple(rules) if key in Fleet.__dataclass_fields__}
        batching = Batching(**{"slots": 8, "batch_tokens": 64, "kv_spare": 0.0, **rules})
        table = tabled(steps, max_batch=batching.slots, batch_tokens=batching.batch_tokens)
        made = Kind(**{"name": "one", "steps": table, "batching": batching, "max_replicas": n, **(kind or {})})
        return Fleet(**{"kinds": (made,), "policy": policy_of(policy), **of_fleet})

    return make
