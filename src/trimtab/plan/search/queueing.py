"""Waiting for a free place at a replica: Erlang's C formula for requests that come at random to a number of places.

A replica with c places, each held for the time of one request, is an M/M/c queue; real requests vary less than that assumes, so the wait is
not told too short. A. K. Erlang, 1917; computed by the recursion of Erlang's B.
"""

import math

BUSIEST = 0.9
"""Share of places that may be held on average. Above it a small error in the predicted time makes a long queue."""


def erlang_c(places: int, load: float) -> float:
    """Probability that a request must wait. load: requests a second times seconds a request; 1.0 where the queue never ends."""
    if load <= 0:
        return 0.0
    if load >= places:
        return 1.0
    blocked = 1.0
    for place in range(1, places + 1):
        blocked = load * blocked / (place + load * blocked)
    return blocked / (1.0 - load / places * (1.0 - blocked))


def wait_s(places: int, rate_s: float, request_s: float, percentile: float) -> float:
    """Seconds that a request at this percentile waits for a place; infinite where the queue never ends."""
    spare = places / request_s - rate_s
    if spare <= 0:
        return math.inf
    waits, beyond = erlang_c(places, rate_s * request_s), 1.0 - percentile / 100.0
    return math.log(waits / beyond) / spare if waits > beyond else 0.0


def replicas_needed(rate_s: float, places: int, request_s: float, most_wait_s: float, percentile: float, most: int = 100_000) -> int:
    """Fewest replicas that share the requests evenly, are no busier than `BUSIEST`, and keep the wait; 0 = more than `most`."""
    least = max(1, math.ceil(rate_s * request_s / places / BUSIEST - 1e-9))
    if least > most or most_wait_s < 0:
        return 0

    def short(replicas: int) -> bool:
        return wait_s(places, rate_s / replicas, request_s, percentile) <= most_wait_s

    high = least
    while not short(high):
        if high >= most:
            return 0
        high = min(2 * high, most)
    low = least - 1 if high == least else max(least, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if short(middle) else (middle, high)
    return high
