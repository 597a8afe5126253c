"""Detectors of river, for exploration: looking at a log for what might have changed. They promise no number of false alarms.

Bifet & Gavaldà 2007 (ADWIN), Page 1954 (Page-Hinkley), Raab et al. 2020 (KSWIN), with river's own settings. benchmarks/detection.py counts
what they tell of streams in which nothing changed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from trimtab.core.errors import InputError, MissingError

Method = Literal["adwin", "page-hinkley", "kswin"]
METHODS: tuple[Method, ...] = ("adwin", "page-hinkley", "kswin")


class Drift(Protocol):
    """What river's detectors have in common."""

    @property
    def drift_detected(self) -> bool: ...

    def update(self, x: float) -> object: ...


@dataclass(frozen=True, kw_only=True)
class Hint:
    """A place worth a look, and no alarm: `index` of the value at which the method spoke, from 0."""

    index: int
    method: str


def explore(values: Iterable[float], method: Method, *, seed: int = 0) -> list[Hint]:
    """Where one of river's detectors speaks, in a signal's values in order.

    Raises InputError for an unknown method, MissingError where river is not installed.
    """
    detector = opened(method, seed=seed)
    label = f"{method} of river: for exploration, with no stated number of false alarms"
    hints = []
    for index, value in enumerate(values):
        detector.update(float(value))
        if detector.drift_detected:
            hints.append(Hint(index=index, method=label))
    return hints


def opened(method: str, *, seed: int = 0, **settings: float) -> Drift:
    """One of river's detectors, by `settings` of river or its defaults."""
    if method not in METHODS:
        raise InputError(f"There is no `{method}` to explore with; there are {', '.join(METHODS)}.")
    try:
        from river import drift
    except ImportError as error:
        raise MissingError("Exploring a log for changes needs river, which is not installed.", "pip install 'trimtab[explore]'") from error
    made: Drift
    if method == "adwin":
        made = drift.ADWIN(**settings)
    elif method == "page-hinkley":
        made = drift.PageHinkley(**settings)
    else:
        made = drift.KSWIN(seed=seed, **settings)
    return made
