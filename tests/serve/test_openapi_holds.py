"""Random requests, right and wrong, by the document at /openapi.json: no answer is a failure of the server, all have the form it states."""

import json
import time
from collections.abc import Callable, Iterator
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
from trimtab.core.files import sha256_file
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.serve import replica_http
from trimtab.serve.replica_worker import WorkerReplica
path = Path({path!r})
file = SnapshotFile(name=path.name, size_bytes=path.stat().st_size, sha256=sha256_file(path))
snapshot = Snapshot(source=str(path), format="gguf", root=path.parent, files=(file,))
settings = Settings(context_tokens=256, slots=2, threads=1)
replica_http.HttpReplica = lambda model, version: WorkerReplica(engine="llamacpp", snapshot=snapshot, settings=settings, model="chat")
"""
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LIMIT_S = 12.0
Start = Callable[..., Running]


@pytest.fixture(params=["fake", pytest.param("tiny", marks=pytest.mark.model)])
def running(request: pytest.FixtureRequest, gateway: Start, tmp_path: Path) -> Iterator[Running]:
    """A gateway before a replica without a model, and before a random model in llama.cpp."""
    if request.param == "fake":
        before = FAKE
    else:
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
        before = TINY.format(path=str(write_tiny_gguf(tmp_path / "tiny.gguf")))
    found = gateway(SITE, before=before)
    yield found
    assert found.process.poll() is None
    found.end()


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
def test_every_answer_is_one_that_the_document_states(running: Running) -> None:
    base = running.url.removesuffix("/v1")
    for path in PATHS:
        statuses = asked(base, path)
        assert len(statuses) >= 10, f"{path}: there was time for some"
        assert any(status >= 400 for status in statuses), path
    document = schemathesis.openapi.from_dict(openapi_document())
    for case in (document["/v1/models"]["GET"].Case(), document["/v1/models/{model}"]["GET"].Case(path_parameters={"model": "chat"})):
        response = case.call(base_url=base)
        assert response.status_code == 200
        case.validate_response(response, checks=CHECKS)


def asked(base: str, path: str) -> list[int]:
    """Statuses of what was asked of one path within the limit; each answer was checked."""
    ends_s = time.monotonic() + LIMIT_S
    statuses: list[int] = []

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases(path), is_named=st.integers(0, 9))
    def run(case: Any, is_named: int) -> None:
        if time.monotonic() > ends_s:
            return
        if isinstance(case.body, dict) and is_named:
            case.body["model"] = "chat"
        response = case.call(base_url=base, timeout=30)
        statuses.append(response.status_code)
        if response.status_code == 200 and response.headers["content-type"][0].startswith("text/event-stream"):
            check_events(path, response.text)
        else:
            case.validate_response(response, checks=CHECKS)

    run()
    return statuses
