"""Reasoning and calls of tools, whatever the pieces in which a model's text comes."""

import json
import random

import pytest

from trimtab.serve.choices import merged
from trimtab.serve.families import (
    DEEPSEEK,
    HARMONY,
    HERMES,
    LLAMA3,
    MISTRAL,
    PLAIN,
    QWEN_CODER,
    AnswerReader,
    family_of,
    takes_tools,
    thinks,
)
from trimtab.serve.forms.json_calls import JsonEnd

TOOLS = {"get_weather": {}, "add": {}}
ARGUMENTS = '{"city": "São \\"P\\" }{", "days": [1, {"a": 2}]}'
TRICKY = json.loads(ARGUMENTS)
WEATHER = f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}'
ADD = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'


def cuts(text, seed):
    """The text in pieces of a random length from nothing to five characters."""
    rng, place = random.Random(seed), 0
    while place < len(text):
        length = rng.randrange(6)
        yield text[place : place + length]
        place += length


def read(family, pieces, **options):
    reader = AnswerReader(family, tools=options.pop("tools", TOOLS), **options)
    deltas = [delta for piece in pieces for delta in reader.push(piece)]
    return merged([*deltas, *reader.finish()])


def calls(answer):
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in answer.get("tool_calls", ())]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(
    ("family", "text", "content", "expected"),
    [
        (PLAIN, "a {b} <tool_call>", "a {b} <tool_call>", []),
        (HERMES, f'Let me see.\n<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>', "Let me see.", [TRICKY]),
        (HERMES, f'<tool_call>{{"arguments": {ARGUMENTS}, "name": "get_weather"}}</tool_call>', None, [TRICKY]),
        (HERMES, f"{ADD}\n{ADD}\n", None, [{}, {}]),
        (HERMES, "<tool_call>nonsense</tool_call> and more", "<tool_call>nonsense</tool_call> and more", []),
        (HERMES, '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', []),
        (HERMES, "1 < 2 <tool", "1 < 2 <tool", []),
        (HERMES, f"{ADD} and then", " and then", [{}]),
        (HERMES, '<tool_call>{"name": "add", "arguments": {}, "id": "a}"}</tool_call>', None, [{}]),
        (HERMES, '<tool_call>{"name": "add", "arguments": {}</tool_call>so', "so", [{}]),
        (HERMES, '<tool_call>{"name": "add", "arguments": "{}"}</tool_call>', None, [{}]),
        (MISTRAL, f'[TOOL_CALLS][{WEATHER}, {{"name": "add", "arguments": {{}}}}]', None, [TRICKY, {}]),
        (MISTRAL, f"Now.[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}", "Now.", [TRICKY]),
        (MISTRAL, "[TOOL_CALLS]add[CALL_ID]a1B2[ARGS]{}[TOOL_CALLS]add [ARGS] {}", None, [{}, {}]),
        (MISTRAL, '[TOOL_CALLS] [{"name": "add", "arguments": {}, "id": "123456789"}] done', " done", [{}]),
        (MISTRAL, "[TOOL_CALLS]rm[ARGS]{} or [TOOL_CALLS]add it", "[TOOL_CALLS]rm[ARGS]{} or [TOOL_CALLS]add it", []),
        (MISTRAL, "just [TOOL_ text", "just [TOOL_ text", []),
        (LLAMA3, f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}', None, [TRICKY]),
        (LLAMA3, f'<|python_tag|>{WEATHER}; {{"name": "add", "parameters": {{}}}}', None, [TRICKY, {}]),
        (LLAMA3, '{"name": "add", "parameters": {}} is {"name": "add"}', ' is {"name": "add"}', [{}]),
        (LLAMA3, "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
        (LLAMA3, '{"answer": 42}', '{"answer": 42}', []),
        (LLAMA3, 'It is {"name": "add", "parameters": {}}', 'It is {"name": "add", "parameters": {}}', []),
    ],
)
def test_calls_are_found_however_the_text_is_cut(family, text, content, expected, seed):
    answer = read(family, cuts(text, seed))
    assert [arguments for _, arguments in calls(answer)] == expected
    assert answer.get("content") == content


@pytest.mark.parametrize("family", [HERMES, MISTRAL, LLAMA3])
def test_without_tools_marks_are_text(family):
    text = '<tool_call>{"name": "add", "arguments": {}}</tool_call>[TOOL_CALLS]'
    assert read(family, cuts(text, 1), tools={}) == {"content": text}


def test_arguments_go_out_while_they_are_written():
    reader = AnswerReader(HERMES, tools=TOOLS)
    assert reader.push('<tool_call>{"name": "add", "argum') == []
    (first, second) = reader.push('ents": {"text": "')
    assert first["tool_calls"][0]["function"] == {"name": "add", "arguments": ""}
    assert first["tool_calls"][0]["id"].startswith("call_")
    assert second["tool_calls"][0] == {"index": 0, "function": {"arguments": '{"text": "'}}
    assert reader.is_in_call
    assert merged(reader.push("a long text")) == {"tool_calls": [{"index": 0, "function": {"arguments": "a long text"}}]}
    reader.push('"}}</tool_call>')
    assert not reader.is_in_call


def test_a_call_that_is_cut_off_keeps_what_was_written():
    answer = read(HERMES, ['<tool_call>{"name": "add", "arguments": {"a": 1'])
    assert answer["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1'}
    assert read(HERMES, ['<tool_call>{"name": "ad']) == {"content": '<tool_call>{"name": "ad'}


@pytest.mark.parametrize("seed", range(40))
def test_reasoning_comes_first_and_apart(seed):
    expected = {"reasoning_content": "I add.\n\nTwice.", "content": "It is 4.\n"}
    text = "I add.\n\nTwice.\n</think>\n\nIt is 4.\n"
    assert read(PLAIN, cuts(f"<think>\n{text}", seed), may_think=True) == expected
    assert read(PLAIN, cuts(f"\n{text}", seed), may_think=True, in_thought=True) == expected
    assert read(PLAIN, cuts("<thin ice", seed), may_think=True) == {"content": "<thin ice"}
    assert read(PLAIN, cuts("so <think> it", seed), may_think=True) == {"content": "so <think> it"}
    assert read(PLAIN, cuts("no end", seed), in_thought=True) == {"reasoning_content": "no end"}


def test_a_call_after_reasoning():
    answer = read(HERMES, cuts('<think>\nhm\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>', 3), may_think=True)
    assert answer["reasoning_content"] == "hm"
    assert calls(answer) == [("add", {})]
    assert "content" not in answer


@pytest.mark.parametrize("value", ['{"a": "}"}', "[1, [2]]", '"a\\"b"', "12", "null", "{}"])
def test_the_end_of_a_json_value(value):
    for cut in range(len(value) + 1):
        end = JsonEnd()
        first = end.push(value[:cut])
        length = first if first is not None else end.push(value[cut:] + ", rest")
        assert (length if first is not None else cut + length) == len(value)


def test_families_show_in_their_templates():
    assert family_of("{% if tools %}<tool_call>{% endif %}") is HERMES
    assert family_of("<tool_call>\n<function=name>\n<parameter=key>") is QWEN_CODER
    assert family_of("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>'") is DEEPSEEK
    assert family_of("<|start|>assistant<|channel|>final<|message|>") is HARMONY
    for unknown in ("<tool_call>\n<function=name>{}", "<tool_call>name\n<arg_key>key</arg_key>"):
        assert family_of(unknown) is PLAIN, "a form of calls that is not read must not be taken for one that is"
    assert family_of("[AVAILABLE_TOOLS] [TOOL_CALLS]") is MISTRAL
    assert family_of("<|python_tag|>") is LLAMA3
    assert family_of("{{ messages }}") is PLAIN
    assert takes_tools("{%- if tools %}")
    assert not takes_tools("{{ my_tools_text }}")
    assert thinks("<think>")
    assert not thinks("think")
