"""Rules of the watch: read strictly, and from an alarm to what is wished for."""

import tomllib
from importlib import resources

import pytest

from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval
from trimtab.core.watching import Alarm, Signal
from trimtab.watch.rules import Grades, load_watch_rules, severity_of, watch_rules_from, wishes

RATE = Signal(name="refused", kind="rate", about="output", text="refuses", worse="up")
MEAN = Signal(name="total_ms", kind="mean", about="service", text="time", unit="ms", worse="up", high=60000)
SHIPPED = tomllib.loads((resources.files("trimtab") / "catalog" / "watch" / "standard.toml").read_text())


def alarm(before=0.04, after=0.12, low=0.05, high=0.11, *, signal="refused", version="chat@next", at_s=1000.0, **slice_):
    return Alarm(
        id=f"{signal}{at_s:.0f}",
        model="chat",
        version=version,
        signal=signal,
        at_s=at_s,
        since_s=at_s - 100,
        n_since=50,
        before=Interval(value=before, n=1000),
        after=Interval(value=after, n=50),
        change=Interval(value=after - before, low=low, high=high, n=50),
        method="e-detector",
        slice=slice_,
    )


def kinds(one, signal=RATE, *, serves="stable", fired=None, part_of=""):
    found = wishes(load_watch_rules(), one, signal, serves=serves, fired=fired or {}, part_of=part_of)
    return [wish.kind for wish in found]


def test_a_canary_that_gets_worse_is_stopped_and_somebody_is_called():
    assert kinds(alarm(), serves="canary") == ["alarm", "stop-canary", "page"]
    assert kinds(alarm(), serves="stable") == ["alarm"]


def test_what_gets_better_is_told_and_nothing_else():
    assert kinds(alarm(0.12, 0.04, -0.11, -0.05), serves="canary") == ["alarm"]


def test_quality_of_the_stable_version_goes_back():
    quality = Signal(name="probe_right", kind="rate", about="quality", text="right", worse="down")
    assert kinds(alarm(0.9, 0.7, -0.28, -0.12, signal="probe_right"), quality) == ["alarm", "rollback", "page"]
    assert kinds(alarm(0.9, 0.88, -0.03, -0.001, signal="probe_right"), quality) == ["alarm"]


def test_a_group_of_people_weighs_a_step_more():
    grades = Grades()
    assert severity_of(alarm(low=0.021), RATE, grades) == "moderate"
    assert severity_of(alarm(low=0.021, **{"group:sex": "female"}), RATE, grades) == "high"
    assert kinds(alarm(low=0.021, **{"group:sex": "female"})) == ["alarm", "sample", "page"]
    assert kinds(alarm(low=0.021, language="de")) == ["alarm"]


@pytest.mark.parametrize(
    ("before", "low", "grade"), [(800.0, 40.0, "low"), (800.0, 80.0, "moderate"), (800.0, 200.0, "high"), (800.0, 900.0, "critical")]
)
def test_a_mean_is_graded_by_the_end_of_its_interval_that_is_nearer_to_none(before, low, grade):
    one = alarm(before, before + 2 * low, low, 3 * low, signal="total_ms")
    assert severity_of(one, MEAN, Grades()) == grade


def test_an_interval_that_holds_none_is_no_grade_at_all():
    assert severity_of(alarm(low=-0.01, high=0.3), RATE, Grades()) == "low"


def test_a_rule_cools_down_by_the_clock_of_the_alarms():
    fired = {("canary-worse", "chat", "chat@next"): 1000.0}
    assert kinds(alarm(at_s=1300.0), serves="canary", fired=fired) == ["alarm"]
    assert kinds(alarm(at_s=1600.0), serves="canary", fired=fired) == ["alarm", "stop-canary", "page"]
    assert kinds(alarm(at_s=1300.0, version="chat@other"), serves="canary", fired=fired) == ["alarm", "stop-canary", "page"]


def test_what_is_part_of_another_alarm_is_only_told():
    assert kinds(alarm(language="de"), serves="canary", part_of="abc") == ["alarm"]


def test_a_gate_that_failed_on_live_answers_is_high():
    gate = Signal(name="quality:text", kind="mean", about="quality", text="gate", worse="down")
    one = alarm(-3.3, -3.36, -0.09, -0.03, signal="quality:text")
    assert severity_of(one, gate, Grades()) == "high"
    assert kinds(one, gate, serves="canary") == ["alarm", "stop-canary", "page"]


def changed(**values):
    return {**SHIPPED, **values}


def rule(**values):
    return changed(rules=[{"name": "mine", "do": ["alarm"], **values}])


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (changed(rulez=1), "unknown key 'rulez'"),
        (changed(rules=[]), r"no \[\[rules\]\]"),
        (rule(signal=["x"]), "rule 'mine': unknown key 'signal'"),
        (rule(do=["explode"]), "do names 'explode'; it may be alarm, sample, guard"),
        (rule(do=[]), "does nothing"),
        (rule(name="Mine!"), "lower-case letters"),
        (rule(about=["weather"]), "about names 'weather'"),
        (rule(severity="awful"), "severity names 'awful'"),
        (rule(cool_down="soon"), "cool_down must be a time"),
        (rule(percent=200), "from 0 to 100"),
        (rule(replicas=1.5), "whole number"),
        (rule(worse="yes"), "true or false"),
        (changed(rules=[SHIPPED["rules"][0], SHIPPED["rules"][0]]), "two rules named 'tell'"),
        (changed(requests_per_false_alarm=10), "requests_per_false_alarm must be a whole number from 1000"),
        (changed(outside_share=2), "outside_share"),
        (changed(severity={"points": [3, 2, 1]}), "three rising numbers"),
        (changed(page={"webhook": "https://hooks.example.com/secret"}), "must name an environment variable"),
        (changed(page={"mail_to": ["a@example.com"]}), "mail_to needs mail_from and smtp"),
        (changed(slices={"most": 0}), "most must be a whole number"),
        (changed(name=""), "name must be a text"),
    ],
)
def test_what_is_wrong_is_named(table, says):
    with pytest.raises(InputError, match=says):
        watch_rules_from(table, "mine.toml")


def test_a_file_that_is_no_rules_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="shipped ones are standard"):
        load_watch_rules("mine")
    with pytest.raises(InputError, match="cannot be read"):
        load_watch_rules(tmp_path / "mine.toml")
    (tmp_path / "mine.toml").write_text("name = ")
    with pytest.raises(InputError, match="not valid TOML"):
        load_watch_rules(tmp_path / "mine.toml")
