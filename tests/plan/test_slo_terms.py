"""Demands as written: what they mean, that they can be written back, and the sentence for each that makes no sense."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.plan.slo import METRICS, parse_slo


def test_units_and_the_default_percentile():
    terms = parse_slo("ttft_p95 < 0.4s, tpot<=50ms,memory<1GiB, throughput > 20 tok/s, load<1500ms,cold_start<2s,energy<0.5J/token")
    found = [(term.metric, term.percentile, term.limit, term.upper) for term in terms]
    assert found == [
        ("ttft", 95.0, 400.0, True),
        ("tpot", 95.0, 50.0, True),
        ("memory", None, 1024.0**3, True),
        ("throughput", None, 20.0, False),
        ("load", None, 1.5, True),
        ("cold_start", None, 2000.0, True),
        ("energy", None, 0.5, True),
    ]
    assert terms[0].text == "ttft_p95 < 0.4s"
    assert parse_slo("TTFT_P99.9<400MS")[0].percentile == 99.9


@st.composite
def written_term(draw):
    name = draw(st.sampled_from(sorted(METRICS)))
    metric = METRICS[name]
    percentile = draw(st.sampled_from([50.0, 90.0, 95.0, 99.0, 99.9])) if metric.of_requests else None
    unit = draw(st.sampled_from(sorted(metric.units)))
    value = draw(st.floats(1e-3, 1e9, allow_nan=False).map(lambda x: float(f"{x:.6g}")))
    sign = "<" if metric.upper else ">"
    tail = "" if percentile is None else f"_p{percentile:g}"
    gap = draw(st.sampled_from(["", " "]))
    return f"{name}{tail}{gap}{sign}{gap}{value!r}{gap}{unit}", (name, percentile, value * metric.units[unit], metric.upper)


@given(written_term())
def test_what_is_written_is_what_is_read_and_its_text_reads_the_same(case):
    text, meant = case
    (term,) = parse_slo(f" {text} ")
    assert (term.metric, term.percentile, term.limit, term.upper) == meant
    assert parse_slo(term.text) == (term,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty term"),
        ("ttft_p95<400ms,", "empty term"),
        ("fast", "is no demand"),
        ("ttft_p95<", "is no demand"),
        ("ttft_p95<four ms", "is no demand"),
        ("latency<4ms", "unknown metric 'latency'"),
        ("ttft_p95<400", "has no unit; give ms or s"),
        ("ttft_p95<400MB", "has the unit 'MB'"),
        ("memory<1ms", "has the unit 'ms'"),
        ("throughput>5ms", "give tok/s"),
        ("ttft_p95>400ms", "less ttft is better, so 'ttft_p95>400ms' must be 'ttft_p95<400ms'"),
        ("ttft_p95=400ms", "must be 'ttft_p95<400ms'"),
        ("throughput<20tok/s", "more throughput is better"),
        ("memory<0MB", "above zero"),
        ("memory<-1MB", "above zero"),
        ("memory<nanMB", "above zero"),
        ("memory<infMB", "above zero"),
        ("memory<1e400MB", "above zero"),
        ("memory_p95<1GB", "leave _p95 out"),
        ("ttft_p100<1s", "one of p50 to p99.9"),
        ("ttft_p5<1s", "one of p50 to p99.9"),
        ("memory<1GiB,memory<2GiB", "limits memory twice"),
        ("ttft<1s,ttft_p95<2s", "limits ttft_p95 twice"),
        ("ttft_p95<400ms,ttft_p95>500ms", "less ttft is better"),
        ("ttft_p50<400ms,ttft_p99<100ms", "never above its p99; were the limits swapped?"),
        ("ttft_p50<400ms,e2e_p50<200ms", "ttft is a part of e2e"),
        ("cold_start<1s,load<2s", "load is a part of cold_start"),
    ],
)
def test_one_sentence_for_each_mistake(text, says):
    with pytest.raises(InputError) as caught:
        parse_slo(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["ttft_p50<100ms,ttft_p99<400ms", "e2e_p50<1s,ttft_p95<2s", "cold_start<3s,load<2s"])
def test_terms_that_each_say_something_are_kept(text):
    assert len(parse_slo(text)) == 2


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(InputError):
        assert all(term.limit > 0 for term in parse_slo(text))
