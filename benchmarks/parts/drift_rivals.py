"""Other ways to look for change, for benchmarks/detection.py: a test a window against a reference, as of Evidently, and river's detectors.

Each is a Method: its default, settings from loose to ever stricter ones, and `alarms(stream, setting)`: after how many requests it speaks.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from parts.drift_streams import Stream
from scipy.stats import chi2_contingency, ks_2samp, norm

from trimtab.watch.explore import opened

Floats = NDArray[np.float64]
REFERENCE, WINDOW = 10_000, 1_000


class Method(Protocol):
    """One way; `default` is one of its settings, which go from loose to strict. slow: too slow for streams of a million."""

    name: str
    default: float
    settings: Sequence[float]
    slow: bool

    def alarms(self, stream: Stream, setting: float) -> list[int]: ...


class Windows:
    """A p-value for each window of WINDOW requests against the first REFERENCE, by Evidently's tests for up to 1,000 rows.

    Kolmogorov-Smirnov for numbers, z for rates, chi square for labels; it calls a p-value below 0.05 drift.
    """

    name = "test a window (Evidently's)"
    default = 0.05
    settings = (0.05, *(10.0 ** (-k / 2) for k in range(4, 33)), 1e-30, 1e-60, 1e-120, 1e-300)
    slow = False

    def __init__(self) -> None:
        self._kept: tuple[Stream | None, list[float]] = (None, [])

    def alarms(self, stream: Stream, setting: float) -> list[int]:
        if self._kept[0] is not stream:  # the p-values are the same for all settings
            self._kept = (stream, self._p_values(stream))
        return [REFERENCE + (i + 1) * WINDOW for i, p in enumerate(self._kept[1]) if p < setting]

    def _p_values(self, stream: Stream) -> list[float]:
        kind = stream.signal.kind
        if kind == "category":
            names, codes = np.unique(np.array(stream.values, dtype=str), return_inverse=True)
            counts = np.array([np.bincount(window, minlength=names.size) for window in _windows(codes)])
            reference = np.bincount(codes[:REFERENCE], minlength=names.size)
            return [_chi2(reference, window) for window in counts]
        reference = stream.plain[:REFERENCE]
        if kind == "rate":
            p0 = reference.mean()
            shares = _windows(stream.plain).mean(axis=1)
            pooled = (p0 * REFERENCE + shares * WINDOW) / (REFERENCE + WINDOW)
            z = (shares - p0) / np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / REFERENCE + 1 / WINDOW))
            return (2.0 * norm.sf(np.abs(z))).tolist()
        return [float(ks_2samp(reference, window, method="asymp").pvalue) for window in _windows(stream.plain)]


def _windows(values: NDArray[np.generic]) -> NDArray[np.generic]:
    whole = (values.size - REFERENCE) // WINDOW
    return values[REFERENCE : REFERENCE + whole * WINDOW].reshape(whole, WINDOW)


def _chi2(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    table = np.stack([first, second])
    return float(chi2_contingency(table[:, table.sum(axis=0) > 0], correction=False).pvalue)


class River:
    """One of river's detectors; it goes on after an alarm as it does by itself."""

    def __init__(self, method: str, key: str, default: float, settings: Sequence[float], *, slow: bool = False) -> None:
        self.name, self.default, self.settings, self.slow = f"river {method}", default, settings, slow
        self._method, self._key = method, key

    def alarms(self, stream: Stream, setting: float) -> list[int]:
        values = stream.plain
        if self._method == "page-hinkley":  # its defaults are meant for values of about one unit
            first = values[:1000]
            values = (values - first.mean()) / max(float(first.std()), 0.05)
        detector = opened(self._method, **{self._key: setting})
        found = []
        for i, value in enumerate(values.tolist(), 1):
            detector.update(value)
            if detector.drift_detected:
                found.append(i)
        return found


METHODS: tuple[Method, ...] = (
    Windows(),
    River(
        "adwin",
        "delta",
        0.002,
        (0.3, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, *(10.0**-k for k in (4, 5, 6, 7, 8, 9, 10, 12, 16, 24, 40, 100))),
    ),
    River("page-hinkley", "threshold", 50.0, (50.0, 100.0, 200.0, 300.0, 400.0, 600.0, 1000.0, 3000.0, 10000.0, 40000.0)),
    River("kswin", "alpha", 0.005, (0.005, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8), slow=True),
)
