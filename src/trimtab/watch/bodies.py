"""What a user wrote and a model answered, in the bodies of OpenAI's APIs. Pure; bodies of any server come here, in any state."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.watch.features import served_tokens


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The first choice of an answer. calls: it calls a function; finish: why it ended, empty if not known; tokens: of `served_tokens`

    n_prompt, n_completion: tokens, None where the answer does not say
    """

    text: str = ""
    calls: bool = False
    finish: str = ""
    tokens: Mapping[str, float] = field(default_factory=dict)
    n_prompt: int | None = None
    n_completion: int | None = None


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One question and its answer, for as long as features are taken from them."""

    prompt: str
    answer: Answer
    expects_json: bool = False


def asked(body: Mapping[str, Any]) -> str:
    """What the user wrote last: the last message of a user in a chat or response, else the prompt. Empty if there is no text."""
    messages = body.get("messages")
    if messages is None and isinstance(body.get("input"), list):
        messages = body["input"]
    if isinstance(messages, list):
        told = [one for one in messages if isinstance(one, Mapping)]
        mine = [one for one in told if one.get("role") in ("user", "human")] or [
            one for one in told if one.get("role") not in ("assistant", "system")
        ]
        return _text(mine[-1].get("content")) if mine else "\n".join(one for one in messages if isinstance(one, str))
    return _text(body.get("prompt") if body.get("prompt") is not None else body.get("input"))


def expects_json(body: Mapping[str, Any]) -> bool:
    """Whether a body asks for JSON."""
    text = body.get("text")
    form = body.get("response_format") or (text.get("format") if isinstance(text, Mapping) else None)
    return isinstance(form, Mapping) and form.get("type") in ("json_object", "json_schema")


def answer_of(body: Mapping[str, Any]) -> Answer:
    """The answer in a whole body: of a chat, a completion or a response; or in one message."""
    usage = _mapping(body.get("usage"))
    n_prompt, n_completion = _count(usage, "prompt_tokens", "input_tokens"), _count(usage, "completion_tokens", "output_tokens")
    choices = body.get("choices")
    if isinstance(choices, list):
        choice = next((one for one in choices if isinstance(one, Mapping)), {})
        message = _mapping(choice.get("message"))
        return Answer(
            text=_text(choice["text"]) if "text" in choice else _text(message.get("content")) or _text(message.get("refusal")),
            calls=bool(message.get("tool_calls") or message.get("function_call")),
            finish=str(choice.get("finish_reason") or ""),
            tokens=served_tokens(choice.get("logprobs")),
            n_prompt=n_prompt,
            n_completion=n_completion,
        )
    if isinstance(body.get("output"), list):
        items = [one for one in body["output"] if isinstance(one, Mapping)]
        parts = [part for one in items if one.get("type") == "message" for part in _parts(one.get("content"))]
        why = _mapping(body.get("incomplete_details")).get("reason")
        return Answer(
            text="".join(_text([part]) for part in parts),
            calls=any(one.get("type") == "function_call" for one in items),
            finish="length" if why == "max_output_tokens" else str(why or "stop"),
            tokens=served_tokens({"content": [token for part in parts for token in part.get("logprobs") or ()]}),
            n_prompt=n_prompt,
            n_completion=n_completion,
        )
    text = _text(body.get("content")) or _text(body.get("text")) or _text(body.get("completion"))
    return Answer(text=text, calls=bool(body.get("tool_calls")), n_prompt=n_prompt, n_completion=n_completion)


def answer_of_events(raw: bytes) -> Answer:
    """The answer in the events of a stream, as far as they go."""
    texts: list[str] = []
    content: list[Any] = []
    older: dict[str, list[Any]] = {}
    calls, finish, counts = False, "", Answer()
    for event in _events(raw):
        if event.get("type") in ("response.completed", "response.incomplete"):
            return answer_of(_mapping(event.get("response")))
        if event.get("type") == "response.output_text.delta":
            texts.append(_text(event.get("delta")))
        if event.get("usage"):
            counts = answer_of({"usage": event["usage"]})
        for choice in _parts(event.get("choices")):
            if choice.get("index", 0) != 0:
                continue
            delta = _mapping(choice.get("delta"))
            texts.append(_text(choice["text"]) if "text" in choice else _text(delta.get("content")))
            calls = calls or bool(delta.get("tool_calls"))
            finish = str(choice.get("finish_reason") or finish)
            told = _mapping(choice.get("logprobs"))
            content += told.get("content") or ()
            for name in ("token_logprobs", "top_logprobs"):
                older.setdefault(name, []).extend(told.get(name) or ())
    return Answer(
        text="".join(texts),
        calls=calls,
        finish=finish,
        tokens=served_tokens({"content": content} if content else older),
        n_prompt=counts.n_prompt,
        n_completion=counts.n_completion,
    )


def _events(raw: bytes) -> Iterator[Mapping[str, Any]]:
    import msgspec

    for line in raw.split(b"\n"):
        if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
            try:
                event = msgspec.json.decode(line[5:])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            if isinstance(event, dict):
                yield event


def _text(value: Any) -> str:
    """The text of a message's content, whatever its form."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        return ""
    if all(isinstance(one, str) for one in value):
        return "\n".join(value)
    return "\n".join(str(part["text"]) for part in _parts(value) if isinstance(part.get("text"), str))


def _parts(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((int(usage[name]) for name in names if isinstance(usage.get(name), int | float)), None)
