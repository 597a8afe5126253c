"""Who is chosen under demands and objectives, and what is said of it. No model: rows and timings are made up."""

import asyncio
import dataclasses
import math
import time
from types import SimpleNamespace

import pytest

from trimtab.core.errors import InputError, MissingError
from trimtab.core.measurement import Estimate
from trimtab.core.workload import Workload, WorkloadRequest
from trimtab.decide.slo import judge_slo
from trimtab.engines.base import TokenEvent
from trimtab.flows.parts import objective as objectives
from trimtab.flows.parts.capacity import SETTLE, closed_rate, judge_point, point_measurer, requests_of_a_point
from trimtab.flows.parts.choice import choose, note_not_shown, passed, reasons_for, slo_rows, to_certify
from trimtab.flows.parts.demands import rounds_needed, with_more
from trimtab.flows.parts.objective import Aim, as_finalist, beyond_reach, gain_of, make_aim, objective_row, too_many_requests
from trimtab.flows.parts.search import Row, affordable, gain_ends, keep_s
from trimtab.flows.parts.timing import Probe, Timed
from trimtab.measure.meters import EnergyReading
from trimtab.measure.open_loop import OpenResult, OpenTrace
from trimtab.plan.slo import parse_slo
from trimtab.plan.tuning.budget import plan_budget

TTFT = parse_slo("ttft_p95<400ms")
CHAT = Workload(name="w", prompt_tokens=128, output_tokens=32, concurrency=(1, 2))


def timed(e2e_ratio=1.0, *, reach=1.0, ttft=100.0, n=60, tok_s=20.0, memory=4e8):
    points = [
        {
            "concurrency": level,
            "n_requests": n,
            "failed": 0,
            "output_tok_s": tok_s * level,
            "round_tok_s": [tok_s * level, tok_s * level * 1.01],
            "energy_j_per_token": None,
            "e2e_ms": {"p50": 1000.0 / e2e_ratio},
            "latencies_ms": {"ttft": [ttft] * n, "e2e": [900.0] * n},
        }
        for level in (1, 2)
    ]
    ratio = {"ratio": e2e_ratio, "low": e2e_ratio / reach, "high": e2e_ratio * reach, "n_rounds": 3}
    return Timed(
        measurement={"points": points, "peak_memory_bytes": memory, "load_s": 1.0, "cold_ttft_ms": 900.0},
        ratios={"base": {"1": {"e2e_ms_p50": ratio}, "2": {"e2e_ms_p50": ratio}}},
    )


def searched(rows, *, slo="", objective="latency", verdicts=None):
    """rows: name -> Timed; the first is the baseline. verdicts: name -> gates' verdict."""
    aim = Aim(objective=objective, slo=parse_slo(slo) if slo else (), price_per_hour=1.0)
    made = {}
    for name, found in rows.items():
        row = Row(plan=SimpleNamespace(id=name, engine="e"), status="timed", timed=found)
        row.slo = judge_slo(aim.slo, found.measurement)
        row.reasons = [result.reason for result in row.slo if result.verdict == "fail"]
        row.verdict = (verdicts or {}).get(name)
        made[name] = row

    def note(row, status, *reasons):
        row.reasons += [reason for reason in reasons if reason]

    return SimpleNamespace(
        aim=aim, rows=made, baseline=made[next(iter(rows))], note=note, bench=SimpleNamespace(weak=object(), weak_missing=""), workload=CHAT
    )


def test_without_demands_the_fastest_that_passed_is_chosen():
    search = searched({"base": timed(), "a": timed(1.5), "b": timed(2.0), "c": timed(0.9)})
    assert [row.plan.id for row in to_certify(search)] == ["b", "a"]
    assert search.rows["c"].reasons == ["Not faster than the baseline when timed in turns with it."]
    search.rows["a"].verdict = "pass"
    search.rows["b"].verdict = "fail"
    assert (choose(search)[0].plan.id, choose(search)[1]) == ("a", "pass")
    assert choose(searched({"base": timed()}))[1] == "pass"
    open_ended = searched({"base": timed(), "a": timed(2.0)}, verdicts={"a": "inconclusive"})
    assert (choose(open_ended)[0].plan.id, choose(open_ended)[1]) == ("base", "inconclusive")


def test_a_faster_one_that_misses_a_demand_is_neither_certified_nor_chosen():
    search = searched({"base": timed(), "fast": timed(2.0, ttft=900.0), "good": timed(1.3)}, slo="ttft_p95<400ms")
    assert [row.plan.id for row in to_certify(search)] == ["good"]
    search.rows["good"].verdict = "pass"
    chosen, verdict = choose(search)
    assert (chosen.plan.id, verdict) == ("good", "pass")
    said = reasons_for(search, chosen, None)
    assert said[:2] == ["good is the fastest that passed every required gate and misses no demand.", "It meets ttft_p95<400ms."]
    assert any(reason.startswith("fast is fast but not chosen. Misses ttft_p95<400ms at concurrency 1: 900 ms") for reason in said)


def test_a_slower_one_replaces_a_baseline_that_misses_a_demand():
    search = searched({"base": timed(ttft=500.0), "slow": timed(0.8)}, slo="ttft_p95<400ms")
    assert [row.plan.id for row in to_certify(search)] == ["slow"]
    search.rows["slow"].verdict = "pass"
    chosen, verdict = choose(search)
    assert (chosen.plan.id, verdict) == ("slow", "pass")
    assert any("The baseline is out. Misses" in reason and "25 % over" in reason for reason in reasons_for(search, chosen, None))


def test_if_everything_misses_the_answer_is_no_and_names_the_nearest():
    search = searched({"base": timed(ttft=800.0), "near": timed(2.0, ttft=440.0), "far": timed(3.0, ttft=4000.0)}, slo="ttft_p95<400ms")
    assert to_certify(search) == []
    chosen, verdict = choose(search)
    assert (chosen, verdict) == (None, "fail")
    first = reasons_for(search, None, None)[0]
    assert first.startswith("Nothing that was timed here meets ttft_p95<400ms: the nearest is near. Misses")
    assert "10 % over" in first
    rows = slo_rows(search)
    assert len(rows) == 6
    assert {row["candidate"] for row in rows} == {"base", "near", "far"}


def test_what_cannot_be_told_is_inconclusive_but_a_baseline_that_is_proven_is_kept():
    unsure = searched({"base": timed(n=20), "a": timed(2.0, n=20)}, slo="ttft_p95<400ms", verdicts={"a": "pass"})
    chosen, verdict = choose(unsure)
    assert (chosen.plan.id, verdict) == ("a", "inconclusive")
    assert any("at least 39 more requests would be needed" in reason for reason in reasons_for(unsure, chosen, None))
    proven = searched({"base": timed(n=60), "a": timed(2.0, n=20)}, slo="ttft_p95<400ms", verdicts={"a": "pass"})
    assert (choose(proven)[0].plan.id, choose(proven)[1]) == ("base", "pass")
    both = searched({"base": timed(), "quick": timed(2.0, n=20), "sure": timed(1.2)}, slo="ttft_p95<400ms")
    both.rows["quick"].verdict = both.rows["sure"].verdict = "pass"
    assert [row.plan.id for row in passed(both)] == ["sure", "quick"], "who surely meets the demands goes first"
    lost = searched({"base": timed(ttft=900.0), "a": timed(2.0)}, slo="ttft_p95<400ms", verdicts={"a": "inconclusive"})
    assert choose(lost) == (None, "inconclusive")


@pytest.mark.parametrize(
    ("objective", "best"), [("latency", "quick"), ("throughput", "wide"), ("cost", "wide"), ("memory", "small"), ("energy", None)]
)
def test_each_objective_has_its_own_winner(objective, best):
    rows = {"base": timed(), "quick": timed(2.0), "wide": timed(0.9, tok_s=60.0), "small": timed(0.9, memory=1e8)}
    order = to_certify(searched(rows, objective=objective))
    assert (order[0].plan.id if order else None) == best
    aim = Aim(objective=objective, price_per_hour=3.6)
    assert gain_of(aim, rows["base"], None, "base") in (0.0, -math.inf)
    assert gain_of(aim, None, rows["base"], "base") == -math.inf


def test_what_the_document_says_of_the_objective():
    base, wide = timed(tok_s=20.0), timed(tok_s=60.0)
    row = objective_row(Aim(objective="throughput"), wide, base)
    assert (row["name"], row["unit"], row["chosen"], row["baseline"], row["concurrency"]) == ("throughput", "tok/s", 120.0, 40.0, 2)
    assert (row["ratio"].ratio, row["ratio"].low) == pytest.approx((3.0, 3.0))
    cost = objective_row(Aim(objective="cost", price_per_hour=3.6), wide, base)
    assert cost["chosen"] == pytest.approx(3.6 / 3600 / 120 * 1e6)
    assert cost["ratio"].ratio == pytest.approx(3.0)
    memory = objective_row(Aim(objective="memory"), timed(memory=1e8), base)
    assert memory["ratio"] == {"ratio": 4.0, "low": None, "high": None}
    assert "concurrency" not in memory
    assert objective_row(Aim(), None, None) == {"name": "latency", "unit": "ms", "chosen": None, "baseline": None}


def test_aims_that_make_no_sense(monkeypatch):
    assert make_aim(None, None, None) == Aim()
    assert make_aim("throughput", "ttft_p95<400ms", None) == Aim(objective="throughput", slo=TTFT)
    for arguments, says in (
        (("speed", None, None), "Unknown objective"),
        (("cost", None, None), "--price-per-hour"),
        (("cost", None, -1.0), "above zero"),
        ((None, "", None), "empty term"),
    ):
        with pytest.raises(InputError, match=says):
            make_aim(*arguments)
    monkeypatch.setattr(objectives, "ENERGY_LOOK_S", 0.0)
    monkeypatch.setattr(objectives, "read_energy", lambda: EnergyReading(counters_uj={}, reason="there is no counter"))
    for arguments in (("energy", None, None), (None, "energy<1J/token", None)):
        with pytest.raises(MissingError, match=r"Energy cannot be measured here: there is no counter\."):
            make_aim(*arguments)
    readings = iter([EnergyReading(counters_uj={"package": (10**6 * n, 0)}) for n in range(2)])
    monkeypatch.setattr(objectives, "read_energy", lambda: next(readings))
    assert make_aim("energy", None, None).objective == "energy"


def forecast(low, value, memory=1e8):
    def at(low, value):
        return Estimate(value=value, low=low, high=9 * value, unit="ms", basis="roofline of 38 GB/s and more, and so on")

    times = {name: at(low, value) for name in ("ttft_ms", "tpot_ms", "e2e_ms")}
    return {1: times | {"memory_bytes": Estimate(value=2 * memory, low=memory, high=4 * memory, unit="bytes", basis="weights")}}


def test_what_no_candidate_can_meet_is_said_before_anything_runs():
    forecasts = {"a": forecast(50.0, 200.0), "b": forecast(34.0, 300.0)}
    impossible, unlikely = beyond_reach(parse_slo("ttft_p50<20ms"), forecasts, CHAT)
    assert impossible == ["ttft_p50<20ms is beyond the best case of all candidates: 34 ms (b, roofline of 38 GB/s and more)."]
    assert unlikely == []
    impossible, unlikely = beyond_reach(parse_slo("ttft_p50<100ms"), forecasts, CHAT)
    assert impossible == []
    assert unlikely[0].startswith("ttft_p50<100ms is beyond the best that is expected: 200 ms (a,")
    assert beyond_reach(parse_slo("ttft_p50<250ms,itl<1ms,load<1ms,memory<1GB"), forecasts, CHAT) == ([], [])
    assert beyond_reach(parse_slo("memory<50MB"), forecasts, CHAT)[0]
    assert beyond_reach(parse_slo("throughput>5000tok/s"), forecasts, CHAT)[0], "32 tokens in 34 ms are 941 a second"
    shared = Workload(name="w", prompt_tokens=128, output_tokens=32, concurrency=(1,), shared_prefix_tokens=100)
    impossible, unlikely = beyond_reach(parse_slo("ttft_p50<20ms"), forecasts, shared)
    assert (impossible, len(unlikely)) == ([], 1), "a kept cache may do what the prediction does not know of"


def test_a_percentile_that_takes_more_requests_than_there_is_time_for_is_said_beforehand():
    forecasts = {"a": forecast(100.0, 2000.0), "b": forecast(50.0, 1000.0)}
    (said,) = too_many_requests(parse_slo("ttft_p99.9<1s,ttft_p50<0.5s,memory<1GB"), forecasts, 360.0)
    assert "p99.9 takes at least 2,995 requests at each concurrency, about 2,995 s of the quickest candidate" in said
    assert too_many_requests(TTFT, forecasts, 360.0) == [], "59 requests of one second"
    assert too_many_requests(TTFT, forecasts, 30.0)


def test_finalists_are_those_that_may_win_by_the_objective_and_keep_the_demands():
    probe = Probe(e2e_ms=1000, ttft_ms=500, tpot_ms=10, ratio=2.0)
    assert as_finalist(Aim(), probe, 10, 40).ratio == 2.0
    assert as_finalist(Aim(objective="memory"), probe, 10, 40).ratio == 4.0
    assert as_finalist(Aim(slo=TTFT), probe, 10, 40).ratio < 0.1
    assert as_finalist(Aim(slo=parse_slo("memory<100B")), probe, 200, 40).ratio < 0.1


def test_more_requests_until_one_may_be_beyond_the_limit():
    search = SimpleNamespace(aim=Aim(slo=TTFT), workload=CHAT)
    measurement = timed(n=20).measurement
    assert rounds_needed(search, measurement) == 73, "93 at each level; a round has one at concurrency 1"
    assert rounds_needed(search, timed(n=93).measurement) == 0
    assert rounds_needed(SimpleNamespace(aim=Aim(slo=parse_slo("memory<1GB")), workload=CHAT), measurement) == 0
    more = [{"concurrency": 1, "n_requests": 74, "failed": 1, "latencies_ms": {"ttft": [50.0] * 73, "e2e": [800.0] * 73}}]
    merged = with_more(measurement, more)
    assert (merged["points"][0]["n_requests"], merged["points"][0]["failed"]) == (94, 1)
    rows = judge_slo(TTFT, merged)
    assert [(row.concurrency, row.n, row.n_within, row.verdict) for row in rows] == [(1, 94, 93, "pass"), (2, 20, 20, "inconclusive")]
    assert measurement["points"][0]["n_requests"] == 20


def trace(ttft_ms):
    start = int(1e9)
    return OpenTrace(due_ns=start, sent_ns=start, prompt_tokens=8, token_ns=(start + int(ttft_ms * 1e6), start + int((ttft_ms + 50) * 1e6)))


def test_one_rate_of_the_search_for_capacity_is_judged_without_its_first_requests():
    terms = list(TTFT)
    n = requests_of_a_point(terms)
    assert n == SETTLE + 93
    slow_start = OpenResult(traces=tuple(trace(2000.0 if k < SETTLE else 100.0) for k in range(n)), offered_per_s=2.0, wall_s=50.0)
    point = judge_point(2.0, slow_start, terms)
    assert (point.verdict, point.n, point.share, point.why) == ("pass", 93, 1.0, "")
    assert point.goodput_per_s == pytest.approx(93 / 50.0)
    stopped = dataclasses.replace(slow_start, saturated="too many")
    assert judge_point(2.0, stopped, terms).verdict == "fail"
    late = judge_point(2.0, OpenResult(traces=tuple(trace(500.0) for _ in range(n)), offered_per_s=2.0, wall_s=50.0), terms)
    assert late.verdict == "fail"
    assert "25 % over" in late.why
    assert closed_rate(timed(tok_s=16.0).measurement, CHAT) == 1.0


class Quick:
    """Answers at once, any number together. Prompts are numbers that were not used before."""

    pid = 1

    def __init__(self):
        self.prompts = []

    async def generate(self, request):
        self.prompts.append(request.prompt_ids)
        for _ in range(request.max_tokens):
            await asyncio.sleep(0.001)
            yield TokenEvent(request_id=request.request_id, token_id=7, logprob=-1.0, time_ns=time.monotonic_ns(), done="")

    def __call__(self, n, n_tokens, seed):
        return [[seed, place, *range(n_tokens - 2)] for place in range(n)]

    def of_messages(self, request, seed):
        return [seed] * request.prompt_tokens


def test_rates_are_tried_with_the_workloads_own_requests_and_fresh_prompts():
    own = (
        WorkloadRequest(prompt_tokens=9, output_tokens=2),
        WorkloadRequest(prompt_tokens=5, output_tokens=3),
        WorkloadRequest(prompt_tokens=4, output_tokens=2, messages=(("user", "hello"),)),
    )
    client = Quick()
    terms = list(parse_slo("ttft_p50<2s"))
    told = []
    measure = point_measurer(client, dataclasses.replace(CHAT, requests=own), terms, client, seed=1, tell=told.append)

    async def two_rates():
        return [await measure(20.0), await measure(40.0)]

    points = asyncio.run(two_rates())
    assert [(point.rate_per_s, point.verdict) for point in points] == [(20.0, "pass"), (40.0, "pass")]
    assert told == [20.0, 40.0]
    n = requests_of_a_point(terms)
    assert len(client.prompts) == 2 * n
    assert len(set(client.prompts)) == 2 * n
    assert {len(prompt) for prompt in client.prompts} == {9, 5, 4}


def test_one_round_ranks_by_its_medians_and_claims_nothing():
    """A session of one round has no ratios; that is no reason to keep a baseline that was four times as slow in it."""
    bare = {
        name: Timed(measurement=found.measurement, ratios={}) for name, found in {"base": timed(), "a": timed(4.0), "b": timed(0.5)}.items()
    }
    search = searched(bare)
    assert [row.plan.id for row in to_certify(search)] == ["a"]
    assert gain_of(search.aim, bare["a"], bare["base"], "base") == pytest.approx(math.log(4.0))
    assert gain_of(search.aim, Timed(measurement=None, ratios={}), bare["base"], "base") == -math.inf


@pytest.mark.parametrize(
    ("found", "chosen", "verdict"),
    [
        (timed(1.3, reach=1.2), "a", "pass"),
        (timed(1.3, reach=1.4), "base", "inconclusive"),  # 1.82 times as fast is not excluded
        (timed(1.02, reach=1.05), "base", "pass"),  # what could be gained is not worth while
        (Timed(measurement=timed(4.0).measurement, ratios={}), "base", "inconclusive"),  # one round claims nothing
    ],
)
def test_only_what_is_shown_to_be_faster_replaces_the_baseline(found, chosen, verdict):
    search = searched({"base": timed(), "a": found}, verdicts={"a": "pass"})
    row, said = choose(search)
    assert (row.plan.id, said) == (chosen, verdict)
    reasons = " ".join(reasons_for(search, row, None))
    assert ("was not shown to be faster than the baseline" in reasons) is (chosen == "base")
    search.rows["a"].reasons.append("All gates passed.")
    note_not_shown(search, row)
    assert search.rows["a"].reasons[0].startswith("It was not shown to be faster") is (chosen == "base"), "why it lost goes first"


def test_an_interval_of_throughput_is_that_of_its_rounds_and_memory_has_none():
    search = searched({"base": timed(), "a": timed(tok_s=19.9, memory=3e8)}, objective="throughput", verdicts={"a": "pass"})
    low, high = gain_ends(search, search.rows["a"])
    assert low < gain_of(search.aim, search.rows["a"].timed, search.baseline.timed, "base") < high < 0.1
    search = searched({"base": timed(), "a": timed(memory=3e8)}, objective="memory", verdicts={"a": "pass"})
    assert choose(search)[0].plan.id == "a"
    assert gain_ends(search, search.rows["a"]) == (pytest.approx(math.log(4 / 3)),) * 2


def test_no_more_rivals_are_timed_than_two_rounds_have_time_for():
    probes = {
        name: Probe(e2e_ms=ms, ttft_ms=1.0, tpot_ms=1.0, ratio=1.0)
        for name, ms in {"base": 2000.0, "a": 1000.0, "b": 1500.0, "c": 1000.0}.items()
    }
    chat = Workload(name="w", prompt_tokens=512, output_tokens=128, concurrency=(1, 4))
    assert affordable(["a", "b", "c"], probes, "base", chat, 100.0) == ["a", "b", "c"]
    assert affordable(["a", "b", "c"], probes, "base", chat, 42.0) == ["a", "b"], "three rounds of 27 s fit twice the time, of 33 s not"
    assert affordable(["a", "b", "c"], probes, "base", chat, 20.0) == ["a"], "the most promising one is always timed"
    assert affordable([], probes, "base", chat, 100.0) == []


@pytest.mark.parametrize(("base_ms", "timing_s"), [(2000.0, 60.0), (5000.0, 108.0), (60000.0, 154.5)])
def test_screening_keeps_time_for_one_more_look_to_tell_two_apart_and_to_certify_one(base_ms, timing_s):
    search = searched(dict.fromkeys(("base", "a", "slow", "lossy"), timed()))
    search.workload = Workload(name="w", prompt_tokens=512, output_tokens=128, concurrency=(1, 4))
    search.budget = plan_budget(360.0, score_tok_s=500.0, n_candidates=12, n_finalists=3)
    for name, ratio in {"base": 1.0, "a": 5.0, "slow": 1.25, "lossy": 10.0}.items():
        search.rows[name].probe = Probe(e2e_ms=base_ms / ratio, ttft_ms=1.0, tpot_ms=1.0, ratio=ratio)
    search.rows["lossy"].reasons = ["It loses too much."]
    search.rows["slow"].look_s = 20.0
    certify_s = search.budget.certify_s + search.budget.generate_s
    assert keep_s(search) == pytest.approx(20 + 1.2 * certify_s + timing_s, abs=0.1), (
        "three rounds of six requests, of the two, within what is planned"
    )
    for name in ("a", "slow"):
        search.rows[name].reasons = ["It does not run."]
    assert keep_s(search) == pytest.approx(certify_s + 15), "nothing to certify yet"
