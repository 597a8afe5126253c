"""Spans of requests: by OpenTelemetry's names, through its own exporter to a collector, and never in the way."""

import hashlib
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import StatusCode

from trimtab.core.guarding import Verdict
from trimtab.serve.base import Usage
from trimtab.serve.journey import Journey, ended_record
from trimtab.serve.traces import ENDPOINTS, Traces

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def ended(status: int = 200, error: str = "") -> dict[str, object]:
    journey = Journey(id="req_1", path="/v1/chat/completions", output=hashlib.sha256(), model="chat", version="chat@1")
    journey.status, journey.error = status, error
    journey.verdicts = [Verdict(guard="secrets", side="in", action="redact")]
    return ended_record(journey, Usage(prompt=5, completion=7), 1.5, 0.25)


def test_a_span_says_what_conventions_ask_for() -> None:
    exporter = InMemorySpanExporter()
    traces = Traces(exporter)
    traces.request(ended(), path="/v1/chat/completions", is_stream=True, traceparent=PARENT)
    traces.request(ended(503, "queue_full"), path="/v1/embeddings", is_stream=False)
    traces.close()
    good, bad = exporter.get_finished_spans()
    assert (good.name, bad.name) == ("chat chat", "embeddings chat")
    names = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    for span in (good, bad):
        assert span.attributes is not None
        assert {name for name in span.attributes if name.startswith("gen_ai.")} <= names
    assert good.attributes is not None
    assert bad.attributes is not None
    assert (good.attributes["gen_ai.usage.input_tokens"], good.attributes["gen_ai.usage.output_tokens"]) == (5, 7)
    assert good.attributes["trimtab.guards"] == ("secrets:in:redact",)
    assert good.start_time is not None
    assert good.end_time is not None
    assert (good.end_time - good.start_time, good.events[0].timestamp - good.start_time) == (1_500_000_000, 250_000_000)
    assert abs(good.end_time - time.time_ns()) < 60e9
    assert good.parent is not None
    assert f"{good.parent.trace_id:032x}-{good.parent.span_id:016x}" in PARENT
    assert bad.parent is None
    assert (good.status.status_code, bad.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert bad.attributes["error.type"] == "queue_full"
    assert not bad.events


def test_a_traceparent_that_is_nonsense_begins_a_trace() -> None:
    exporter = InMemorySpanExporter()
    traces = Traces(exporter)
    for nonsense in ("x", "00-0-0-0", "é" * 500):
        traces.request(ended(), path="/v1/completions", is_stream=False, traceparent=nonsense)
    traces.close()
    assert [span.parent for span in exporter.get_finished_spans()] == [None] * 3


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A collector of spans: what was posted to it."""
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        for name in ENDPOINTS:
            monkeypatch.delenv(name, raising=False)
        assert Traces.from_environment() is None
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield bodies
        server.shutdown()
        thread.join()


def test_spans_reach_a_collector(collector: list[bytes]) -> None:
    traces = Traces.from_environment()
    assert traces is not None
    traces.request(ended(), path="/v1/chat/completions", is_stream=True)
    traces.close()
    [resource] = ExportTraceServiceRequest.FromString(collector[0]).resource_spans
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "trimtab"
    [span] = resource.scope_spans[0].spans
    assert span.name == "chat chat"


def test_a_collector_that_is_away_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    traces = Traces.from_environment()
    assert traces is not None
    began = time.process_time()
    for _ in range(100):
        traces.request(ended(), path="/v1/chat/completions", is_stream=True)
    assert time.process_time() - began < 5
    monkeypatch.setattr("trimtab.serve.traces.FLUSH_MS", 1)
    traces.close()


def test_nothing_of_it_is_loaded_unless_asked_for() -> None:
    code = (
        "import trimtab.serve.traces, trimtab.serve.meter, sys; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
