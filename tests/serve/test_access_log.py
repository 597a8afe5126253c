"""The access line: facts of a request, and nothing that it said."""

import hashlib
import json

from trimtab.core.guarding import Finding, Verdict
from trimtab.serve.access_log import access_line
from trimtab.serve.base import Usage
from trimtab.serve.journey import Journey, ended_record


def test_it_says_how_a_request_ended() -> None:
    finding = Finding(rule="email", start=3, end=9, reason="an address")
    journey = Journey(id="req_1", path="/v1/chat/completions", output=hashlib.sha256(), model="chat", version="chat@1")
    journey.verdicts = [Verdict(guard="personal-data", side="in", action="redact", findings=(finding,))]
    record = ended_record(journey, Usage(prompt=5, completion=7), 1.5, 0.25)
    line = access_line({**record, "prompt": "secret words", "input": ["secret words"]})
    assert "\n" not in line
    assert "secret" not in line
    row = json.loads(line)
    assert {name: row[name] for name in ("request", "model", "version", "status", "prompt_tokens", "completion_tokens", "total_ms")} == {
        "request": "req_1",
        "model": "chat",
        "version": "chat@1",
        "status": 200,
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_ms": 1500.0,
    }
    assert row["guards"] == ["personal-data:in:redact"]
