"""Records of the audit log in the words of the page. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.core.phrases import count, line, milliseconds
from trimtab.record.audit_search import Noted, rules_of

_TOLD = ("at", "event", "request", "key", "model", "version", "status", "verdicts")


@dataclass(frozen=True, kw_only=True)
class AuditLine:
    """One record. rest: what else stands in it; is_whole: its hash is its own"""

    seq: int
    at: str
    event: str
    request: str
    key: str
    model: str
    version: str
    status: str
    is_fault: bool
    took: str
    tokens: str
    rules: tuple[tuple[str, str], ...]
    rest: tuple[tuple[str, str], ...]
    is_whole: bool


def audit_lines(records: Sequence[Noted]) -> list[AuditLine]:
    return [_line(one) for one in records]


def _line(one: Noted) -> AuditLine:
    body = one.body
    status = body.get("status")
    tokens = [body.get("prompt_tokens"), body.get("completion_tokens")]
    return AuditLine(
        seq=one.seq,
        at=line(body.get("at", "")),
        event=line(body.get("event", "")),
        request=line(body.get("request", ""), 80),
        key=line(body.get("key", ""), 80),
        model=line(body.get("model", ""), 80),
        version=line(body.get("version", ""), 80),
        status="" if status is None else line(status, 20),
        is_fault=isinstance(status, int) and status >= 400,
        took=milliseconds(body["total_ms"]) if body.get("total_ms") is not None else "",
        tokens=f"{count(tokens[0])} → {count(tokens[1])}" if tokens[0] is not None else "",
        rules=tuple(_rules(body)),
        rest=tuple((line(key), _shown(value)) for key, value in body.items() if key not in _TOLD),
        is_whole=one.is_whole,
    )


def _rules(body: dict[str, Any]) -> list[tuple[str, str]]:
    """(rule, what it led to) for every guard that spoke."""
    found = []
    for verdict in body.get("verdicts") or ():
        names = rules_of({"verdicts": [verdict]})[1:] or [str(verdict.get("guard", ""))]
        side = {"in": "request", "out": "answer"}.get(str(verdict.get("side")), "")
        found += [(line(name), f"{line(verdict.get('action', ''))} {side}".strip()) for name in names]
    return found


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        import json

        return line(json.dumps(value, ensure_ascii=False), 2000)
    return line(value, 2000)


def summed_up(found: dict[str, Any]) -> dict[str, Any]:
    """The answer of `verify log`."""
    return {
        "verdict": str(found.get("verdict", "inconclusive")),
        "reasons": [line(reason) for reason in found.get("reasons") or ()],
        "n": count(found.get("n_records")),
        "at": line((found.get("checkpoint") or {}).get("at", "")),
    }
