"""Bodies of requests: what is read of them, what guards see, and what is refused."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.serve.base import Refusal
from trimtab.serve.openapi import openapi_document
from trimtab.serve.schema import PATHS, parse

CHAT = "/v1/chat/completions"


def chat(**fields):
    return parse(CHAT, json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode())


def response(**fields):
    return parse("/v1/responses", json.dumps({"model": "m", "input": "hi", **fields}).encode())


def refused(make, *args, **fields):
    with pytest.raises(Refusal) as caught:
        make(*args, **fields)
    assert caught.value.status == 400
    assert caught.value.retry_after_s is None
    return caught.value


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff", b'{"model": "\xff"}', b'{"a": "\\ud800"}', b"[]", b"[" * 100_000, b'{"a": NaN}', b'{"a": 1e999}']
)
def test_what_is_no_json_object_is_refused(raw):
    for path in PATHS:
        assert refused(parse, path, raw).code == "invalid_json"


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(PATHS)), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["model", "messages", "role", "content", "input", "prompt", "type", "tools", "text", "x"]), inner),
    max_leaves=12,
))  # fmt: skip
def test_no_json_does_anything_but_parse_or_be_refused(path, value):
    body = {"model": "m", "messages": value, "input": value, "prompt": value}
    for sent in (value, body, {key: body[key] for key in ("model", {"chat": "messages"}.get(PATHS[path], "input"))}):
        with contextlib.suppress(Refusal):
            assert all(isinstance(text, str) for text in parse(path, json.dumps(sent).encode()).texts())


def test_an_unknown_path():
    with pytest.raises(Refusal) as caught:
        parse("/v1/assistants", b"{}")
    assert caught.value.status == 404


def test_what_the_gateway_needs_to_know():
    parsed = chat(stream=True, stream_options={"include_usage": True}, user="ada", max_completion_tokens=7)
    assert (parsed.kind, parsed.model, parsed.stream, parsed.include_usage, parsed.user) == ("chat", "m", True, True, "ada")
    assert (parsed.prompt_size, parsed.max_tokens, parsed.has_unread) == (2, 7, False)
    assert parsed.body["stream_options"] == {"include_usage": True}
    assert chat(safety_identifier="u1").user == "u1"


def test_guards_see_every_text_and_can_change_it():
    call = {"name": "f", "arguments": "a"}
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "name": "ada", "content": [{"type": "text", "text": "t1"}, {"type": "image_url", "image_url": {"url": "data:"}}]},
        {"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [{"id": "1", "function": call}]},
        {"role": "tool", "tool_call_id": "1", "content": "result"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]
    parsed = chat(messages=messages, tools=tools)
    assert parsed.texts() == ["s", "t1", "ada", "r", "a", "result", "d"]
    assert parsed.has_unread, "no guard reads an image"
    changed = parsed.with_texts([text.upper() for text in parsed.texts()])
    assert changed.texts() == ["S", "T1", "ADA", "R", "A", "RESULT", "D"]
    assert parsed.texts()[0] == "s", "the request itself is left alone"
    assert parsed.with_texts(parsed.texts()) is parsed
    with pytest.raises(ValueError):
        parsed.with_texts(["one"])


@pytest.mark.parametrize(
    ("prompt", "texts", "unread"), [("a", ["a"], False), (["a", "b"], ["a", "b"], False), ([1, 2], [], True), ([[1], [2]], [], True)]
)
def test_prompts_of_completions_and_embeddings(prompt, texts, unread):
    for path, name in (("/v1/completions", "prompt"), ("/v1/embeddings", "input")):
        parsed = parse(path, json.dumps({"model": "m", name: prompt}).encode())
        assert (parsed.texts(), parsed.has_unread) == (texts, unread)
        if texts:
            assert parsed.with_texts(["x"] * len(texts)).texts() == ["x"] * len(texts)


@pytest.mark.parametrize("prompt", [[], ["a", 1], [1, "a"], [[1], "a"], [[]], [-1], [True], [2**31], {}, None, 1])
def test_mixed_prompts_are_refused(prompt):
    for path, name in (("/v1/completions", "prompt"), ("/v1/embeddings", "input")):
        assert refused(parse, path, json.dumps({"model": "m", name: prompt}).encode()).param == name


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "text", "json_schema": {"name": "n"}}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 2}, "tools"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "tool_choice": {"type": "function", "function": {"name": "g"}},
            },
            "tool_choice",
        ),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": []}, "messages"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"stop": [""]}, "stop[0]"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_fields_that_make_no_sense_together(fields, param):
    assert refused(chat, **fields).param == param


def test_a_response_is_a_chat():
    parsed = response(
        instructions="Be short.",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": "data:x"}]},
            {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
        ],
        tools=[{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
        tool_choice={"type": "function", "name": "f"},
        text={"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}},
        reasoning={"effort": "low", "summary": "auto"},
        max_output_tokens=9,
        top_logprobs=2,
        stream=True,
    )
    assert parsed.kind == "response"
    assert parsed.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:x"}}]},
            {
                "role": "assistant",
                "content": "yes",
                "reasoning_content": "hm",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 9,
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    }
    assert parse(CHAT, json.dumps(parsed.body).encode()).texts() == parsed.texts(), "the chat is one that a client could have sent"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0].type"),
        ({"include": ["web_search_call.results"]}, "include"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format"),
    ],
)
def test_what_a_response_cannot_be(fields, param):
    assert refused(response, **fields).param == param


def test_the_document_is_whole():
    document = openapi_document()
    names = set(document["components"]["schemas"])
    text = json.dumps(document)
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.split('"')[0] in names
    assert set(PATHS) <= set(document["paths"])
