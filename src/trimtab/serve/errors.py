"""A refusal as OpenAI's clients read it: status, error object, and the headers that their retry logic obeys."""

import math

import msgspec

from trimtab.serve.base import Refusal

LONGEST_RETRY_S = 60.0
"""Clients of OpenAI wait no longer than this when told to: a longer wait is said, but not asked for at once again."""

_encoder = msgspec.json.Encoder()


def internal_error() -> Refusal:
    """What a client is told of an error that nobody foresaw; the log tells the rest."""
    return Refusal(500, "The server met an error of its own.", code="internal_error", retry_after_s=1)


def error_object(refusal: Refusal) -> dict[str, str | None]:
    """The `error` of an answer's body, or of a stream that ends early."""
    return {"message": str(refusal), "type": refusal.kind, "param": refusal.param, "code": refusal.code}


def error_body(refusal: Refusal) -> bytes:
    """JSON body of an answer with the refusal's status."""
    return _encoder.encode({"error": error_object(refusal)})


def error_headers(refusal: Refusal, request_id: str = "") -> dict[str, str]:
    """Headers of such an answer. `Retry-After` counts whole seconds, so it is rounded up; `retry-after-ms` is read before it."""
    headers = {"content-type": "application/json"}
    if request_id:
        headers["x-request-id"] = request_id
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    if refusal.retry_after_s is None:
        headers["x-should-retry"] = "false"
        return headers
    headers["x-should-retry"] = "true" if refusal.retry_after_s <= LONGEST_RETRY_S else "false"
    headers["retry-after"] = str(max(1, math.ceil(refusal.retry_after_s)))
    headers["retry-after-ms"] = str(max(0, round(1e3 * refusal.retry_after_s)))
    return headers
