"""The bytes of a request to what a replica, the guards and the gateway need of it. Every fault is a Refusal that names its field."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

import msgspec

from trimtab.serve.base import Refusal
from trimtab.serve.bodies import MAX_TOKEN_ID, Chat, Completion, Embedding
from trimtab.serve.response_bodies import Response, chat_body

ParsedKind = Literal["chat", "completion", "embedding", "response"]
PATHS: Mapping[str, ParsedKind] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
    "/v1/responses": "response",
}
_BODIES: Mapping[ParsedKind, type[msgspec.Struct]] = {
    "chat": Chat,
    "completion": Completion,
    "embedding": Embedding,
    "response": Response,
}
_NEVER = {
    "audio": "no model here answers in sound",
    "functions": "it is superseded by tools",
    "function_call": "it is superseded by tool_choice",
    "moderation": "guards are configured on the server",
    "web_search_options": "nothing is looked up in the web here",
}
"""Fields of chat that nothing behind this gateway can honour, with the reason."""
_decoder = msgspec.json.Decoder()


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A request that was read.

    body: for a replica, as the client sent it; of a `response`, translated to a chat body
    request: the body as it was sent: the answer to a `response` repeats parts of it
    user: whom the client says it asks for, empty if it does not
    prompt_size: characters of text, or token ids, that were sent
    max_tokens: new tokens that were asked for at most
    has_unread: it holds parts that no guard can read: images, sound, files, prompts as token ids
    """

    kind: ParsedKind
    model: str
    stream: bool
    include_usage: bool
    user: str
    body: dict[str, Any]
    request: dict[str, Any] = field(repr=False)
    prompt_size: int
    max_tokens: int | None
    has_unread: bool = False

    def texts(self) -> list[str]:
        """All text that a model will read, in a fixed order."""
        return [holder[key] for holder, key in places(self.kind, self.body)]

    def with_texts(self, texts: Sequence[str]) -> "Parsed":
        """The same request with other texts, one for each of `texts()`."""
        before = self.texts()
        if len(texts) != len(before):
            raise ValueError(f"{len(before)} texts are to be put back, not {len(texts)}")
        if all(one is other or one == other for one, other in zip(before, texts, strict=True)):
            return self
        body = copy.deepcopy(self.body)
        for (holder, key), text in zip(places(self.kind, body), texts, strict=True):
            holder[key] = text
        return replace(self, body=body)


def parse(kind_path: str, raw: bytes) -> Parsed:
    """The request that was posted to a path such as `/v1/chat/completions`. Raises Refusal: 404 for the path, 400 for the body."""
    kind = PATHS.get(kind_path)
    if kind is None:
        raise Refusal(404, f"There is no {kind_path}; requests go to {', '.join(PATHS)}.", code="unknown_url")
    sent = _decoded(raw)
    try:
        read: Any = msgspec.convert(sent, _BODIES[kind])
    except msgspec.ValidationError as error:
        _refuse_invalid(str(error))
    except RecursionError as error:
        raise Refusal(400, "The body nests too deep.", code="invalid_json") from error
    match read:
        case Chat():
            _check_chat(read)
        case Completion():
            _check_prompt(read.prompt, "prompt")
            _check_completion(read)
        case Embedding():
            _check_prompt(read.input, "input")
    body = chat_body(read, sent) if isinstance(read, Response) else sent
    stream = bool(getattr(read, "stream", False))
    options = getattr(read, "stream_options", None)
    if options is not None and not stream:
        raise _invalid("stream_options", "it has a meaning only with stream true")
    found = list(places(kind, body))
    unread = _unread(kind, body)
    return Parsed(
        kind=kind,
        model=read.model,
        stream=stream,
        include_usage=bool(getattr(options, "include_usage", False)),
        user=read.user or getattr(read, "safety_identifier", None) or "",
        body=body,
        request=sent,
        prompt_size=sum(len(holder[key]) for holder, key in found) + unread,
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        has_unread=unread > 0,
    )


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        sent = _decoder.decode(raw)
    except RecursionError as error:
        raise Refusal(400, "The body nests too deep.", code="invalid_json") from error
    except ValueError as error:  # msgspec's own errors and those of UTF-8 are such
        raise Refusal(400, f"The body is not valid JSON ({error}).", code="invalid_json") from error
    if not isinstance(sent, dict):
        raise Refusal(400, "The body must be one JSON object.", code="invalid_json")
    return sent


def _refuse_invalid(complaint: str) -> NoReturn:
    """msgspec's complaint, such as "Expected `int`, got `str` - at `$.messages[0].content`", as a Refusal that names the field."""
    what, _, where = complaint.partition(" - at `")
    param = where.removesuffix("`").removeprefix("key in ").removeprefix("$").removeprefix(".")
    for start, code in (("Object contains unknown field `", "unknown_parameter"), ("Object missing required field `", "missing_parameter")):
        if what.startswith(start):
            name = what.removeprefix(start).removesuffix("`")
            param = f"{param}.{name}" if param else name
            said = "Unknown parameter" if code == "unknown_parameter" else "Missing required parameter"
            raise Refusal(400, f"{said}: '{param}'.", code=code, param=param)
    raise Refusal(400, f"Invalid value for '{param}': {what}.", code="invalid_value", param=param or None)


def _invalid(param: str, why: str) -> Refusal:
    return Refusal(400, f"Invalid value for '{param}': {why}.", code="invalid_value", param=param)


def unsupported(param: str, why: str) -> Refusal:
    """A field that is valid and cannot be honoured."""
    return Refusal(400, f"Unsupported parameter '{param}': {why}.", code="unsupported_parameter", param=param)


# What fields mean together


def _check_chat(body: Chat) -> None:
    for name, why in _NEVER.items():
        if getattr(body, name) is not None:
            raise unsupported(name, why)
    if body.store:
        raise unsupported("store", "answers are not kept here; leave it out or send false")
    if body.modalities is not None and body.modalities != ["text"]:
        raise unsupported("modalities", "answers are text only")
    if body.top_logprobs is not None and not body.logprobs:
        raise _invalid("top_logprobs", "it has a meaning only with logprobs true")
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise _invalid("max_tokens", "max_completion_tokens says another number; send one of them")
    _check_format(body)
    _check_tools(body)
    for place, message in enumerate(body.messages):
        if getattr(message, "tool_calls", None) or message.content is not None:
            continue
        raise _invalid(f"messages[{place}].content", "an assistant's message needs content or tool_calls")
    for key in body.logit_bias or {}:
        if not key.isdecimal():
            raise _invalid("logit_bias", f"its keys are token ids, not {key!r}")


def _check_format(body: Chat | Completion) -> None:
    form = body.response_format
    if form is None:
        return
    if form.type == "json_schema" and (form.json_schema is None or form.json_schema.schema is None):
        raise Refusal(
            400, "Missing required parameter: 'response_format.json_schema.schema'.", code="missing_parameter", param="response_format"
        )
    if form.type != "json_schema" and form.json_schema is not None:
        raise _invalid("response_format", "json_schema goes with type json_schema")


def _check_tools(body: Chat) -> None:
    names = [tool.function.name for tool in body.tools or ()]
    choice = body.tool_choice
    if len(set(names)) < len(names):
        raise _invalid("tools", "two of them have one name")
    if choice not in (None, "none", "auto") and not names:
        raise _invalid("tool_choice", "it has a meaning only with tools")
    if choice is not None and not isinstance(choice, str) and choice.function.name not in names:
        raise _invalid("tool_choice", f"tools hold no function {choice.function.name!r}")


def _check_completion(body: Completion) -> None:
    _check_format(body)
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise unsupported("best_of", "all answers that are made are given; ask for them with n")


def _check_prompt(prompt: str | list[Any], param: str) -> None:
    """A text, texts, token ids, or lists of token ids; never mixed."""
    if isinstance(prompt, str):
        return

    def ids(values: Any) -> bool:
        return isinstance(values, list) and bool(values) and all(type(one) is int and 0 <= one < MAX_TOKEN_ID for one in values)

    if all(isinstance(one, str) for one in prompt) or ids(prompt) or all(map(ids, prompt)):
        return
    raise _invalid(param, "it is a text, a list of texts, a list of token ids, or a list of such lists")


# Texts of a body


def places(kind: ParsedKind, body: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of each text that a model will read, so that holder[key] can be read and replaced."""
    if kind in ("completion", "embedding"):
        name = "prompt" if kind == "completion" else "input"
        value = body[name]
        if isinstance(value, str):
            yield body, name
        elif isinstance(value[0], str):
            yield from ((value, place) for place in range(len(value)))
        if isinstance(body.get("suffix"), str):
            yield body, "suffix"
        return
    for message in body["messages"]:
        yield from _in_message(message)
    for tool in body.get("tools") or ():
        if isinstance(tool["function"].get("description"), str):
            yield tool["function"], "description"


def _in_message(message: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        yield message, "content"
    elif content:
        for part in content:
            if part["type"] in ("text", "refusal"):
                yield part, part["type"]
    for name in ("name", "refusal", "reasoning_content", "reasoning"):
        if isinstance(message.get(name), str):
            yield message, name
    for call in message.get("tool_calls") or ():
        yield call["function"], "arguments"


def _unread(kind: ParsedKind, body: dict[str, Any]) -> int:
    """How much a request holds that is not text: token ids of a prompt, parts of a chat's messages."""
    if kind in ("completion", "embedding"):
        prompt = body["prompt" if kind == "completion" else "input"]
        if isinstance(prompt, str) or isinstance(prompt[0], str):
            return 0
        return len(prompt) if isinstance(prompt[0], int) else sum(map(len, prompt))
    return sum(
        part["type"] not in ("text", "refusal")
        for message in body["messages"]
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )
