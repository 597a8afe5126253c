"""Answers to "what if", from what was measured: the run's own rules, and nothing in between."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.core.workload import WhatIf
from trimtab.decide.objectives import cost_per_million, objective_value
from trimtab.decide.what_if import WhatIfAnswer, answer_what_if, compare_sides, memory_bounds, standard_questions
from trimtab.plan.slo import parse_slo, parse_what_if

MIB = 1024**2
LOST = {"screen": {"delta_nats_per_token": -0.3, "delta_se": 0.02}}


def row(name: str, status: str, verdict: str | None, e2e: tuple[float, ...] = (), mib: float = 0.0, **more: Any) -> dict[str, Any]:
    """A candidate timed at concurrency 1 and 4 with these medians; the baseline takes 2000 and 4000 ms."""
    engine, _, recipe = name.partition(" ")
    points = [
        {
            "concurrency": level,
            "n_requests": 80,
            "failed": 0,
            "e2e_ms": {"p50": ms},
            "ttft_ms": {"p50": ms / 4},
            "output_tok_s": level * 100 / ms * 1000,
            "round_tok_s": [level * 100 / ms * 1000] * 4,
            "latencies_ms": {"e2e": [ms] * 80, "ttft": [ms / 4] * 80},
        }
        for level, ms in zip((1, 4), e2e, strict=False)
    ]
    over = {
        str(level): {"e2e_ms_p50": {"ratio": base / ms, "low": base / ms * 0.97, "high": base / ms * 1.03, "n_rounds": 4}}
        for level, base, ms in zip((1, 4), (2000.0, 4000.0), e2e, strict=False)
    }
    return {
        "id": name,
        "engine": engine,
        "recipe": recipe if recipe == "as-shipped" else f"{engine}-{recipe}",
        "settings": {"slots": 4},
        "status": status,
        "verdict": verdict,
        "reasons": [],
        "measurement": {"points": points, "peak_memory_bytes": mib * MIB, "load_s": 1.0} if points else None,
        "details": {"speed_over_baseline": {"llamacpp as-shipped": over}} if points else {},
        **more,
    }


def decision(**changes: Any) -> dict[str, Any]:
    return {
        "schema": "trimtab.decision/1",
        "kind": "optimize",
        "reference": {"id": "llamacpp f16", "source": "m.gguf"},
        "baseline": {"id": "llamacpp as-shipped", "settings": {"slots": 4}},
        "chosen": {"id": "openvino int8"},
        "objective": {"name": "latency"},
        "policy": {"gates": [{"suite": "text", "margin": 0.02}]},
        "slo": [],
        "candidates": [
            row("llamacpp as-shipped", "timed", None, (2000, 4000), 300),
            row("openvino int8", "certified", "pass", (1000, 1500), 600),
            row("llamacpp q8_0", "timed", None, (1500, 3500), 200),
            row("llamacpp q4_0", "timed", None, (900, 1400), 150, evidence=LOST),
            row("llamacpp q6_k", "screened", None, evidence={"screen": {"delta_nats_per_token": -0.03, "delta_se": 0.01}}),
            row("llamacpp q4_k_m", "screened", None, evidence=LOST),
            row("openvino fp16", "dropped", None, reasons=["Not tried: no time"]),
            row("openvino gguf", "infeasible", None, reasons=["cannot read it"]),
        ],
        **changes,
    }


def ask(text: str, document: dict[str, Any] | None = None, price: float | None = None) -> WhatIfAnswer:
    return answer_what_if(document or decision(), parse_what_if(text), price)


def test_what_was_chosen_is_still_chosen() -> None:
    answer = ask("memory<1GiB")
    assert (answer.outcome, answer.id, answer.is_chosen) == ("certified", "openvino int8", True)
    assert answer.gain == pytest.approx((2 * 4000 / 1500) ** 0.5)
    assert answer.compare == ()
    assert answer.n_untimed == 2, "what lost on the search texts or cannot run is no open question"


def test_less_memory_asks_for_a_certificate() -> None:
    answer = ask("memory<512MiB")
    assert (answer.outcome, answer.id, answer.fallback) == ("to_certify", "llamacpp q8_0", "llamacpp as-shipped")
    assert answer.compare == ("m.gguf", "llamacpp:m.gguf?recipe=llamacpp-q8_0")
    assert answer.slo[0].value == 200 * MIB
    assert "would still have to be certified" in answer.reason
    assert "Until then llamacpp as-shipped, the baseline." in answer.reason


def test_nothing_meets_it_and_what_comes_nearest() -> None:
    answer = ask("memory<160MiB")
    assert (answer.outcome, answer.id) == ("none", "llamacpp q8_0")
    assert "25 % over" in answer.reason
    assert "Only what loses too much quality would: llamacpp q4_0." in answer.reason


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("concurrency=8", "Not measured: concurrency 8; measured were 1 and 4."),
        ("concurrency=2,memory<512MiB", "Not measured: concurrency 2; measured were 1 and 4."),
        ("energy<2J/token", "Not measured: energy, which energy<2J/token is about."),
        ("objective=energy", "Not measured: energy."),
        ("objective=cost", "Not known: the cost, without a price; give --price-per-hour."),
    ],
)
def test_what_was_not_measured_is_said_and_never_made_up(text: str, says: str) -> None:
    answer = ask(text)
    assert (answer.outcome, answer.reason, answer.id, answer.value) == ("not_measured", says, None, None)


def test_one_concurrency_counts_alone() -> None:
    document = decision()
    document["candidates"].append(row("llamacpp turbo", "timed", None, (500, 6000), 300))
    assert ask("concurrency=1", document).id == "llamacpp turbo"
    assert ask("concurrency=4", document).id == "openvino int8"
    assert ask("ttft_p95<200ms,concurrency=1", document).id == "llamacpp turbo"
    assert ask("ttft_p95<400ms", document).id == "openvino int8"


def test_too_few_rounds_for_a_ratio_leave_the_medians_of_the_session() -> None:
    document = decision()
    for candidate in document["candidates"]:
        candidate.get("details", {}).get("speed_over_baseline", {}).get("llamacpp as-shipped", {}).pop("4", None)
    answer = ask("concurrency=4", document)
    assert (answer.id, answer.gain) == ("openvino int8", pytest.approx(4000 / 1500))


def test_another_objective_and_the_baseline_is_kept_where_nothing_is_better() -> None:
    answer = ask("objective=memory")
    assert (answer.id, answer.outcome, answer.value) == ("llamacpp q8_0", "to_certify", 200 * MIB)
    assert ask("objective=throughput").id == "openvino int8"
    assert ask("objective=cost", price=0.4).value == pytest.approx(cost_per_million(0.4, 4 * 100 / 1.5))
    heavy = decision()
    heavy["candidates"] = heavy["candidates"][:2]
    kept = ask("objective=memory", heavy)
    assert (kept.id, kept.outcome, kept.gain) == ("llamacpp as-shipped", "baseline", 1.0)


def test_demands_of_the_run_stay_unless_the_question_replaces_them() -> None:
    document = decision(
        slo=[{"candidate": "x", "term": "memory<250MiB", "metric": "memory", "percentile": None, "limit": 250.0 * MIB, "concurrency": None}]
    )
    assert ask("objective=throughput", document).id == "llamacpp q8_0"
    assert ask("memory<1GiB", document).id == "openvino int8"


def test_few_requests_cannot_tell() -> None:
    document = decision()
    for point in document["candidates"][1]["measurement"]["points"]:
        point["latencies_ms"] = {"e2e": point["latencies_ms"]["e2e"][:20]}
    answer = ask("e2e_p95<1600ms", document)
    assert (answer.outcome, answer.id) == ("cannot_tell", "openvino int8")
    assert "39 more requests" in answer.reason


def test_an_inconclusive_certificate_is_not_taken_for_one() -> None:
    document = decision()
    document["candidates"][1]["verdict"] = "inconclusive"
    answer = ask("memory<1GiB", document)
    assert (answer.outcome, answer.fallback) == ("cannot_tell", "llamacpp as-shipped")


def test_a_file_of_the_users_own_has_no_command() -> None:
    rows = [row("llamacpp mine", "timed", None, (1, 1), 1, recipe="as-shipped")]
    assert compare_sides("llamacpp mine", rows, decision()) == ()
    own = row("llamacpp q8_0 kv_type=q8_0", "timed", None, (1, 1), 1, recipe="llamacpp-q8_0", settings={"slots": 4, "kv_type": "q8_0"})
    assert compare_sides(own["id"], [own], decision())[1] == "llamacpp:m.gguf?recipe=llamacpp-q8_0&kv_type=q8_0"


def test_standard_questions_can_all_be_answered() -> None:
    texts = [question.text for question in standard_questions(decision())]
    assert texts == ["memory<512MiB", "memory<256MiB", "concurrency=1", "concurrency=4", "objective=throughput", "objective=memory"]
    for question in standard_questions(decision()):
        assert answer_what_if(decision(), question).outcome != "not_measured"
        assert parse_what_if(question.text) == question
    priced = decision(objective={"name": "throughput", "price_per_hour": 0.4})
    assert [question.text for question in standard_questions(priced)][-3:] == ["objective=latency", "objective=memory", "objective=cost"]
    assert standard_questions(decision(candidates=decision()["candidates"][:1])) == ()
    assert standard_questions(decision(candidates=[])) == ()


@given(st.lists(st.integers(1, 10**11), max_size=6))
def test_memory_bounds_tell_two_apart(peaks: list[int]) -> None:
    for bound in memory_bounds(peaks):
        assert any(peak <= bound * MIB for peak in peaks)
        assert any(peak > bound * MIB for peak in peaks)
    assert memory_bounds([None, 0, 5.0]) == []


def test_without_a_timing_nothing_is_answered() -> None:
    assert ask("memory<1GiB", decision(candidates=[])).reason == "Nothing was timed in this run."


def test_answers_are_json() -> None:
    assert to_plain(ask("memory<512MiB"))["slo"][0]["verdict"] == "pass"


def test_parsing() -> None:
    asked = parse_what_if(" memory<512MiB, concurrency=8 ,objective=Throughput")
    assert asked == WhatIf(
        terms=parse_slo("memory<512MiB"), concurrency=8, objective="throughput", text="memory<512MiB, concurrency=8 ,objective=Throughput"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has an empty term"),
        ("memory<512", "has no unit"),
        ("memory<512MiB,", "has an empty term"),
        ("concurrency=zero", "no number of requests in flight"),
        ("concurrency=0", "no number of requests in flight"),
        ("concurrency=1,concurrency=2", "says concurrency twice"),
        ("objective=beauty", "unknown objective 'beauty'"),
        ("ttft<1s,e2e<500ms", "were the limits swapped"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_name_of_its_own_option(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        parse_what_if(text)
    assert "--what-if" in str(error.value)
    assert "--slo" not in str(error.value)


def test_objective_values_are_of_the_fullest_level_or_the_one_asked_for() -> None:
    measurement = decision()["candidates"][1]["measurement"]
    assert objective_value("latency", measurement) == 1500
    assert objective_value("latency", measurement, concurrency=1) == 1000
    assert objective_value("latency", measurement, concurrency=8) is None
    assert objective_value("latency", None) is None
    assert objective_value("cost", measurement) is None
