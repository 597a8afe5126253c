"""What a fleet must hold whatever is thrown at it, and each thing that it can do."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.plan.fleet.events import Course, simulate
from trimtab.plan.fleet.replica import ANSWERED, LOST, NEVER_SERVED, OPEN, QUEUE_FULL, TOO_LONG, WAITED_OUT, Replica
from trimtab.plan.fleet.results import result, spread
from trimtab.plan.fleet.settings import POLICIES, ROUTES, Batching, Fleet, Kind, policy_of
from trimtab.plan.fleet.steps import AffineSteps, tabled
from trimtab.plan.fleet.traces import Trace
from trimtab.plan.slo import parse_slo

STEPS = AffineSteps(fixed_s=0.01, sequence_s=0.001, context_token_s=1e-6, prompt_token_s=1e-4)
REQUEST = st.tuples(st.floats(0, 1), st.integers(1, 80), st.integers(1, 40), st.integers(-1, 3), st.floats(0, 1))


def made(rows: list[tuple[float, int, int, int, float]]) -> Trace:
    gaps, prompts, outputs, prefixes, shares = (np.array(column) for column in zip(*rows, strict=True))
    tokens = np.where(prefixes >= 0, np.maximum(1, (prompts * shares).astype(int)), 0)
    return Trace(
        name="t", arrival_s=np.cumsum(gaps * 0.31371), prompt_tokens=prompts, output_tokens=outputs, prefix=prefixes, prefix_tokens=tokens
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(REQUEST, min_size=1, max_size=40),
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from(ROUTES),
    st.fixed_dictionaries(
        {
            "queue_at_gateway": st.booleans(),
            "queue_limit": st.sampled_from([0, 3]),
            "queue_wait_s": st.sampled_from([0.0, 0.4]),
            "retry": st.sampled_from(["unstarted", "all", "none"]),
        }
    ),
    st.sampled_from([0, 70, 130]),
    st.sampled_from(["whole", "grow"]),
    st.booleans(),
    st.integers(0, 3),
)
def test_every_request_ends_once_and_memory_holds(
    rows: list[Any], policy: str, route: Any, rules: Any, kv: int, reserve: Any, breaks: bool, seed: int
) -> None:
    trace = made(rows)
    batching = Batching(slots=4, batch_tokens=32, kv_tokens=kv, reserve=reserve)
    kind = Kind(name="k", steps=tabled(STEPS, max_batch=4, batch_tokens=32), batching=batching, min_replicas=1, max_replicas=3, cold_s=0.7)
    spot = replace(kind, name="s", spot_s=3.0, notice_s=0.2, mtbf_s=2.0, restart_s=0.3, max_replicas=2, min_replicas=0)
    fleet = Fleet(kinds=(kind, spot) if breaks else (kind,), policy=policy_of(policy), route=route, **rules)
    course = simulate(trace, fleet, seed=seed)
    requests = course.requests
    assert OPEN not in requests.status
    assert NEVER_SERVED not in requests.status
    for i, status in enumerate(requests.status):
        assert (status == TOO_LONG) == bool(kv and trace.prompt_tokens[i] + trace.output_tokens[i] - (reserve == "grow") > kv)
        if status == ANSWERED:
            assert requests.arrival_s[i] <= requests.started_s[i] < requests.first_s[i] <= requests.end_s[i]
            assert (requests.first_s[i] == requests.end_s[i]) <= (requests.output[i] == 1)
    for life in course.lives:
        assert life.replica.most_kv <= life.replica.limit
        assert life.replica.busy_s <= life.end_s - life.start_s + 1e-9
        if not breaks:
            assert life.replica.used == life.replica.n_decoding == life.replica.context == life.replica.n_outstanding == 0
            assert life.replica.kept == sum(life.replica.prefixes.values())
            assert not any(life.replica.pins.values())
    again = simulate(trace, fleet, seed=seed).requests
    assert (again.end_s, again.status, again.where) == (requests.end_s, requests.status, requests.where)
    if not rules["queue_limit"]:
        assert QUEUE_FULL not in requests.status
    if not rules["queue_wait_s"]:
        assert WAITED_OUT not in requests.status
    if not breaks or rules["retry"] == "all":
        assert LOST not in requests.status


@settings(max_examples=60, deadline=None)
@given(
    st.lists(REQUEST, min_size=5, max_size=30),
    st.sampled_from(sorted(POLICIES)),
    st.booleans(),
    st.sampled_from([0.0, 0.4]),
    st.sampled_from([70, 130]),
    st.sampled_from(["whole", "grow"]),
    st.booleans(),
)
def test_jumping_is_stepping_with_all_features(
    rows: list[Any], policy: str, at_gateway: bool, wait_s: float, kv: int, reserve: Any, breaks: bool
) -> None:
    """Prefixes, refusals, cold starts, failures: once with every jump cut to a single step. One replica: of two, ends may coincide."""
    trace = made(rows)
    batching = Batching(slots=4, batch_tokens=32, kv_tokens=kv, reserve=reserve)
    table = tabled(replace(STEPS, context_token_s=1e-4), max_batch=4, batch_tokens=32)
    kind = Kind(name="k", steps=table, batching=batching, min_replicas=0, cold_s=0.70131, mtbf_s=2.0 if breaks else 0.0)
    fleet = Fleet(kinds=(kind,), policy=policy_of(policy), queue_at_gateway=at_gateway, queue_wait_s=wait_s, retry="all")
    jumped = simulate(trace, fleet)
    begin = Replica._begin

    def single(self: Replica, now_s: float) -> None:
        begin(self, now_s)
        if self.n_jump > 1:
            self.n_jump = 1
            self.at_s = self.starting_s + self._seconds(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replica, "_begin", single)
        stepped = simulate(trace, fleet)
    assert jumped.requests.status == stepped.requests.status
    assert jumped.requests.end_s == pytest.approx(stepped.requests.end_s, abs=1e-8)
    assert jumped.requests.first_s == pytest.approx(stepped.requests.first_s, abs=1e-8)
    assert [life.replica.hit_tokens for life in jumped.lives] == [life.replica.hit_tokens for life in stepped.lives]
    assert jumped.end_s == pytest.approx(stepped.end_s, abs=1e-8)


def one(course: Course, i: int) -> tuple[float, float]:
    return course.requests.first_s[i], course.requests.end_s[i]


def test_a_lone_request_takes_what_its_steps_take(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    course = simulate(trace([(5.0, 100, 3)]), fleet(steps=STEPS))
    first = 5.0 + 2 * 0.01 + 100 * 1e-4  # two chunks: 64 and 36 tokens
    decode = 2 * 0.011 + (100 + 101) * 1e-6
    assert one(course, 0) == pytest.approx((first, first + decode))


def test_overhead_is_before_the_first_token(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    rows = trace([(0.0, 10, 5), (9.0, 10, 5)])
    without, with_it = fleet(), fleet(kind={"overhead_s": 0.5})
    plain, more = (result(rows, each, simulate(rows, each)) for each in (without, with_it))
    assert more["ttft_ms"]["p50"] == pytest.approx(plain["ttft_ms"]["p50"] + 500)
    assert more["e2e_ms"]["p50"] == pytest.approx(plain["e2e_ms"]["p50"] + 500)
    assert more["tpot_ms"]["p50"] == pytest.approx(plain["tpot_ms"]["p50"])


def test_from_zero_the_first_request_waits_for_a_cold_start(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    rows = trace([(10.0, 10, 5), (11.0, 10, 5), (30.0, 10, 5), (500.0, 10, 5)])
    played = fleet(3, policy="scale-to-zero:keep=60", kind={"cold_s": 4.0, "min_replicas": 2, "usd_h": 3.6})
    course = simulate(rows, played)
    found = result(rows, played, course)
    assert course.requests.started_s == pytest.approx([14.0, 14.0, 30.0, 504.0], abs=0.02)
    assert course.requests.is_cold == [True, True, False, True]
    assert (found["cold_starts"], found["saw_cold_start"], found["most_replicas"]) == (2, 3, 1)
    spans = [life.end_s - life.start_s for life in course.lives]
    assert spans[0] == pytest.approx(20 + 60, abs=2.0)
    assert found["usd"] == pytest.approx(sum(spans) / 1000)
    assert found["replica_hours"] == pytest.approx(sum(spans) / 3600)


def test_long_pauses_without_replicas_cost_nothing_and_change_nothing(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    """A year between two requests would be 30 million looks of a second each."""
    year_s = 365 * 86_400.0
    near, far = (trace([(0.25, 10, 5), (gap_s, 10, 5), (gap_s + 1.0, 10, 5)]) for gap_s in (500.25, year_s + 0.25))
    played = fleet(2, policy="scale-to-zero:keep=60", kind={"cold_s": 4.0})
    courses = [simulate(rows, played) for rows in (near, far)]
    starts = [np.array(course.requests.started_s) - rows.arrival_s for course, rows in zip(courses, (near, far), strict=True)]
    assert starts[0] == pytest.approx(starts[1], abs=1e-6)
    spans = [[life.end_s - life.start_s for life in course.lives] for course in courses]
    assert spans[0] == pytest.approx(spans[1], abs=1e-6)
    assert [course.n_cold for course in courses] == [2, 2]


@pytest.mark.parametrize(
    "policy", ["scale-to-zero:keep=40", "outstanding:keep=30", "queue:keep=20,every=3", "utilisation:keep=60", "gateway:keep=50"]
)
def test_looks_that_are_passed_over_would_have_seen_nothing(policy: str, fleet: Callable[..., Fleet]) -> None:
    """A failure in a billion years makes the simulation look every time, and changes nothing else."""
    rng = np.random.default_rng(5)
    at = np.cumsum(np.concatenate([rng.exponential(gap, n) for gap, n in ((30.0, 30), (0.05, 200), (200.0, 10), (15.0, 40))]))
    none = np.full(len(at), -1)
    rows = Trace(name="t", arrival_s=at, prompt_tokens=none * 0 + 50, output_tokens=none * 0 + 20, prefix=none, prefix_tokens=none * 0)
    quick, slow = (
        simulate(rows, fleet(4, policy=policy, kind={"cold_s": 7.3, "min_replicas": least, "mtbf_s": mtbf_s}))
        for mtbf_s, least in ((0.0, 1), (1e18, 1))
    )
    assert quick.requests.end_s == pytest.approx(slow.requests.end_s, abs=1e-6)
    for name in ("start_s", "end_s"):
        assert [getattr(life, name) for life in quick.lives] == pytest.approx([getattr(life, name) for life in slow.lives], abs=1e-6)
    assert quick.n_cold == slow.n_cold > 0


def test_a_fleet_grows_under_load_and_shrinks_after(fleet: Callable[..., Fleet]) -> None:
    at = np.concatenate([np.arange(0, 60, 2.0), np.arange(60, 120, 0.02), np.arange(120, 600, 4.0)])
    none = np.full(len(at), -1)
    rows = Trace(name="t", arrival_s=at, prompt_tokens=none * 0 + 50, output_tokens=none * 0 + 20, prefix=none, prefix_tokens=none * 0)
    for name in ("outstanding", "queue", "utilisation", "gateway"):
        played = fleet(6, policy=f"{name}:keep=60", kind={"cold_s": 2.0, "min_replicas": 1})
        found = result(rows, played, simulate(rows, played))
        assert found["most_replicas"] > 2, name
        assert found["timeline"]["replicas"][-1] <= 1, name
        assert found["replica_hours"] < 0.8 * 6 * found["seconds"] / 3600, name


def test_a_failure_moves_who_waits_and_loses_who_got_tokens(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    rows = trace([(0.0, 10, 4000), (0.0, 10, 4000), (0.5, 10, 20)])
    kind = {"mtbf_s": 4.0, "restart_s": 1.0}
    lost = simulate(rows, fleet(slots=2, kind=kind), seed=1)
    assert lost.requests.status == [LOST, LOST, ANSWERED]
    assert lost.requests.started_s[2] == pytest.approx(lost.requests.end_s[0] + 1.0)
    kept = simulate(rows, fleet(slots=2, kind=kind, retry="all"), seed=1)
    assert set(kept.requests.status) == {ANSWERED}
    assert sum(life.n_failures for life in kept.lives) >= 1
    assert kept.requests.first_s[0] == lost.requests.first_s[0], "what a client got before stays got"


def test_spot_replicas_leave_with_notice(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    rows = trace([(float(i), 10, 50) for i in range(200)])
    played = fleet(1, kind={"spot_s": 60.0, "notice_s": 5.0, "cold_s": 1.0})
    course = simulate(rows, played, seed=2)
    found = result(rows, played, course)
    assert found["answered"] == 200, "an answer takes half a second, the notice five"
    assert len(course.lives) > 2
    assert found["cold_starts"] == len(course.lives) - 1
    sudden = fleet(1, kind={"spot_s": 10.0, "cold_s": 1.0}, retry="none")
    assert LOST in simulate(rows, sudden, seed=2).requests.status


def test_shared_beginnings_are_computed_once(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    rows = [(0.0, 1000, 5), (1.0, 1000, 5), (2.0, 1000, 5)]
    shared = trace(rows, prefix=[(7, 900), (7, 900), (8, 900)])
    course = simulate(shared, fleet(steps=STEPS, batch_tokens=2000))
    waits = [first - at for first, at in zip(course.requests.first_s, (0.0, 1.0, 2.0), strict=True)]
    assert waits == pytest.approx([0.11, 0.02, 0.11])
    assert course.lives[0].replica.hit_tokens == 900
    assert course.lives[0].replica.kept == 1800
    off = simulate(shared, fleet(steps=STEPS, batch_tokens=2000, prefix_cache=False))
    assert off.lives[0].replica.hit_tokens == off.lives[0].replica.kept == 0
    tight = simulate(shared, fleet(steps=STEPS, batch_tokens=2000, kv_tokens=1800))
    assert tight.lives[0].replica.kept == 900, "the third needs the room of the first one's prefix"


def test_prefix_routing_finds_the_cache(fleet: Callable[..., Fleet]) -> None:
    rng = np.random.default_rng(0)
    n = 2000
    prefix = rng.integers(0, 8, n)
    ones = np.ones(n, int)
    rows = Trace(
        name="t",
        arrival_s=np.cumsum(rng.exponential(0.05, n)),
        prompt_tokens=600 * ones,
        output_tokens=10 * ones,
        prefix=prefix,
        prefix_tokens=500 * ones,
    )
    cached = {}
    for route in ("round-robin", "prefix"):
        course = simulate(rows, fleet(4, kv_tokens=2500, route=route))
        cached[route] = sum(life.replica.hit_tokens for life in course.lives)
    assert cached["prefix"] > 1.5 * cached["round-robin"]


def test_routes_spread_unlike_requests(fleet: Callable[..., Fleet]) -> None:
    """Every second answer is long: turns give them all to one replica, who looks at loads does better."""
    n = 400
    none = np.full(n, -1)
    outputs = np.where(np.arange(n) % 2, 100, 2)
    rows = Trace(
        name="t", arrival_s=np.arange(n) * 0.12, prompt_tokens=none * 0 + 10, output_tokens=outputs, prefix=none, prefix_tokens=none * 0
    )
    mean = {}
    for route in ROUTES:
        played = fleet(2, slots=4, route=route)
        mean[route] = result(rows, played, simulate(rows, played))["e2e_ms"]["mean"]
    assert mean["least-outstanding"] < 0.9 * mean["round-robin"]
    assert mean["least-kv"] < mean["round-robin"]
    assert mean["power-of-two"] == pytest.approx(mean["least-outstanding"], rel=0.01), "two of two are both"


def test_limits_refuse(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    rows = trace([(0.01 * i, 10, 100) for i in range(6)])
    full = simulate(rows, fleet(slots=1, queue_limit=2)).requests
    assert full.status == [ANSWERED, ANSWERED, ANSWERED, QUEUE_FULL, QUEUE_FULL, QUEUE_FULL]
    for at_gateway in (False, True):
        late = simulate(rows, fleet(slots=1, queue_wait_s=1.5, queue_at_gateway=at_gateway)).requests
        assert late.status == [ANSWERED, ANSWERED, *[WAITED_OUT] * 4]
        assert late.end_s[5] == pytest.approx(0.05 + 1.5)
    long = simulate(trace([(0.0, 100, 10), (0.0, 10, 10)]), fleet(kv_tokens=60)).requests
    assert long.status == [TOO_LONG, ANSWERED]


def test_unlike_kinds_answer_what_fits_them(trace: Callable[..., Trace]) -> None:
    table = tabled(STEPS, max_batch=4, batch_tokens=512)
    small = Kind(name="small", steps=table, batching=Batching(slots=4, batch_tokens=512, kv_tokens=100), min_replicas=1, max_replicas=2)
    large = replace(small, name="large", batching=Batching(slots=4, batch_tokens=512, kv_tokens=1000), min_replicas=0, cold_s=3.0)
    rows = trace([(0.0, 20, 5), (1.0, 300, 5), (2.0, 20, 5)])
    course = simulate(rows, Fleet(kinds=(small, large), policy=policy_of("outstanding")))
    assert course.requests.status == [ANSWERED] * 3
    assert [course.lives[place].kind.name for place in course.requests.where[:2]] == ["small", "large"]
    sudden = replace(large, spot_s=4.0)
    course = simulate(rows, Fleet(kinds=(small, sudden), policy=policy_of("outstanding"), retry="all"), seed=1)
    assert course.requests.status == [ANSWERED] * 3
    assert sum(life.is_taken for life in course.lives) >= 1, "the large one is taken, and another started for who waits for it"


def test_demands_count_whoever_was_not_answered(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    rows = trace([(0.01 * i, 10, 100) for i in range(6)])
    played = fleet(slots=1, queue_limit=2)
    found = result(rows, played, simulate(rows, played), parse_slo("ttft_p95<10s,tpot_p95<100ms"))
    assert found["slo"]["share"] == 0.5
    assert not found["slo"]["met"]
    assert [term["share"] for term in found["slo"]["terms"]] == [0.5, 0.5]
    assert found["statuses"] == {"answered": 3, "queue full": 3}


def test_energy_and_carbon_by_hand(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    rows = trace([(0.0, 10, 100), (99.0, 10, 2)])
    played = fleet(kind={"idle_w": 100.0, "busy_w": 400.0}, g_co2_kwh=300.0)
    course = simulate(rows, played)
    found = result(rows, played, course)
    busy = course.lives[0].replica.busy_s
    joules = 400 * busy + 100 * (course.end_s - busy)
    assert found["kwh_per_1000"] == pytest.approx(joules / 3.6e6 / 2 * 1000)
    assert found["g_co2_per_1000"] == pytest.approx(found["kwh_per_1000"] * 300)
    assert found["usd"] is None, "no price, no cost"


def test_a_time_line_adds_up(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    rows = trace([(0.5 * i, 30, 60) for i in range(60)])
    played = fleet(slots=1)
    found = result(rows, played, simulate(rows, played))
    line = found["timeline"]
    width = found["seconds"] / len(line["start_s"])
    assert sum(line["requests_s"]) * width == pytest.approx(60, abs=1.5)
    assert max(line["running"]) == 1
    assert max(line["waiting"]) > 5
    assert line["waiting"][-1] == line["running"][-1] == 0


def test_repeated_runs_have_a_spread(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    rows = trace([(0.2 * i, 10, 50) for i in range(100)])
    played = fleet(2, kind={"mtbf_s": 5.0, "restart_s": 2.0})
    assert played.is_random
    assert not fleet(2).is_random
    merged = spread([result(rows, played, simulate(rows, played, seed=seed)) for seed in range(5)])
    low, high = merged["spread"]["ttft_ms"]["p95"]
    assert low < merged["ttft_ms"]["p95"] < high
    assert merged["runs"] == 5
    assert spread([result(rows, fleet(), simulate(rows, fleet()))])["spread"] is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n": 0}, "answers nothing"),
        ({"kind": {"min_replicas": 3, "max_replicas": 2}}, "is no range"),
        ({"slots": 80}, "are fewer than 80 slots need"),
        ({"route": "nearest"}, "no route 'nearest'"),
    ],
)
def test_fleets_that_cannot_be_meant(fleet: Callable[..., Fleet], trace: Callable[..., Trace], wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        simulate(trace([(0.0, 1, 1)]), fleet(**wrong))


@pytest.mark.parametrize(
    ("text", "said"),
    [("zero", "no policy 'zero'"), ("queue:aim=3", "'aim' cannot be set"), ("queue:every=0", "every must be"), ("queue:keep=x", "not 'x'")],
)
def test_policies_that_there_are_not(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        policy_of(text)
