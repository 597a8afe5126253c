"""What the page says of trade-offs, other questions, engines, prices and losers: true to the numbers, and silent where nothing is."""

import copy
import re
from typing import Any

import pytest
from sample_decision import compare_decision, optimize_decision

from trimtab.core.phrases import milliseconds_interval
from trimtab.decide.cost import Tariff
from trimtab.decide.what_if import answer_what_if
from trimtab.plan.slo import parse_what_if
from trimtab.record.answers import answer_row, standard_answers, untimed_note
from trimtab.record.losers import FATES, engine_rows, fate_of, negative_groups
from trimtab.record.measured import ranked
from trimtab.record.prices import price_rows
from trimtab.record.report import render_report
from trimtab.record.trade import front_of


@pytest.fixture
def decision() -> dict[str, Any]:
    """The sample, as `optimize` writes it: with the ratios of one session."""
    found = optimize_decision()
    base = found["candidates"][1]["measurement"]["points"]
    for row in found["candidates"]:
        if row["measurement"] and row["id"] != "llamacpp/as-shipped":
            over = {
                str(mine["concurrency"]): {"e2e_ms_p50": ratio(other["e2e_ms"]["p50"] / mine["e2e_ms"]["p50"])}
                for mine, other in zip(row["measurement"]["points"], base, strict=True)
            }
            row["details"] = {"speed_over_baseline": {"llamacpp/as-shipped": over, "llamacpp/q8_0": {"1": {"e2e_ms_p50": ratio(1.5)}}}}
    return found


def ratio(value: float) -> dict[str, float]:
    return {"ratio": value, "low": value * 0.95, "high": value * 1.05, "n_rounds": 12}


def test_the_front_of_the_sample(decision: dict[str, Any]) -> None:
    """int8 is fastest, q4_0 and the baseline are smallest, the baseline and q8_0 are most faithful; int8 beats the re-quantised file."""
    front = front_of(decision, ranked(decision))
    assert front is not None
    rows = {row["id"]: row for row in front["rows"]}
    assert set(rows) == {"openvino/int8-asym", "llamacpp/as-shipped", "llamacpp/q8_0", "llamacpp/q4_0", "openvino/gguf-as-shipped"}
    assert front["beaten"] == []
    assert rows["llamacpp/q4_0"]["best"] == "time with 1 in flight; memory", "1,620 and 1,480 ms cannot be told apart"
    assert rows["llamacpp/q4_0"]["standing"] == "loses too much"
    assert rows["openvino/int8-asym"]["best"] == "time; quality"
    assert rows["openvino/gguf-as-shipped"]["best"] == "time with 4 in flight", "beaten by int8 with one"
    assert rows["openvino/int8-asym"]["timed"][0] == {"level": 1, "time": "1,480 ms", "ends": "[1,410, 1,558] ms", "off": ""}
    assert rows["llamacpp/as-shipped"]["timed"][0]["ends"] == "", "the others are measured by the baseline"
    assert rows["openvino/int8-asym"]["loss_range"] == "[0.0017, 0.0079]", "of the text gate, as it was certified"
    assert [plot["title"] for plot in front["plots"]][1] == "Time, memory and quality with 4 requests in flight"
    assert "1,480 ms, 412 MB, loss 0.0048" in front["plots"][0]["svg"]


def test_what_is_beaten_is_named_with_what_beats_it(decision: dict[str, Any]) -> None:
    decision["candidates"][2]["measurement"]["points"] = copy.deepcopy(decision["candidates"][1]["measurement"]["points"])
    decision["candidates"][2]["details"] = {}
    front = front_of(decision, ranked(decision))
    assert front is not None
    assert front["beaten"] == ["openvino/gguf-as-shipped: beaten by openvino/int8-asym, llamacpp/as-shipped, llamacpp/q4_0, llamacpp/q8_0"]


def test_no_front_of_one_and_none_without_memory(decision: dict[str, Any]) -> None:
    assert front_of(compare_decision(), ranked(compare_decision())) is None
    for row in decision["candidates"][1:]:
        if row["measurement"]:
            row["measurement"]["peak_memory_bytes"] = None
    assert front_of(decision, ranked(decision)) is None
    assert 'id="tradeoffs"' not in render_report(decision)


def test_standard_answers_say_what_to_do(decision: dict[str, Any]) -> None:
    decision["candidates"][3]["verdict"] = None
    rows = {row["question"]: row for row in standard_answers(decision)}
    assert list(rows) == ["memory<384MiB", "memory<256MiB", "concurrency=1", "concurrency=4", "objective=throughput", "objective=memory"]
    small = rows["memory<384MiB"]
    assert (small["asked"], small["word"], small["id"]) == ("with less than 384 MiB of memory", "to be certified", "llamacpp/q8_0")
    assert small["reason"].startswith("Timed, but only screened for quality")
    assert "275 MB (memory<384MiB)" in small["figures"]
    assert small["command"].startswith("trimtab compare")
    assert rows["concurrency=4"]["figures"] == "2,230 ms with 4 in flight; 2.91× as fast as the baseline"
    assert rows["objective=memory"]["id"] == "llamacpp/as-shipped"
    assert untimed_note(list(rows.values())).startswith("1 candidate was not timed")
    assert standard_answers(compare_decision()) == []


def test_an_answer_about_what_was_not_measured_has_no_numbers(decision: dict[str, Any]) -> None:
    row = answer_row(answer_what_if(decision, parse_what_if("concurrency=8")))
    assert (row["word"], row["id"], row["figures"], row["command"]) == ("not measured", "", "", "")
    assert row["reason"] == "Not measured: concurrency 8; measured were 1 and 4."


def test_engine_by_engine(decision: dict[str, Any]) -> None:
    openvino, llamacpp = engine_rows(decision, ranked(decision))
    assert openvino["certified"] == {"id": "openvino/int8-asym", "note": "1,480 ms at 1, 2,230 ms at 4, 412 MB"}
    assert openvino["timed"]["id"] == "openvino/gguf-as-shipped"
    assert openvino["timed"]["note"].endswith("455 MB, loses too much")
    assert openvino["tried"] == "4: 1 chosen, 2 worse, 1 cannot run"
    assert openvino["lost_to"] == "nothing: openvino/int8-asym was chosen"
    assert llamacpp["certified"]["id"] == ""
    assert llamacpp["timed"]["id"] == "llamacpp/q4_0"
    assert llamacpp["lost_to"] == "openvino/int8-asym", "not timed in turns with q4_0: no ratio"
    assert engine_rows({**decision, "chosen": None}, ranked(decision))[0]["lost_to"] == "nothing was chosen"


def test_losers_are_grouped_and_none_is_lost(decision: dict[str, Any]) -> None:
    decision["candidates"][6]["reasons"] = decision["candidates"][7]["reasons"] = []
    rows = ranked(decision)
    groups = {group["title"]: group for group in negative_groups(decision, rows)}
    assert list(groups) == [
        "Worse than the margins allow",
        "Timed, and not certified",
        "Cannot run here",
        "Not tried",
        "Left out of the search",
    ]
    assert groups["Cannot run here"]["lines"] == [("openvino/gguf-q4_k_m", "no reason recorded")]
    assert groups["Worse than the margins allow"]["n"] == 3
    fates = [fate_of(row, decision) for row in rows]
    assert set(fates) <= {key for key, _ in FATES} | {"chosen", "baseline", "certified"}
    named = sum(group["n"] for title, group in groups.items() if title != "Left out of the search")
    assert named == len(rows) - 2


def test_one_reason_is_told_once(decision: dict[str, Any]) -> None:
    decision["skipped"] = [{"what": "a", "why": "no time"}, {"what": "b", "why": "no time"}, {"what": "c", "why": "no room"}]
    assert negative_groups(decision, [])[0]["lines"] == [("a, b", "no time"), ("c", "no room")]


@pytest.mark.parametrize(
    ("changes", "fate"),
    [
        ({"verdict": "inconclusive"}, "unsure"),
        ({"verdict": "pass"}, "certified"),
        ({"verdict": "fail"}, "worse"),
        ({"measurement": None}, "slow"),
    ],
)
def test_fates(decision: dict[str, Any], changes: dict[str, Any], fate: str) -> None:
    assert fate_of({**decision["candidates"][3], **changes}, decision) == fate


def test_prices_need_a_price_and_say_how_to_give_it(decision: dict[str, Any]) -> None:
    assert price_rows(decision, ranked(decision)) == []
    assert "No price was given." in render_report(decision)
    decision["objective"] = {"name": "latency", "price_per_hour": 0.36}
    (int8, *others) = price_rows(decision, ranked(decision))
    assert int8["id"] == "openvino/int8-asym"
    assert int8["levels"][0]["output"] == "1.16", "0.0001 a second over 86.5 tokens a second"
    assert int8["levels"][0]["all"] == "0.231"
    assert int8["levels"][0]["output_range"] == "one round"
    assert int8["levels"][0]["energy"] == ""
    assert len(others) == 4
    html = render_report(decision)
    assert "No price was given." not in html
    assert "hold no electricity" in html
    powered = price_rows(decision, ranked(decision), Tariff(price_per_hour=0.36, power_w=80.0, price_per_kwh=0.3))
    assert powered[0]["levels"][0]["power"] == "80.0 W, as said"


def test_the_page_has_all_of_it_and_that_of_compare_has_not(decision: dict[str, Any]) -> None:
    html = render_report(decision)
    for section in ("tradeoffs", "what-if", "engines", "prices", "negative"):
        assert f'id="{section}"' in html, section
        assert f'href="#{section}"' in html, section
    compared = render_report(compare_decision())
    assert not re.search(r'id="(tradeoffs|what-if|engines|prices)"', compared)


def test_intervals_of_times() -> None:
    assert milliseconds_interval(931.2, 1204.4) == "[931, 1,204] ms"
    assert milliseconds_interval(9000, 12_340) == "[9.00, 12.3] s"
    assert milliseconds_interval(None, 3) == "interval not known"
