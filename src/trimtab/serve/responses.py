"""Answers of the Responses API, made from those of chats: whole, and as the events of a stream.

A chat's answer becomes items in the order in which it came: reasoning, a message, calls of functions.
"""

import time
from collections.abc import Mapping
from typing import Any

from trimtab.serve.schema import Parsed
from trimtab.serve.sse import sse

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_object(parsed: Parsed, chat_completion: Mapping[str, Any]) -> dict[str, Any]:
    """The response that a whole answer to its chat is."""
    choice = chat_completion["choices"][0]
    message = choice["message"]
    base = chat_completion["id"]
    status = "incomplete" if choice.get("finish_reason") in _INCOMPLETE else "completed"
    output: list[dict[str, Any]] = []
    thought = message.get("reasoning_content") or message.get("reasoning")
    if thought:
        output.append(_reasoning_item(f"rs_{base}", thought, "completed"))
    if message.get("content"):
        logprobs = (choice.get("logprobs") or {}).get("content")
        output.append(_message_item(f"msg_{base}", message["content"], status, logprobs))
    for place, call in enumerate(message.get("tool_calls") or ()):
        output.append(_call_item(f"fc_{base}_{place}", call["id"], call["function"]["name"], call["function"]["arguments"], status))
    return _response(
        parsed, base, chat_completion.get("created"), output, choice.get("finish_reason") or "stop", chat_completion.get("usage")
    )


def _response(
    parsed: Parsed, base: str, created: int | None, output: list[dict[str, Any]], finish: str, usage: Mapping[str, Any] | None
) -> dict[str, Any]:
    """finish: a chat's reason, empty while the answer goes on."""
    asked = parsed.request
    status = "in_progress" if not finish else "incomplete" if finish in _INCOMPLETE else "completed"
    reasoning = asked.get("reasoning") or {}
    return {
        "id": f"resp_{base}",
        "object": "response",
        "created_at": created or int(time.time()),
        "completed_at": int(time.time()) if status == "completed" else None,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": _INCOMPLETE[finish]} if finish in _INCOMPLETE else None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "model": parsed.model,
        "output": output,
        "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": False,
        "temperature": 1.0 if asked.get("temperature") is None else asked["temperature"],
        "text": asked.get("text") or {"format": {"type": "text"}},
        "tool_choice": asked.get("tool_choice") or "auto",
        "tools": asked.get("tools") or [],
        "top_p": 1.0 if asked.get("top_p") is None else asked["top_p"],
        "truncation": "disabled",
        "usage": _usage(usage),
        "user": asked.get("user"),
        "metadata": asked.get("metadata") or {},
    }


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    asked, said = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0  # servers behind leave some out
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage.get("total_tokens") or asked + said,
    }


def _reasoning_item(item_id: str, text: str, status: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content, "status": status}


def _text_part(text: str, logprobs: Any = None) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def _message_item(item_id: str, text: str, status: str, logprobs: Any = None) -> dict[str, Any]:
    content = [_text_part(text, logprobs)] if status != "in_progress" else []
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def _call_item(item_id: str, call_id: str, name: str, arguments: str, status: str) -> dict[str, Any]:
    return {"id": item_id, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, "status": status}


class ResponseEvents:
    """Chunks of a chat to events of a response. `push` them as they come, then `end`.

    One item is open at a time; what does not belong to it closes it.
    """

    def __init__(self, parsed: Parsed) -> None:
        self._parsed = parsed
        self._base = ""
        self._created: int | None = None
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open = ""
        self._call_index = -1
        self._text = ""
        self._logprobs: list[Any] = []
        self._finish = ""
        self._usage: Mapping[str, Any] | None = None

    def push(self, chunk: Mapping[str, Any]) -> list[bytes]:
        """Events that one chunk makes."""
        events: list[bytes] = []
        if not self._base:
            self._base, self._created = str(chunk.get("id") or "0"), chunk.get("created")
            for name in ("response.created", "response.in_progress"):
                events.append(self._event(name, response=self._response("")))
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            if thought:
                events += self._grow("reasoning", thought)
            logprobs = (choice.get("logprobs") or {}).get("content") or []
            if delta.get("content"):
                events += self._grow("message", delta["content"], logprobs)
            for call in delta.get("tool_calls") or ():
                events += self._grow_call(call)
            self._finish = choice.get("finish_reason") or self._finish
        return events

    def end(self) -> list[bytes]:
        """The last events. The API has no `[DONE]`."""
        if not self._base:
            return []
        finish = self._finish or "stop"
        status = "incomplete" if finish in _INCOMPLETE else "completed"
        events = self._close(status)
        name = "response.incomplete" if finish in _INCOMPLETE else "response.completed"
        return [*events, self._event(name, response=self._response(finish))]

    def _response(self, finish: str) -> dict[str, Any]:
        return _response(self._parsed, self._base, self._created, self._output, finish, self._usage)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        self._number += 1
        return sse({"type": name, "sequence_number": self._number - 1, **fields}, event=name)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}

    def _grow(self, kind: str, text: str, logprobs: list[Any] | None = None) -> list[bytes]:
        events: list[bytes] = []
        if self._open != kind:
            events += self._close()
            number = len(self._output)
            if kind == "reasoning":
                item, part = _reasoning_item(f"rs_{self._base}_{number}", "", "in_progress"), {"type": "reasoning_text", "text": ""}
            else:
                item, part = _message_item(f"msg_{self._base}_{number}", "", "in_progress"), _text_part("")
            events.append(self._begin(kind, item))
            events.append(self._event("response.content_part.added", **self._place, content_index=0, part=part))
        self._text += text
        if kind == "reasoning":
            events.append(self._event("response.reasoning_text.delta", **self._place, content_index=0, delta=text))
        else:
            self._logprobs += logprobs or []
            events.append(self._event("response.output_text.delta", **self._place, content_index=0, delta=text, logprobs=logprobs or []))
        return events

    def _grow_call(self, call: Mapping[str, Any]) -> list[bytes]:
        events: list[bytes] = []
        function = call.get("function") or {}
        if self._open != "call" or call.get("index", 0) != self._call_index:
            events += self._close()
            self._call_index = call.get("index", 0)
            item_id = f"fc_{self._base}_{len(self._output)}"
            item = _call_item(item_id, call.get("id") or item_id, function.get("name") or "", "", "in_progress")
            events.append(self._begin("call", item))
        if function.get("arguments"):
            self._text += function["arguments"]
            events.append(self._event("response.function_call_arguments.delta", **self._place, delta=function["arguments"]))
        return events

    def _begin(self, kind: str, item: dict[str, Any]) -> bytes:
        self._open, self._text, self._logprobs = kind, "", []
        self._output.append(item)
        return self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)

    def _close(self, status: str = "completed") -> list[bytes]:
        """End the open item, if there is one. What lies before the last item is complete, however the answer ends."""
        if not self._open:
            return []
        kind, self._open = self._open, ""
        old = self._output[-1]
        events: list[bytes] = []
        if kind == "call":
            item = _call_item(old["id"], old["call_id"], old["name"], self._text, status)
            events.append(self._event("response.function_call_arguments.done", **self._place, name=old["name"], arguments=self._text))
        elif kind == "reasoning":
            item, part = _reasoning_item(old["id"], self._text, status), {"type": "reasoning_text", "text": self._text}
            events.append(self._event("response.reasoning_text.done", **self._place, content_index=0, text=self._text))
            events.append(self._event("response.content_part.done", **self._place, content_index=0, part=part))
        else:
            item, part = _message_item(old["id"], self._text, status, self._logprobs), _text_part(self._text, self._logprobs)
            done = {"content_index": 0, "text": self._text, "logprobs": self._logprobs}
            events.append(self._event("response.output_text.done", **self._place, **done))
            events.append(self._event("response.content_part.done", **self._place, content_index=0, part=part))
        self._output[-1] = item
        events.append(self._event("response.output_item.done", output_index=len(self._output) - 1, item=item))
        return events
