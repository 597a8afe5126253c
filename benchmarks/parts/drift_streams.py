"""Streams of requests for benchmarks/detection.py: what a signal does with no change, and changes that are planted in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.core.watching import Signal

Floats = NDArray[np.float64]

START_S = 1_767_571_200.0  # a Monday, 0 h UTC
DAY = 86_400

REFUSED = Signal(name="refused", kind="rate", about="output", text="refused")
TTFT = Signal(name="ttft_ms", kind="mean", about="service", text="time to the first token", unit="ms", high=5000.0, worse="up")
SHADOW = Signal(name="shadow_nats", kind="mean", about="quality", text="nats a token lost to the reference", low=-1.0, high=1.0, worse="up")
LANGUAGE = Signal(name="language", kind="category", about="input", text="language")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One request a second. values: of numbers or labels; `plain`: the same for methods that take numbers of about 0..1 only."""

    signal: Signal
    values: Sequence[float | str]
    plain: Floats
    seasonal: bool = False


Maker = Callable[[np.random.Generator, int], Stream]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A planted change: `make(rng, n)` of n requests, the change at `change_at`. null: the kind of stream that it is without the change."""

    name: str
    null: str
    change_at: int
    n: int
    make: Maker


def rate(start: float, end: float | None = None, *, change_at: int = 0, over: int = 0) -> Maker:
    """A yes-or-no signal that moves at `change_at`, at once or over `over` requests."""

    def make(rng: np.random.Generator, n: int) -> Stream:
        values = (rng.random(n) < _moved(n, start, start if end is None else end, change_at, over)).astype(float)
        return Stream(signal=REFUSED, values=values.tolist(), plain=values)

    return make


def latency(factor: float = 1.0, *, change_at: int = 0, over: int = 0, seasonal: bool = True) -> Maker:
    """Clipped log-normal times about 400 ms, a deviation of 0.6 in the logarithm, 20 % more and less by the hour of the day."""

    def make(rng: np.random.Generator, n: int) -> Stream:
        logs = rng.normal(6.0, 0.6, n)
        if seasonal:
            logs += 0.2 * np.sin(2.0 * np.pi * (np.arange(n) / DAY - 0.25))
        values = np.minimum(np.exp(logs) * _moved(n, 1.0, factor, change_at, over), TTFT.high)
        return Stream(signal=TTFT, values=values.tolist(), plain=values / TTFT.high, seasonal=seasonal)

    return make


def nats(change: float = 0.0, *, change_at: int = 0) -> Maker:
    """Mean nats a token of an answer of 64 tokens: 8-bit weights (0.005, heavy tails), then a coarser quantisation by `change` more.

    A token's log-ratio has a variance of about twice its divergence, so a coarser quantisation is noisier too.
    """

    def make(rng: np.random.Generator, n: int) -> Stream:
        level = _moved(n, 0.005, 0.005 + change, change_at, 0)
        deviation = np.sqrt(0.03**2 + 2.0 * (level - 0.005) / 64.0)
        values = np.clip(level + deviation * rng.standard_t(5, n) / np.sqrt(5.0 / 3.0), SHADOW.low, SHADOW.high)
        return Stream(signal=SHADOW, values=values.tolist(), plain=(values + 1.0) / 2.0)

    return make


def language(new: float = 0.0, *, change_at: int = 0) -> Maker:
    """Four languages, the rarest of 0.5 %; from `change_at` on a new one has the share `new`."""

    def make(rng: np.random.Generator, n: int) -> Stream:
        codes = rng.choice(4, n, p=[0.7, 0.2, 0.095, 0.005])
        codes[change_at:][rng.random(n - change_at) < new] = 4
        names = np.array(["en", "de", "fr", "is", "sw"], dtype=object)[codes]
        known = np.unique(codes[:500])  # what a user of a numeric method would do: labels not seen at first are a yes
        often = [code for code in known if (codes[:500] == code).sum() >= 5]
        return Stream(signal=LANGUAGE, values=names.tolist(), plain=(~np.isin(codes, often)).astype(float))

    return make


def _moved(n: int, start: float, end: float, change_at: int, over: int) -> Floats:
    along = (np.arange(n) - change_at) / over if over else (np.arange(n) >= change_at).astype(float)
    return np.asarray(start + (end - start) * np.clip(along, 0.0, 1.0))


NULLS: dict[str, Maker] = {
    "refusals, 8 %": rate(0.08),
    "latency with a daily season": latency(),
    "latency, no season": latency(seasonal=False),
    "nats a token": nats(),
    "languages": language(),
}

_AT, _AFTER = 50_000, 50_000
_LATE = 2 * DAY + 43_200


def _scenario(name: str, null: str, make: Maker, *, at: int = _AT, after: int = _AFTER) -> Scenario:
    return Scenario(name=name, null=null, change_at=at, n=at + after, make=make)


SCENARIOS: tuple[Scenario, ...] = (
    *(_scenario(f"quantisation, {d:+.3f} nats/token", "nats a token", nats(d, change_at=_AT)) for d in (0.005, 0.02, 0.05, 0.3)),
    _scenario("a group's refusals, 8 to 13 %", "refusals, 8 %", rate(0.08, 0.13, change_at=_AT)),
    _scenario("the same, 5,000 requests after the start", "refusals, 8 %", rate(0.08, 0.13, change_at=5000), at=5000),
    _scenario("refusals growing 8 to 11 % over a day", "refusals, 8 %", rate(0.08, 0.11, change_at=_AT, over=DAY), after=DAY),
    _scenario("a new language of 3 %", "languages", language(0.03, change_at=_AT)),
    _scenario("latency step +10 %, no season", "latency, no season", latency(1.1, change_at=_AT, seasonal=False)),
    _scenario("latency step +30 %, no season", "latency, no season", latency(1.3, change_at=_AT, seasonal=False)),
    _scenario("latency step +10 %, season", "latency with a daily season", latency(1.1, change_at=_LATE), at=_LATE),
    _scenario("latency step +30 %, season", "latency with a daily season", latency(1.3, change_at=_LATE), at=_LATE),
    _scenario(
        "latency growing 20 % over a day, season",
        "latency with a daily season",
        latency(1.2, change_at=_LATE, over=DAY),
        at=_LATE,
        after=DAY,
    ),
)
