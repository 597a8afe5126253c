"""Detectors of river, for exploration: looking at a log for what might have changed. They promise no number of false alarms.

Bifet & Gavaldà 2007 (ADWIN), Page 1954 (Page-Hinkley), Raab et al. 2020 (KSWIN), with river's own settings. benchmarks/detection.py counts
what they tell of streams in which nothing changed.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from trimtab.core.errors import InputError, MissingError
from trimtab.core.watching import Observed

Method = Literal["adwin", "page-hinkley", "kswin"]
METHODS: tuple[Method, ...] = ("adwin", "page-hinkley", "kswin")
KEPT_HINTS = 5


class Drift(Protocol):
    """What river's detectors have in common."""

    @property
    def drift_detected(self) -> bool: ...

    def update(self, x: float) -> object: ...


@dataclass(kw_only=True)
class _Heard:
    detector: Drift
    n: int = 0
    n_hints: int = 0
    last_s: list[float] = field(default_factory=list)


class Explorer:
    """One of river's detectors for every number and yes-or-no signal of a log. Memory: bounded by river's own windows.

    Raises InputError for an unknown method, MissingError where river is not installed.
    """

    def __init__(self, method: str, *, seed: int = 0) -> None:
        opened(method)
        self._method, self._seed = method, seed
        self._heard: dict[str, _Heard] = {}

    def take(self, item: Observed) -> None:
        """The next request."""
        for name, value in (*item.numbers.items(), *item.flags.items()):
            heard = self._heard.get(name)
            if heard is None:
                heard = self._heard[name] = _Heard(detector=opened(self._method, seed=self._seed))
            heard.n += 1
            heard.detector.update(float(value))
            if heard.detector.drift_detected:
                heard.n_hints += 1
                heard.last_s = [*heard.last_s[1 - KEPT_HINTS :], item.at_s]

    def document(self) -> dict[str, Any]:
        """What it heard, the signal with most hints first: places worth a look, and no alarms. last_s: of the last ones, UTC."""
        rows = [
            {"signal": name, "n": heard.n, "hints": heard.n_hints, "last_s": heard.last_s}
            for name, heard in self._heard.items()
            if heard.n_hints
        ]
        rows.sort(key=lambda row: (-int(str(row["hints"])), str(row["signal"])))
        return {"method": f"{self._method} of river: for exploration, with no stated number of false alarms", "signals": rows}


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
