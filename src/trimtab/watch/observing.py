"""Facts and texts of one request to what is watched of it: the same for live traffic and for logs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.watching import Observed
from trimtab.watch.bodies import Exchange
from trimtab.watch.features import Vocabulary, features

CLIENT_GONE = 499


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a request without its texts; None = not known. verdicts: of guards, as in the audit log, None = no guards"""

    request: str
    at_s: float
    model: str = ""
    version: str = ""
    key: str = ""
    status: int = 200
    error: str = ""
    total_ms: float | None = None
    first_token_ms: float | None = None
    queue_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    joules_per_token: float | None = None
    verdicts: Sequence[Mapping[str, Any]] | None = None
    groups: Mapping[str, str] = field(default_factory=dict)


def facts_of_record(record: Mapping[str, Any], *, at_s: float, **more: Any) -> Facts:
    """The facts in a record `ended` of the gateway's audit log. more: fields that it does not hold."""
    return Facts(
        request=str(record["request"]),
        at_s=at_s,
        model=str(record.get("model") or ""),
        version=str(record.get("version") or ""),
        key=str(record.get("key") or ""),
        status=int(record.get("status") or 200),
        error=str(record.get("error") or ""),
        total_ms=record.get("total_ms"),
        first_token_ms=record.get("first_token_ms"),
        prompt_tokens=record.get("prompt_tokens") or None,
        completion_tokens=record.get("completion_tokens"),
        verdicts=record.get("verdicts"),
        **more,
    )


def observed_of(
    facts: Facts,
    exchange: Exchange | None = None,
    *,
    refused: Callable[[str], bool] | None = None,
    vocabulary: Vocabulary | None = None,
) -> Observed:
    """What is watched of a request. exchange: None = its texts are not looked at. Times and tokens are of answers that ended well."""
    numbers: dict[str, float] = {}
    flags = {
        "error": facts.status >= 500,
        "rejected": 400 <= facts.status < 500 and facts.status != CLIENT_GONE,
        "gone": facts.status == CLIENT_GONE,
    }
    labels: dict[str, str] = {}
    if facts.status < 400:
        _service(facts, numbers)
        if exchange is not None:
            found = features(
                exchange.prompt,
                exchange.answer.text,
                expects_json=exchange.expects_json,
                calls=exchange.answer.calls,
                refused=refused,
                vocabulary=vocabulary,
            )
            numbers |= found[0] | dict(exchange.answer.tokens)
            flags |= found[1]
            labels |= found[2]
            if exchange.answer.finish:
                flags["cut"] = exchange.answer.finish in ("length", "max_tokens")
    if facts.verdicts is not None:
        for side in ("in", "out"):
            flags[f"guard_{side}"] = any(one.get("side") == side and one.get("action") != "allow" for one in facts.verdicts)
        flags["guard_failed"] = any(one.get("error") for one in facts.verdicts)
    return Observed(
        request=facts.request,
        at_s=facts.at_s,
        model=facts.model,
        version=facts.version,
        key=facts.key,
        status=facts.status,
        error=facts.error,
        numbers=numbers,
        flags=flags,
        labels=labels,
        groups=facts.groups,
    )


def _service(facts: Facts, numbers: dict[str, float]) -> None:
    for name in ("total_ms", "first_token_ms", "queue_ms", "prompt_tokens", "completion_tokens", "cost", "joules_per_token"):
        value = getattr(facts, name)
        if value is not None:
            numbers[name] = float(value)
    after_first = (facts.completion_tokens or 0) - 1
    if facts.total_ms is not None and facts.first_token_ms is not None and after_first > 0 and facts.total_ms > facts.first_token_ms:
        numbers["token_ms"] = (facts.total_ms - facts.first_token_ms) / after_first
