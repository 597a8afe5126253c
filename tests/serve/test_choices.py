"""Tokens of one choice: what is told of it, when, and why it ended."""

import json
import math

import pytest

from trimtab.engines.base import TokenEvent
from trimtab.serve.base import Refusal
from trimtab.serve.choices import ChoiceReader
from trimtab.serve.families import BARE, HARMONY, HERMES, PLAIN, AnswerReader
from trimtab.serve.wishes import check_schema, check_tools, plain_messages, wish_of

CALL = ['<tool_call>{"name": "add", ', '"arguments": {"a": 1}', "}</tool_call>"]


def body(**fields):
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}


def events(texts, done="stop"):
    made = [TokenEvent(request_id=1, token_id=place, logprob=-0.5, time_ns=0, text=text) for place, text in enumerate(texts)]
    return [*made, TokenEvent(request_id=1, token_id=99, logprob=-0.1, time_ns=0, done=done)]


def read(texts, *, kind="chat", family=PLAIN, done="stop", whole=True, group=1, **fields):
    wish = wish_of(kind, body(**fields))
    names = dict(enumerate(texts))
    reader = ChoiceReader(0, kind, wish, AnswerReader(family, tools=wish.tools), names, is_whole=whole)
    pieces, came = [], events(texts, done)
    for start in range(0, len(came), group):
        if not reader.has_ended:
            pieces.append(reader.push(came[start : start + group]))
    return reader, pieces


@pytest.mark.parametrize("group", [1, 2, 10])
def test_stop_strings_end_an_answer_wherever_they_are_cut(group):
    reader, pieces = read(["one ", "tw", "o th", "ree"], stop=["two"], group=group, logprobs=True)
    choice = reader.whole_choice()
    assert choice["message"]["content"] == "one "
    assert choice["finish_reason"] == "stop"
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["one "], "what a stop string swallows is not told"
    assert reader.has_ended
    assert "".join(piece.delta.get("content", "") for piece in pieces) == "one "


def test_the_end_of_an_answer_gives_what_waited_for_a_stop():
    reader, _ = read(["one ", "tw"], stop=["two"], done="length")
    assert reader.whole_choice()["message"]["content"] == "one tw"
    assert reader.whole_choice()["finish_reason"] == "length"
    assert reader.n_tokens == 3


def test_calls_end_an_answer_as_calls():
    tools = [{"type": "function", "function": {"name": "add"}}]
    reader, _ = read(CALL, family=HERMES, tools=tools)
    choice = reader.whole_choice()
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert read(CALL, family=HERMES, tools=tools, tool_choice="none")[0].whole_choice()["finish_reason"] == "stop"
    reader, _ = read(CALL[:2], family=HERMES, tools=tools, done="length")
    assert reader.whole_choice()["finish_reason"] == "length"


def test_one_call_only_where_parallel_calls_are_not_wanted():
    tools = [{"type": "function", "function": {"name": "add"}}]
    reader, _ = read([*CALL, *CALL], family=HERMES, tools=tools, parallel_tool_calls=False)
    assert len(reader.whole_choice()["message"]["tool_calls"]) == 1
    assert reader.n_tokens < 6, "no token after it is waited for"
    reader, _ = read([*CALL, *CALL], family=HERMES, tools=tools)
    assert len(reader.whole_choice()["message"]["tool_calls"]) == 2


def test_chunks_of_a_stream():
    reader, pieces = read(["a", "b"], whole=False)
    chunks = [reader.chunk_choice(piece) for piece in pieces]
    assert [chunk["delta"] for chunk in chunks] == [{"role": "assistant", "content": "a"}, {"content": "b"}, {}]
    assert [chunk["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    reader, pieces = read(["a", "b"], whole=False, kind="completion", prompt="p", group=9)
    assert reader.chunk_choice(pieces[0]) == {"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"}


def test_log_probabilities():
    reader, _ = read(["héllo", "�"], logprobs=True)
    entries = reader.whole_choice()["logprobs"]["content"]
    assert entries[0] == {"token": "héllo", "logprob": -0.5, "bytes": list("héllo".encode()), "top_logprobs": []}
    assert entries[1]["bytes"] is None, "half a character has no bytes that its text could tell"
    assert math.isclose(entries[1]["logprob"], -0.5)
    reader, _ = read(["a", "bc"], kind="completion", logprobs=0, prompt="p")
    assert reader.whole_choice()["logprobs"] == {
        "tokens": ["a", "bc"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"a": -0.5}, {"bc": -0.5}],
        "text_offset": [0, 1],
    }


def test_an_engine_that_gives_up():
    wish = wish_of("chat", body())
    reader = ChoiceReader(0, "chat", wish, AnswerReader(PLAIN), {})
    with pytest.raises(Refusal, match="no room"):
        reader.push([TokenEvent(request_id=1, token_id=None, logprob=None, time_ns=0, done="error", error="no room")])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", 0.5), ("logit_bias", {"1": 5}), ("top_k", 40), ("min_p", 0.1), ("reasoning_effort", "low"),
        ("chat_template_kwargs", {"enable_thinking": False}), ("continue_final_message", True), ("guided_json", {}), ("suffix", "x"),
        ("echo", True), ("include_stop_str_in_output", True), ("verbosity", "low"), ("priority", 1),
    ],
)  # fmt: skip
def test_what_a_worker_cannot_honour_is_refused(name, value):
    with pytest.raises(Refusal) as caught:
        wish_of("chat", body(**{name: value}))
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, name, "unsupported_parameter")


def test_a_schema_goes_with_neither_tools_nor_an_endless_answer_nor_reasoning():
    form = {"response_format": {"type": "json_object"}}
    tools = [{"type": "function", "function": {"name": "f"}}]
    for fields, param in (({"tools": tools}, "response_format"), ({"ignore_eos": True}, "ignore_eos")):
        with pytest.raises(Refusal) as caught:
            wish_of("chat", body(**form, **fields))
        assert caught.value.param == param
    wish = wish_of("chat", body(**form, tools=tools, tool_choice="none"))
    assert json.loads(wish.json_schema) == {"type": "object"}
    check_schema(wish, HERMES, in_thought=False)
    for family, in_thought in ((HERMES, True), (HARMONY, False)):
        with pytest.raises(Refusal) as caught:
            check_schema(wish, family, in_thought=in_thought)
        assert caught.value.param == "response_format"


def test_a_forced_call_is_held_to_its_schema_and_read_without_marks():
    functions = [{"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}, {"name": "get"}]
    tools = [{"type": "function", "function": function} for function in functions]
    schema = json.loads(wish_of("chat", body(tools=tools, tool_choice="required")).json_schema)
    assert [one["properties"]["name"]["const"] for one in schema["anyOf"]] == ["add", "get"]
    named = {"type": "function", "function": {"name": "add"}}
    schema = json.loads(wish_of("chat", body(tools=tools, tool_choice=named)).json_schema)
    assert schema["properties"]["arguments"] == functions[0]["parameters"]
    reader, _ = read(['{"name": "a', 'dd", "arguments": {"a"', ": 1}}"], family=BARE, tools=tools, tool_choice=named)
    choice = reader.whole_choice()
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    check_tools(wish_of("chat", body(tools=tools, tool_choice=named)), "{% if tools %}")
    with pytest.raises(Refusal, match="not known here"):
        check_tools(wish_of("chat", body(tools=tools)), "{% if tools %}")
    with pytest.raises(Refusal, match="shows no tools"):
        check_tools(wish_of("chat", body(tools=tools, tool_choice=named)), "{{ messages }}")


def test_values_that_ask_for_nothing_are_taken():
    wish = wish_of("chat", body(frequency_penalty=0.0, logit_bias={}, top_k=-1, echo=False, suffix=None, seed=-3, top_p=0, stop="x", n=2))
    assert (wish.stops, wish.n, wish.temperature, wish.json_schema) == (("x",), 2, 1.0, "")
    assert wish.top_p > 0
    assert wish_of("chat", body(temperature=1e-30)).temperature == 0
    assert wish.seed_of(0) != wish.seed_of(1)
    assert min(wish.seed_of(0), wish.seed_of(1)) >= 0


def test_messages_as_templates_expect_them():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
    ]
    plain = plain_messages(messages, "{{ messages }}")
    assert plain[0] == {"role": "system", "content": "a\nb"}
    assert plain[1]["content"] == ""
    assert plain[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    plain = plain_messages(messages, "developer {% if content is none %}", arguments_as_text=True)
    assert plain[0]["role"] == "developer"
    assert plain[1]["content"] is None
    assert plain[1]["tool_calls"] == [call]
    thought = [{"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]}]
    assert plain_messages(thought, "{{ message.thinking }}")[0]["thinking"] == "hm"
    assert plain_messages(thought, "{{ messages }}")[0]["reasoning_content"] == "hm"
