"""Random requests, right and wrong, by the document at /openapi.json: no answer is a failure of the server, all have the form it states."""

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_gateway import Running
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from trimtab.serve.openapi import openapi_document
from trimtab.testing.tiny_models import write_tiny_gguf

SITE = 'audit = "off"\n[[models]]\nname = "chat"\nurl = "http://127.0.0.1:9/v1"\nslots = 4\nqueue_wait_s = 20\n'
FAKE = """
from trimtab.serve import replica_http
from trimtab.testing.fake_replica import FakeReplica
replica_http.HttpReplica = lambda model, version: FakeReplica()
"""
TINY = """
from pathlib import Path
from trimtab.core.deployment import Settings
from trimtab.serve import replica_http
from trimtab.serve.replica_worker import WorkerReplica
from trimtab.testing.snapshots import snapshot_of
snapshot = snapshot_of(Path({path!r}))
settings = Settings(context_tokens=256, slots=2, threads=1)
replica_http.HttpReplica = lambda model, version: WorkerReplica(engine="llamacpp", snapshot=snapshot, settings=settings, model="chat")
"""
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
N_CASES = 60
Start = Callable[..., Running]


@pytest.fixture
def running(gateway: Start, tmp_path: Path) -> Iterator[list[Running]]:
    """A gateway before a replica without a model and, where llama.cpp is there, one before a random model in it."""
    before = [FAKE]
    if importlib.util.find_spec("llama_cpp") is not None:
        before.append(TINY.format(path=str(write_tiny_gguf(tmp_path / "tiny.gguf"))))
    found = [gateway(SITE, before=one, home=tmp_path / f"home-{number}") for number, one in enumerate(before)]
    yield found
    for one in found:
        assert one.process.poll() is None
        one.end()


def cases(path: str) -> Any:
    """Requests that keep the document, and such that break it. Most name the model that there is."""
    operation = schemathesis.openapi.from_dict(openapi_document())[path]["POST"]
    return st.one_of(operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))


def check_events(path: str, text: str) -> None:
    """Each event of a stream is JSON of an object, no event is an error of the server, and the stream has its end."""
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    if path != "/v1/responses":
        assert events.pop() == "[DONE]"
    for event in map(json.loads, events):
        error = event.get("error") or {}
        assert error.get("type") != "server_error", error


@pytest.mark.slow
def test_every_answer_is_one_that_the_document_states(running: list[Running]) -> None:
    bases = [one.url.removesuffix("/v1") for one in running]
    for path in PATHS:
        statuses = asked(bases, path)
        assert len(statuses) >= N_CASES * len(bases) / 2, path
        assert any(status >= 400 for status in statuses), path
    document = schemathesis.openapi.from_dict(openapi_document())
    for case in (document["/v1/models"]["GET"].Case(), document["/v1/models/{model}"]["GET"].Case(path_parameters={"model": "chat"})):
        for base in bases:
            response = case.call(base_url=base)
            assert response.status_code == 200
            case.validate_response(response, checks=CHECKS)


def asked(bases: Sequence[str], path: str) -> list[int]:
    """Statuses of what was asked of one path, of every gateway the same, as most of the time goes into making it up."""
    statuses: list[int] = []

    @settings(max_examples=N_CASES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases(path), is_named=st.integers(0, 9))
    def run(case: Any, is_named: int) -> None:
        if isinstance(case.body, dict) and is_named:
            case.body["model"] = "chat"
        for base in bases:
            response = case.call(base_url=base, timeout=30)
            statuses.append(response.status_code)
            if response.status_code == 200 and response.headers["content-type"][0].startswith("text/event-stream"):
                check_events(path, response.text)
            else:
                case.validate_response(response, checks=CHECKS)

    run()
    return statuses
