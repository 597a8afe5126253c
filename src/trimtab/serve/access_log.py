"""One JSON line a request for the operator's log: who asked which model, how it ended and how long it took. No text of anybody's."""

from collections.abc import Mapping
from typing import Any

import msgspec

_COPIED = (
    *("request", "path", "key", "model", "version", "status", "error"),
    *("prompt_tokens", "completion_tokens", "first_token_ms", "total_ms"),
)


def access_line(ended: Mapping[str, Any]) -> str:
    """The line of a request, from what the audit log is told at its end. Only fields that are named here get in: nothing slips through."""
    row = {name: ended[name] for name in _COPIED if name in ended}
    row["guards"] = [f"{verdict['guard']}:{verdict['side']}:{verdict['action']}" for verdict in ended.get("verdicts", ())]
    return msgspec.json.encode(row).decode()
