"""Server-sent events as OpenAI's clients parse them: `data:` lines with JSON, comments that keep a connection alive, and `[DONE]`."""

from collections.abc import Mapping
from typing import Any

import msgspec

from trimtab.serve.base import Refusal
from trimtab.serve.errors import error_object

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": waiting\n\n"

_encoder = msgspec.json.Encoder()


def encode(body: Mapping[str, Any]) -> bytes:
    """An object of the API as JSON."""
    return _encoder.encode(body)


def sse(body: Mapping[str, Any] | bytes, *, event: str = "") -> bytes:
    """One event. event: its name, which the Responses API gives beside the `type` in the data."""
    data = body if isinstance(body, bytes) else _encoder.encode(body)
    return b"event: %s\ndata: %s\n\n" % (event.encode(), data) if event else b"data: %s\n\n" % data


def sse_error(refusal: Refusal) -> bytes:
    """What ends a stream early: the clients raise APIError with this message, and retry nothing."""
    return sse({"error": error_object(refusal)})
