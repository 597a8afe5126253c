"""The scheduler by rule: each sentence of its promise, and all of them together on histories that hypothesis makes up."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trimtab.core.site import Rollout, ServedModel, Version
from trimtab.serve.scheduler import Scheduler
from trimtab.serve.scheduling import (
    Aborted,
    Action,
    Asked,
    Died,
    Draining,
    Ended,
    Event,
    Gone,
    Grant,
    Loaded,
    LoadFailed,
    Measured,
    Plan,
    Prefetch,
    Reconfigured,
    Refuse,
    Start,
    Stop,
    Ticked,
    Unfit,
)


def plan(name: str, memory: int = 6, *, least: int = 0, most: int = 1, **model: Any) -> Plan:
    version = Version(id=name, url="http://127.0.0.1:1/v1", memory_bytes=memory)
    served = ServedModel(name=name, versions=(version,), rollout=Rollout(stable=name), **model)
    return Plan(model=served, version=version, memory_bytes=memory, min_replicas=least, max_replicas=most)


def asked(number: int, version: str, wait_s: float = 100.0, *, again: bool = False) -> Asked:
    return Asked(number, version, wait_s, again)


def up(scheduler: Scheduler, version: str, request: int, at_s: float, *, slots: int = 2) -> int:
    """Ask for a version that is not up, load it; returns the replica's number. The request has its place then."""
    start = scheduler.on(asked(request, version), at_s)[-1]
    assert isinstance(start, Start)
    assert scheduler.on(Loaded(start.replica, slots, None), at_s) == [Grant(request, start.replica)]
    return start.replica


def test_one_wake_is_shared_by_all_who_wait() -> None:
    scheduler = Scheduler([plan("a")])
    first = scheduler.on(asked(1, "a"), 0.0)
    assert first == [Start(1, plan("a"))]
    assert [scheduler.on(asked(number, "a"), 0.1) for number in (2, 3)] == [[], []]
    assert scheduler.on(Loaded(1, 2, None), 5.0) == [Grant(1, 1), Grant(2, 1)]
    assert scheduler.on(Ended(1), 6.0) == [Grant(3, 1)]


def test_a_full_queue_refuses_at_once_and_says_when() -> None:
    scheduler = Scheduler([plan("a", queue_limit=2)])
    for number in (1, 2):
        scheduler.on(asked(number, "a"), 0.0)
    refusal = scheduler.on(asked(3, "a"), 0.0)[0]
    assert isinstance(refusal, Refuse)
    assert (refusal.status, refusal.code) == (429, "queue_full")
    assert refusal.retry_after_s >= 1.0


def test_who_waits_too_long_is_told_why() -> None:
    scheduler = Scheduler([plan("a"), plan("b")], memory_bytes=6)
    scheduler.on(asked(1, "a", 3.0), 0.0)
    scheduler.on(asked(2, "b", 4.0), 0.0)
    assert scheduler.next_s == 3.0
    late = scheduler.on(Ticked(), 3.0)[0]
    assert isinstance(late, Refuse)
    assert (late.request, late.status, late.code) == (1, 503, "model_loading")
    later = scheduler.on(Ticked(), 4.0)[0]
    assert isinstance(later, Refuse)
    assert (later.request, later.code) == (2, "no_memory")


def test_an_idle_replica_leaves_after_its_time_and_the_minimum_stays() -> None:
    scheduler = Scheduler([plan("a", idle_s=10.0)])
    replica = up(scheduler, "a", 1, 0.0)
    scheduler.on(Ended(1), 1.0)
    assert scheduler.next_s == 11.0
    assert scheduler.on(Ticked(), 10.9) == []
    assert scheduler.state_of("a") == "ready"
    assert scheduler.on(Ticked(), 11.0) == [Stop(replica, "nobody asked for it")]
    assert scheduler.state_of("a") == "sleeping"
    kept = Scheduler([plan("a", least=1, idle_s=10.0)])
    assert kept.on(Ticked(), 0.0) == [Start(1, plan("a", least=1, idle_s=10.0))]
    kept.on(Loaded(1, 2, None), 1.0)
    assert kept.on(Ticked(), 1e6) == []


def test_asleep_is_what_left_by_itself_and_only_until_it_is_asked_for() -> None:
    scheduler = Scheduler([plan("a", idle_s=10.0), plan("b", idle_s=10.0)], memory_bytes=10)
    assert scheduler.state_of("a") == "unloaded", "not loaded since the start"
    first = up(scheduler, "a", 1, 0.0)
    scheduler.on(Ended(1), 1.0)
    scheduler.on(asked(2, "b"), 2.0)
    assert scheduler.state_of("a") == "unloaded", "it made room for another"
    scheduler.on(Gone(first), 2.0)
    scheduler.on(Loaded(2, 2, None), 3.0)
    scheduler.on(Ended(2), 4.0)
    scheduler.on(Ticked(), 14.0)
    scheduler.on(Gone(2), 14.0)
    assert scheduler.state_of("b") == "sleeping"
    assert scheduler.on(asked(3, "b"), 15.0) == [Start(3, plan("b", idle_s=10.0))]
    assert scheduler.state_of("b") == "loading"
    scheduler.on(LoadFailed(3, "it does not fit", may_pass=False), 16.0)
    assert scheduler.state_of("b") == "failed"
    scheduler.on(Ticked(), 1000.0)
    assert scheduler.state_of("b") == "unloaded", "whether it would still come up is not known"


def test_an_idle_replica_makes_room_at_once_and_a_busy_one_after_its_turn() -> None:
    scheduler = Scheduler([plan("a"), plan("b")], memory_bytes=10, patience_s=10.0)
    first = up(scheduler, "a", 1, 0.0)
    assert scheduler.on(asked(2, "b"), 1.0) == [Prefetch(plan("b"))]
    assert scheduler.on(asked(3, "a"), 2.0) == [Grant(3, first)], "while its turn lasts, what is loaded goes on"
    assert scheduler.next_s == 11.0
    scheduler.on(Ticked(), 11.0)
    assert scheduler.on(asked(4, "a"), 11.5) == [], "its turn is over: it takes nobody any more"
    scheduler.on(Ended(1), 12.0)
    assert [type(action) for action in scheduler.on(Ended(3), 13.0)] == [Stop]
    assert scheduler.on(Gone(first), 13.5) == [Start(2, plan("b")), Prefetch(plan("a"))]
    assert scheduler.on(Loaded(2, 2, None), 14.0) == [Grant(2, 2)]
    assert [type(action) for action in scheduler.on(Ended(2), 15.0)] == [Stop], "idle, and somebody waits"


def test_a_turn_is_no_shorter_than_the_load_that_would_follow() -> None:
    scheduler = Scheduler([plan("a"), plan("slow")], memory_bytes=10, patience_s=10.0)
    scheduler.on(asked(1, "slow"), 0.0)
    scheduler.on(Loaded(1, 1, None), 40.0)
    scheduler.on(Ended(1), 40.0)
    scheduler.on(asked(2, "a"), 41.0)
    scheduler.on(Gone(1), 41.0)
    scheduler.on(Loaded(2, 1, None), 42.0)
    scheduler.on(asked(3, "slow"), 43.0)
    assert scheduler.next_s == 83.0


def test_a_turn_ends_early_when_its_work_ends() -> None:
    scheduler = Scheduler([plan("a"), plan("b")], memory_bytes=10)
    first = up(scheduler, "a", 1, 0.0)
    scheduler.on(asked(2, "b"), 1.0)
    assert scheduler.on(Ended(1), 2.0) == [Stop(first, "its memory is needed for 'b'")]


def test_nobody_yields_for_one_who_left() -> None:
    scheduler = Scheduler([plan("a"), plan("b")], memory_bytes=10, patience_s=10.0)
    first = up(scheduler, "a", 1, 0.0)
    scheduler.on(asked(2, "b"), 1.0)
    scheduler.on(Ticked(), 11.0)
    scheduler.on(asked(3, "a"), 12.0)
    assert scheduler.on(Ended(2), 13.0) == [Grant(3, first)]
    scheduler.on(asked(4, "b"), 14.0)
    scheduler.on(Ticked(), 24.0)
    scheduler.on(Ended(4), 25.0)
    assert [scheduler.on(Ended(number), 26.0) for number in (1, 3)] == [[], []]


def test_the_cheapest_goes_first() -> None:
    plans = [plan("slow", 3), plan("quick", 3), plan("new", 3)]
    scheduler = Scheduler(plans, memory_bytes=8)
    for number, (name, load_s) in enumerate((("slow", 20.0), ("quick", 1.0)), 1):
        scheduler.on(asked(number, name), 0.0)
        scheduler.on(Loaded(number, 1, None), load_s)
        scheduler.on(Ended(number), 30.0)
    stop = scheduler.on(asked(3, "new"), 31.0)[0]
    assert isinstance(stop, Stop)
    assert stop.replica == 2


def test_no_more_is_stopped_than_is_needed() -> None:
    plans = [plan("small", 2), plan("large", 6), plan("new", 6)]
    scheduler = Scheduler(plans, memory_bytes=8)
    up(scheduler, "small", 1, 0.0)
    scheduler.on(asked(2, "large"), 0.0)
    scheduler.on(Loaded(2, 1, None), 20.0)
    for number in (1, 2):
        scheduler.on(Ended(number), 20.0)
    stops = [action.replica for action in scheduler.on(asked(3, "new"), 21.0) if isinstance(action, Stop)]
    assert stops == [2], "the small one is cheaper to load again, and of no use beside the large one"


def test_the_minimum_is_spared_though_it_is_cheapest() -> None:
    scheduler = Scheduler([plan("kept", 3, least=1), plan("dear", 3), plan("new", 3)], memory_bytes=8)
    scheduler.on(Ticked(), 0.0)
    scheduler.on(Loaded(1, 1, None), 0.0)
    scheduler.on(asked(1, "dear"), 0.0)
    scheduler.on(Loaded(2, 1, None), 50.0)
    scheduler.on(Ended(1), 50.0)
    stops = [action.replica for action in scheduler.on(asked(2, "new"), 51.0) if isinstance(action, Stop)]
    assert stops == [2]


def test_nobody_overtakes_for_memory() -> None:
    scheduler = Scheduler([plan("a", 4, most=2), plan("large", 8), plan("small", 4)], memory_bytes=10, patience_s=30.0)
    up(scheduler, "a", 1, 0.0, slots=1)
    assert scheduler.on(asked(2, "large"), 1.0) == [Prefetch(plan("large", 8))]
    assert scheduler.on(asked(3, "small"), 2.0) == [], "there is room for it, but another one waits for that"
    assert scheduler.on(asked(4, "a"), 2.0) == []
    assert scheduler.on(Ticked(), 29.0) == [], "nor does a second replica take it"


def test_what_must_always_run_is_never_evicted() -> None:
    scheduler = Scheduler([plan("kept", 6, least=1), plan("other", 6)], memory_bytes=10)
    scheduler.on(Ticked(), 0.0)
    scheduler.on(Loaded(1, 1, None), 1.0)
    refusal = scheduler.on(asked(1, "other"), 2.0)[0]
    assert isinstance(refusal, Refuse)
    assert refusal.code == "no_memory"


def test_a_failed_load_is_tried_twice_then_the_reason_is_told_and_a_pause_kept() -> None:
    scheduler = Scheduler([plan("a")])
    scheduler.on(asked(1, "a"), 0.0)
    assert scheduler.on(LoadFailed(1, "No such file.", True), 1.0) == [Start(2, plan("a"))]
    refusal = scheduler.on(LoadFailed(2, "No such file.", True), 2.0)[0]
    assert isinstance(refusal, Refuse)
    assert refusal.why.endswith("No such file.")
    assert scheduler.state_of("a") == "failed"
    early = scheduler.on(asked(2, "a"), 2.5)[0]
    assert isinstance(early, Refuse)
    assert early.code == "model_unavailable"
    assert scheduler.on(asked(3, "a"), 3.0) == [Start(3, plan("a"))]


def test_what_cannot_pass_is_not_tried_twice() -> None:
    scheduler = Scheduler([plan("a")])
    scheduler.on(asked(1, "a"), 0.0)
    assert isinstance(scheduler.on(LoadFailed(1, "The file is damaged.", False), 1.0)[0], Refuse)


def test_the_pauses_grow_to_a_minute_and_success_ends_them() -> None:
    scheduler = Scheduler([plan("a", least=1)])
    scheduler.on(Ticked(), 0.0)
    pauses, now_s = [], 0.0
    for number in range(1, 12):
        scheduler.on(LoadFailed(number, "no", True), now_s)
        pauses.append(scheduler.next_s - now_s if scheduler.next_s < 1e9 else 0.0)
        now_s += max(pauses[-1], 0.0)
        scheduler.on(Ticked(), now_s)
    assert pauses[:5] == [0.0, 1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == 60.0


def test_a_dead_replica_is_replaced_and_its_request_goes_first() -> None:
    scheduler = Scheduler([plan("a", queue_limit=1)])
    first = up(scheduler, "a", 1, 0.0, slots=1)
    scheduler.on(asked(2, "a"), 1.0)
    died = scheduler.on(Died(first, "killed"), 2.0)
    assert died == [Stop(first, "killed"), Start(2, plan("a", queue_limit=1))]
    assert scheduler.on(Died(first, "killed"), 2.0) == [], "two callers saw it"
    assert scheduler.on(Ended(1), 2.0) == []
    scheduler.on(asked(3, "a", again=True), 2.0)
    assert scheduler.on(Loaded(2, 1, None), 3.0) == [Grant(3, 2)]


def test_late_words_about_an_old_replica_change_nothing() -> None:
    scheduler = Scheduler([plan("a")])
    first = up(scheduler, "a", 1, 0.0)
    scheduler.on(Ended(1), 0.0)
    scheduler.on(Died(first, "killed"), 100.0)
    scheduler.on(Gone(first), 100.0)
    up(scheduler, "a", 2, 101.0)
    before = scheduler.facts(102.0)
    late: tuple[Event, ...] = (
        Loaded(first, 9, 9),
        LoadFailed(first, "", True),
        Died(first, ""),
        Unfit(first, ""),
        Gone(first),
        Measured(first, 9),
    )
    for event in late:
        assert scheduler.on(event, 102.0) == []
    assert scheduler.on(Gone(2), 102.0) == [], "nobody asked it to stop"
    assert scheduler.facts(102.0) == before


def test_another_replica_starts_once_waiting_costs_as_much_as_loading() -> None:
    scheduler = Scheduler([plan("a", most=2)], memory_bytes=12)
    scheduler.on(asked(1, "a"), 0.0)
    scheduler.on(Loaded(1, 1, None), 4.0)
    assert scheduler.on(asked(2, "a"), 5.0) == []
    assert scheduler.next_s == 9.0
    assert scheduler.on(Ticked(), 9.0) == [Start(2, plan("a", most=2))]
    assert scheduler.on(Loaded(2, 1, None), 13.0) == [Grant(2, 2)]


def test_another_replica_never_evicts() -> None:
    scheduler = Scheduler([plan("a", most=2), plan("b")], memory_bytes=12)
    up(scheduler, "a", 1, 0.0, slots=1)
    up(scheduler, "b", 2, 0.0)
    scheduler.on(Ended(2), 0.0)
    scheduler.on(asked(3, "a"), 1.0)
    assert scheduler.on(Ticked(), 50.0) == []


def test_a_replica_that_grew_is_replaced_without_losing_a_request() -> None:
    scheduler = Scheduler([plan("a")], memory_bytes=20)
    first = up(scheduler, "a", 1, 0.0)
    scheduler.on(Unfit(first, "it grew"), 1.0)
    assert scheduler.on(asked(2, "a"), 2.0) == [Start(2, plan("a"))]
    assert scheduler.on(Ended(1), 3.0) == [Stop(first, "it was to be replaced")]


def test_reconfiguration_keeps_what_did_not_change_and_serves_out_what_did() -> None:
    scheduler = Scheduler([plan("a"), plan("b")])
    kept = up(scheduler, "a", 1, 0.0)
    old = up(scheduler, "b", 2, 0.0, slots=1)
    scheduler.on(asked(3, "b"), 1.0)
    new = plan("b", 7)
    assert scheduler.on(Reconfigured((plan("a", idle_s=5.0), new), None, 10.0), 2.0) == []
    assert scheduler.on(asked(4, "a"), 2.0) == [Grant(4, kept)]
    assert scheduler.on(asked(5, "b"), 3.0) == [Start(3, new)], "new requests are for what is configured now"
    assert scheduler.on(Ended(2), 4.0) == [Grant(3, old)], "who was admitted before is served as before"
    assert scheduler.on(Ended(3), 5.0) == [Stop(old, "it is configured no more")]
    scheduler.on(Gone(old), 5.0)
    assert [lane["version"] for lane in scheduler.facts(5.0)["versions"]] == ["a", "b"]


def test_a_smaller_budget_takes_hold_without_dropping_a_request() -> None:
    scheduler = Scheduler([plan("a"), plan("b")], memory_bytes=12)
    first, second = up(scheduler, "a", 1, 0.0), up(scheduler, "b", 2, 0.0)
    scheduler.on(Reconfigured((plan("a"), plan("b")), 6, 10.0), 1.0)
    stopped = {action.replica for number in (1, 2) for action in scheduler.on(Ended(number), 2.0) if isinstance(action, Stop)}
    assert len(stopped & {first, second}) == 1


def test_drain_serves_whom_it_has_and_ends() -> None:
    scheduler = Scheduler([plan("a", least=1), plan("b")])
    scheduler.on(Ticked(), 0.0)
    scheduler.on(Loaded(1, 1, None), 0.0)
    up(scheduler, "b", 1, 0.0, slots=1)
    scheduler.on(asked(2, "b"), 1.0)
    assert scheduler.on(Draining(), 2.0) == [Stop(1, "the server shuts down")], "what is idle goes, the minimum too"
    refusal = scheduler.on(asked(3, "a"), 2.0)[0]
    assert isinstance(refusal, Refuse)
    assert refusal.code == "shutting_down"
    assert scheduler.on(Ended(1), 3.0) == [Grant(2, 2)]
    scheduler.on(Ended(2), 4.0)
    for replica in (1, 2):
        scheduler.on(Gone(replica), 5.0)
    assert scheduler.is_empty


def test_an_overtaken_turn_is_not_taken_twice() -> None:
    """A version that yields with requests still waiting goes behind those who waited for it."""
    scheduler = Scheduler([plan("a"), plan("b"), plan("c")], memory_bytes=6, patience_s=5.0)
    first = up(scheduler, "a", 1, 0.0, slots=1)
    for number, name in enumerate(("a", "a", "b", "c"), 2):
        scheduler.on(asked(number, name), 1.0 + number / 10)
    scheduler.on(Ticked(), 7.0)
    scheduler.on(Ended(1), 8.0)
    started = [action.plan.id for action in scheduler.on(Gone(first), 8.0) if isinstance(action, Start)]
    scheduler.on(Loaded(2, 1, None), 8.0)
    scheduler.on(Ended(4), 9.0)
    started += [action.plan.id for action in scheduler.on(Gone(2), 9.0) if isinstance(action, Start)]
    assert started == ["b", "c"]


NAMES = ("a", "b", "c")
BUDGET = 8


class Histories(RuleBasedStateMachine):
    """Any order of events. The world does what the scheduler says, late or at once; what it promised is checked after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.n_requests = 0
        self.waiting: dict[int, tuple[str, float]] = {}
        self.running: dict[int, int] = {}
        self.ended: set[int] = set()
        self.replicas: dict[int, dict[str, Any]] = {}
        self.all_numbers: set[int] = set()
        self.asleep: set[str] = set()
        self.is_draining = False

    @initialize(least=st.sampled_from([0, 1]), most=st.integers(1, 3))
    def begin(self, least: int, most: int) -> None:
        limits = {"queue_limit": 4, "idle_s": 20.0}
        self.plans = (plan("a", 3, least=least, most=most, **limits), plan("b", 4, most=most, **limits), plan("c", 4, **limits))
        self.scheduler = Scheduler(self.plans, memory_bytes=BUDGET, patience_s=5.0)
        self.tell(Ticked())

    def tell(self, event: Event) -> None:
        for action in self.scheduler.on(event, self.now_s):
            self.obey(action)

    def obey(self, action: Action) -> None:
        if isinstance(action, Start):
            assert action.replica not in self.all_numbers, "a number is used once"
            self.all_numbers.add(action.replica)
            self.asleep.discard(action.plan.id)
            self.replicas[action.replica] = {
                "state": "loading",
                "version": action.plan.id,
                "bytes": action.plan.memory_bytes,
                "n": 0,
                "slots": 0,
            }
            assert sum(one["bytes"] for one in self.replicas.values()) <= BUDGET
            lane = next(lane for lane in self.scheduler.facts(self.now_s)["versions"] if lane["version"] == action.plan.id)
            assert sum(one["status"] in ("loading", "ready") for one in lane["replicas"]) <= action.plan.max_replicas
        elif isinstance(action, Stop):
            one = self.replicas[action.replica]
            assert one["state"] in ("loading", "ready"), "stopped once"
            assert one["n"] == 0 or action.why in ("killed", "the server shuts down"), "never a busy one"
            one["state"] = "stopping"
            others = [each["state"] for each in self.replicas.values() if each["version"] == one["version"]]
            if "loading" not in others and "ready" not in others and action.why == "nobody asked for it":
                self.asleep.add(one["version"])
        elif isinstance(action, Grant):
            version, _ = self.waiting.pop(action.request)
            one = self.replicas[action.replica]
            assert (one["state"], one["version"]) == ("ready", version)
            one["n"] += 1
            assert one["n"] <= one["slots"]
            self.running[action.request] = action.replica
        elif isinstance(action, Refuse):
            assert action.request in self.waiting, "a request ends once"
            assert action.retry_after_s >= 1.0
            del self.waiting[action.request]
            self.ended.add(action.request)

    def numbers(self, state: str) -> list[int]:
        return [number for number, one in self.replicas.items() if one["state"] == state]

    @rule(name=st.sampled_from(NAMES), wait_s=st.floats(0.5, 60.0), again=st.booleans())
    def ask(self, name: str, wait_s: float, again: bool) -> None:
        self.n_requests += 1
        self.waiting[self.n_requests] = (name, self.now_s + wait_s)
        self.tell(asked(self.n_requests, name, wait_s, again=again))

    @rule(seconds=st.floats(0.0, 30.0))
    def wait(self, seconds: float) -> None:
        """Time passes; ticks come when they are due, as the shell around it sees to."""
        end_s = self.now_s + seconds
        for _ in range(1000):
            if self.scheduler.next_s > end_s:
                break
            self.now_s = max(self.now_s, self.scheduler.next_s)
            self.tell(Ticked())
        else:
            raise AssertionError("ticks without end")
        self.now_s = end_s
        self.tell(Ticked())

    @precondition(lambda self: self.numbers("loading"))
    @rule(data=st.data(), slots=st.integers(1, 3), works=st.sampled_from(["yes", "yes", "yes", "may pass", "no"]))
    def load(self, data: st.DataObject, slots: int, works: str) -> None:
        number = data.draw(st.sampled_from(self.numbers("loading")))
        if works == "yes":
            self.replicas[number] |= {"state": "ready", "slots": slots}
            self.tell(Loaded(number, slots, None))
        else:
            del self.replicas[number]
            self.tell(LoadFailed(number, "it does not fit", works == "may pass"))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.end_one(data.draw(st.sampled_from(sorted(self.running))))

    def end_one(self, request: int) -> None:
        number = self.running.pop(request)
        if number in self.replicas:
            self.replicas[number]["n"] -= 1
        self.ended.add(request)
        self.tell(Ended(request))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[request]
        self.ended.add(request)
        self.tell(Ended(request))

    @precondition(lambda self: self.numbers("ready"))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.tell(Died(data.draw(st.sampled_from(self.numbers("ready"))), "killed"))

    @precondition(lambda self: self.numbers("ready"))
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        self.tell(Unfit(data.draw(st.sampled_from(self.numbers("ready"))), "it grew"))

    @precondition(lambda self: self.numbers("stopping"))
    @rule(data=st.data())
    def stopped(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.numbers("stopping")))
        del self.replicas[number]
        self.tell(Gone(number))

    @rule(number=st.integers(0, 60))
    def late_word(self, number: int) -> None:
        if number not in self.replicas:
            for event in (Loaded(number, 5, 99), Died(number, "late"), Gone(number), LoadFailed(number, "late", False)):
                self.tell(event)

    @rule(which=st.sets(st.sampled_from([0, 1, 2]), min_size=1), idle_s=st.sampled_from([20.0, 30.0]))
    def reconfigure(self, which: set[int], idle_s: float) -> None:
        changed = (
            plan(one.id, one.memory_bytes, least=one.min_replicas, most=one.max_replicas, queue_limit=4, idle_s=idle_s)
            for one in self.plans
        )
        plans = tuple(one for number, one in enumerate(changed) if number in which)
        self.asleep &= {one.id for one in plans}
        self.tell(Reconfigured(plans, BUDGET, 5.0))

    @invariant()
    def nobody_waits_beyond_the_deadline(self) -> None:
        assert all(deadline_s > self.now_s for _, deadline_s in self.waiting.values())

    @invariant()
    def asleep_is_what_left_by_itself(self) -> None:
        for lane in self.scheduler.facts(self.now_s)["versions"]:
            if not lane["leaving"]:
                assert (self.scheduler.state_of(lane["version"]) == "sleeping") == (lane["version"] in self.asleep)

    @invariant()
    def every_request_is_in_one_place(self) -> None:
        assert set(self.waiting) | set(self.running) | self.ended == set(range(1, self.n_requests + 1))
        assert not set(self.waiting) & set(self.running)
        assert not self.ended & (set(self.waiting) | set(self.running))
        if self.n_requests:
            assert self.scheduler.n_requests == len(self.waiting) + len(self.running)

    @invariant()
    def nobody_waits_beside_a_free_place(self) -> None:
        """No lost wake: who waits, waits for something that will happen: a place, a load, memory, a pause that ends, or the deadline."""
        if not self.waiting:
            return
        assert self.scheduler.next_s < float("inf")
        facts = self.scheduler.facts(self.now_s)
        for lane in facts["versions"]:
            if lane["waiting"]:
                assert not [one for one in lane["replicas"] if one["status"] == "ready" and one["running"] < one["slots"]]

    def teardown(self) -> None:
        """Whatever happened: drain ends, with every request ended and every replica gone."""
        if not hasattr(self, "scheduler"):
            return
        self.tell(Draining())
        for _ in range(500):
            if self.scheduler.is_empty:
                break
            for number in self.numbers("loading"):
                self.replicas[number] |= {"state": "ready", "slots": 1}
                self.tell(Loaded(number, 1, None))
            for request in sorted(self.running):
                self.end_one(request)
            for number in self.numbers("stopping"):
                del self.replicas[number]
                self.tell(Gone(number))
            self.wait(1.0)
        assert self.scheduler.is_empty
        assert not self.waiting
        assert not self.running


Histories.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase


def test_aborting_refuses_who_waits_and_stops_everything() -> None:
    scheduler = Scheduler([plan("a"), plan("b")], memory_bytes=8)
    first = up(scheduler, "a", 1, 0.0)
    scheduler.on(asked(2, "b"), 1.0)
    actions = scheduler.on(Aborted(), 2.0)
    assert [action.request for action in actions if isinstance(action, Refuse)] == [2]
    assert [action.replica for action in actions if isinstance(action, Stop)] == [first]
