"""The page and the sentences: whole, self-contained, escaped, true to the numbers, and silent about harmful texts."""

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_decision import candidates, compare_decision, optimize_decision

from trimtab.core.errors import InputError
from trimtab.core.phrases import decimals_for, fixed, interval, line, milliseconds, significant, times_interval
from trimtab.record.explain import explain, headline
from trimtab.record.report import render_report, write_report

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{7*7}}$\\frac{1}{0}$\x00\u202e</style></title>&amp;--><svg onload=x>"


class Page(HTMLParser):
    """Tags, attributes, ids, headings and text of a page; complains about tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.headings: list[int] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def optimize_html() -> str:
    return render_report(optimize_decision(), command="trimtab optimize m.gguf")


@pytest.fixture(scope="module")
def compare_html() -> str:
    return render_report(compare_decision())


@pytest.fixture(params=["optimize", "compare"])
def html(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_html"))


def hostile(value: Any, key: str = "") -> Any:
    """The same decision with hostile text wherever a name or text stands."""
    if isinstance(value, dict):
        return {name: hostile(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, key) for item in value]
    kept = {"schema", "kind", "status", "direction", "unit", "verdict"}
    return f"{value}{HOSTILE}" if isinstance(value, str) and key not in kept else value


def test_the_page_loads_and_runs_nothing(html: str) -> None:
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "foreignobject", "animate"}
    for tag, attributes in page.tags:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action", "formaction", "data", "ping")
        ]
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "items.html", "report.html")), (tag, attributes)
    assert "url(http" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "http:" not in html
    assert "https:" not in html


def test_structure_ids_headings_and_links(html: str) -> None:
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        target = attributes.get("href")
        assert target is None or target[1:] in ids or target.startswith(("items.html", "report.html"))
        for name in ("aria-labelledby",):
            assert all(one in ids for one in (attributes.get(name) or "").split())
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(ids)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("role") == "img"
        if tag == "div" and "scroll" in (attributes.get("class") or "").split():
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
    assert page.tags[0] == ("html", {"lang": "en"})


def test_the_page_says_the_answer_and_its_numbers(optimize_html: str) -> None:
    page = Page(optimize_html)
    decision = optimize_decision()
    assert headline(decision) in page.text
    for said in (
        "2.06×",
        "[1.97×, 2.15×]",
        "−0.0048",
        "[−0.0079, −0.0017]",
        "412 MB",
        "86 %",
        "14.8 GB/s",
        "5 min 19 s",
        "1,204 in 448 clusters",
    ):
        assert said in page.text, said
    for row in candidates():
        assert row.id in page.text
        assert row.reasons[0] in page.text
    for gate in decision["gates"]:
        assert gate["name"] in page.text
    for group in decision["gates"][3]["groups"]:
        assert group["group"] in page.text
    assert "Predicted end to end: 5,100 ms [4,200, 6,300] at 1 in flight." in page.text
    assert "this machine exposes no energy counter" in page.text
    assert decision["reference"]["provenance"] in page.text
    assert "trimtab optimize m.gguf" in page.text


def test_each_gate_names_the_framework_points_it_is_evidence_for(optimize_html: str) -> None:
    text = Page(optimize_html).text
    assert "What each gate is evidence for" in text
    assert "fairness NIST AI RMF MEASURE 2.11, EU AI Act Annex IV 2(g), EU AI Act Annex IV 3" in text
    assert "compliant" not in text.lower()
    assert "Evidence for them, not compliance with them" in text


def test_texts_of_harmful_items_are_never_printed(optimize_html: str) -> None:
    assert "SECRET" in json.dumps(optimize_decision())
    assert "SECRET" not in optimize_html
    assert "harmful-0031" in optimize_html
    assert "The ferry could not leave" in optimize_html


def test_flips_are_shown_with_their_chance_where_it_is_known(optimize_html: str) -> None:
    assert "9 lost, 7 gained, p 0.804; change [−2.4 %, 1.5 %]" in optimize_html
    assert "3 lost, 5 gained<" in optimize_html  # a gate of before this was computed


def test_flips_are_counted_by_sub_suite_and_group_and_listed_by_direction(optimize_html: str) -> None:
    text = Page(optimize_html).text
    table = text.split("By sub-suite and group")[1]
    assert "cloze 9 7 61.2 % → 60.7 % [−2.4 %, 1.5 %] 0.804" in table
    assert "choice 3 5 49.3 % → 49.8 % – –" in table
    assert "topic:metals of choice 0 1 – – –" in table
    assert table.index("Lost in cloze 1") < table.index("Gained in choice 1")
    assert "Without text: harmful-0031" in table


def test_it_says_what_the_exam_can_show(optimize_html: str) -> None:
    text = Page(optimize_html).text
    assert "passes all required gates together with a chance of 91 %" in text
    assert "one that lost 74 % of every margin would be stopped in 80 % of cases" in text
    assert "that chance is 83 %" in text
    assert "Not in the prediction, as nothing was known of them beforehand: parity." in text
    table = text.split("Gate by gate")[1].split("Changed answers")[0]
    assert "text over 99 %" in table
    assert "61 there are enough" in table
    assert "choice 71 %" in table
    assert "over 1,000,000 more than there are" in table
    assert "fairness not predicted" in table


@pytest.mark.parametrize("where", ["suite", "item_id", "group"])
def test_one_hint_of_harm_hides_the_texts(where: str) -> None:
    decision = compare_decision()
    flip = {"suite": "mine", "item_id": "1", "group": "", "direction": "lost", "prompt": "SECRET", "reference_answer": "SECRET"}
    decision["flips"] = [{**flip, where: "x-Harmful-9"}]
    assert "SECRET" not in render_report(decision)


@pytest.mark.parametrize("make", [optimize_decision, compare_decision])
def test_hostile_names_and_texts_are_escaped(make: Any, tmp_path: Path) -> None:
    decision = hostile(make())
    html = render_report(decision, command=HOSTILE)
    test_the_page_loads_and_runs_nothing(html.replace("https:", "").replace("http:", ""))
    test_structure_ids_headings_and_links(html)
    assert "alert(1)" in Page(html).text
    assert not re.search("[\x00-\x08\u202e]", html)
    assert "{{7*7}}" in html
    write_report(tmp_path / "report.html", decision)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_missing_is_said_and_never_zero() -> None:
    decision = compare_decision()
    row = decision["candidates"][0]
    row["measurement"] = copy.deepcopy(optimize_decision()["candidates"][0]["measurement"])
    row["measurement"] |= {"peak_memory_bytes": None, "roofline_share": None, "load_s": None}
    row["measurement"]["points"][0]["ttft_ms"]["p50"] = None
    decision["machine"] |= {"read_gb_s": None}
    html = Page(render_report(decision)).text
    assert "read bandwidth, all cores not measured" in html
    assert html.count("not measured") >= 6
    assert "0 MB" not in html
    assert "0 GB/s" not in html
    assert "0 ms" not in html.replace("1,480 ms", "").replace("2,230 ms", "").replace("720 ms", "").replace("8.90 ms", "")


@pytest.mark.slow
@pytest.mark.parametrize("drop", sorted(set(optimize_decision()) - {"schema"}))
def test_a_decision_without_one_part_still_renders_or_says_so(drop: str) -> None:
    decision = optimize_decision()
    decision[drop] = None
    assert Page(render_report(decision)).headings


@pytest.mark.parametrize("value", [[1], "x", {"a": 1}, 3])
@pytest.mark.parametrize("part", ["gates", "candidates", "flips", "skipped"])
def test_a_malformed_decision_is_an_input_error(part: str, value: Any) -> None:
    decision = compare_decision()
    decision[part] = value
    with pytest.raises(InputError, match="not a whole"):
        render_report(decision)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a document."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_a_mutated_decision_renders_or_is_an_input_error(data: st.DataObject) -> None:
    decision = data.draw(st.sampled_from([optimize_decision, compare_decision]))()
    for _ in range(data.draw(st.integers(1, 4))):
        container, key = data.draw(st.sampled_from(places(decision)))
        container[key] = data.draw(st.sampled_from([None, "", "x", -1, 0, 1e300, float("nan"), [], {}, [None], {"a": 1}, True]))
    decision["schema"] = "trimtab.decision/1"
    try:
        page = Page(render_report(decision))
    except InputError:
        return
    assert page.headings[0] == 1


def test_another_schema_is_refused() -> None:
    for schema in (None, "trimtab.decision/9", "trimtab.run/1"):
        with pytest.raises(InputError):
            render_report({**compare_decision(), "schema": schema})


def test_same_decision_same_page() -> None:
    assert render_report(compare_decision()) == render_report(compare_decision())


def test_explain_optimize() -> None:
    said = explain(optimize_decision())
    assert said.startswith(
        "Run openvino/int8-asym: at least 1.97× as fast as llamacpp/as-shipped end to end with 1 request in flight and 2.76× with 4"
    )
    assert "all 7 required gates" in said
    assert "llamacpp/q8_0" in said
    assert "\n" not in said


def test_explain_names_the_gates_that_did_not_pass() -> None:
    said = explain(compare_decision())
    assert said.startswith("openvino/gguf-as-shipped is worse than llamacpp/f32-reference on text.")
    assert "Gate text failed: change −0.191 [−0.210, −0.172] nats/token, margin 0.020." in said
    assert "Gate parity is inconclusive: change not measured" in said


def test_explain_keeps_the_baseline_when_nothing_better_passed() -> None:
    decision = {**optimize_decision(), "chosen": None, "speedup": {}}
    assert explain(decision).startswith("Keep llamacpp/as-shipped: nothing faster was shown to be no worse than the reference.")
    decision["chosen"] = decision["baseline"]
    assert explain(decision).startswith("Keep llamacpp/as-shipped")
    for verdict, start in (("inconclusive", "Cannot tell yet"), ("fail", "No: no candidate")):
        assert explain({**decision, "verdict": verdict}).startswith(start)


def test_a_candidate_that_cannot_run_is_not_called_worse() -> None:
    decision = {**compare_decision(), "gates": [], "reasons": ["B cannot run here: unsupported tensor type"]}
    assert explain(decision) == (
        "openvino/gguf-as-shipped was not compared with llamacpp/f32-reference: it could not be run. "
        "B cannot run here: unsupported tensor type."
    )


def test_noise_is_said() -> None:
    decision = {**optimize_decision(), "noise": {"noisy": True, "why": "load 3.1 on 2 cores"}}
    assert "The machine was noisy while timing: load 3.1 on 2 cores." in explain(decision)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(-1e9, 1e9), st.floats(1e-5, 1e3))
def test_numbers_are_printed_within_half_a_digit(value: float, scale: float) -> None:
    decimals = decimals_for(scale)
    text = fixed(value, decimals).replace("−", "-").replace(",", "")
    assert abs(float(text) - value) <= 0.5 * 10**-decimals + 1e-6 * abs(value)
    assert text not in ("-0", "-0.0", "-0.00", "-0.000")


def test_phrases() -> None:
    assert significant(0.05213) == "0.0521"
    assert significant(1204.4, 4) == "1,204"
    assert milliseconds(12_340) == "12.3 s"
    assert milliseconds(None) == "not measured"
    assert milliseconds(float("nan")) == "not measured"
    assert milliseconds(True) == "not measured"
    assert interval(None, None, 2) == "interval not known"
    assert interval(-0.5, None, 1) == "[−0.5, unknown]"
    assert times_interval(1.999, 2.001) == "[1.99×, 2.01×]"
    assert line("a\nb\x00\u202ec", 0) == "a b��c"
    assert line("abcdef", 4) == "abc…"


def test_colours_have_contrast_in_light_and_dark() -> None:
    css = (Path(sys.modules["trimtab.record.report"].__file__ or "").parent / "templates" / "report.css").read_text()
    light, dark, *_ = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{([^}]*)\}", css))
    for colours in (light, dark):
        for name in ("ink", "muted", "accent", "good", "bad", "unsure", "control"):
            for ground in ("paper", "card"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in ("good", "bad", "unsure"):
            assert contrast(colours[name], colours[f"{name}-wash"]) >= 4.5, name
        assert contrast(colours["muted"], colours["wash"]) >= 4.5


def contrast(one: str, two: str) -> float:
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_room_imports_nothing_heavy() -> None:
    rooms = ["cache", "deploy", "disk", "explain", "figures", "home", "lock", "outcomes", "report", "run", "view"]
    code = "import sys\n" + "\n".join(f"import trimtab.record.{name}" for name in rooms)
    code += "\nprint([name for name in ('matplotlib', 'pyarrow', 'jinja2', 'numpy', 'platformdirs') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
