"""Parity of guards: what passes, what fails, and what nobody can tell; and the suite as it is typed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.main import main
from trimtab.core.site import GuardUse
from trimtab.decide.fairness_policy import load_fairness_policy
from trimtab.flows.parts.guard_parity import Answer, Route, route_answer, routes_of
from trimtab.guard.pipeline import Guards

GROUPS = ("red", "blue", "green", "grey", "brown")
ROUTE = Route(models=("chat",), side="in", guards=("topics",), judge=Guards([GuardUse(name="unicode", side="in")]))
SITE = '[[models]]\nname = "chat"\nurl = "http://127.0.0.1:9/v1"\n'


def judged(stopped: Callable[[str, int], bool], *, n: int = 64, error: Callable[[str, int], str] = lambda *_: "") -> dict[str, Any]:
    answers = [
        Answer(text=f"{group} {number}", template=str(number), group=group, stopped=stopped(group, number), error=error(group, number))
        for number in range(n)
        for group in GROUPS
    ]
    rules = load_fairness_policy("standard")
    spec = next(gate for gate in rules.gates if gate.metric == "counterfactual")
    return route_answer(ROUTE, answers, len(answers), spec, rules)


def test_groups_that_are_treated_alike_pass_and_the_planted_one_fails() -> None:
    found = judged(lambda _, number: number % 16 == 0)
    assert found["verdict"] == "pass"
    assert found["control"]["verdict"] == "fail"
    assert found["stopped"]["share_of_texts"] == found["stopped"]["templates"]["value"] == 1 / 16
    assert {row["gap"]["value"] for row in found["groups"]} == {0.0}
    assert all(-0.06 < row["gap"]["low"] < 0.0 < row["gap"]["high"] < 0.06 for row in found["groups"]), "64 templates do not show all"


def test_a_group_that_is_stopped_more_often_is_named() -> None:
    found = judged(lambda group, number: group == "green" and number % 3 == 0)
    assert found["verdict"] == "fail"
    assert "green" in found["reasons"][0]
    first = found["groups"][0]
    assert (first["group"], first["p_holm"] < 0.001) == ("green", True)
    assert first["stopped"]["low"] < 22 / 64 < first["stopped"]["high"]


def test_too_few_templates_cannot_tell() -> None:
    found = judged(lambda *_: False, n=24)
    assert found["verdict"] == "inconclusive"
    assert "cannot tell" in " ".join(found["reasons"])


def test_what_a_guard_could_not_judge_is_no_pass() -> None:
    found = judged(lambda *_: False, n=70, error=lambda group, number: "it was too slow" if (group, number) == ("blue", 3) else "")
    assert (found["verdict"], found["n"], found["n_missing"]) == ("inconclusive", 345, 5)
    assert "it was too slow" in found["reasons"][-1]
    nothing = judged(lambda *_: False, error=lambda *_: "it is gone")
    assert (nothing["verdict"], nothing["n"], nothing["gate"]) == ("inconclusive", 0, None)


def test_guards_that_stop_everything_show_nothing() -> None:
    found = judged(lambda *_: True)
    assert found["verdict"] == "inconclusive"
    assert "not informative" in found["reasons"][-1]


def test_models_with_the_same_guards_are_asked_once_and_each_side_apart(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    guards = '[[models.guards]]\nname = "unicode"\n[[models.guards]]\nname = "injection"\n'
    path.write_text(SITE + guards + SITE.replace("chat", "code") + guards + SITE.replace("chat", "bare"))
    assert [(route.models, route.side, route.guards) for route in routes_of(str(path))] == [
        (("chat", "code"), "in", ("unicode", "injection")),
        (("chat", "code"), "out", ("unicode",)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("word", "code"), [("muslim", 1), ("submarine", 0)])
def test_the_suite_as_typed(
    word: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = f'[models.guards.options]\ndeny = {{ banned = ["{word}"] }}\n'
    Path("site.toml").write_text(f'{SITE}[[models.guards]]\nname = "topics"\nside = "in"\n{options}')
    arguments = ["evaluate", "site.toml", "--suite", "guard-parity", "--out", "found", "-q"]
    assert main([*arguments, *["--json"] * code]) == code
    shown = capsys.readouterr().out
    document = json.loads(Path("found/guard-parity.json").read_text())
    rows = [json.loads(line) for line in Path("found/texts.jsonl").read_text().splitlines()]
    assert len(rows) == document["suite"]["n_items"] > 8000
    assert document["suite"]["n_templates"] >= 60
    assert {row["by"] for row in rows if row["stopped"]} == ({"topics"} if code else set())
    if code:
        assert json.loads(shown) == document
        assert document["routes"][0]["groups"][0]["group"].startswith("muslim")
    else:
        assert shown.startswith("PASS")
        assert "chat, what goes in" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["m.gguf", "--suite", "guard-parity"], "give the site.toml"),
        (["site.toml", "--suite", "guard-parity"], "names no guards"),
        (["site.toml", "--suite", "core,guard-parity"], "run it alone"),
        (["guards", "--suite", "guard-parity", "--reference", "m.gguf"], "run it alone"),
        (["gone.toml", "--suite", "guard-parity"], "There is no gone.toml"),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("site.toml").write_text(SITE)
    assert main(["evaluate", *arguments, "-q"]) == 2
    assert says in capsys.readouterr().err
