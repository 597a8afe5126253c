"""Bodies of the Responses API, and what they are as a chat: replicas know chats only. Nothing is kept here between two requests."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trimtab.serve.base import Refusal
from trimtab.serve.bodies import Body, FunctionName, Metadata, Name, Positive, Share, Temperature, TopLogprobs

_LOGPROBS = "message.output_text.logprobs"
_INCLUDABLE = {_LOGPROBS, "reasoning.encrypted_content"}
"""Reasoning is given as plain text that can be sent back, which is what its encrypted form is for."""


class FunctionTool(Body):
    type: Literal["function"]
    name: FunctionName
    parameters: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class NamedChoice(Body):
    type: Literal["function"]
    name: str


class Format(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: FunctionName | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class TextOptions(Body):
    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Body):
    effort: str | None = None
    summary: Literal["auto"] | None = None
    generate_summary: Literal["auto"] | None = None


class EventOptions(Body):
    include_obfuscation: bool | None = None


class Response(Body):
    model: Name
    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: EventOptions | None = None
    max_output_tokens: Positive | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_logprobs: TopLogprobs | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    metadata: Metadata | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    store: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: str | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    moderation: Any = None
    context_management: Any = None


# Items of the input


class InputText(Body, tag_field="type", tag="input_text"):
    text: str


class OutputText(Body, tag_field="type", tag="output_text"):
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refused(Body, tag_field="type", tag="refusal"):
    refusal: str


class InputImage(Body, tag_field="type", tag="input_image"):
    image_url: str
    detail: str | None = None


class MessageItem(Body, tag_field="type", tag="message"):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | OutputText | Refused | InputImage]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class CallItem(Body, tag_field="type", tag="function_call"):
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class CallOutputItem(Body, tag_field="type", tag="function_call_output"):
    call_id: str
    output: str | list[InputText]
    id: str | None = None
    status: str | None = None


class ReasoningText(Body):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Body, tag_field="type", tag="reasoning"):
    summary: list[ReasoningText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: None = None
    id: str | None = None
    status: str | None = None


Item = MessageItem | CallItem | CallOutputItem | ReasoningItem
_NEVER = {
    "background": "answers are given while the client waits",
    "previous_response_id": "nothing is kept between requests; send the whole conversation as input",
    "conversation": "nothing is kept between requests; send the whole conversation as input",
    "prompt": "there are no stored prompts here",
    "moderation": "guards are configured on the server",
    "context_management": "over-long input is refused, never shortened",
}


def chat_body(read: Response, sent: Mapping[str, Any]) -> dict[str, Any]:
    """The chat that a response asks for. Raises Refusal for what a chat cannot give."""
    for name, why in _NEVER.items():
        if getattr(read, name):
            raise _unsupported(name, why)
    if read.store:
        raise _unsupported("store", "answers are not kept here; leave it out or send false")
    if read.truncation == "auto":
        raise _unsupported("truncation", "over-long input is refused, never shortened")
    if read.service_tier not in (None, "auto", "default"):
        raise _unsupported("service_tier", "there is one service only")
    for name in read.include or ():
        if name not in _INCLUDABLE:
            raise _unsupported("include", f"{name!r} is not to be had here")
    body: dict[str, Any] = {"model": read.model, "messages": _messages(read)}
    if read.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if read.max_output_tokens is not None:
        body["max_completion_tokens"] = read.max_output_tokens
    for name in ("temperature", "top_p", "parallel_tool_calls", "user"):
        if getattr(read, name) is not None:
            body[name] = getattr(read, name)
    if read.reasoning is not None and read.reasoning.effort is not None:
        body["reasoning_effort"] = read.reasoning.effort
    if _LOGPROBS in (read.include or ()) or read.top_logprobs:
        body |= {"logprobs": True, **({"top_logprobs": read.top_logprobs} if read.top_logprobs else {})}
    return body | _tools(read, sent) | _form(read)


def _unsupported(param: str, why: str) -> Refusal:
    return Refusal(400, f"Unsupported parameter '{param}': {why}.", code="unsupported_parameter", param=param)


def _tools(read: Response, sent: Mapping[str, Any]) -> dict[str, Any]:
    names = [tool.name for tool in read.tools or ()]
    choice = read.tool_choice
    if (isinstance(choice, NamedChoice) and choice.name not in names) or (choice == "required" and not names):
        raise Refusal(400, "Invalid value for 'tool_choice': tools hold no such function.", code="invalid_value", param="tool_choice")
    if not names:
        return {}
    tools = [{"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}} for tool in sent["tools"]]
    named = {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedChoice) else choice
    return {"tools": tools, **({"tool_choice": named} if named is not None else {})}


def _form(read: Response) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if read.text is not None and read.text.verbosity is not None:
        found["verbosity"] = read.text.verbosity
    form = read.text.format if read.text is not None else None
    if form is None or form.type == "text":
        return found
    if form.type == "json_object":
        return found | {"response_format": {"type": "json_object"}}
    if form.schema is None or form.name is None:
        raise Refusal(400, "Missing required parameter: 'text.format.schema' or its name.", code="missing_parameter", param="text.format")
    given = {"name": form.name, "schema": form.schema, "strict": form.strict, "description": form.description}
    schema = {key: value for key, value in given.items() if value is not None}
    return found | {"response_format": {"type": "json_schema", "json_schema": schema}}


# The conversation


def _messages(read: Response) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": read.instructions}] if read.instructions else []
    if isinstance(read.input, str):
        return [*messages, {"role": "user", "content": read.input}]
    thought = ""
    for place, plain in enumerate(read.input):
        item = _item(plain, place)
        match item:
            case ReasoningItem():
                thought += "".join(part.text for part in item.content or item.summary or ())
                continue
            case MessageItem(role="assistant"):
                messages.append({"role": "assistant", "content": _joined(item.content)})
            case MessageItem():
                messages.append({"role": item.role, "content": item.content if isinstance(item.content, str) else _parts(item.content)})
            case CallItem():
                _add_call(messages, item)
            case CallOutputItem():
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _joined(item.output)})
        if thought and messages[-1]["role"] == "assistant":
            messages[-1]["reasoning_content"] = thought
        thought = ""
    return messages


def _item(plain: dict[str, Any], place: int) -> Item:
    try:
        found: Item = msgspec.convert(plain if "type" in plain else {**plain, "type": "message"}, Item)
        return found
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        param = f"input[{place}]{where.removesuffix('`')}"
        raise Refusal(400, f"Invalid value for '{param}': {what}.", code="invalid_value", param=param) from error


def _add_call(messages: list[dict[str, Any]], item: CallItem) -> None:
    """Calls that follow each other, or an assistant's words, are one message of a chat."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
    messages[-1].setdefault("tool_calls", []).append(call)


def _joined(content: str | Sequence[Any]) -> str:
    return content if isinstance(content, str) else "".join(getattr(part, "text", "") or getattr(part, "refusal", "") for part in content)


def _parts(content: Sequence[InputText | OutputText | Refused | InputImage]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in content:
        match part:
            case InputImage():
                image = {"url": part.image_url, **({"detail": part.detail} if part.detail else {})}
                found.append({"type": "image_url", "image_url": image})
            case Refused():
                found.append({"type": "text", "text": part.refusal})
            case _:
                found.append({"type": "text", "text": part.text})
    return found
