"""Sampled answers through the thread that judges them, without an engine: once each, again after a kill, not held up by faults."""

import dataclasses
import json
import time

import pytest

from trimtab.core.errors import EngineCrashed, InputError
from trimtab.core.site import Rollout, ServedModel, Site, Version
from trimtab.decide.policies import load_policy
from trimtab.flows.parts import live_quality
from trimtab.flows.parts.live_quality import LiveQuality, Pair
from trimtab.flows.parts.live_scores import AnswerScore, paired
from trimtab.record.samples import Sample, keep_sample

VERSIONS = (Version(id="chat@1", lock="a.toml", content_sha256="a"), Version(id="chat@2", lock="b.toml", content_sha256="b"))
SITE = Site(models=(ServedModel(name="chat", versions=VERSIONS, rollout=Rollout(stable="chat@1", canary="chat@2", canary_pct=10.0)),))


class Scorer:
    """In place of workers: what each deployment makes of an answer of four tokens. faults: deployment -> what it raises"""

    def __init__(self, loss=0.4, faults=None):
        self.loss, self.faults, self.asked = loss, faults or {}, []

    async def score(self, deployment, samples, *, lowered=(), nats=0.0):
        if deployment in self.faults:
            raise self.faults[deployment]
        self.asked.append((deployment, len(samples)))
        level = {"reference": -1.0, "noise": -1.0, "candidate": -1.0 - self.loss}[deployment] - (0.5 if lowered else 0.0)
        return [AnswerScore(ids=(1, 2, 3, 4), logprobs=(level,) * 4, is_cut=False) for _ in samples]

    async def end(self):
        self.asked.append(("end", 0))


@pytest.fixture
def quality(tmp_path, monkeypatch):
    """`quality(scorer)` is the thread, not begun, over `tmp_path`; what stands behind locks is made up."""
    monkeypatch.setattr(live_quality, "BATCH_WAIT_S", 0.0)
    monkeypatch.setattr(live_quality, "LOOK_S", 0.01)
    begun = []

    def make(scorer, site=lambda: SITE):
        one = LiveQuality(tmp_path, site, tmp_path)
        one._scorer = scorer

        async def made(versions, stable, candidate, site):
            trial = one._trial(dataclasses.replace(versions, identity="x"), load_policy("standard"), "chat@1")
            return Pair(reference="reference", noise="noise", candidate="candidate", trial=trial)

        monkeypatch.setattr(one, "_made", made)
        begun.append(one)
        return one

    yield make
    for one in begun:
        one.close()


def fill(tmp_path, n, start=0):
    for number in range(start, start + n):
        sample = Sample(
            request=f"r{number}", at_s=time.time(), model="chat", stable="chat@1", candidate="chat@2", cluster=f"c{number}",
            kind="completion", prompt="One, two,", answer=" three",
        )  # fmt: skip
        assert keep_sample(tmp_path / "sample", sample)


def until(what, limit_s=10.0):
    ends = time.monotonic() + limit_s
    while not (found := what()):
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.01)
    return found


def left(tmp_path):
    return len(list((tmp_path / "sample").glob("*.json")))


def test_a_loss_is_told_once_and_again_after_a_kill_until_it_was_noted(tmp_path, quality):
    fill(tmp_path, 60)
    one = quality(Scorer())
    one.start()
    (alarm,) = until(one.take)
    until(lambda: not left(tmp_path))
    assert alarm.signal == "quality:text"
    one.close()
    assert b"three" not in (tmp_path / "quality.json").read_bytes(), "scores, no text"

    again = quality(Scorer())
    again.start()
    assert until(again.take) == [alarm]
    again.noted(alarm)
    again.close()
    last = quality(Scorer())
    last.start()
    fill(tmp_path, 5, start=60)
    until(lambda: not left(tmp_path))
    assert last.take() == []
    assert ("candidate", 5) not in last._scorer.asked, "nothing more is scored of what has failed"


def test_what_was_scored_before_a_kill_is_scored_no_second_time(tmp_path, quality):
    fill(tmp_path, 8)
    one = quality(Scorer(loss=0.0))
    one.start()
    until(lambda: not left(tmp_path))
    one.close()
    fill(tmp_path, 8)
    again = quality(Scorer(loss=0.0))
    again.start()
    until(lambda: not left(tmp_path))
    again.close()
    (trial,) = json.loads((tmp_path / "quality.json").read_text())["trials"].values()
    assert len(trial["scored"]) == 8
    assert again._scorer.asked == [("end", 0)]


def test_a_candidate_that_crashes_is_no_fail_and_a_reference_that_does_is_tried_again(tmp_path, quality):
    fill(tmp_path, 30)
    one = quality(Scorer(faults={"candidate": EngineCrashed("it crashed")}))
    one.start()
    until(lambda: not left(tmp_path))
    assert one.take() == []
    assert one.summary() == [] or one.summary()[0]["n_missing"] == 30
    one.close()

    fill(tmp_path, 10, start=30)
    blind = quality(Scorer(faults={"reference": EngineCrashed("it crashed")}))
    blind.start()
    assert "cannot be scored" in until(lambda: blind.problem)
    assert left(tmp_path) == 10, "they wait"


def test_who_is_no_lock_any_more_is_not_judged_and_a_file_that_cannot_be_read_is_waited_for(tmp_path, quality):
    fill(tmp_path, 3)

    def broken():
        raise InputError("site.toml is not valid TOML.")

    waiting = quality(Scorer(), site=broken)
    waiting.start()
    assert "cannot be read" in until(lambda: waiting.problem)
    assert left(tmp_path) == 3
    waiting.close()
    gone = quality(Scorer(), site=lambda: Site(models=()))
    gone.start()
    until(lambda: not left(tmp_path))
    assert gone.summary() == []


def test_a_damaged_state_is_begun_anew(tmp_path, quality):
    (tmp_path / "quality.json").write_text("{")
    fill(tmp_path, 8)
    one = quality(Scorer(loss=0.0))
    one.start()
    until(lambda: not left(tmp_path))
    assert one.summary()[0]["n"] == 8


def test_texts_cut_into_other_tokens_are_compared_whole_or_not_at_all():
    ours = AnswerScore(ids=(1, 2), logprobs=(-1.0, -1.0), is_cut=False)
    theirs = AnswerScore(ids=(1, 2, 3, 4), logprobs=(-0.5,) * 4, is_cut=False)
    assert paired(ours, theirs) == (-1.0, -1.0)
    assert "too long" in paired(dataclasses.replace(ours, is_cut=True), theirs)
    assert paired("no", theirs) == "no"
