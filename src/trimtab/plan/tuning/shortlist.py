"""Which candidates are worth running: drop those that cannot win, then spread what time allows over unlike ones."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from trimtab.core.measurement import Estimate

Forecasts = Mapping[str, Mapping[int, Mapping[str, Estimate]]]
"""candidate -> concurrency -> the answer of `plan.tuning.prior.predict`; the same levels for all."""


@dataclass(frozen=True, kw_only=True)
class Shortlist:
    """Candidates worth running, most promising first, and why each other one is not."""

    kept: tuple[str, ...]
    dropped: Mapping[str, str]


def drop_hopeless(
    forecasts: Forecasts,
    *,
    memory_bytes: int,
    baseline: str = "",
    observed: Mapping[str, Mapping[int, float]] | None = None,
    keep: Collection[str] = (),
    n_rivals: int = 3,
    metric: str = "e2e_ms",
) -> Shortlist:
    """Drop candidates that cannot fit the memory, or cannot win at any concurrency. Nothing is dropped for its quality.

    baseline: what is kept if nothing wins. A candidate whose best case does not beat its worst case is of no use
    observed: candidate -> concurrency -> `metric` as measured, where some were timed already (pass the high end of the measurement): it
        takes the place of their worst case. With the baseline timed, far more can be dropped
    keep: never dropped (the baseline never is)
    n_rivals: a candidate whose best case is behind the worst case of so many others will not be reached, as no more than that many are
        tried on the certify items. With 1, a fast candidate that fails on quality later would have dropped the ones that pass.
    If every true value lies in its interval, then none of the n_rivals fastest that fit is dropped unless the baseline is at least as fast.
    """
    observed = observed or {}
    safe = {*keep, baseline}
    dropped: dict[str, str] = {}
    for name, by_level in forecasts.items():
        need = max(each["memory_bytes"].low for each in by_level.values())
        if name not in safe and name not in observed and need > memory_bytes:
            dropped[name] = f"It needs at least {need / 1e9:.1f} GB of memory; this machine has {memory_bytes / 1e9:.1f} GB."
    # Only what surely fits can be relied upon to be there instead.
    reliable = [
        name
        for name, by_level in forecasts.items()
        if name in observed or all(each["memory_bytes"].high <= memory_bytes for each in by_level.values())
    ]
    for name, by_level in forecasts.items():
        if name in safe or name in dropped:
            continue
        reasons = []
        for level, own in by_level.items():
            worst = {rival: observed.get(rival, {}).get(level, forecasts[rival][level][metric].high) for rival in reliable if rival != name}
            if reason := _why_hopeless(own[metric], worst, baseline, n_rivals, level):
                reasons.append(reason)
        if len(reasons) == len(by_level):
            dropped[name] = reasons[0]
    kept = sorted((name for name in forecasts if name not in dropped), key=lambda name: promise(forecasts[name], metric))
    return Shortlist(kept=tuple(kept), dropped=dropped)


def _why_hopeless(own: Estimate, worst: Mapping[str, float], baseline: str, n_rivals: int, level: int) -> str:
    """Why a candidate cannot win at one concurrency against others' worst cases, empty if it may."""
    best = f"Its best case, {own.low:,.0f} {own.unit} at concurrency {level}, "
    if baseline in worst and own.low >= worst[baseline]:
        return best + f"does not beat the baseline's worst, {worst[baseline]:,.0f} {own.unit}."
    ahead = sorted((high, name) for name, high in worst.items() if high <= own.low)
    if len(ahead) >= n_rivals:
        return best + f"is behind the worst case of {len(ahead)} others, such as {ahead[0][1]} at {ahead[0][0]:,.0f} {own.unit}."
    return ""


def promise(by_level: Mapping[int, Mapping[str, Estimate]], metric: str = "e2e_ms") -> float:
    """Expected value over the levels (geometric mean): the smaller, the more promising."""
    return math.exp(sum(math.log(max(each[metric].value, 1e-9)) for each in by_level.values()) / len(by_level))


def spread(ordered: Sequence[str], group_of: Mapping[str, str], n: int) -> tuple[str, ...]:
    """The first `n` when taking turns between groups, each group in the given order, groups by their first member.

    The fastest candidates resemble each other (few bits, one engine) and may all fail on quality; with groups by engine and bits some
    of each kind are tried. Those left out are left out for want of time, and may be said to be.
    """
    groups: dict[str, list[str]] = {}
    for name in ordered:
        groups.setdefault(group_of[name], []).append(name)
    turns = [members[index] for index in range(len(ordered)) for members in groups.values() if index < len(members)]
    return tuple(turns[: max(0, n)])


def kind_of(engine: str, bits: float) -> str:
    """Group of a candidate: its engine and about how many bits a weight it keeps."""
    for below, name in ((5.0, "under 5 bits"), (7.0, "5 to 7 bits"), (12.0, "about 8 bits")):
        if bits < below:
            return f"{engine}, {name}"
    return f"{engine}, floats"
