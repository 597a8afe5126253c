"""The watcher: what it counts, what it tells, and that it does not matter how the requests came."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.watching import Late, Observed
from trimtab.watch.envelope import Envelope
from trimtab.watch.join import MOST_EARLY
from trimtab.watch.live import document
from trimtab.watch.rules import load_watch_rules
from trimtab.watch.tallies import LABELS, POINTS, Recent
from trimtab.watch.watcher import ATTRIBUTES, DUPLICATE, NO_REQUEST, Watcher

RULES = load_watch_rules()
START_S = 1_795_773_600.0
ENVELOPE = Envelope(languages=("en",), context_tokens=2048, workload="chat")


def traffic(n, *, seed=1, change=None, version="chat@next", step_s=1.0):
    """Requests with feedback to every fifth; from `change` on, answers to women refuse four times as often."""
    draw = random.Random(seed)
    for i in range(n):
        sex = draw.choice(["female", "male"])
        often = 0.2 if change is not None and i >= change and sex == "female" else 0.05
        at_s = START_S + i * step_s
        yield Observed(
            request=f"r{i}",
            at_s=at_s,
            model="chat",
            version=version,
            numbers={"total_ms": draw.gauss(800, 100), "prompt_tokens": float(draw.randint(10, 400))},
            flags={"refused": draw.random() < often, "error": draw.random() < 0.01},
            labels={"language": "de" if draw.random() < 0.2 else "en"},
            groups={"sex": sex},
        )
        if i % 5 == 4:
            yield Late(request=f"r{i - 2}", at_s=at_s, kind="feedback", name="thumbs", value=float(draw.random() < 0.8))


def fed(items, watcher=None):
    watcher = watcher or Watcher(RULES, envelopes={"chat@next": ENVELOPE})
    return watcher, [alarm for item in items for alarm in watcher.take(item)]


def without(value, key):
    """A document without a key, wherever it stands: sketches are random, within their stated error."""
    if isinstance(value, dict):
        return {name: without(one, key) for name, one in value.items() if name != key}
    return [without(one, key) for one in value] if isinstance(value, list) else value


def shown(watcher):
    return document(watcher, now_s=0.0, site="site.toml", site_id="0" * 16, source="spool")


def test_a_change_for_one_group_is_told_for_that_group():
    watcher, alarms = fed(traffic(4000, change=2000))
    slices = {tuple(alarm.slice.items()) for alarm in alarms if alarm.signal == "refused"}
    assert (("group:sex", "female"),) in slices
    assert (("group:sex", "male"),) not in slices
    mine = next(alarm for alarm in alarms if alarm.slice == {"group:sex": "female"})
    assert START_S + 1500 < mine.since_s < START_S + 2500
    assert mine.change.low is not None
    assert mine.change.low > 0
    assert mine.before.value < 0.1 < mine.after.value
    assert mine.examples
    row = next(row for row in shown(watcher)["alarms"] if row["id"] == mine.id)
    assert row["stands"] is True
    assert "sex female: the answer refuses went from" in row["text"]


def test_no_change_is_no_alarm_but_the_language_that_nobody_certified():
    watcher, alarms = fed(traffic(4000))
    assert {alarm.signal for alarm in alarms} == {"outside"}
    row = shown(watcher)["envelope"][0]
    assert row["covers"] == "English chat up to 2k tokens"
    assert row["outside"][0]["what"] == "language de"
    assert row["today"]["low"] < 0.2 < row["today"]["high"]
    assert alarms[0].after.low > RULES.outside_share
    assert "% of today's traffic is outside" in row["text"]


@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(1, 1900), max_size=4))
def test_killed_and_resumed_anywhere_it_says_the_same(cuts):
    items = list(traffic(1600, change=700))
    whole, alarms = fed(items)
    watcher, found, last = Watcher(RULES, envelopes={"chat@next": ENVELOPE}), [], 0
    for cut in sorted({min(cut, len(items)) for cut in cuts} | {len(items)}):
        _, more = fed(items[last:cut], watcher)
        found += more
        kept = json.loads(json.dumps(watcher.state()))
        fed(items[cut : cut + 50], watcher)  # lost with the process
        watcher, last = Watcher.from_state(kept, RULES, envelopes={"chat@next": ENVELOPE}), cut
    assert found == alarms
    assert alarms
    assert without(watcher.state(), "sketch") == without(whole.state(), "sketch")
    assert without(shown(watcher), "percentiles") == without(shown(whole), "percentiles")


def test_nothing_counts_twice():
    items = list(traffic(200))
    once, _ = fed(items)
    twice, _ = fed([*items, *items])
    assert twice.n_requests == once.n_requests == 200
    assert twice.n_late == once.n_late == 40
    assert twice.faults == {DUPLICATE: 240}
    assert shown(twice)["models"] == shown(once)["models"]


def test_late_news_of_a_request_that_nobody_saw_is_counted_as_such():
    late = [Late(request=f"nobody{i}", at_s=START_S, kind="outcome", name="paid_back", value=1.0) for i in range(MOST_EARLY + 3)]
    watcher, _ = fed(late)
    assert watcher.faults == {NO_REQUEST: 3}
    assert shown(watcher)["models"] == []


def test_news_that_comes_before_its_request_waits_for_it():
    late = Late(request="a", at_s=START_S, kind="outcome", name="paid_back", value=1.0)
    watcher, _ = fed([late, Observed(request="a", at_s=START_S + 1, model="m", version="v")])
    (signal,) = shown(watcher)["models"][0]["versions"][0]["signals"]
    assert (signal["signal"], signal["all"]["value"], watcher.n_late) == ("paid_back", 1.0, 1)


def test_groups_that_come_with_the_feedback_count_for_it():
    request = Observed(request="a", at_s=START_S, model="m", version="m@1")
    said = Late(request="a", at_s=START_S + 60, kind="feedback", name="thumbs", value=0.0, groups={"age": "old"})
    watcher, _ = fed([request, said])
    (group,) = shown(watcher)["models"][0]["versions"][0]["groups"]
    assert (group["by"], group["of"], group["signals"]["thumbs"]["value"]) == ("age", "old", 0.0)


def test_memory_is_bounded_whatever_comes():
    draw = random.Random(3)
    items = (
        Observed(
            request=f"r{i}",
            at_s=START_S + draw.randint(0, 10**7),
            model="m",
            version=f"v{i % 200}",
            labels={"language": f"l{i}", "topic": f"t{i}"},
            groups={f"attribute{i % 50}": f"g{i}"},
        )
        for i in range(8000)
    )
    watcher, _ = fed(items)
    assert len(watcher.versions) == 64
    assert watcher.faults["versions: too many to watch"] == 8000 - 64 * 40
    for version in watcher.versions.values():
        kinds = {by for by, _ in version.parts}
        assert len([by for by in kinds if by.startswith("group:")]) <= ATTRIBUTES
        assert all(sum(by == kind for by, _ in version.parts) <= RULES.slices.most + 1 for kind in kinds)
        assert all(len(one.counts) <= LABELS + 1 for one in version.parts["", ""].values())


def test_a_series_has_an_hour_at_most_and_no_points_where_nothing_came():
    recent = Recent()
    for second in range(0, 7200, 7):
        if not 5000 < second < 5100:
            recent.add(1.0, START_S + second)
    series = recent.series(START_S + 7199)
    assert len(recent.points) == POINTS
    assert 114 <= len(series) < POINTS
    assert all(point["value"] == 1.0 for point in series)
    assert recent.hour(START_S + 7199).n == sum(point["n"] for point in series)


def test_a_level_that_comes_back_ends_its_alarm():
    items = [item for item in traffic(8000, change=2000) if isinstance(item, Observed)]
    well = [Observed(**{**{name: getattr(one, name) for name in Observed.__slots__}, "flags": {"refused": False}}) for one in items[4500:]]
    watcher, _ = fed([*items[:4500], *well])
    rows = [row for row in shown(watcher)["alarms"] if row["slice"] == {"group:sex": "female"}]
    assert rows
    assert not any(row["stands"] for row in rows)
    assert all(row["ended_s"] > row["at_s"] - 1 for row in rows)


def test_a_clock_that_is_ahead_moves_nothing():
    first, ahead = (Observed(request=name, at_s=at_s, model="m", version="v") for name, at_s in (("a", START_S), ("b", START_S + 10**8)))
    watcher = Watcher(RULES)
    watcher.take(first, now_s=START_S)
    watcher.take(ahead, now_s=START_S + 1)
    assert watcher.at_s == START_S
    assert sum(watcher.faults.values()) == 1
    assert watcher.n_requests == 2


@pytest.mark.parametrize("name", ["models", "alarms", "envelope"])
def test_the_example_for_pages_has_the_keys_that_are_written(name):
    example = json.loads((Path(__file__).parent / "data" / "live.json").read_text())
    watcher, _ = fed(traffic(4000, change=1000))
    real = shown(watcher)
    assert set(example) == set(real)

    def keys(value):
        return sorted(value[0]) if isinstance(value, list) and value else []

    assert set(keys(example[name])) <= set(keys(real[name]))
    if name == "models":
        ours, theirs = real["models"][0]["versions"][0], example["models"][0]["versions"][0]
        assert set(ours) == set(theirs)
        assert keys(ours["signals"]) == keys(theirs["signals"])
        assert keys(ours["slices"]) == keys(theirs["slices"])


def test_known_questions_are_watched_by_version_and_are_no_requests():
    watcher, alarms = Watcher(RULES), []
    for number in range(600):
        right = float(number < 300 or number % 2)
        late = Late(request=f"p{number}", at_s=START_S + number, kind="probe", name="probe_right", value=right, model="m", version="m@1")
        alarms += watcher.take(late)
    assert watcher.n_requests == 0
    assert [(alarm.signal, alarm.version) for alarm in alarms] == [("probe_right", "m@1")]
    assert alarms[0].change.value < -0.3


def beside(n, *, often, seed=4):
    """A version that answers, alone at first, and one beside it that fails as `often` says from its first request on."""
    draw = random.Random(seed)
    for i in range(n):
        new = i >= 500 and draw.random() < 0.2
        failed = draw.random() < (often if new else 0.02)
        name = "chat@next" if new else "chat@stable"
        yield Observed(
            request=f"r{i}", at_s=START_S + i, model="chat", version=name, flags={"error": failed, "refused": draw.random() < 0.05}
        )


def test_a_version_that_is_worse_from_its_first_request_on_is_told_beside_the_other():
    items = list(beside(4000, often=0.2))
    watcher, alarms = fed(items)
    (found,) = alarms
    assert (found.version, found.signal) == ("chat@next", "error")
    assert found.change.low > 0
    assert found.before.n > found.after.n >= 16
    assert all(watcher.versions["chat", "chat@next"].n and name.startswith("r") for name in found.examples)
    (row,) = shown(watcher)["alarms"]
    assert row["stands"]
    assert "chat@next: ended in an error of the server is at" in row["text"]
    assert "that of chat@stable at" in row["text"]
    kept, _ = fed(items[:1500])
    resumed, more = fed(items[1500:], Watcher.from_state(json.loads(json.dumps(kept.state())), RULES, envelopes={"chat@next": ENVELOPE}))
    assert [*_, *more] == alarms
    assert without(resumed.state(), "sketch") == without(watcher.state(), "sketch")


def test_a_version_that_is_as_good_is_not_told():
    for seed in range(3):
        assert fed(beside(3000, often=0.02, seed=seed))[1] == []
