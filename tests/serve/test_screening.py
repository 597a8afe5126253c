from collections.abc import Callable

from trimtab.core.guarding import Finding, Verdict
from trimtab.serve.screening import BLOCKED, AnswerScreen


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
        passed = screen.push(chunk)
        for choice in (passed or {}).get("choices", ()):
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
    assert screen.push(chat("more")) is None


def test_chunks_without_text_pass_at_once() -> None:
    screen = AnswerScreen(Holding)
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    assert screen.push(role) == role
    usage = {"choices": [], "usage": {"total_tokens": 3}}
    assert screen.push(usage) == usage
    tool = {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}, "finish_reason": None}]}
    assert screen.push(tool) == tool


def test_completion_text_and_logprobs_of_changed_text() -> None:
    screen = AnswerScreen(Holding)
    choice = {"index": 0, "text": "secret thing ", "finish_reason": None, "logprobs": {"tokens": ["secret"]}}
    passed = screen.push({"choices": [choice]})
    assert passed is not None
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
