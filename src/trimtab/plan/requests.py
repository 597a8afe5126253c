"""A user's own prompts and a service's trace as the requests of a workload.

Prompts: one JSON object a line, `{"prompt": "..."}` or `{"messages": [{"role": "user", "content": "..."}]}`, and `output_tokens` if that
is not to be 128.
Trace: a CSV file with the columns TIMESTAMP, ContextTokens and GeneratedTokens (as Azure publishes its traces of language model services).
"""

import csv
import itertools
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from trimtab.core.errors import InputError
from trimtab.core.files import parsed_json
from trimtab.core.workload import Workload, WorkloadRequest

OverLong = Literal["refuse", "drop", "cut"]
OVER_LONG: tuple[OverLong, ...] = ("refuse", "drop", "cut")
OUTPUT_TOKENS = 128
SAMPLE_SIZE = 64
CONCURRENCY = (1, 4)
LEAST_PROMPT_TOKENS = 16
MARK_TOKENS = 16
"""Room in each of a user's own prompts for the number that makes it different each time it is used."""
CHARACTERS_PER_TOKEN = 4
"""For the prediction only, until a tokenizer has counted."""
TRACE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
ROLES = ("system", "user", "assistant", "tool")
LONG_GAP = 100.0
"""A pause between two requests is named if it is this many times the mean one."""


def read_prompts(path: Path) -> Workload:
    """The workload of a file of prompts; its lengths are guesses until `with_lengths`. Raises InputError, which names the line."""
    requests = []
    for number, text in enumerate(_text(path).split("\n"), 1):  # other line ends may stand inside a JSON string
        if text.strip():
            requests.append(_prompt(text, f"Line {number} of {path}"))
    if not requests:
        raise InputError(f'{path} holds no prompts; write one JSON object a line, such as {{"prompt": "..."}}.')
    guesses = [sum(len(words) for _, words in request.messages) // CHARACTERS_PER_TOKEN + LEAST_PROMPT_TOKENS for request in requests]
    return with_lengths(
        Workload(
            name=path.name,
            title=f"{len(requests)} prompts of {path.name}",
            prompt_tokens=LEAST_PROMPT_TOKENS,
            output_tokens=OUTPUT_TOKENS,
            concurrency=CONCURRENCY,
            requests=tuple(requests),
        ),
        guesses,
    )


def _prompt(text: str, where: str) -> WorkloadRequest:
    try:
        row = parsed_json(text)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({getattr(error, 'msg', error)}).") from None
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        raise InputError(f"{where} needs either 'prompt' or 'messages'.")
    messages = [{"role": "user", "content": row["prompt"]}] if "prompt" in row else row["messages"]
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{where}: 'messages' must be a list with at least one message.")
    output_tokens = row.get("output_tokens", row.get("max_tokens", OUTPUT_TOKENS))
    if isinstance(output_tokens, bool) or not isinstance(output_tokens, int) or output_tokens < 2:
        raise InputError(f"{where}: 'output_tokens' must be a whole number of at least 2, not {output_tokens!r}.")
    return WorkloadRequest(prompt_tokens=0, output_tokens=output_tokens, messages=tuple(_message(one, where) for one in messages))


def _message(message: Any, where: str) -> tuple[str, str]:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
    if role not in ROLES:
        raise InputError(f"{where}: a message's 'role' must be one of {', '.join(ROLES)}, not {role!r}.")
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"{where}: a message's text must be a string that is not empty.")
    return role, content


def read_trace(path: Path) -> Workload:
    """The workload of a trace: all its requests with their arrival times; see `sampled`.

    Arrivals count from the first row. Nothing is closed up: a pause stays as long as it was, and a very long one is named in the title.
    Raises InputError, which names the line.
    """
    try:
        rows = list(csv.reader(_text(path).split("\n")))
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file ({error}).") from None
    head = tuple(name.strip() for name in rows[0]) if rows else ()
    if head != TRACE_COLUMNS:
        lacks = [name for name in TRACE_COLUMNS if name not in head]
        found = f"it lacks {', '.join(lacks)}" if lacks else f"it has {','.join(head)[:80]}"
        raise InputError(f"{path} must begin with the line {','.join(TRACE_COLUMNS)}; {found}.")
    requests: list[WorkloadRequest] = []
    first: datetime | None = None
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        where = f"Line {number} of {path}"
        moment, prompt_tokens, output_tokens = trace_row(row, where)
        first = first or moment
        arrival_s = (moment - first).total_seconds()
        if requests and arrival_s < (requests[-1].arrival_s or 0.0):
            raise InputError(f"{where} is earlier than the line before; sort the trace by time.")
        # A single token has no gap after it, and so no time per token; a prompt of a few tokens cannot be a fresh one each time.
        prompt_tokens, output_tokens = max(LEAST_PROMPT_TOKENS, prompt_tokens), max(2, output_tokens)
        requests.append(WorkloadRequest(prompt_tokens=prompt_tokens, output_tokens=output_tokens, arrival_s=arrival_s))
    if not requests:
        raise InputError(f"{path} holds no requests.")
    return with_lengths(
        Workload(
            name=path.name,
            title=_trace_title(requests),
            prompt_tokens=LEAST_PROMPT_TOKENS,
            output_tokens=OUTPUT_TOKENS,
            concurrency=CONCURRENCY,
            requests=tuple(requests),
        ),
        [request.prompt_tokens for request in requests],
    )


def trace_row(row: Sequence[str], where: str) -> tuple[datetime, int, int]:
    if len(row) != len(TRACE_COLUMNS):
        raise InputError(f"{where} has {len(row)} fields, not {len(TRACE_COLUMNS)}.")
    try:
        # Published with seven decimals of a second; a datetime holds six.
        whole, _, rest = row[0].strip().partition(".")
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        moment = datetime.fromisoformat(f"{whole}.{digits[:6].ljust(6, '0')}{rest[len(digits) :]}" if digits else row[0].strip())
    except ValueError:
        raise InputError(f"{where}: {row[0]!r} is not a time such as 2023-11-16 18:15:46.") from None
    counts = []
    for name, text in zip(TRACE_COLUMNS[1:], row[1:], strict=True):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", text) or int(text) < 1:
            raise InputError(f"{where}: {name} must be a whole number of at least 1, not {text!r}.")
        counts.append(int(text))
    return moment.replace(tzinfo=None), counts[0], counts[1]


def _trace_title(requests: Sequence[WorkloadRequest]) -> str:
    arrivals = [request.arrival_s or 0.0 for request in requests]
    span_s = arrivals[-1]
    title = f"{len(requests):,} requests of a trace of {span_s:,.0f} s"
    pauses = [after - before for before, after in itertools.pairwise(arrivals)]
    longest = max(pauses, default=0.0)
    if pauses and longest > LONG_GAP * span_s / len(pauses):
        title += f"; its longest pause, {longest:,.0f} s, is kept"
    return title


def sampled(workload: Workload) -> Workload:
    """Of a trace at most 64 requests, spread over its prompt and output lengths, for timing. Call it once all that is kept fits."""
    if len(workload.requests) <= SAMPLE_SIZE or any(request.arrival_s is None for request in workload.requests):
        return workload
    sample = tuple(stratified(workload.requests, SAMPLE_SIZE))
    title = f"{len(sample)} requests, spread over the lengths of {workload.title}"
    return with_lengths(replace(workload, title=title, requests=sample), [request.prompt_tokens for request in sample])


def stratified(requests: Sequence[WorkloadRequest], n: int) -> list[WorkloadRequest]:
    """At most `n` (3 or more) requests at even steps through all, sorted by prompt and then output length; in their own order.

    There is no chance in it. The one that needs most context is always among them.
    """
    if len(requests) <= n:
        return list(requests)
    ordered = sorted(range(len(requests)), key=lambda index: (requests[index].prompt_tokens, requests[index].output_tokens, index))
    steps = n - 1
    picked = {ordered[round(step * (len(ordered) - 1) / (steps - 1))] for step in range(steps)}
    picked.add(max(ordered, key=lambda index: requests[index].prompt_tokens + requests[index].output_tokens))
    return [requests[index] for index in sorted(picked)]


def with_lengths(workload: Workload, prompt_tokens: Sequence[int]) -> Workload:
    """The workload with its medians and its longest request, from the prompt tokens of each request (counted, or guessed)."""
    outputs = [request.output_tokens for request in workload.requests]
    return replace(
        workload,
        prompt_tokens=max(LEAST_PROMPT_TOKENS, round(statistics.median(prompt_tokens))),
        output_tokens=max(2, round(statistics.median(outputs))),
        most_tokens=max(prompt + output for prompt, output in zip(prompt_tokens, outputs, strict=True)),
    )


def fitted(workload: Workload, context_tokens: int, rule: OverLong) -> tuple[Workload, str]:
    """The workload with requests that all fit the context, and what was done in one sentence (empty = nothing).

    `refuse` raises InputError if one does not fit; `drop` leaves those out; `cut` keeps the end of their prompts.
    """
    if not workload.requests:
        if workload.context_tokens <= context_tokens:
            return workload, ""
        raise InputError(
            f"Workload {workload.name!r} needs {workload.context_tokens:,} tokens of context; the model has {context_tokens:,}. "
            "Choose a --workload of shorter requests."
        )
    fitting = tuple(request for request in workload.requests if request.prompt_tokens + request.output_tokens <= context_tokens)
    if len(fitting) == len(workload.requests):
        return workload, ""
    most = max(request.prompt_tokens + request.output_tokens for request in workload.requests)
    n_long, n_all = len(workload.requests) - len(fitting), len(workload.requests)
    of_all = f"{n_long:,} of {n_all:,} requests need more than the model's context of {context_tokens:,} tokens"
    if rule == "refuse":
        raise InputError(
            f"{of_all} (the longest {most:,}); `--over-long drop` of optimize leaves them out, `cut` keeps the end of their prompts."
        )
    if rule == "drop":
        kept = fitting
        done = f"{of_all} and were left out"
    else:
        kept = tuple(_cut(request, context_tokens) for request in workload.requests)
        done = f"{of_all}; of their prompts only the end is kept"
    if not kept:
        raise InputError(f"All {len(workload.requests):,} requests need more than the model's context of {context_tokens:,} tokens.")
    fits = replace(workload, requests=kept)
    return with_lengths(fits, [request.prompt_tokens for request in kept]), f"{done} (the longest had {most:,} tokens)."


def _cut(request: WorkloadRequest, context_tokens: int) -> WorkloadRequest:
    room = context_tokens - request.output_tokens
    if room < LEAST_PROMPT_TOKENS:
        raise InputError(f"A request for {request.output_tokens:,} output tokens leaves no room in a context of {context_tokens:,} tokens.")
    return replace(request, prompt_tokens=min(request.prompt_tokens, room))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
