"""How much memory replicas leave, and whose is freed when it is not enough."""

from collections.abc import Callable, Collection, Mapping
from math import inf

from trimtab.serve.lane import Replica


def free_bytes(replicas: Collection[Replica], budget_bytes: int | None) -> float:
    """What the budget leaves beside all replicas, those included that are about to go; below 0 where they measure more than expected."""
    return inf if budget_bytes is None else budget_bytes - sum(replica.memory_bytes for replica in replicas)


def coming_bytes(replicas: Collection[Replica]) -> int:
    """What is on its way to be free."""
    return sum(replica.memory_bytes for replica in replicas if replica.status in ("stopping", "yielding", "retired"))


def victims(
    replicas: Collection[Replica],
    missing_bytes: float,
    now_s: float,
    *,
    spare: Mapping[int, int],
    may_go: Callable[[Replica], bool],
    all_or_none: bool = True,
) -> list[Replica] | None:
    """The replicas that are cheapest to do without and together free `missing_bytes`; None if there are not enough.

    spare: by id of a lane, how many of its replicas are above its minimum; all_or_none: False = as many as there are
    """
    left = dict(spare)
    chosen: list[Replica] = []
    ready = [replica for replica in replicas if replica.status == "ready" and replica.memory_bytes]
    for replica in sorted(ready, key=lambda replica: (replica.n_running > 0, replica.lane.price(replica, now_s))):
        if missing_bytes > 0 and may_go(replica) and left[id(replica.lane)] > 0:
            left[id(replica.lane)] -= 1
            missing_bytes -= replica.memory_bytes
            chosen.append(replica)
    if missing_bytes > 0 and all_or_none:
        return None
    for replica in sorted(chosen, key=lambda replica: -replica.lane.price(replica, now_s)):
        if replica.memory_bytes + missing_bytes <= 0:  # the dear one is not needed beside a larger one
            missing_bytes += replica.memory_bytes
            chosen.remove(replica)
    return chosen
