"""What a million tokens cost, from measured rates, the price of the machine and its power. Pure.

The machine is taken as always as busy as at that concurrency: an idle hour costs the same and yields nothing.

    a second        = (price an hour + kW x price of a kWh) / 3600
    output tokens   = a second / output tokens a second x 1e6            the whole bill, laid on the output
    all tokens      = a second / (prompt and output tokens a second) x 1e6
    prompt, answer  = the bill of a request split at its first token (medians), over its prompt tokens and over its output tokens

The last pair is what a price list with an input and an output price would have to ask; it adds up to the bill of a request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from trimtab.core.measurement import Interval
from trimtab.decide.standing import is_positive
from trimtab.stats.ratios import log_ratio_interval

SECONDS = 3600.0
MILLION = 1e6


@dataclass(frozen=True, kw_only=True)
class Tariff:
    """What is paid, in one currency. power_w: drawn by the machine under load, for where it is not measured; None = not said."""

    price_per_hour: float = 0.0
    price_per_kwh: float | None = None
    power_w: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One deployment at one concurrency. Prices are per million tokens of their kind, in the tariff's currency.

    output, all_tokens: 95 % intervals over the rounds of the timing; ends None with fewer than two rounds
    prompt, answer: None where time to first token was not measured
    power_w: measured, else as the tariff says; kwh: per million output tokens; None = neither measured nor said
    """

    concurrency: int
    output: Interval
    all_tokens: Interval
    prompt: float | None
    answer: float | None
    power_w: float | None
    is_power_measured: bool
    kwh: float | None


def costs(measurement: Mapping[str, Any] | None, prompt_tokens: int, output_tokens: int, tariff: Tariff) -> tuple[Cost, ...]:
    """A row for each concurrency that was timed. prompt_tokens, output_tokens: of a request (unlike ones: medians)."""
    points = (measurement or {}).get("points") or ()
    return tuple(_cost(point, prompt_tokens, output_tokens, tariff) for point in points if is_positive(point.get("output_tok_s")))


def _cost(point: Mapping[str, Any], prompt_tokens: int, output_tokens: int, tariff: Tariff) -> Cost:
    rate = rate_of(point)
    joules = point.get("energy_j_per_token")
    power_w = joules * rate.value if is_positive(joules) else tariff.power_w
    per_second = (tariff.price_per_hour + (power_w or 0.0) / 1000 * (tariff.price_per_kwh or 0.0)) / SECONDS
    output = _price(per_second, rate, 1.0)
    share = _share_before_first_token(point)
    bill = output.value * output_tokens  # of a million requests
    return Cost(
        concurrency=int(point["concurrency"]),
        output=output,
        all_tokens=_price(per_second, rate, (prompt_tokens + output_tokens) / output_tokens),
        prompt=None if share is None else bill * share / prompt_tokens,
        answer=None if share is None else bill * (1.0 - share) / output_tokens,
        power_w=power_w,
        is_power_measured=is_positive(joules),
        kwh=None if power_w is None else power_w / rate.value * MILLION / SECONDS / 1000,
    )


def rate_of(point: Mapping[str, Any]) -> Interval:
    """Output tokens a second with a 95 % interval (t on the logs of the rounds)."""
    value, rounds = float(point["output_tok_s"]), [float(rate) for rate in point.get("round_tok_s") or ()]
    if len(rounds) < 2 or min(rounds) <= 0:
        return Interval(value=value)
    spread = log_ratio_interval(rounds, [fmean(rounds)] * len(rounds))
    return Interval(value=value, low=value * spread.low / spread.ratio, high=value * spread.high / spread.ratio, n=len(rounds))


def _price(per_second: float, rate: Interval, tokens_per_output: float) -> Interval:
    """Per million tokens, if `tokens_per_output` of them come with each output token."""
    low, value, high = (
        None if end is None else per_second / (end * tokens_per_output) * MILLION for end in (rate.high, rate.value, rate.low)
    )
    return Interval(value=value or 0.0, low=low, high=high, n=rate.n)


def _share_before_first_token(point: Mapping[str, Any]) -> float | None:
    first, whole = ((point.get(name) or {}).get("p50") for name in ("ttft_ms", "e2e_ms"))
    return min(1.0, first / whole) if is_positive(first) and is_positive(whole) else None
