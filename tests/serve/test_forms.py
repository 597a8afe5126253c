"""Forms of calls: as their models' cards and templates show them, and what holds for any text whatever."""

import itertools
import json
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from trimtab.serve.choices import merged
from trimtab.serve.families import BARE, DEEPSEEK, HARMONY, HERMES, LLAMA3, MISTRAL, PLAIN, QWEN_CODER, AnswerReader
from trimtab.serve.forms.qwen_coder import as_json, kinds_of

FAMILIES = (PLAIN, HERMES, QWEN_CODER, MISTRAL, LLAMA3, DEEPSEEK, HARMONY, BARE)
TOOLS = {
    "get_weather": {
        "type": "object",
        "properties": {
            "location": {"type": "string"},
            "days": {"type": "integer"},
            "exact": {"type": "boolean"},
            "where": {"$ref": "#/$defs/Place"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    },
    "now": {},
}


def read(family, *pieces, tools=TOOLS, **options):
    reader = AnswerReader(family, tools=tools, **options)
    deltas = [delta for piece in pieces for delta in reader.push(piece)]
    answer = merged([*deltas, *reader.finish()])
    assert not reader.is_in_call
    for call in answer.get("tool_calls", ()):
        del call["id"], call["index"], call["type"]
    return answer


def called(answer):
    return [(call["function"]["name"], call["function"]["arguments"]) for call in answer.get("tool_calls", ())]


# Golden examples


CODER = """I look it up.

<tool_call>
<function=get_weather>
<parameter=location>
São "Paulo"
SP
</parameter>
<parameter=days>
3
</parameter>
<parameter=where>
{"lat": -23.5}
</parameter>
</function>
</tool_call>
<tool_call>
<function=now>
</function>
</tool_call>"""


def test_qwen_coder():
    answer = read(QWEN_CODER, CODER)
    assert answer["content"] == "I look it up."
    expected = '{"location": "São \\"Paulo\\"\\nSP", "days": 3, "where": {"lat": -23.5}}'
    assert called(answer) == [("get_weather", expected), ("now", "{}")]
    json.loads(expected)


def test_qwen_coder_goes_out_value_by_value():
    reader = AnswerReader(QWEN_CODER, tools=TOOLS)
    assert reader.push("<tool_call>\n<function=get_weather>\n") == []
    first, second = reader.push("<parameter=location>")
    assert (first["tool_calls"][0]["function"]["name"], reader.is_in_call) == ("get_weather", True)
    assert second["tool_calls"][0]["function"]["arguments"] == '{"location": "'
    told = [
        merged(reader.push(piece)).get("tool_calls", [{}])[0].get("function", {}) for piece in ("\nSão", " Pau", "lo\n</para", "meter>\n")
    ]
    assert [function.get("arguments") for function in told] == ["São", " Pau", "lo", None]
    assert merged(reader.push("<parameter=days>\n1"))["tool_calls"][0]["function"]["arguments"] == '", "days": '
    assert reader.push("2") == [], "a number may go on"
    assert merged(reader.push("\n</parameter>\n</function>"))["tool_calls"][0]["function"]["arguments"] == "12}"
    assert not reader.is_in_call


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # No <tool_call> around it, as the models write at times.
        ("So:\n<function=now>\n</function>\n</tool_call>", {"content": "So:", "calls": [("now", "{}")]}),
        ("<tool_call>\n<function=rm>\n</function>\n</tool_call>", {"content": "<tool_call>\n<function=rm>\n</function>\n</tool_call>"}),
        ("a <function=now> is", {"content": "a <function=now> is"}),
        ('<tool_call>\n{"name": "now"}\n</tool_call>', {"content": '<tool_call>\n{"name": "now"}\n</tool_call>'}),
        # Marks inside a value, and a key without a schema.
        (
            "<function=get_weather><parameter=code>\na</parameter> b\n\n</parameter></function>",
            {"calls": [("get_weather", '{"code": "a</parameter> b\\n"}')]},
        ),
        # Cut off.
        ("<function=get_weather>\n<parameter=days>\n1", {"calls": [("get_weather", '{"days": 1')]}),
        ("<function=get_weather>\n<parameter=location>\nRio", {"calls": [("get_weather", '{"location": "Rio')]}),
    ],
)
def test_qwen_coder_at_its_edges(text, expected):
    answer = read(QWEN_CODER, text)
    assert (answer.get("content"), called(answer)) == (expected.get("content"), expected.get("calls", []))


@pytest.mark.parametrize(
    ("text", "schema", "expected"),
    [
        ("12", {"type": "string"}, '"12"'),
        ("12", {"type": "integer"}, "12"),
        ("12", {"type": ["string", "number"]}, "12"),
        ("true", {"type": ["string", "null"]}, '"true"'),
        ("null", {"type": ["string", "null"]}, "null"),
        ("True", {"type": "boolean"}, "true"),
        ("None", {"type": ["string", "null"]}, '"None"'),
        ('[1, "a"]', {"type": "array"}, '[1, "a"]'),
        ("[1, ", {"type": "array"}, '"[1, "'),
        ("NaN", {"type": "number"}, '"NaN"'),
        ("red", {"$ref": "#/$defs/Color"}, '"red"'),
        ('"a"', {"type": ["string", "null"]}, '"\\"a\\""'),
    ],
)
def test_values_are_what_their_schema_says(text, schema, expected):
    assert as_json(text, schema) == expected


def test_kinds_of_schemas():
    assert kinds_of({"enum": ["a", 1, 1.5, None]}) == {"string", "integer", "number", "null"}
    assert kinds_of({"oneOf": [{"type": "array"}, {"$ref": "#"}]}) == {"array", "any"}
    assert kinds_of({"properties": {}}) == {"any"}
    assert kinds_of({"type": [{}], "anyOf": 3, "enum": 3}) == {"{}"}
    assert kinds_of(None) == kinds_of({}) == kinds_of(True) == set()


DEEPSEEK_CALL = "<｜tool▁call▁begin｜>{}<｜tool▁call▁end｜>"


def test_deepseek_v3_and_r1():
    first = DEEPSEEK_CALL.format('function<｜tool▁sep｜>get_weather\n```json\n{"location": "}"}\n```')
    second = DEEPSEEK_CALL.format("function<｜tool▁sep｜>now\n```json\n{}\n```")
    answer = read(DEEPSEEK, f"Hm.\n</think>\n\nSo:<｜tool▁calls▁begin｜>{first}\n{second}<｜tool▁calls▁end｜>", in_thought=True)
    assert (answer["reasoning_content"], answer["content"]) == ("Hm.", "So:")
    assert called(answer) == [("get_weather", '{"location": "}"}'), ("now", "{}")]


def test_deepseek_v31():
    first, second = DEEPSEEK_CALL.format('get_weather<｜tool▁sep｜>{"days": 2}'), DEEPSEEK_CALL.format("now<｜tool▁sep｜>{}")
    answer = read(DEEPSEEK, f"<｜tool▁calls▁begin｜>{first}{second}<｜tool▁calls▁end｜> and", may_think=True)
    assert called(answer) == [("get_weather", '{"days": 2}'), ("now", "{}")]
    assert answer["content"] == " and"
    foreign = "<｜tool▁calls▁begin｜>" + DEEPSEEK_CALL.format("rm<｜tool▁sep｜>{}") + "<｜tool▁calls▁end｜>"
    assert read(DEEPSEEK, foreign) == {"content": foreign}
    named = read(DEEPSEEK, DEEPSEEK_CALL.format("function<｜tool▁sep｜>{}"), tools={"function": {}})
    assert called(named) == [("function", "{}")]


PLAN = "**Action plan**:\n1. Look it up\n---\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '<|channel|>analysis<|message|>User asks: "2 + 2?"<|end|>\n<|start|>assistant<|channel|>final<|message|>2 + 2 = 4.<|return|>',
            {"reasoning_content": 'User asks: "2 + 2?"', "content": "2 + 2 = 4."},
        ),
        (
            "<|channel|>analysis<|message|>Need it.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
            '<|constrain|>json<|message|>{"location":"San Francisco"}<|call|>',
            {"reasoning_content": "Need it.", "calls": [("get_weather", '{"location":"San Francisco"}')]},
        ),
        (
            f"<|channel|>commentary<|message|>{PLAN}<|end|><|start|>assistant<|channel|>commentary to=functions.now<|constrain|>json"
            "<|message|>{}<|call|>",
            {"content": PLAN, "calls": [("now", "{}")]},
        ),
        # The recipient before the channel and a type alone, as the chat template writes calls; two of them; a forgotten end.
        (
            " to=functions.now<|channel|>commentary json<|message|>{}<|call|>"
            '<|start|>assistant to=functions.get_weather<|channel|>analysis<|message|>{"days": 1}'
            "<|start|>assistant<|channel|>final<|message|>x",
            {"content": "x", "calls": [("now", "{}"), ("get_weather", '{"days": 1}')]},
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>",
            {"reasoning_content": "a\nb"},
        ),
        # Nobody's calls, and answers without channels, as a schema holds them.
        (
            "<|channel|>analysis to=python code<|message|>print(1)<|call|>",
            {"reasoning_content": "<|channel|>analysis to=python code<|message|>print(1)"},
        ),
        ("<|channel|>odd<|message|>hi", {"content": "<|channel|>odd<|message|>hi"}),
        ('{"a": 1}', {"content": '{"a": 1}'}),
        ("<|channel|>final", {"content": "<|channel|>final"}),
    ],
)
def test_harmony(text, expected):
    answer = read(HARMONY, text)
    assert answer.get("reasoning_content") == expected.get("reasoning_content")
    assert answer.get("content") == expected.get("content")
    assert called(answer) == expected.get("calls", [])


def test_harmony_counts_its_analysis_as_thought():
    reader = AnswerReader(HARMONY)
    reader.push("<|channel|>analysis<|message|>a")
    assert reader.is_in_thought
    reader.push("<|end|><|start|>assistant<|channel|>final<|message|>b")
    assert not reader.is_in_thought


# What holds for any text

MARKS = sorted({mark for family in FAMILIES for mark in family.marks} | {"<think>", "</think>"})
SHARDS = (
    *(*MARKS, "<function=now>", "<function=get_weather>", "<function=rm>", "</function>", "<parameter=location>", "<parameter=days>"),
    *(
        "</parameter>",
        '{"name": "now", "arguments": ',
        '{"name": "rm", "parameters": ',
        "{}",
        '{"a": [1, "}"]}',
        "}",
        "]",
        "[",
        "{",
        ",",
        ";",
    ),
    *(
        "\n",
        " ",
        "<",
        "|",
        "`",
        "```",
        "```json\n",
        "function",
        "now",
        "get_weather",
        "analysis",
        "final",
        "commentary",
        " to=functions.now",
    ),
    *("assistant", "json", '"', "\\", "\\n", "é", ": "),
)
WHOLE = (
    CODER,
    "<function=get_weather>\n<parameter=location>\n",
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "<｜tool▁calls▁begin｜>" + DEEPSEEK_CALL.format("now<｜tool▁sep｜>{}") + "<｜tool▁calls▁end｜>",
    "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>",
    '{"name": "now", "parameters": {}}',
)
texts = st.lists(st.one_of(st.sampled_from(SHARDS), st.sampled_from(WHOLE), st.integers(0, 9).map("w{}".format)), max_size=14).map("".join)


@settings(max_examples=250, deadline=None)
@given(family=st.sampled_from(FAMILIES), text=texts, places=st.lists(st.integers(0, 400), max_size=12), thinks=st.booleans())
@example(family=LLAMA3, text='{"name": "now", "parameters": {}}a {"b', places=[34], thinks=False)
def test_any_cut_gives_the_same(family, text, places, thinks):
    whole = read(family, text, may_think=thinks)
    assert read(family, *text, may_think=thinks) == whole
    edges = [0, *sorted(place for place in places if place < len(text)), len(text)]
    assert read(family, *(text[start:end] for start, end in itertools.pairwise(edges)), may_think=thinks) == whole


@settings(max_examples=250, deadline=None)
@given(family=st.sampled_from(FAMILIES), text=texts, has_tools=st.booleans())
def test_no_text_is_lost(family, text, has_tools):
    """Every word comes out, once for each time that it was written, but for what names a call or a message beside its function."""
    assume(not re.search(r',\s*"|\[CALL_ID\]w', text))
    answer = read(family, text, tools=TOOLS if has_tools else {})
    out = answer.get("content", "") + answer.get("reasoning_content", "") + json.dumps(answer.get("tool_calls", []), ensure_ascii=False)
    headers = re.findall(r"<\|channel\|>.*?<\|message\|>", text, re.DOTALL) if family is HARMONY else []
    named = [word for header in headers for word in re.findall(r"w\d", header)]
    for number in range(10):
        assert out.count(f"w{number}") + named.count(f"w{number}") >= text.count(f"w{number}"), number


@settings(max_examples=200, deadline=None)
@given(family=st.sampled_from(FAMILIES), text=texts)
def test_what_only_looks_like_a_call_is_text(family, text):
    """With functions of other names every mark is text, but for those of harmony, which are of messages too."""
    answer = read(family, text, tools={"another": {}})
    if family is HARMONY:
        assert "tool_calls" not in answer
    else:
        assert answer == ({"content": text} if text else {})


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.text('abcé"\\<>\n', min_size=1).filter(lambda key: ">" not in key), st.text('ab é"\\\n</>=', max_size=12), max_size=4
    )
)
def test_qwen_coder_gives_back_every_string(values):
    """As the template writes them. A value that holds its own end cannot be told."""
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    ((name, arguments),) = called(read(QWEN_CODER, f"<tool_call>\n<function=now>\n{written}</function>\n</tool_call>"))
    assert (name, json.loads(arguments)) == ("now", values)
