"""Who gets a request, of several replicas that take some."""

import random
from collections.abc import Callable, Sequence

from trimtab.plan.fleet.replica import Replica
from trimtab.plan.fleet.settings import Route

Choose = Callable[[Sequence[Replica], int, float], Replica]
"""(replicas that take requests, at least one; number of the request's prefix or -1; now) -> one of them."""
LOAD_BOUND = 1.25
"""A prefix goes home only while its home has at most so many times the mean load (consistent hashing with bounded loads, Mirrokni et al.
2018)."""


def chooser(route: Route, seed: int) -> Choose:
    """A routing rule with a state of its own."""
    if route == "round-robin":
        return _RoundRobin().choose
    if route == "least-kv":
        return lambda replicas, prefix, now_s: min(replicas, key=lambda replica: (replica.kv_tokens(now_s), replica.n_outstanding))
    if route == "power-of-two":
        draw = random.Random(seed)
        return lambda replicas, prefix, now_s: _two(draw, replicas)
    if route == "prefix":
        return _Homes().choose
    return lambda replicas, prefix, now_s: min(replicas, key=outstanding)


def outstanding(replica: Replica) -> int:
    return replica.n_outstanding


def _two(draw: random.Random, replicas: Sequence[Replica]) -> Replica:
    if len(replicas) == 1:
        return replicas[0]
    first = int(draw.random() * len(replicas))
    second = int(draw.random() * (len(replicas) - 1))
    second += second >= first
    return min(replicas[first], replicas[second], key=outstanding)


class _RoundRobin:
    """In turn by number, so that replicas that come and go do not upset the turn."""

    def __init__(self) -> None:
        self._last = -1

    def choose(self, replicas: Sequence[Replica], prefix: int, now_s: float) -> Replica:
        chosen = next((replica for replica in replicas if replica.number > self._last), replicas[0])
        self._last = chosen.number
        return chosen


class _Homes:
    """A prefix goes where it went last, unless that one has far more to do than the others."""

    def __init__(self) -> None:
        self._homes: dict[int, int] = {}

    def choose(self, replicas: Sequence[Replica], prefix: int, now_s: float) -> Replica:
        if prefix < 0:
            return min(replicas, key=outstanding)
        bound = LOAD_BOUND * (1 + sum(map(outstanding, replicas)) / len(replicas))
        home = self._homes.get(prefix)
        for replica in replicas:
            if replica.number == home and replica.n_outstanding <= bound:
                return replica
        chosen = min(replicas, key=outstanding)
        self._homes[prefix] = chosen.number
        return chosen
