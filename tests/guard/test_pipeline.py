"""What findings become: in whole texts and in streams, in the order of the route, when a guard fails, and when it is slow."""

import time

import pytest

from trimtab.core.errors import InputError
from trimtab.core.guarding import Finding
from trimtab.core.site import GuardUse
from trimtab.guard import pipeline
from trimtab.guard.base import Guard, GuardFailed
from trimtab.guard.pipeline import Guards, redacted


class Words(Guard):
    """Finds words of its option; each may be followed by more of the alphabet. With `whole`, only when asked about a whole text."""

    name = "words"
    reach_chars = 12

    def __init__(self, options, *, side, time_limit_s):
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        self.words = options["words"]
        self.reach_chars = None if options.get("whole") else 12
        self.stride_chars = options.get("stride", 5)
        self.asked = []

    def check(self, text, start=0):
        self.asked.append(text)
        found = []
        for word in self.words:
            at = text.find(word, start)
            while at >= 0:
                found.append(Finding(rule=f"words.{word}", start=at, end=at + len(word), reason="it is there", replacement="#" * len(word)))
                at = text.find(word, at + 1)
        return tuple(found)


class Outside(Words):
    name = "outside"
    waits = True


class Failing(Guard):
    name = "failing"
    reach_chars = 4

    def check(self, text, start=0):
        if "boom" in text:
            raise GuardFailed("it broke")
        if "odd" in text:
            raise ValueError(text)
        if "slow" in text:
            time.sleep(0.02)
        return ()


@pytest.fixture(autouse=True)
def names(monkeypatch):
    classes = {one.name: one for one in (Words, Outside, Failing)}
    monkeypatch.setattr(pipeline, "guard_class", classes.__getitem__)
    monkeypatch.setattr(
        pipeline, "open_guard", lambda name, options, side, time_limit_s: classes[name](options, side=side, time_limit_s=time_limit_s)
    )


def use(*words, name="words", **more):
    options = {"words": words, **more.pop("options", {})}
    return GuardUse(name=name, options=options, **{"on_hit": "redact", **more})


def said(verdicts):
    return [(one.guard, one.action, one.text, [(f.rule, f.start, f.end) for f in one.findings]) for one in verdicts]


def test_redacts_flags_and_allows_each_text():
    found = Guards([use("cat"), use("dog", on_hit="flag")]).inspect(["a cat and a dog", "nothing", "cat"])
    assert found.texts == ("a ### and a dog", "nothing", "###")
    assert found.blocked is None
    assert said(found.verdicts) == [
        ("words", "redact", 0, [("words.cat", 2, 5)]),
        ("words", "redact", 2, [("words.cat", 0, 3)]),
        ("words", "flag", 0, [("words.dog", 12, 15)]),
    ]


def test_a_guard_that_finds_nothing_says_so_once():
    (one,) = Guards([use("cat")]).inspect(["a", "b", "c"]).verdicts
    assert (one.action, one.findings, one.error) == ("allow", (), "")


def test_offsets_are_of_the_given_text_whatever_earlier_guards_redacted():
    found = Guards([use("longer-word"), use("cat")]).inspect(["a longer-word then a cat, a longer-word"])
    assert [(f.start, f.end) for one in found.verdicts for f in one.findings] == [(2, 13), (28, 39), (21, 24)]
    assert found.texts == ("a ########### then a ###, a ###########",)


def test_overlapping_redactions_become_one_with_the_longest_replacement():
    found = Guards([use("abcd"), use("cdefgh"), use("xy", "x")]).inspect(["1abcdefgh2 xy"])
    assert found.texts == ("1######2 ##",)


def test_block_stops_there_and_gives_the_texts_as_they_were():
    found = Guards([use("cat"), use("dog", on_hit="block"), use("never", on_hit="flag")]).inspect(["cat dog never"])
    assert found.blocked is not None
    assert found.blocked.findings[0].rule == "words.dog"
    assert found.texts == ("cat dog never",)
    assert [one.action for one in found.verdicts] == ["redact", "block"]


def test_guards_outside_read_what_is_redacted_and_come_last():
    guards = Guards([use("dog", name="outside", on_hit="flag"), use("cat")])
    assert guards.waits_on_input
    found = guards.inspect(["cat dog"])
    assert [one.guard for one in found.verdicts] == ["words", "outside"]
    assert guards._in[1].guard.asked == ["### dog"]


def test_sides():
    guards = Guards([use("cat", side="out")])
    assert (guards.reads_input, guards.reads_output) == (False, True)
    assert guards.inspect(["cat"]).texts == ("cat",)
    assert guards.inspect(["cat"], "out").texts == ("###",)


@pytest.mark.parametrize(("word", "error"), [("boom", "it broke"), ("odd", "ValueError")])
def test_a_failing_guard_blocks_closed_and_alarms_open(word, error):
    closed = Guards([GuardUse(name="failing", on_error="closed")]).inspect([f"a {word} text"])
    assert closed.blocked is not None
    assert (closed.blocked.error, closed.blocked.findings) == (error, ())
    opened = Guards([GuardUse(name="failing", on_error="open")]).inspect([f"a {word} text", "fine"])
    assert opened.blocked is None
    assert [(one.action, one.error) for one in opened.verdicts] == [("allow", error)]


def test_a_slow_guard_is_a_failed_one():
    slow = GuardUse(name="failing", on_error="closed", options={"time_limit_ms": 5})
    assert "more than its 5 ms" in Guards([slow]).inspect(["slow"]).blocked.error
    assert Guards([slow]).inspect(["quick"]).blocked is None
    with pytest.raises(InputError, match="time_limit_ms"):
        Guards([GuardUse(name="failing", options={"time_limit_ms": "soon"})])


def stream(guards, text, n):
    judge = guards.stream()
    out = [judge.push(text[at : at + n]) for at in range(0, len(text), n)]
    return "".join([*out, judge.finish()]), judge


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 100])
def test_a_stream_says_what_the_whole_text_would(n):
    guards = Guards([use("secret-word", "abcd"), use("cdefgh")])
    text = "one secret-word two abcdefgh three abcd four " * 30 + "secret-wor"
    out, judge = stream(guards, text, n)
    assert out == guards.inspect([text], "out").texts[0]
    spans = sorted((f.start, f.end) for one in judge.verdicts for f in one.findings)
    assert spans == sorted((f.start, f.end) for one in guards.inspect([text], "out").verdicts for f in one.findings)


def test_a_stream_is_held_back_by_the_reach_and_no_more():
    judge = Guards([use("cat")]).stream()
    sent = [judge.push(char) for char in "a" * 40]
    assert [len(one) for one in sent] == [0] * 12 + [1] * 28
    assert len(judge.finish()) == 12
    assert judge.push("more") == ""


def test_a_blocked_stream_ends_before_the_finding():
    out, judge = stream(Guards([use("bad", on_hit="block")]), "fine so far and then bad things follow", 4)
    assert judge.blocked is not None
    assert "fine so far and then ".startswith(out)
    assert [(f.start, f.end) for f in judge.blocked.findings] == [(21, 24)]
    assert judge.push("x") == judge.finish() == ""


def test_a_guard_of_whole_texts_ends_a_stream_where_it_notices():
    text = "aaaaaaaaaabad and much more text that nobody should see, really nobody"
    blocked, judge = stream(Guards([use("bad", on_hit="block", options={"whole": True})]), text, 5)
    assert judge.blocked is not None
    assert blocked == "aaaaaaaaaa"  # seen in two looks, at 5 and at 10
    cut, judge = stream(Guards([use("bad", on_hit="redact", options={"whole": True})]), text, 5)
    assert cut == "aaaaaaaaaa###"
    assert judge.blocked is None
    flagged, judge = stream(Guards([use("bad", on_hit="flag", options={"whole": True})]), text, 5)
    assert flagged == text
    assert [one.action for one in judge.verdicts] == ["flag"]


def test_a_guard_outside_sees_what_would_go_out():
    guards = Guards([use("card"), use("dog", name="outside", on_hit="block", options={"whole": True, "stride": 1})])
    out, judge = stream(guards, "my card is a dog here", 21)
    assert (out, judge.blocked.guard) == ("my #### i", "outside")
    assert guards._out[-1].guard.asked == ["my #### i", "my #### is a dog here"]  # what would go out, as it would


def test_what_a_guard_cuts_short_is_seen_by_the_guard_outside_too():
    whole = {"whole": True, "stride": 5}
    guards = Guards([use("bad", options=whole), use("dog", name="outside", on_hit="block", options={**whole, "stride": 1000})])
    out, judge = stream(guards, "a dog is bad and more", 3)
    assert (out, judge.blocked.guard) == ("", "outside")
    out, judge = stream(guards, "a cat is bad and more", 3)
    assert (out, judge.blocked) == ("a cat is ###", None)


def test_looking_again_at_a_long_stream_stays_cheap():
    guards = Guards([use("bad", options={"whole": True, "stride": 10})])
    stream(guards, "x" * 20_000, 10)
    asked = guards._out[0].guard.asked
    assert len(asked) < 20_000 / 40 + 10


def test_text_goes_out_only_after_guards_of_whole_texts_have_looked_at_it():
    judge = Guards([use("bad", on_hit="block", options={"whole": True, "stride": 10})]).stream()
    sent = [judge.push(char) for char in "a" * 25]
    assert [len(one) for one in sent if one] == [10, 10]
    assert judge.finish() == "a" * 5
    outside = Guards([use("bad", name="outside", on_hit="block", options={"whole": True, "stride": 10})]).stream()
    assert [len(one) for one in (outside.push(char) for char in "a" * 25) if one] == [10, 10]
    assert outside.finish() == "a" * 5
    flagging = Guards([use("bad", on_hit="flag", options={"whole": True, "stride": 10})]).stream()
    assert [len(flagging.push(char)) for char in "a" * 25] == [1] * 25


def test_a_guard_that_fails_in_a_stream_alarms_once_or_stops_it():
    out, judge = stream(Guards([GuardUse(name="failing", on_error="open")]), "and boom it goes on", 3)
    assert out == "and boom it goes on"
    assert [(one.action, one.error) for one in judge.verdicts] == [("allow", "it broke")]
    out, judge = stream(Guards([GuardUse(name="failing", on_error="closed")]), "and boom it goes on", 3)
    assert judge.blocked.error == "it broke"
    assert "boom" not in out


def test_redacted_leaves_what_is_between():
    spans = [
        Finding(rule="r", start=start, end=end, reason="", replacement=mark) for start, end, mark in ((0, 1, "A"), (1, 2, "B"), (4, 5, ""))
    ]
    assert redacted("abcdef", spans) == "ABcdf"
