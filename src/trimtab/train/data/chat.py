"""Which part of a conversation, as its template writes it, the assistant says.

A template is a program, so it is asked: what it writes up to an answer, with the words that make a model answer, must be the beginning of
what it writes with the answer, and that the beginning of the whole. Where it is not (a template that takes back what it wrote before, or
that has no words to begin an answer), it cannot be told what a model would have to say, and the conversation is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimtab.core.errors import InputError

Messages = Sequence[Mapping[str, Any]]
Render = Callable[[Messages, bool], str]
"""Messages, and whether the words that begin an answer follow them, to text."""


def answers(render: Render, messages: Messages) -> tuple[str, list[tuple[int, int]]]:
    """(text of the whole, [begin, end) of what the assistant says in it). Raises InputError where it cannot be told."""
    whole = render(messages, False)
    spans: list[tuple[int, int]] = []
    for number, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        before = render(messages[:number], True)
        after = whole if number == len(messages) - 1 else render(messages[: number + 1], False)
        if not (after.startswith(before) and whole.startswith(after)):
            raise InputError(
                f"the chat template does not write message {number + 1} after what it wrote before it, so it cannot be told what the "
                "assistant says; take another template, or give `text`"
            )
        if before == render(messages[:number], False) and not _begins_with(after[len(before) :], message.get("content")):
            raise InputError(
                "the chat template has no words that begin an answer, so it cannot be told where the assistant begins; take another "
                "template, or give `text`"
            )
        spans.append((len(before), len(after)))
    if not spans:
        raise InputError("nobody says anything as `assistant`, so there is nothing to learn; take the conversation out")
    return whole, spans


def _begins_with(said: str, content: Any) -> bool:
    return isinstance(content, str) and bool(content.strip()) and said.lstrip().startswith(content.strip())


def learnt_tokens(ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]], end_id: int) -> list[bool]:
    """Of each token, whether it lies wholly in what the assistant says.

    ids, offsets: of each token, [begin, end) in the text. Nothing after an end within an answer is learnt: a model has stopped there.
    """
    learnt = [False] * len(ids)
    token = 0
    for begin, end in spans:
        while token < len(ids) and offsets[token][0] < begin:
            token += 1
        is_over = False
        while token < len(ids) and offsets[token][1] <= end:
            learnt[token] = not is_over and offsets[token][1] > offsets[token][0]
            is_over = is_over or ids[token] == end_id
            token += 1
    return learnt
