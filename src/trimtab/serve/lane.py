"""What the scheduler holds of one version: who waits for it, its replicas, how it loaded and failed so far."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from trimtab.serve.base import ReplicaState
from trimtab.serve.scheduling import Plan, Status

FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 1.0, 60.0
STEADY_S = 60.0
"""A replica that was up for so long and then dies is started again at once: the failures before it are forgotten."""
UNKNOWN_LOAD_S = 5.0
LEAST_RETRY_S, MOST_RETRY_S = 1.0, 60.0


@dataclass(slots=True, eq=False)
class Replica:
    """One replica. started_s, loaded_s: when that was; idle_s: since when it has had no request (while n_running is 0)."""

    number: int
    lane: "Lane"
    memory_bytes: int
    started_s: float
    status: Status = "loading"
    slots: int | None = None
    n_running: int = 0
    idle_s: float = 0.0
    loaded_s: float = 0.0

    @property
    def has_room(self) -> bool:
        return self.status == "ready" and self.slots is not None and self.n_running < self.slots


@dataclass(slots=True, eq=False)
class Request:
    """One admitted request. It waits while `replica` is None."""

    id: int
    lane: "Lane"
    arrived_s: float
    deadline_s: float
    replica: Replica | None = None
    granted_s: float = 0.0


@dataclass(slots=True, eq=False)
class Lane:
    """One version.

    is_leaving: it is configured no more; it serves whom it has, then it goes
    load_s: how long the last load took; hold_s: smoothed time that a request keeps its place
    lost_s: when it was last left without a replica: its waiters' turn counts from then
    memory_bytes: of a replica, as planned or as measured, whichever is more
    n_failures: loads and short lives that failed in a row; retry_s: not before then is the next try; why: the last failure
    is_refusing: it failed for good, as far as one can tell, so those who come before retry_s are told why at once
    is_asleep: its last replica left because nobody asked for it, and nothing has happened since
    """

    plan: Plan
    memory_bytes: int
    waiting: deque[Request] = field(default_factory=deque)
    replicas: list[Replica] = field(default_factory=list)
    is_leaving: bool = False
    load_s: float | None = None
    hold_s: float | None = None
    lost_s: float = float("-inf")
    n_failures: int = 0
    retry_s: float = float("-inf")
    why: str = ""
    is_refusing: bool = False
    is_asleep: bool = False
    is_prefetched: bool = False

    @property
    def n_live(self) -> int:
        """Replicas that load or take requests."""
        return sum(replica.status in ("loading", "ready") for replica in self.replicas)

    @property
    def name(self) -> str:
        return self.plan.model.name

    @property
    def claim_s(self) -> float:
        """Since when it has been its turn to get memory."""
        return max(self.waiting[0].arrived_s, self.lost_s) if self.waiting else float("inf")

    def least(self, is_draining: bool) -> int:
        """How many replicas it keeps though nobody asks."""
        return 0 if self.is_leaving or is_draining else self.plan.min_replicas

    def free_replica(self) -> Replica | None:
        """The replica with room that has the fewest requests; the oldest of those that have equally few."""
        best = None
        for replica in self.replicas:
            if replica.has_room and (best is None or replica.n_running < best.n_running):
                best = replica
        return best

    def failed(self, why: str, now_s: float, *, may_pass: bool) -> None:
        """Note a failure and when the next try is due; the waiting doubles each time."""
        self.n_failures += 1
        self.why = why
        n_waits = self.n_failures - may_pass  # what may pass is tried again at once, the first time
        self.retry_s = now_s + (min(FIRST_BACK_OFF_S * 2 ** min(n_waits - 1, 16), LONGEST_BACK_OFF_S) if n_waits else 0.0)
        self.is_refusing = self.n_live == 0 and (not may_pass or self.n_failures > 1)

    def price(self, replica: Replica, now_s: float) -> float:
        """What it costs to do without it: seconds to load it again, likelier to be needed the sooner it was, for each byte it frees."""
        age_s = max(0.0, now_s - replica.idle_s) if replica.n_running == 0 else 0.0
        load_s = UNKNOWN_LOAD_S if self.load_s is None else self.load_s
        return (0.01 + load_s) / ((1.0 + age_s) * max(1, replica.memory_bytes))

    def retry_after_s(self, now_s: float) -> float:
        """When a place may be free: the rest of a load, or of those before, at the pace so far."""
        loading = [replica for replica in self.replicas if replica.status == "loading"]
        n_slots = sum(replica.slots or 0 for replica in self.replicas if replica.status == "ready")
        if loading and not n_slots:
            guess_s = (UNKNOWN_LOAD_S if self.load_s is None else self.load_s) - (now_s - loading[0].started_s)
        else:
            guess_s = (self.hold_s or LEAST_RETRY_S) * len(self.waiting) / max(1, n_slots)
        return round(min(max(guess_s, LEAST_RETRY_S), MOST_RETRY_S), 1)

    def why_late(self, waited_s: float) -> tuple[str, str]:
        """Code and sentence for a request that has waited its time."""
        waited = f"within {waited_s:.3g} s"
        if any(replica.status == "ready" for replica in self.replicas):
            return "overloaded", f"{self.name!r} had no free place {waited}; all its places are taken."
        if any(replica.status == "loading" for replica in self.replicas):
            return "model_loading", f"{self.name!r} was not loaded {waited}; it still loads."
        if self.why:
            return "model_unavailable", f"{self.name!r} did not come up {waited}: {self.why}"
        return "no_memory", f"{self.name!r} found no memory {waited}; other models are busy in it."

    def state(self, now_s: float) -> ReplicaState:
        """The best state of its replicas."""
        statuses = {replica.status for replica in self.replicas}
        if statuses & {"ready", "yielding"}:
            return "ready"
        if "loading" in statuses:
            return "loading"
        if self.why and now_s < self.retry_s:
            return "failed"
        return "sleeping" if self.is_asleep else "unloaded"

    def facts(self, now_s: float) -> dict[str, Any]:
        """Plain values for whoever looks."""
        return {
            "version": self.plan.id,
            "model": self.name,
            "waiting": len(self.waiting),
            "longest_wait_s": round(now_s - self.waiting[0].arrived_s, 3) if self.waiting else 0.0,
            "load_s": None if self.load_s is None else round(self.load_s, 3),
            "last_failure": self.why,
            "leaving": self.is_leaving,
            "replicas": [
                {
                    "number": replica.number,
                    "status": replica.status,
                    "running": replica.n_running,
                    "slots": replica.slots,
                    "memory_bytes": replica.memory_bytes,
                }
                for replica in self.replicas
            ],
        }
