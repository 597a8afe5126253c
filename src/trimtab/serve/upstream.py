"""What another server of the OpenAI API says, in our terms: pieces of its streams, what it counted, and its errors as refusals."""

import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from trimtab.serve.base import Frame, Refusal, Usage

LONGEST_LINE_BYTES = 64 * 2**20
PASSED_ON = frozenset({400, 404, 408, 409, 413, 415, 422})
"""Statuses that are about the request: the client gets them as they came. Others are about the server behind."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = 0


class _Counts(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Peek(msgspec.Struct):
    usage: _Counts | None = None
    choices: list[msgspec.Raw] | None = None


_peek = msgspec.json.Decoder(_Peek)
_decode = msgspec.json.Decoder(dict[str, Any])


def decoded(raw: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises Refusal (502) for anything else."""
    try:
        return _decode.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refusal(502, f"The server behind sent what is no JSON object: {where}.", code="bad_upstream", retry_after_s=1) from None


def usage_of(body: bytes | Mapping[str, Any]) -> tuple[Usage | None, bool]:
    """What a chunk or an answer counts, and whether that is all that is in it. Bytes that hold no word of usage are not read."""
    if isinstance(body, bytes):
        if b'"usage"' not in body or b'"usage":null' in body or b'"usage": null' in body:
            return None, False
    elif not body.get("usage"):
        return None, False
    try:
        if isinstance(body, bytes):
            peeked = _peek.decode(body)
            counts, is_only = peeked.usage, peeked.choices == []
        else:
            counts, is_only = msgspec.convert(body["usage"], _Counts), body.get("choices") == []
    except msgspec.MsgspecError:
        return None, False
    if counts is None:
        return None, False
    cached = counts.prompt_tokens_details.cached_tokens or 0 if counts.prompt_tokens_details else 0
    return Usage(prompt=counts.prompt_tokens, completion=counts.completion_tokens, cached=cached), is_only


def is_last(body: bytes | Mapping[str, Any]) -> bool:
    """Whether a chunk ends a choice."""
    if isinstance(body, bytes):
        return b'"finish_reason":"' in body or b'"finish_reason": "' in body
    return any(choice.get("finish_reason") for choice in body.get("choices") or ())


async def data_lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event of a stream that comes in any pieces. Raises Refusal (502) for a line without end."""
    rest = b""
    async for piece in pieces:
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        if len(rest) > LONGEST_LINE_BYTES:
            raise Refusal(502, "The server behind sends a line without end.", code="bad_upstream")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


async def frames_of(lines: AsyncIterator[bytes], *, parsed: bool, with_usage: bool, where: str) -> AsyncIterator[Frame]:
    """Frames of a stream up to `[DONE]`. The chunk that holds nothing but usage goes to the client only `with_usage`.

    What was counted comes with the last frame, so chunks that end a choice wait for what follows them.
    Raises Refusal (502) for an error in the stream and for an end without `[DONE]`.
    """
    held: list[bytes | Mapping[str, Any]] = []
    usage: Usage | None = None
    async for data in lines:
        if data == b"[DONE]":
            for number, body in enumerate(held, 1):
                yield Frame(body=body, n_tokens=0, usage=usage if number == len(held) else None)
            return
        if data.startswith((b'{"error"', b'{ "error"')):
            raise refusal_of(500, data, None, where)
        chunk: bytes | Mapping[str, Any] = decoded(data, where) if parsed else data
        found, is_only_usage = usage_of(chunk)
        usage = found or usage
        if is_only_usage:
            if with_usage or not held:
                held.append(chunk)
        elif is_last(chunk) or held:
            held.append(chunk)
        else:
            yield Frame(body=chunk, n_tokens=1)
    raise Refusal(502, f"The server behind ended its answer early: {where}.", code="bad_upstream", retry_after_s=1)


def refusal_of(status: int, raw: bytes, retry_after: str | None, where: str) -> Refusal:
    """The refusal that a client gets for an error of the server behind."""
    try:
        found = _decode.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = {}
    error = found.get("error", found)
    error = error if isinstance(error, dict) else {"message": str(error)}
    said = str(error.get("message") or found.get("detail") or "").strip()[:500] or f"it answered with status {status}"
    if status in PASSED_ON:
        code, param = error.get("code"), error.get("param")
        code = code if isinstance(code, str) else None
        return Refusal(status, said, code=code, param=param if isinstance(param, str) else None)
    if status in (401, 403):
        return Refusal(502, f"The server behind refuses the key that `key_variable` names: {where}.", code="bad_upstream")
    if status in (429, 503, 529):
        after_s = _seconds(retry_after)
        return Refusal(429 if status == 429 else 503, f"The server behind is busy: {said}", code="upstream_busy", retry_after_s=after_s)
    return Refusal(502, f"The server behind failed: {said}", code="bad_upstream", retry_after_s=1)


def _seconds(text: str | None) -> float:
    """Of a Retry-After header; a second where it says nothing useful."""
    try:
        seconds = float(text or "")
    except ValueError:
        return 1.0
    return min(max(seconds, 0.0), 60.0) if math.isfinite(seconds) else 1.0
