"""Observed and predicted numbers: two types that never mix. Every number has a unit and, where it has one, an interval."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with the ends of its interval, None where unknown. `n` observations stand behind it."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 1


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A prediction: value, interval and what it is based on. Never shown as a measurement."""

    value: float
    low: float
    high: float
    unit: str
    basis: str


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """A distribution of an observed quantity in `unit`. p99 is None below 100 observations, p95 below 20: not known."""

    unit: str
    n: int
    mean: float
    p50: float
    p95: float | None
    p99: float | None
    min: float
    max: float


@dataclass(frozen=True, kw_only=True)
class LoadPoint:
    """One deployment at one concurrency: distributions over requests (ITL: over gaps between tokens), warm-up excluded.

    failed: requests that did not finish; they are in no distribution and are reported
    output_tok_s: tokens of all requests over wall time
    energy_j_per_token: None = not measured
    latencies_ms: single values of finished requests behind the distributions, by `ttft`, `tpot`, `e2e`, and `itl`, which is one gap of
        each request, as gaps of one request are alike; at most some thousands each; empty = not kept
    round_tok_s: output_tok_s of each closed loop by itself
    """

    concurrency: int
    n_requests: int
    failed: int
    ttft_ms: Percentiles
    tpot_ms: Percentiles
    itl_ms: Percentiles
    e2e_ms: Percentiles
    prefill_tok_s: float
    decode_tok_s: float
    output_tok_s: float
    energy_j_per_token: float | None = None
    latencies_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    round_tok_s: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """All that was timed of one deployment in one session.

    load_s: open to ready, in a fresh process; cold_ttft_ms: process start to first token
    peak_memory_bytes: highest PSS of the serving process; None = not measured
    roofline_share: decode rate at concurrency 1 over what the measured read bandwidth allows, 0..1
    noisy: the machine was judged noisy while this was measured, `noise` says why
    """

    points: tuple[LoadPoint, ...]
    load_s: float | None = None
    cold_ttft_ms: float | None = None
    peak_memory_bytes: int | None = None
    roofline_share: float | None = None
    noisy: bool = False
    noise: str = ""
    conditions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times better than another deployment, over rounds interleaved in one session (above 1 = faster).

    low, high: interval of the geometric mean over rounds; the low end is what is claimed
    """

    ratio: float
    low: float
    high: float
    n_rounds: int
