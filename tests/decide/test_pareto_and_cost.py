"""The front over three objectives, and prices: small worlds with a known answer, and what must hold in any."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.measurement import Interval
from trimtab.decide.cost import Tariff, costs, rate_of
from trimtab.decide.pareto import DIMENSIONS, TradeOff, beats, pareto
from trimtab.decide.standing import candidate_rows, loss_of, standing_of, time_ms


def at(name: str, ms: float, mb: float, loss: float, *, wide: float = 0.0, unsure: float = 0.0) -> TradeOff:
    """A point with a time known to a share `wide` and a loss known to `unsure` nats."""
    return TradeOff(
        id=name,
        time_ms=Interval(value=ms, low=ms * (1 - wide), high=ms * (1 + wide)),
        memory_bytes=mb * 1e6,
        loss_nats=Interval(value=loss, low=loss - unsure, high=loss + unsure),
    )


def front(*points: TradeOff) -> set[str]:
    return {place.id for place in pareto(points) if place.on_front}


def test_who_is_best_at_something_stays_and_who_is_worse_in_all_goes() -> None:
    points = at("fast", 100, 500, 0.01), at("small", 200, 100, 0.02), at("faithful", 300, 600, 0.0), at("bad", 310, 700, 0.03)
    assert front(*points) == {"fast", "small", "faithful"}
    places = {place.id: place for place in pareto(points)}
    assert places["bad"].beaten_by == ("fast", "small", "faithful")
    assert places["fast"].best_at == ("time",)
    assert places["small"].best_at == ("memory",)
    assert places["faithful"].best_at == ("quality",)
    assert places["bad"].best_at == ()


def test_a_compromise_is_on_the_front_and_best_at_nothing() -> None:
    points = at("fast", 100, 500, 0.0), at("between", 150, 300, 0.01), at("small", 200, 100, 0.02)
    place = pareto(points)[1]
    assert place.on_front
    assert place.best_at == ()


def test_a_lead_within_the_noise_beats_nobody() -> None:
    assert front(at("a", 100, 500, 0.01, wide=0.05), at("b", 104, 500, 0.012, wide=0.05, unsure=0.01)) == {"a", "b"}
    assert front(at("a", 100, 500, 0.01, wide=0.05), at("b", 120, 500, 0.012, wide=0.05, unsure=0.01)) == {"a"}
    assert front(at("a", 100, 500, 0.01), at("b", 100, 504, 0.01)) == {"a", "b"}, "peaks within one percent are alike"
    assert front(at("a", 100, 500, 0.01), at("b", 100, 520, 0.01)) == {"a"}


def test_all_that_cannot_be_told_from_the_best_are_best() -> None:
    points = at("a", 100, 500, 0.01, wide=0.05), at("b", 104, 400, 0.01, wide=0.05)
    assert [place.best_at for place in pareto(points)] == [("time", "quality"), DIMENSIONS]


def test_an_unknown_interval_is_taken_as_the_value() -> None:
    one = TradeOff(id="a", time_ms=Interval(value=100), memory_bytes=1.0, loss_nats=Interval(value=0.0))
    other = TradeOff(id="b", time_ms=Interval(value=101), memory_bytes=1.0, loss_nats=Interval(value=0.0))
    assert beats(one, other)
    assert not beats(one, one)


SIZES = st.floats(0.1, 10.0)


@given(st.lists(st.tuples(SIZES, SIZES, SIZES, st.floats(0, 0.5), st.floats(0, 3)), min_size=1, max_size=7))
def test_a_front_is_never_empty_and_each_dimension_has_its_best_on_it(values: list[tuple[float, ...]]) -> None:
    points = [at(str(n), x, y, z, wide=wide, unsure=unsure) for n, (x, y, z, wide, unsure) in enumerate(values)]
    places = pareto(points)
    assert any(place.on_front for place in places)
    for dimension in DIMENSIONS:
        least = min(points, key=lambda point: point.figure(dimension).value)
        assert dimension in places[points.index(least)].best_at
    for place in places:
        for name in place.beaten_by:
            assert place.id not in places[int(name)].beaten_by


def point(**more: Any) -> dict[str, Any]:
    return {"concurrency": 4, "output_tok_s": 50.0, "round_tok_s": [48.0, 52.0], "ttft_ms": {"p50": 500}, "e2e_ms": {"p50": 2000}} | more


def test_prices_by_hand() -> None:
    """0.36 an hour is 0.0001 a second; 50 output and 200 prompt tokens a second."""
    (cost,) = costs({"points": [point()]}, 400, 100, Tariff(price_per_hour=0.36))
    assert cost.output.value == pytest.approx(2.0)
    assert cost.all_tokens.value == pytest.approx(0.4)
    assert cost.prompt == pytest.approx(0.125), "a quarter of the bill, over 400 prompt tokens"
    assert cost.answer == pytest.approx(1.5)
    assert 400 * (cost.prompt or 0) + 100 * (cost.answer or 0) == pytest.approx(100 * cost.output.value)
    assert (cost.power_w, cost.kwh, cost.is_power_measured) == (None, None, False)


def test_a_price_has_the_interval_of_its_rate_the_other_way_round() -> None:
    rate = rate_of(point())
    (cost,) = costs({"points": [point()]}, 400, 100, Tariff(price_per_hour=0.36))
    assert rate.low is not None
    assert rate.high is not None
    assert rate.low < 48 < 52 < rate.high, "two rounds tell little"
    assert cost.output.low == pytest.approx(100 / rate.high)
    assert cost.output.high == pytest.approx(100 / rate.low)
    (once,) = costs({"points": [point(round_tok_s=[50.0])]}, 400, 100, Tariff(price_per_hour=0.36))
    assert (once.output.low, once.output.high) == (None, None)


def test_power_that_was_measured_goes_before_power_that_was_said() -> None:
    tariff = Tariff(price_per_hour=0.36, price_per_kwh=0.3, power_w=100.0)
    (said,) = costs({"points": [point()]}, 400, 100, tariff)
    assert said.output.value == pytest.approx((0.36 + 0.1 * 0.3) / 3600 / 50 * 1e6)
    assert said.kwh == pytest.approx(100 / 50 * 1e6 / 3.6e6)
    (measured,) = costs({"points": [point(energy_j_per_token=1.0)]}, 400, 100, tariff)
    assert (measured.power_w, measured.is_power_measured) == (50.0, True)
    assert measured.output.value == pytest.approx((0.36 + 0.05 * 0.3) / 3600 / 50 * 1e6)


def test_what_was_not_measured_has_no_price() -> None:
    assert costs(None, 1, 1, Tariff()) == ()
    assert costs({"points": [point(output_tok_s=None)]}, 1, 1, Tariff()) == ()
    (cost,) = costs({"points": [point(ttft_ms={"p50": None})]}, 1, 1, Tariff(price_per_hour=1.0))
    assert (cost.prompt, cost.answer) == (None, None)


def test_what_a_document_knows() -> None:
    ratio = {"ratio": 2.0, "low": 1.6, "high": 2.5, "n_rounds": 4}
    base = {"id": "base", "status": "timed", "measurement": {"points": [{"concurrency": 1, "e2e_ms": {"p50": 300.0}}]}}
    own = {
        "id": "own",
        "status": "timed",
        "measurement": {"points": [{"concurrency": 1, "e2e_ms": {"p50": 100.0}}]},
        "details": {"speed_over_baseline": {"base": {"1": {"e2e_ms_p50": ratio}}}},
        "evidence": {"screen": {"delta_nats_per_token": -0.2, "low": -0.3, "high": None}},
    }
    decision = {"kind": "compare", "baseline": base, "reference": {"id": "base"}, "candidates": [own]}
    assert [row["id"] for row in candidate_rows(decision)] == ["own", "base"]
    assert time_ms(own, decision, 1) == Interval(value=100.0, low=80.0, high=125.0, n=4)
    assert time_ms(base, decision, 1) == Interval(value=300.0, low=300.0, high=300.0)
    assert time_ms(own, decision, 4) is None
    assert loss_of(own, decision) == Interval(value=0.2, low=None, high=0.3)
    assert loss_of(base, decision) == Interval(value=0.0, low=0.0, high=0.0)
    one_round = {**base, "id": "once", "measurement": {"points": [{"concurrency": 1, "e2e_ms": {"p50": 50.0, "min": 40.0, "max": 70.0}}]}}
    assert time_ms(one_round, decision, 1) == Interval(value=50.0, low=40.0, high=70.0)
    states = {"infeasible": "rejected", "screened": "open", "timed": "open"}
    assert {status: standing_of({**own, "status": status}, decision) for status in states} == states
    lost = {**own, "evidence": {"screen": {"delta_nats_per_token": -0.2, "delta_se": 0.05}}}
    for margin, standing in ((0.02, "rejected"), (0.06, "open"), (None, "open")):
        assert standing_of(lost, {**decision, "policy": {"gates": [{"suite": "text", "margin": margin}]}}) == standing
    verdicts = {"pass": "certified", "fail": "rejected", "inconclusive": "undecided"}
    assert {verdict: standing_of({**own, "verdict": verdict}, decision) for verdict in verdicts} == verdicts
    assert standing_of(base, decision) == "baseline"
