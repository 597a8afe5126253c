"""Who works when in a pipeline: the time line of a step by stage, one forward and one backward in turns (1F1B). Pure."""

from dataclasses import dataclass

MOST_STAGES = 8
MOST_BATCHES = 12


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One piece of work. start, length: shares of the whole step; batch: number of the micro-batch, from 1"""

    stage: int
    batch: int
    is_forward: bool
    start: float
    length: float


def time_line(n_stages: int, n_batches: int, forward_s: float, backward_s: float) -> tuple[Turn, ...]:
    """Every turn of the first stages and micro-batches (`MOST_STAGES`, `MOST_BATCHES`), as if there were no others.

    A stage warms up with as many forwards as stages follow it, then takes forwards and backwards in turns (Narayanan et al., 2021).
    """
    stages, batches = min(n_stages, MOST_STAGES), min(n_batches, MOST_BATCHES)
    orders = [_order(stage, stages, batches) for stage in range(stages)]
    ended: dict[tuple[int, int, bool], float] = {}
    free, place = [0.0] * stages, [0] * stages
    found: list[tuple[int, int, bool, float, float]] = []
    while any(place[stage] < len(orders[stage]) for stage in range(stages)):
        for stage in range(stages):
            while place[stage] < len(orders[stage]):
                batch, is_forward = orders[stage][place[stage]]
                needed = _needed(stage, stages, batch, is_forward)
                if needed is not None and needed not in ended:
                    break
                start = max(free[stage], ended[needed] if needed is not None else 0.0)
                length = forward_s if is_forward else backward_s
                free[stage] = ended[stage, batch, is_forward] = start + length
                found.append((stage, batch, is_forward, start, length))
                place[stage] += 1
    whole = max(free)
    return tuple(Turn(stage=s, batch=b + 1, is_forward=f, start=start / whole, length=length / whole) for s, b, f, start, length in found)


def _order(stage: int, stages: int, batches: int) -> list[tuple[int, bool]]:
    warm = min(stages - stage - 1, batches)
    order = [(batch, True) for batch in range(warm)]
    for batch in range(batches - warm):
        order += [(warm + batch, True), (batch, False)]
    return order + [(batch, False) for batch in range(batches - warm, batches)]


def _needed(stage: int, stages: int, batch: int, is_forward: bool) -> tuple[int, int, bool] | None:
    """What must have ended before: the stage before it, or the one after it on the way back."""
    if is_forward:
        return (stage - 1, batch, True) if stage else None
    return (stage + 1, batch, False) if stage < stages - 1 else (stage, batch, True)
