"""OpenTelemetry traces of requests; every span and attribute name stands here.

Names follow OpenTelemetry's conventions for generative AI (still in development there); what they
have no name for begins with ``foretell.``. What was asked and answered is never recorded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points, version
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import (
    NoOpTracer,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from foretell.errors import ConfigError
from foretell.records import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.util.types import AttributeValue

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
STREAMED: Final = "gen_ai.request.stream"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK_S: Final = "gen_ai.response.time_to_first_chunk"
CONVERSATION: Final = "gen_ai.conversation.id"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
STATUS: Final = "http.response.status_code"
ERROR: Final = "error.type"

ROUTE: Final = "foretell.route"
DECISION: Final = "foretell.decision"
CAUSE: Final = "foretell.cause"
SERVE: Final = "foretell.serve"
P_SUCCESS: Final = "foretell.p_success"
P_STRONG: Final = "foretell.p_strong"
KEEP_AT: Final = "foretell.keep_at"
PROBE: Final = "foretell.probe"
COST_USD: Final = "foretell.cost_usd"
TARGET: Final = "foretell.target"
OUTCOME: Final = "foretell.outcome"

_CHAT: Final = "chat"
_OURSELVES: Final = "foretell"
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_INSTALL: Final = "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
_PROTOCOLS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


class Traces:
    """Starts the spans of requests; without a provider they are nobody's, and cost little."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = (
            NoOpTracer()
            if provider is None
            else provider.get_tracer(_OURSELVES, version("foretell"))
        )

    @classmethod
    def from_environment(cls) -> Traces:
        """Traces that are sent as the standard ``OTEL_*`` variables say, by OTLP over HTTP if not.

        Raises ``ConfigError`` naming what to install where OpenTelemetry's SDK or the exporter that
        is asked for is missing.
        """
        exporters = _exporters(os.environ.get("OTEL_TRACES_EXPORTER") or "otlp")
        return cls(_provider(exporters)) if exporters else cls()

    def request_span(
        self, model: str, headers: Mapping[str, str], *, streamed: bool = False
    ) -> TraceSpan:
        """The span of a request for a route or model, ``chat {model}``.

        ``model`` must be a name of the configuration: names of spans are to be few. ``headers``
        have lower-case names; a ``traceparent`` among them is continued.
        """
        parent = None if self._provider is None else _PROPAGATOR.extract(headers)
        attributes = {
            OPERATION: _CHAT,
            PROVIDER: _OURSELVES,
            REQUEST_MODEL: model,
            STREAMED: streamed,
        }
        return TraceSpan(
            self._tracer,
            self._tracer.start_span(
                f"{_CHAT} {model}", parent, kind=SpanKind.SERVER, attributes=attributes
            ),
        )

    def close(self) -> None:
        """Send what is left, for some seconds at most, which blocks; safe to call twice."""
        provider, self._provider = self._provider, None
        self._tracer = NoOpTracer()
        if provider is not None:
            provider.shutdown()


class TraceSpan:
    """One span: a context that ends it, or ``end`` where the work outlives a block.

    It is nobody's current span: an answer is streamed by other tasks and threads than the one that
    began it. Whatever is raised inside is noted by its class alone; its message may quote a caller.
    """

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    def __enter__(self) -> TraceSpan:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.failed(kind.__name__)
        self.end()

    def prefill(self) -> TraceSpan:
        """A child around the weak model's prefill."""
        return self._child("prefill", SpanKind.INTERNAL, {})

    def upstream(self, target: str, *, model: str, provider: str | None) -> TraceSpan:
        """A child around the calls of one target.

        ``model`` is what the API knows it by, ``provider`` whose API it is, if that is known.
        """
        attributes: dict[str, AttributeValue] = {
            OPERATION: _CHAT,
            PROVIDER: provider or "openai",  # whose protocol is spoken
            REQUEST_MODEL: model,
            TARGET: target,
        }
        return self._child(f"{_CHAT} {target}", SpanKind.CLIENT, attributes)

    def attempted(self, outcome: str, status: int | None) -> None:
        """Note how one call of an upstream went; a span has as many as there were attempts."""
        if self._span.is_recording():
            self._span.add_event(
                "attempt", {OUTCOME: outcome, **({} if status is None else {STATUS: status})}
            )

    def served(self, record: RequestRecord) -> None:
        """Note how the request went; before the span ends."""
        if not self._span.is_recording():
            return
        self._span.set_attributes(_attributes(record))
        if record.status >= 500:
            self.failed(str(record.status))

    def failed(self, error: str) -> None:
        """Note that it failed, and by which class of error or status."""
        self._span.set_attribute(ERROR, error)
        self._span.set_status(Status(StatusCode.ERROR))

    def headers(self) -> dict[str, str]:
        """What carries the trace on to whoever is called; empty when there is no trace."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(self._span))
        return carrier

    def end(self) -> None:
        """The work is over; safe to call twice."""
        if self._span.is_recording():
            self._span.end()

    def _child(
        self, name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]
    ) -> TraceSpan:
        parent = set_span_in_context(self._span)
        return TraceSpan(
            self._tracer, self._tracer.start_span(name, parent, kind=kind, attributes=attributes)
        )


def _attributes(record: RequestRecord) -> dict[str, AttributeValue]:
    """What is known of a request that was served; the rest is left out."""
    usage = record.usage
    known: dict[str, Any] = {
        RESPONSE_ID: record.id,
        RESPONSE_MODEL: record.model,
        FINISH_REASONS: None if record.finish_reason is None else (record.finish_reason,),
        FIRST_CHUNK_S: record.first_byte_s if record.streamed else None,
        CONVERSATION: record.session,
        INPUT_TOKENS: None if usage is None else usage.prompt_tokens,
        OUTPUT_TOKENS: None if usage is None else usage.completion_tokens,
        CACHED_TOKENS: None if usage is None else usage.cached_tokens,
        REASONING_TOKENS: None if usage is None else usage.reasoning_tokens,
        STATUS: record.status,
        ROUTE: record.route,
        DECISION: record.action,
        CAUSE: record.cause,
        SERVE: record.serve,
        P_SUCCESS: record.p_success,
        P_STRONG: record.p_strong,
        KEEP_AT: record.keep_at,
        PROBE: record.probe,
        COST_USD: record.cost_usd,
    }
    return {name: value for name, value in known.items() if value is not None}


def _provider(exporters: list[SpanExporter]) -> TracerProvider:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "unknown")).startswith("unknown"):
        resource = resource.merge(Resource({SERVICE_NAME: _OURSELVES}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporters(names: str) -> list[SpanExporter]:
    return [
        _exporter(name) for part in names.split(",") if (name := part.strip()) not in ("", "none")
    ]


def _exporter(name: str) -> SpanExporter:
    try:
        import_module("opentelemetry.sdk.trace")
    except ImportError:
        raise ConfigError(
            f"server.traces is on, but OpenTelemetry's SDK is not installed; {_INSTALL}, or switch "
            "server.traces off"
        ) from None
    entry = _PROTOCOLS[_otlp_protocol()] if name == "otlp" else name
    for point in entry_points(group="opentelemetry_traces_exporter", name=entry):
        return point.load()()
    raise ConfigError(
        f"server.traces is on, but no exporter called {entry!r} is installed; {_INSTALL}, or set "
        "OTEL_TRACES_EXPORTER to one that is (console prints them)"
    )


def _otlp_protocol() -> str:
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := os.environ.get(variable):
            if protocol in _PROTOCOLS:
                return protocol
            raise ConfigError(
                f"{variable} is {protocol!r}; use one of {', '.join(sorted(_PROTOCOLS))}"
            )
    return "http/protobuf"
