"""Which answers are kept for the watch: the stable version's own plain text, one a conversation, while a lock is on trial beside it."""

import hashlib
import json

import pytest

from trimtab.core.guarding import Verdict
from trimtab.core.site import Rollout, ServedModel, Version
from trimtab.record.samples import waiting_samples
from trimtab.serve.journey import Journey
from trimtab.serve.sampling import LONGEST_BYTES, Sampler, answer_of, on_trial
from trimtab.serve.schema import parse

STABLE, CANARY = Version(id="chat@1", lock="a.toml"), Version(id="chat@2", lock="b.toml")


def model(**rollout):
    return ServedModel(name="chat", versions=(STABLE, CANARY), rollout=Rollout(stable="chat@1", **rollout))


def asked(path="/v1/chat/completions", text="What day?", **fields):
    body = {"model": "chat", "messages": [{"role": "user", "content": text}], **fields}
    if path == "/v1/completions":
        del body["messages"]
        body.setdefault("prompt", text)
    return parse(path, json.dumps(body).encode())


def journey(number=1, **fields):
    found = Journey(id=f"req-{number}", path="", output=hashlib.sha256(), version="chat@1", model="chat")
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def whole(text="Tuesday.", finish="stop", **message):
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


CANARY_ON = {"canary": "chat@2", "canary_pct": 10.0}


@pytest.mark.parametrize(
    ("rollout", "candidate"),
    [
        ({}, ""),
        (CANARY_ON, "chat@2"),
        ({"canary": "chat@2"}, ""),
        ({"shadow": "chat@2", "shadow_pct": 5.0}, "chat@2"),
    ],
)
def test_a_version_is_on_trial_while_it_has_traffic(rollout, candidate):
    assert on_trial(model(**rollout)) == candidate


def test_only_locks_are_compared():
    server = Version(id="chat@2", url="http://127.0.0.1:1/v1")
    found = ServedModel(name="chat", versions=(STABLE, server), rollout=Rollout(stable="chat@1", **CANARY_ON))
    assert on_trial(found) == ""


def test_an_answer_is_kept_whole_with_its_question(tmp_path):
    sampler, way = Sampler(tmp_path, 100.0), journey()
    way.sampled = sampler.begin(model(**CANARY_ON), asked(), way)
    way.sends(whole())
    sampler.keep(way.sampled, way)
    (kept,) = waiting_samples(tmp_path, 0.0)
    assert (kept.request, kept.stable, kept.candidate, kept.answer, kept.kind) == ("req-1", "chat@1", "chat@2", "Tuesday.", "chat")
    assert list(kept.messages) == [{"role": "user", "content": "What day?"}]
    assert sampler.n_kept == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"stop": "."},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"logit_bias": {"3": 1.0}},
        {"response_format": {"type": "json_object"}},
        {"path": "/v1/completions", "prompt": [1, 2, 3]},
        {"path": "/v1/responses", "input": "Hello"},
    ],
)
def test_answers_that_are_not_the_models_own_words_are_not_kept(tmp_path, fields):
    path = fields.get("path", "/v1/chat/completions")
    body = {"model": "chat", **({"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {}), **fields}
    body.pop("path", None)
    parsed = parse(path, json.dumps(body).encode())
    assert Sampler(tmp_path, 100.0).begin(model(**CANARY_ON), parsed, journey()) is None


def test_who_answered_and_how_much_is_asked_for_decide(tmp_path):
    sampler = Sampler(tmp_path, 100.0)
    assert sampler.begin(model(), asked(), journey()) is None, "nothing is on trial"
    assert sampler.begin(model(**CANARY_ON), asked(), journey(version="chat@2")) is None, "the canary's own words are its own"
    assert Sampler(tmp_path, 0.0).begin(model(**CANARY_ON), asked(), journey()) is None
    half = Sampler(tmp_path, 50.0)
    drawn = sum(half.begin(model(**CANARY_ON), asked(text=str(number)), journey(number)) is not None for number in range(400))
    assert 150 < drawn < 250


def test_one_answer_of_a_conversation_is_kept(tmp_path):
    sampler = Sampler(tmp_path, 100.0)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "What day?"}]
    assert sampler.begin(model(**CANARY_ON), asked(text="Hi"), journey(1)) is not None
    assert sampler.begin(model(**CANARY_ON), asked(messages=turns), journey(2)) is None
    assert sampler.begin(model(**CANARY_ON), asked(text="Hi", user="somebody else"), journey(3)) is not None


def test_what_failed_was_redacted_or_is_too_long_is_not_kept(tmp_path):
    redacted = Verdict(guard="personal", side="out", action="redact")
    for number, (fields, sent) in enumerate(
        [({"status": 502, "error": "replica_failed"}, whole()), ({"verdicts": [redacted]}, whole()), ({}, whole("x" * LONGEST_BYTES))]
    ):
        sampler, way = Sampler(tmp_path, 100.0), journey(number, **fields)
        way.sampled = sampler.begin(model(**CANARY_ON), asked(), way)
        way.sends(sent)
        sampler.keep(way.sampled, way)
    assert waiting_samples(tmp_path, 0.0) == []


def test_streams_are_put_together_and_other_answers_are_none():
    def event(delta, finish=None):
        body = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    stream = event({"role": "assistant", "content": "Tues"}) + b": keep-alive\n\n" + event({"content": "day"}) + event({}, "length")
    assert answer_of(stream + b"data: [DONE]\n\n", is_stream=True) == "Tuesday"
    assert answer_of(event({"content": "Tues"}), is_stream=True) == "", "it never ended"
    assert answer_of(whole(), is_stream=False) == "Tuesday."
    assert answer_of(b'{"choices": [{"index": 0, "text": " one", "finish_reason": "stop"}]}', is_stream=False) == " one"
    for other in (b"", b"[]", b'{"choices": [3]}', whole(""), whole(finish="tool_calls"), whole(reasoning_content="hm")):
        assert answer_of(other, is_stream=False) == ""
