import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.guarding import Finding, Verdict
from trimtab.core.site import GuardUse
from trimtab.guard.base import Guard
from trimtab.guard.pipeline import OutputGuard, Placed, redacted
from trimtab.serve.screening import BLOCKED, BREAKS, AnswerScreen


class Holding:
    """Holds back the last word of what it has, upper-cases `secret`, and blocks at `bomb`."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.blocked: Verdict | None = None
        self._held = ""

    def push(self, text: str) -> str:
        if self.blocked is not None:
            return ""
        self._held += text
        if "bomb" in self._held:
            finding = Finding(rule="bomb", start=0, end=4, reason="a word")
            self.blocked = Verdict(guard="holding", side="out", action="block", findings=(finding,))
            self.verdicts.append(self.blocked)
            return ""
        head, space, tail = self._held.rpartition(" ")
        self._held = tail
        return (head + space).replace("secret", "[REDACTED]")

    def finish(self) -> str:
        rest, self._held = self._held.replace("secret", "[REDACTED]"), ""
        return rest


def chat(text: str, finish: str | None = None, index: int = 0) -> dict[str, object]:
    return {"id": "1", "choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}


def sent(screen: AnswerScreen, chunks: list[dict[str, object]], read: Callable[[dict[str, object]], str]) -> tuple[str, list[object]]:
    text, ends = "", []
    for chunk in chunks:
        for passed in screen.push(chunk):
            for choice in passed["choices"]:
                text += read(choice)
                ends.append(choice["finish_reason"])
    return text, ends


def content(choice: dict[str, object]) -> str:
    return str(choice["delta"].get("content") or "")  # type: ignore[attr-defined]


def test_text_held_back_comes_with_the_end() -> None:
    screen = AnswerScreen(Holding)
    text, ends = sent(screen, [chat("my sec"), chat("ret is"), chat(" out"), chat("", "stop")], content)
    assert text == "my [REDACTED] is out"
    assert ends[-1] == "stop"
    assert ends.count(None) == len(ends) - 1


def test_a_blocked_choice_ends_and_the_other_goes_on() -> None:
    screen = AnswerScreen(Holding)
    text, ends = sent(screen, [chat("a bo"), chat("mb here"), chat("never"), chat("fine ", index=1), chat("", "stop", index=1)], content)
    assert text == "a fine "
    assert ends == [None, BLOCKED, None, "stop"]
    assert not screen.all_blocked
    assert [verdict.action for verdict in screen.verdicts] == ["block"]


def test_all_blocked() -> None:
    screen = AnswerScreen(Holding)
    assert not screen.all_blocked
    screen.push(chat("bomb"))
    assert screen.all_blocked
    assert screen.push(chat("more")) == []


def test_chunks_without_text_pass_at_once() -> None:
    screen = AnswerScreen(Holding)
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    assert screen.push(role) == [role]
    usage = {"choices": [], "usage": {"total_tokens": 3}}
    assert screen.push(usage) == [usage]


def test_completion_text_and_logprobs_of_changed_text() -> None:
    screen = AnswerScreen(Holding)
    choice = {"index": 0, "text": "secret thing ", "finish_reason": None, "logprobs": {"tokens": ["secret"]}}
    (passed,) = screen.push({"choices": [choice]})
    assert passed["choices"][0]["text"] == "[REDACTED] thing "
    assert passed["choices"][0]["logprobs"] is None


def test_whole_answers() -> None:
    answer = {
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "a secret"}, "finish_reason": "stop"},
            {"index": 1, "message": {"role": "assistant", "content": "a bomb", "reasoning_content": "how"}, "finish_reason": "stop"},
            {"index": 2, "text": "fine", "finish_reason": "length"},
        ]
    }
    screen = AnswerScreen(Holding)
    kept, gone, plain = screen.whole(answer)["choices"]
    assert kept["message"]["content"] == "a [REDACTED]"
    assert gone["message"] == {"role": "assistant", "content": ""}
    assert gone["finish_reason"] == BLOCKED
    assert plain == answer["choices"][2]


# Reasoning and calls, under guards of the real pipeline


class Words(Guard):
    """Finds words, which may span anything."""

    name = "words"

    def __init__(self, *words: str, reach: int | None = 12, stride: int = 5) -> None:
        super().__init__({}, side="out", time_limit_s=60.0)
        self.words, self.reach_chars, self.stride_chars = words, reach, stride

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        return tuple(
            Finding(rule="words.found", start=match.start(), end=match.end(), reason="it is there", replacement='["X"]')
            for word in self.words
            for match in re.compile(re.escape(word)).finditer(text, start)
        )


def screen_of(*words: str, on_hit: Any = "redact", **options: Any) -> AnswerScreen:
    guard = Words(*words, **options)
    return AnswerScreen(lambda: OutputGuard([Placed(guard=guard, use=GuardUse(name="words", side="out", on_hit=on_hit), side="out")]))


def call(arguments: str, index: int = 0, name: str = "") -> dict[str, Any]:
    head = {"id": f"call_{index}", "type": "function"} if name else {}
    return {"index": index, **head, "function": {**({"name": name} if name else {}), "arguments": arguments}}


def stream(*deltas: dict[str, Any], finish: str | None = "tool_calls") -> list[dict[str, Any]]:
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    return [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}]


def passed_by(screen: AnswerScreen, chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choices as they go out."""
    return [choice for chunk in chunks for passed in screen.push(chunk) for choice in passed["choices"]]


def said(choices: list[dict[str, Any]]) -> tuple[dict[str, str], str | None]:
    """Joined texts by field or call, and how the choice ended."""
    texts: dict[str, str] = {}
    for choice in choices:
        for key, value in choice["delta"].items():
            for name, text in (
                [(f"call {one['index']}", one["function"]["arguments"]) for one in value] if key == "tool_calls" else [(key, value)]
            ):
                texts[name] = texts.get(name, "") + text
    return texts, choices[-1]["finish_reason"]


def in_pieces(arguments: str, length: int) -> list[dict[str, Any]]:
    pieces = [arguments[at : at + length] for at in range(0, len(arguments), length)]
    return stream({"tool_calls": [call("", name="send")]}, *({"tool_calls": [call(piece)]} for piece in pieces))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 200])
@pytest.mark.parametrize("written", ["a@b.c", "a\\u0040b.c", "\\u0061\\u0040b\\u002ec"])
def test_arguments_are_redacted_within_their_strings(length: int, written: str) -> None:
    arguments = f'{{"to": "Ann \\"{written}\\"", "n": [1, 2]}}'
    screen = screen_of("a@b.c")
    texts, finish = said(passed_by(screen, in_pieces(arguments, length)))
    assert json.loads(texts["call 0"]) == {"to": 'Ann "["X"]"', "n": [1, 2]}
    assert finish == "tool_calls"
    assert [(one.action, [(f.start, f.end) for f in one.findings]) for one in screen.verdicts] == [("redact", [(13, 18)])]


def test_a_whole_string_keeps_its_quotes_and_a_line_break_its_escape() -> None:
    texts, _ = said(passed_by(screen_of('"secret"'), in_pieces('{"a": "secret", "b": "one\\ntwo"}', 3)))
    assert json.loads(texts["call 0"]) == {"a": '["X"]', "b": "one\ntwo"}
    texts, _ = said(passed_by(screen_of("two"), in_pieces('{"b": "one\\ntwo \\ud83d\\ude00 \\ud83d"}', 1)))
    assert texts["call 0"] == '{"b": "one\\n[\\"X\\"] \\ud83d\\ude00 \\ud83d"}'


@pytest.mark.parametrize("length", [1, 3, 200])
@pytest.mark.parametrize(
    ("options", "arguments", "before"),
    [
        ({"words": ["411111"]}, '{"card": 411111, "then": "more"}', '{"card": '),
        ({"words": ['a": "b']}, '{"a": "b", "then": "more"}', '{"'),
        ({"words": ["bad"], "reach": None}, '{"first": "fine, and then it is bad", "then": "more"}', '{"first": "fine, and then it is '),
    ],
)
def test_a_redaction_that_would_break_the_json_blocks(options: dict[str, Any], arguments: str, before: str, length: int) -> None:
    words = options["words"]
    screen = screen_of(*words, **{key: value for key, value in options.items() if key != "words"})
    texts, finish = said(passed_by(screen, in_pieces(arguments, length)))
    assert finish == BLOCKED
    assert before.startswith(texts["call 0"])
    assert screen.all_blocked
    last = screen.verdicts[-1]
    assert (last.guard, last.action) == ("words", "block")
    assert last.findings[0].reason.endswith(BREAKS)


def test_a_blocked_call_ends_the_choice() -> None:
    chunks = in_pieces('{"to": "somebody", "what": "a bomb", "then": "more"}', 4)
    choices = passed_by(screen_of("bomb", on_hit="block"), chunks)
    texts, finish = said(choices)
    assert finish == BLOCKED
    assert '{"to": "somebody", "what": "a '.startswith(texts["call 0"])
    assert [choice["finish_reason"] for choice in choices].count(BLOCKED) == 1


def test_what_was_held_back_goes_out_before_the_next_text_begins() -> None:
    deltas = (
        {"role": "assistant", "content": ""},
        {"reasoning_content": "I think."},
        {"content": "I look."},
        {"tool_calls": [call("", 0, "a")]},
        {"tool_calls": [call('{"x": 1}', 0)]},
        {"tool_calls": [call('{"y": 2}', 1, "b")]},
    )
    choices = passed_by(screen_of("nothing"), stream(*deltas))
    texts, finish = said(choices)
    assert (texts, finish) == (
        {"role": "assistant", "reasoning_content": "I think.", "content": "I look.", "call 0": '{"x": 1}', "call 1": '{"y": 2}'},
        "tool_calls",
    )
    order = [key for choice in choices for key, value in choice["delta"].items() if value]
    assert order == ["role", "reasoning_content", "content", "tool_calls", "tool_calls", "tool_calls", "tool_calls"]
    names = [one["function"]["name"] for choice in choices for one in choice["delta"].get("tool_calls", ()) if "name" in one["function"]]
    assert names == ["a", "b"]


def test_reasoning_passes_the_guards() -> None:
    texts, finish = said(passed_by(screen_of("bomb"), stream({"reasoning_content": "a bo"}, {"reasoning_content": "mb"}, finish="stop")))
    assert (texts, finish) == ({"reasoning_content": 'a ["X"]'}, "stop")
    texts, finish = said(passed_by(screen_of("bomb", on_hit="block"), stream({"reasoning": "a bomb"}, {"content": "Fine."}, finish="stop")))
    assert (texts, finish) == ({"content": ""}, BLOCKED)


def test_log_probabilities_never_tell_what_is_held_back() -> None:
    screen = screen_of("secret")
    chunks = stream({"tool_calls": [call('{"a": "sec', name="a")]}, {}, {"tool_calls": [call('ret"}')]})
    for chunk in chunks:
        chunk["choices"][0]["logprobs"] = {"content": [{"token": "sec"}]}
    assert all(choice["logprobs"] is None for choice in passed_by(screen, chunks))


def test_whole_answers_with_calls() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "a", "arguments": '{"to": "a@b.c"}'}}]
    message = {"role": "assistant", "content": None, "reasoning_content": "to a@b.c", "tool_calls": calls}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    (kept,) = screen_of("a@b.c").whole(answer)["choices"]
    assert kept["message"]["reasoning_content"] == 'to ["X"]'
    assert kept["message"]["content"] is None
    assert json.loads(kept["message"]["tool_calls"][0]["function"]["arguments"]) == {"to": '["X"]'}
    (gone,) = screen_of("b.c", on_hit="block").whole(answer)["choices"]
    assert (gone["message"], gone["finish_reason"]) == ({"role": "assistant", "content": ""}, BLOCKED)
    calls[0]["function"] = {"name": "a", "arguments": "[411111]"}
    (gone,) = screen_of("411111").whole(answer)["choices"]
    assert gone["finish_reason"] == BLOCKED


values = st.recursive(
    st.one_of(st.none(), st.integers(0, 99), st.text('ab@"\\\n\t é😀', max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("ab@", max_size=3), inner, max_size=3)),
    max_leaves=8,
)


def each_string(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return [[change(key), each_string(one, change)] for key, one in value.items()]
    if isinstance(value, list):
        return [each_string(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


@settings(max_examples=150, deadline=None)
@given(value=values, is_ascii=st.booleans(), length=st.integers(1, 9))
def test_any_arguments_stay_json_in_any_pieces(value: Any, is_ascii: bool, length: int) -> None:
    """What a string holds is redacted as a text would be, and all else is as it was."""
    words = ("a@b", "b\n", "\t\\")
    texts, finish = said(passed_by(screen_of(*words), in_pieces(json.dumps(value, ensure_ascii=is_ascii), length)))
    got = json.loads(texts["call 0"], object_pairs_hook=lambda pairs: [list(pair) for pair in pairs])
    guard = Words(*words)
    assert (got, finish) == (each_string(value, lambda text: redacted(text, guard.check(text))), "tool_calls")
