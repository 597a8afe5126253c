"""One line of a traffic log, whoever wrote it, to facts and texts of a request, or to what is learnt late of one. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from trimtab.core.groups import NAME, groups_of, stated_groups
from trimtab.core.watching import Late, LateKind
from trimtab.watch.bodies import Answer, Exchange, answer_of, answer_of_events, asked, expects_json
from trimtab.watch.observing import Facts, facts_of_record

_ID = ("request_id", "id", "litellm_call_id", "trace_id", "traceId", "custom_id", "response.id")
_ENDED = ("endTime", "end_time", "ended_at", "completed_at")
_AT = ("at", "timestamp", "@timestamp", "time", "ts", "created_at", "createdAt", "created", "response.created", "response.created_at")
_STARTED = ("startTime", "start_time", "started_at")
_FIRST = ("completionStartTime", "completion_start_time", "first_token_at")
_TOTAL_MS = ("total_ms", "latency_ms", "duration_ms", "response_time_ms")
_TOTAL_S = ("latency", "duration", "latency_s", "duration_s", "response_time", "e2e_latency")
_FIRST_MS = ("first_token_ms", "ttft_ms", "time_to_first_token_ms")
_FIRST_S = ("ttft", "time_to_first_token", "timeToFirstToken")
_PROMPT = ("prompt_tokens", "input_tokens", "promptTokens", "usage.prompt_tokens", "usage.input_tokens", "usage.input")
_COMPLETION = ("completion_tokens", "output_tokens", "completionTokens", "usage.completion_tokens", "usage.output_tokens", "usage.output")
_COST = ("response_cost", "cost", "total_cost", "totalCost", "calculatedTotalCost", "spend")
_MODEL = ("model", "request.model", "response.model", "model_name")
_VERSION = ("version", "model_version", "deployment", "model_id", "response.system_fingerprint")
_KEY = ("key", "user_api_key_hash", "metadata.user_api_key_hash", "api_key_hash", "user", "userId", "user_id", "end_user", "request.user")
_STATUS = ("status_code", "http_status", "response.status_code", "status")
_REQUEST = ("request", "request_body", "body", "input", "messages", "prompt", "question")
_RESPONSE = ("response", "response_body", "output", "completion", "answer", "generation")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a line says of a request. has_id: False = the id is made from the line's number; has_time: False = at_s is 0"""

    facts: Facts
    exchange: Exchange | None
    has_id: bool
    has_time: bool
    lates: tuple[Late, ...] = ()


def row_of(line: Mapping[str, Any], number: int) -> Row | Late | str | None:
    """What a line says. None: nothing of a request's end, by its kind; a text: what is wrong with it."""
    body = line.get("body")
    if isinstance(body, Mapping) and "seq" in line and "hash" in line:
        line = body
    if "event" in line and "request" in line and isinstance(line["request"], str):
        return _audit_row(line)
    if "event" in line and "at" in line and not any(name in line for name in (*_RESPONSE, "messages")):
        return None  # other records of the gateway's log
    if ("request_id" in line or "request" in line) and "name" in line and "value" in line:
        return _late(line, line.get("request_id", line.get("request")), "outcome" if line.get("kind") == "outcome" else "feedback")
    return _any_row(line, number)


def _audit_row(record: Mapping[str, Any]) -> Row | None:
    if record["event"] != "ended" or not record.get("model"):
        return None
    at_s = time_of(record.get("at"))
    return Row(facts=facts_of_record(record, at_s=at_s or 0.0), exchange=None, has_id=True, has_time=at_s is not None)


def _late(line: Mapping[str, Any], request: Any, kind: str) -> Late | str:
    value = line.get("value")
    if not isinstance(request, str) or not isinstance(value, int | float) or not NAME.fullmatch(str(line.get("name"))):
        return "feedback needs a text as `request_id`, a short lower-case `name` and a number as `value`"
    at_s = time_of(_first(line, _AT))
    told = stated_groups(line.get("group") or line.get("groups"))
    return Late(request=request, at_s=at_s or 0.0, kind=cast(LateKind, kind), name=str(line["name"]), value=float(value), groups=told)


def _any_row(line: Mapping[str, Any], number: int) -> Row | str:
    line = {key: _opened(value) if key in (*_REQUEST, *_RESPONSE, "metadata", "usage") else value for key, value in line.items()}
    request, answer = _request_of(line), _answer_of(line)
    if request is None and answer is None and _first(line, (*_STATUS, *_TOTAL_MS, *_TOTAL_S)) is None:
        return "there is neither a request nor an answer in it that is known"
    started, ended = (time_of(_first(line, names)) for names in (_STARTED, _ENDED))
    at_s = ended if ended is not None else time_of(_first(line, _AT))
    at_s = at_s if at_s is not None else started
    found_id = _first(line, _ID)
    status, error = _status_of(line)
    total_ms = _ms(line, _TOTAL_MS, _TOTAL_S, started, ended)
    facts = Facts(
        request=str(found_id) if found_id is not None else f"line-{number}",
        at_s=at_s or 0.0,
        model=_name(line, _MODEL) or str((request or {}).get("model") or ""),
        version=_name(line, _VERSION),
        key=_name(line, _KEY),
        status=status,
        error=error,
        total_ms=total_ms,
        first_token_ms=_ms(line, _FIRST_MS, _FIRST_S, started, time_of(_first(line, _FIRST))),
        prompt_tokens=_number(line, _PROMPT, answer.n_prompt if answer is not None else None),
        completion_tokens=_number(line, _COMPLETION, answer.n_completion if answer is not None else None),
        cost=_number(line, _COST, None),
        groups=_groups(line, request),
    )
    exchange = None
    if request is not None and answer is not None:
        exchange = Exchange(prompt=asked(request), answer=answer, expects_json=expects_json(request))
    return Row(facts=facts, exchange=exchange, has_id=found_id is not None, has_time=at_s is not None, lates=tuple(_lates_of(line, facts)))


def _request_of(line: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The request as a body."""
    for name in _REQUEST:
        value = line.get(name)
        if isinstance(value, Mapping):
            inner = value.get("body")
            return inner if isinstance(inner, Mapping) else value if value.get("role") is None else {"messages": [value]}
        if isinstance(value, list) and value:
            return {"messages": value, **_plain(line, "response_format")}
        if isinstance(value, str):
            return {"prompt": value, **_plain(line, "response_format")}
    return None


def _plain(line: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {name: line[name]} if name in line else {}


def _answer_of(line: Mapping[str, Any]) -> Answer | None:
    for name in _RESPONSE:
        value = line.get(name)
        if isinstance(value, Mapping):
            inner = value.get("body")
            return answer_of(inner if isinstance(inner, Mapping) else value)
        if isinstance(value, list) and value:
            last = value[-1]
            return answer_of(last) if isinstance(last, Mapping) else Answer(text=str(last))
        if isinstance(value, str):
            return answer_of_events(value.encode("utf-8", "replace")) if value.startswith("data:") else Answer(text=value)
    messages = line.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return answer_of(last) if isinstance(last, Mapping) and last.get("role") == "assistant" else None


def _opened(value: Any) -> Any:
    """Dumps of databases hold JSON as text."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        import msgspec

        try:
            return msgspec.json.decode(value)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return value
    return value


def _lates_of(line: Mapping[str, Any], facts: Facts) -> Iterator[Late]:
    """Scores that stand beside a request: Langfuse's list of them, or a table `feedback`."""
    told = line.get("feedback")
    rows: Sequence[Any] = [{"name": name, "value": value} for name, value in told.items()] if isinstance(told, Mapping) else []
    scores = line.get("scores")
    for row in [*rows, *(scores if isinstance(scores, list) else ())]:
        if isinstance(row, Mapping) and isinstance(row.get("value"), int | float) and NAME.fullmatch(str(row.get("name"))):
            yield Late(request=facts.request, at_s=facts.at_s, kind="feedback", name=str(row["name"]), value=float(row["value"]))


def _status_of(line: Mapping[str, Any]) -> tuple[int, str]:
    """HTTP status and error. Without either the request ended well; a fault without a status is one of the server."""
    status = next((int(found) for path in _STATUS if isinstance(found := _at(line, path), int) and 100 <= found <= 599), None)
    word = str(_at(line, "status") or _at(line, "level") or "").lower()
    error = _at(line, "error") or _at(line, "error_str") or _at(line, "response.error")
    failed = bool(error) or word in ("failure", "failed", "error")
    code = _at(error, "code") or _at(error, "type") if isinstance(error, Mapping) else None
    if status is None:
        status = 500 if failed else 200
    return status, (str(code) if code else "error")[:64] if status >= 400 else ""


def _groups(line: Mapping[str, Any], request: Mapping[str, Any] | None) -> dict[str, str]:
    return groups_of(line.get("metadata")) | groups_of((request or {}).get("metadata")) | stated_groups(line.get("groups"))


def _ms(line: Mapping[str, Any], in_ms: Sequence[str], in_s: Sequence[str], start: float | None, end: float | None) -> float | None:
    found = _number(line, in_ms, None)
    if found is None and (seconds := _number(line, in_s, None)) is not None:
        found = 1000.0 * seconds
    if found is None and start is not None and end is not None:
        found = 1000.0 * (end - start)
    return found if found is None or found >= 0.0 else None


def _number(line: Mapping[str, Any], paths: Sequence[str], default: Any) -> Any:
    for path in paths:
        found = _at(line, path)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return found
    return default


def _name(line: Mapping[str, Any], paths: Sequence[str]) -> str:
    return next((found[:256] for path in paths if isinstance(found := _at(line, path), str) and found), "")


def _first(line: Mapping[str, Any], paths: Sequence[str]) -> Any:
    return next((found for path in paths if (found := _at(line, path)) is not None and found != ""), None)


def _at(line: Any, path: str) -> Any:
    if "." not in path:
        return line.get(path)
    head, rest = path.split(".", 1)
    inner = line.get(head)
    if not isinstance(inner, dict):
        return None
    body = inner.get("body")
    return inner.get(rest) if rest in inner or not isinstance(body, dict) else body.get(rest)


def time_of(value: Any) -> float | None:
    """Seconds since 1970 of a number (s, ms or us) or an ISO 8601 text, UTC where it names no zone; None if it is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) / (1e6 if abs(value) > 1e14 else 1e3 if abs(value) > 1e11 else 1.0)
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value.strip())
            return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    return None
