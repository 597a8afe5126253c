"""A span for each request in OpenTelemetry's form, by its conventions for generative models; none of anybody's text.

Configured as OpenTelemetry's own tools are: spans are sent where OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) says, by OTLP over
HTTP; without it nothing is loaded. A request that names its trace in `traceparent` becomes a part of that trace. Sending is done by a
thread of OpenTelemetry's; where the collector is away, spans are dropped and requests go on.
"""

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from trimtab.core.errors import MissingError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
OPERATIONS = {"/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}
FLUSH_MS = 5000


class Traces:
    """Where spans go. exporter: None = OTLP over HTTP, as the environment says. Raises MissingError without OpenTelemetry's packages."""

    def __init__(self, exporter: "SpanExporter | None" = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise MissingError(f"Traces are asked for, but {error.name} is not installed.", "pip install 'trimtab[traces]'") from error
        name = os.environ.get("OTEL_SERVICE_NAME") or "trimtab"
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("trimtab.serve")
        self._propagator = TraceContextTextMapPropagator()
        self._kind = trace.SpanKind.SERVER
        self._failed = trace.Status(trace.StatusCode.ERROR)

    @classmethod
    def from_environment(cls) -> Self | None:
        """None where no endpoint is configured."""
        return cls() if any(os.environ.get(name) for name in ENDPOINTS) else None

    def request(self, ended: Mapping[str, Any], *, path: str, is_stream: bool, traceparent: str = "") -> None:
        """The span of a request that ends now. ended: what the audit log is told at its end."""
        ended_ns = time.time_ns()
        began_ns = ended_ns - int(1e6 * ended["total_ms"])
        operation = OPERATIONS.get(path, "chat")
        span = self._tracer.start_span(
            f"{operation} {ended['model']}".strip(),
            context=self._propagator.extract({"traceparent": traceparent}) if traceparent else None,
            kind=self._kind,
            attributes=_attributes(ended, operation, path, is_stream),
            start_time=began_ns,
        )
        if ended["first_token_ms"] is not None and is_stream:
            span.add_event("first token", timestamp=began_ns + int(1e6 * ended["first_token_ms"]))
        if ended["status"] >= 500:
            span.set_status(self._failed)
        span.end(end_time=ended_ns)

    def close(self) -> None:
        """Send what is left, for FLUSH_MS at most."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()


def _attributes(ended: Mapping[str, Any], operation: str, path: str, is_stream: bool) -> dict[str, Any]:
    """Names of opentelemetry.io/docs/specs/semconv/gen-ai, and `trimtab.*` for what they have no name for."""
    found: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "trimtab",
        "gen_ai.request.model": ended["model"],
        "gen_ai.request.stream": is_stream,
        "gen_ai.response.id": ended["request"],
        "gen_ai.usage.input_tokens": ended["prompt_tokens"],
        "gen_ai.usage.output_tokens": ended["completion_tokens"],
        "http.response.status_code": ended["status"],
        "url.path": path,
        "trimtab.version": ended["version"],
        "trimtab.key": ended["key"],
        "trimtab.guards": [f"{verdict['guard']}:{verdict['side']}:{verdict['action']}" for verdict in ended["verdicts"]],
    }
    if ended["first_token_ms"] is not None and is_stream:
        found["gen_ai.response.time_to_first_chunk"] = ended["first_token_ms"] / 1e3
    if ended["error"]:
        found["error.type"] = ended["error"]
    return found
