"""The worker protocol, version 1: one JSON object a line, both ways, over the child's standard input and output.

To the worker:    {"id": 7, "op": "score", ...arguments}
From the worker:  {"id": 7, "ok": result}                   the end of call 7
                  {"id": 7, "event": TokenEvent}            one token of call 7 (op `generate`)
                  {"id": 7, "error": "sentence", "kind": "refused" | "missing" | "input" | "too_long" | "bug"}

Operations: open, load, info, tokenize, detokenize, pieces, render, prompt, score, generate, cancel, close. `prompt` renders and
tokenizes in one turn; `pieces` gives the text of each token alone. `generate` ends with `ok` after its last event; if its `text` is
true, its events hold text. `tokenize` and `prompt` with `most_tokens` refuse a text that surely has more, with how many it has at least
(`least_tokens` beside `error`). The worker ends when its standard input does, so it never outlives its parent.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from trimtab.core.deployment import EngineBuild
from trimtab.core.files import to_plain
from trimtab.engines.base import EngineInfo, GenerateRequest, ScoreRequest, ScoreResult, TokenEvent

PROTOCOL_VERSION = 1
_to_json = json.JSONEncoder(separators=(",", ":")).encode


def encode(message: Mapping[str, Any]) -> bytes:
    """One line. Dataclasses become objects; NaN becomes null."""
    return _to_json(to_plain(message)).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Raises ValueError for anything but one JSON object."""
    (message,) = decode_all(line.rstrip(b"\n"))
    return message


def decode_all(lines: bytes) -> list[dict[str, Any]]:
    """Messages of one or more lines, the last line's end left out, in one go. Raises ValueError as `decode` does."""
    messages: list[Any] = json.loads(b"[%b]" % lines.replace(b"\n", b","))
    if not all(isinstance(message, dict) for message in messages):
        raise ValueError("a message is one JSON object")
    return messages


def score_request_from(plain: Mapping[str, Any]) -> ScoreRequest:
    """ScoreRequest from its JSON form."""
    return ScoreRequest(
        prefix_ids=tuple(plain["prefix_ids"]),
        continuations=tuple(map(tuple, plain["continuations"])),
        watch=tuple(tuple(map(tuple, positions)) for positions in plain["watch"]),
        top_k=plain["top_k"],
        logit_bias=tuple((token, bias) for token, bias in plain["logit_bias"]),
    )


def score_result_from(plain: Mapping[str, Any]) -> ScoreResult:
    """ScoreResult from its JSON form; null (not a number) comes back as NaN."""
    nan = float("nan")
    return ScoreResult(
        logprobs=tuple(tuple(nan if value is None else value for value in row) for row in plain["logprobs"]),
        greedy=tuple(map(tuple, plain["greedy"])),
        watched=tuple(tuple(map(tuple, positions)) for positions in plain["watched"]),
        top=tuple(tuple(tuple((token, value) for token, value in pairs) for pairs in positions) for positions in plain["top"]),
    )


def generate_request_from(plain: Mapping[str, Any]) -> GenerateRequest:
    """GenerateRequest from its JSON form."""
    return GenerateRequest(**{**plain, "prompt_ids": tuple(plain["prompt_ids"]), "stop_ids": tuple(plain["stop_ids"])})


def event_line(call_id: int, event: TokenEvent, text: str = "") -> bytes:
    """One line for a token, with only what differs from the defaults: a busy worker writes hundreds of them a second."""
    logprob = event.logprob if event.logprob is not None and math.isfinite(event.logprob) else None
    plain: dict[str, Any] = {"request_id": event.request_id, "token_id": event.token_id, "logprob": logprob, "time_ns": event.time_ns}
    for name, value in (("done", event.done), ("error", event.error), ("top", event.top), ("text", text), ("cached", event.cached)):
        if value:
            plain[name] = value
    return _to_json({"id": call_id, "event": plain}).encode() + b"\n"


def token_event_from(plain: Mapping[str, Any]) -> TokenEvent:
    """TokenEvent from its JSON form."""
    top = plain.get("top")
    return TokenEvent(**{**plain, "top": tuple((token, value) for token, value in top)}) if top else TokenEvent(**plain)


def engine_info_from(plain: Mapping[str, Any]) -> EngineInfo:
    """EngineInfo from its JSON form."""
    return EngineInfo(**{**plain, "build": EngineBuild(**plain["build"]), "end_ids": tuple(plain["end_ids"])})
