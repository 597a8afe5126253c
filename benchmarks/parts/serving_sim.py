"""The scheduler in a world without machines: loads, answers and stops take the seconds they are said to take, and time is a number."""

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.site import Rollout, ServedModel, Version
from trimtab.serve.scheduler import Scheduler
from trimtab.serve.scheduling import Asked, Ended, Event, Gone, Grant, Loaded, Plan, Refuse, Start, Stop, Ticked


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a replica of one version takes. service_s: of one request, however many run beside it."""

    memory_bytes: int
    load_s: float
    service_s: float
    slots: int = 4
    stop_s: float = 0.1


@dataclass(kw_only=True)
class Outcome:
    """One request. granted_s, ended_s: None where it was refused."""

    version: str
    asked_s: float
    granted_s: float | None = None
    ended_s: float | None = None
    refusal: str = ""


def plan_of(name: str, costs: Costs, **limits: Any) -> Plan:
    """A plan of one version of a model of its own."""
    version = Version(id=name, url="http://127.0.0.1:1/v1", memory_bytes=costs.memory_bytes)
    model = ServedModel(name=name, versions=(version,), rollout=Rollout(stable=name), **limits)
    return Plan(model=model, version=version, memory_bytes=costs.memory_bytes, min_replicas=0, max_replicas=1)


@dataclass
class Simulation:
    """One run. `ask` at any time of it, from `on_end` too; then `run`.

    n_loads: replicas started; most_bytes: the most memory that was in use at once
    on_end: called with the number and time of each request that ended
    """

    costs: Mapping[str, Costs]
    memory_bytes: int
    patience_s: float = 10.0
    limits: Mapping[str, Any] = field(default_factory=dict)
    on_end: Callable[[int, float], None] = lambda number, now_s: None

    def __post_init__(self) -> None:
        plans = [plan_of(name, costs, **self.limits) for name, costs in self.costs.items()]
        self.scheduler = Scheduler(plans, memory_bytes=self.memory_bytes, patience_s=self.patience_s)
        self.outcomes: list[Outcome] = []
        self.n_loads, self.most_bytes = 0, 0
        self._running: dict[int, str] = {}
        self._future: list[tuple[float, int, Event]] = []
        self._order = itertools.count()

    def ask(self, version: str, at_s: float, *, wait_s: float = 1e9) -> int:
        """A request that comes at a time; returns its number."""
        self.outcomes.append(Outcome(version=version, asked_s=at_s))
        number = len(self.outcomes) - 1
        self._later(at_s, Asked(number, version, wait_s))
        return number

    def run(self) -> float:
        """Until every request has ended; returns when that was."""
        now_s, n_steps = 0.0, 0
        while self._future and any(one.ended_s is None and not one.refusal for one in self.outcomes):
            n_steps += 1
            if n_steps > 1_000_000:
                raise RuntimeError("the simulation does not end")
            if self.scheduler.next_s < self._future[0][0]:
                now_s, event = max(now_s, self.scheduler.next_s), Ticked()
                self._tell(event, now_s)
                continue
            now_s, _, happened = heapq.heappop(self._future)
            self._tell(happened, now_s)
        return now_s

    def _later(self, at_s: float, event: Event) -> None:
        heapq.heappush(self._future, (at_s, next(self._order), event))

    def _tell(self, event: Event, now_s: float) -> None:
        if isinstance(event, Ended):
            self.outcomes[event.request].ended_s = now_s
        for action in self.scheduler.on(event, now_s):
            if isinstance(action, Start):
                costs = self.costs[action.plan.id]
                self.n_loads += 1
                self._running[action.replica] = action.plan.id
                self.most_bytes = max(self.most_bytes, sum(self.costs[name].memory_bytes for name in self._running.values()))
                self._later(now_s + costs.load_s, Loaded(action.replica, costs.slots, None))
            elif isinstance(action, Stop):
                name = self._running.pop(action.replica)
                self._later(now_s + self.costs[name].stop_s, Gone(action.replica))
            elif isinstance(action, Grant):
                self.outcomes[action.request].granted_s = now_s
                self._later(now_s + self.costs[self.outcomes[action.request].version].service_s, Ended(action.request))
            elif isinstance(action, Refuse):
                self.outcomes[action.request].refusal = action.code
                self.on_end(action.request, now_s)
        if isinstance(event, Ended):
            self.on_end(event.request, now_s)


def first_come_loads(versions: Sequence[str]) -> int:
    """Loads that serving in the order of arrival costs, where only one version fits: one for each change of version."""
    return sum(1 for before, now in itertools.pairwise(["", *versions]) if before != now)
