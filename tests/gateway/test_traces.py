from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from foretell.errors import ConfigError
from foretell.gateway import _traces
from foretell.gateway._traces import Traces
from foretell.records import MeteredUsage, RequestRecord

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
RECORD = RequestRecord(
    id="r1",
    at=0.0,
    key_id="",
    route="auto",
    domain=None,
    model="big",
    serve="strong",
    action="escalate",
    cause=None,
    status=200,
    streamed=True,
    p_success=0.3,
    p_strong=0.9,
    keep_at=0.6,
    probe="geo@3",
    session="s1",
    usage=MeteredUsage(prompt_tokens=11, completion_tokens=7, cached_tokens=3, reasoning_tokens=2),
    cost_usd=0.002,
    seconds=0.25,
    first_byte_s=0.1,
    finish_reason="stop",
)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(exporter: InMemorySpanExporter) -> Iterator[Traces]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces = Traces(provider)
    yield traces
    traces.close()


def test_a_request_is_a_span_with_the_attributes_of_the_conventions(
    traces: Traces, exporter: InMemorySpanExporter
) -> None:
    with traces.request_span("auto", {}, streamed=True) as span:
        span.served(RECORD)
    [done] = exporter.get_finished_spans()
    assert done.name == "chat auto"
    assert done.kind is SpanKind.SERVER
    assert done.parent is None
    assert done.status.status_code is StatusCode.UNSET
    assert dict(done.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "foretell",
        "gen_ai.request.model": "auto",
        "gen_ai.request.stream": True,
        "gen_ai.response.id": "r1",
        "gen_ai.response.model": "big",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.1,
        "gen_ai.conversation.id": "s1",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "http.response.status_code": 200,
        "foretell.route": "auto",
        "foretell.decision": "escalate",
        "foretell.serve": "strong",
        "foretell.p_success": 0.3,
        "foretell.p_strong": 0.9,
        "foretell.keep_at": 0.6,
        "foretell.probe": "geo@3",
        "foretell.cost_usd": 0.002,
    }


def test_the_names_are_those_of_the_conventions() -> None:
    ours = {
        value
        for name, value in vars(_traces).items()
        if name.isupper() and isinstance(value, str) and "." in value
    }
    theirs = {
        value
        for module in (gen_ai_attributes, error_attributes, http_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    assert {name for name in ours - theirs if not name.startswith("foretell.")} == set()


def test_what_is_not_known_is_left_out(traces: Traces, exporter: InMemorySpanExporter) -> None:
    bare = RequestRecord(
        id="r2",
        at=0.0,
        key_id="",
        route=None,
        domain=None,
        model="big",
        serve=None,
        action="bypass",
        cause=None,
        status=200,
        streamed=False,
        first_byte_s=0.1,
    )
    with traces.request_span("big", {}) as span:
        span.served(bare)
    [done] = exporter.get_finished_spans()
    assert set(done.attributes or {}) == {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.request.stream",
        "gen_ai.response.id",
        "gen_ai.response.model",
        "http.response.status_code",
        "foretell.decision",
    }


def test_prefill_and_upstream_are_children_and_the_trace_is_carried_on(
    traces: Traces, exporter: InMemorySpanExporter
) -> None:
    with traces.request_span("auto", {}) as span:
        with span.prefill():
            pass
        with span.upstream("big", model="big-1", provider="anthropic") as call:
            call.attempted("busy", 429)
            call.attempted("unreachable", None)
            carried = call.headers()
    prefill, upstream, request = exporter.get_finished_spans()
    assert (prefill.name, upstream.name) == ("prefill", "chat big")
    assert (prefill.kind, upstream.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)
    for child in (prefill, upstream):
        assert child.parent is not None
        assert child.parent.span_id == context(request).span_id
        assert context(child).trace_id == context(request).trace_id
    assert dict(upstream.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "big-1",
        "foretell.target": "big",
    }
    assert [dict(event.attributes or {}) for event in upstream.events] == [
        {"foretell.outcome": "busy", "http.response.status_code": 429},
        {"foretell.outcome": "unreachable"},
    ]
    trace_id = format_trace_id(context(request).trace_id)
    span_id = format_span_id(context(upstream).span_id)
    assert set(carried) == {"traceparent"}
    assert carried["traceparent"].startswith(f"00-{trace_id}-{span_id}-")


def context(span: ReadableSpan) -> Any:
    assert span.context is not None
    return span.context


def test_the_callers_trace_is_continued(traces: Traces, exporter: InMemorySpanExporter) -> None:
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "baggage": "text=private"}
    with traces.request_span("auto", headers) as span:
        carried = span.headers()
    [done] = exporter.get_finished_spans()
    assert done.parent is not None
    assert format_trace_id(context(done).trace_id) == TRACE_ID
    assert format_span_id(done.parent.span_id) == SPAN_ID
    assert set(carried) == {"traceparent", "tracestate"}


@pytest.mark.parametrize(
    "traceparent", ["", "x", "00-0-0-01", f"ff-{TRACE_ID}-{SPAN_ID}-01", TRACEPARENT + "\r\nx: y"]
)
def test_a_traceparent_that_makes_no_sense_begins_a_trace(
    traces: Traces, exporter: InMemorySpanExporter, traceparent: str
) -> None:
    with traces.request_span("auto", {"traceparent": traceparent}):
        pass
    assert exporter.get_finished_spans()[0].parent is None


def test_a_caller_who_wants_no_trace_gets_none(
    traces: Traces, exporter: InMemorySpanExporter
) -> None:
    with traces.request_span("auto", {"traceparent": TRACEPARENT[:-1] + "0"}) as span:
        with span.prefill():
            pass
        span.served(RECORD)
    assert exporter.get_finished_spans() == ()


def test_an_error_is_noted_by_its_class_and_never_by_its_message(
    traces: Traces, exporter: InMemorySpanExporter
) -> None:
    with (
        pytest.raises(ValueError, match="private"),
        traces.request_span("auto", {}) as span,
        span.prefill(),
    ):
        raise ValueError("private text")
    for done in exporter.get_finished_spans():
        assert done.status.status_code is StatusCode.ERROR
        assert (done.attributes or {})["error.type"] == "ValueError"
        assert "private" not in done.to_json()


@pytest.mark.parametrize(("status", "failed"), [(200, False), (429, False), (500, True)])
def test_a_request_failed_when_the_gateway_is_to_blame(
    traces: Traces, exporter: InMemorySpanExporter, status: int, failed: bool
) -> None:
    with traces.request_span("auto", {}) as span:
        span.served(replace(RECORD, status=status))
    [done] = exporter.get_finished_spans()
    assert (done.status.status_code is StatusCode.ERROR) == failed
    assert ("error.type" in (done.attributes or {})) == failed


def test_a_span_ends_once_however_often_it_is_told_to(
    traces: Traces, exporter: InMemorySpanExporter
) -> None:
    span = traces.request_span("auto", {})
    span.end()
    span.end()
    with span:
        pass
    assert len(exporter.get_finished_spans()) == 1


def test_without_tracing_everything_may_be_called_and_nothing_is_carried_on() -> None:
    traces = Traces()
    with traces.request_span("auto", {"traceparent": TRACEPARENT}, streamed=True) as span:
        with span.prefill(), span.upstream("big", model="big-1", provider=None) as call:
            call.attempted("ok", 200)
            assert call.headers() == {}
        span.served(RECORD)
        span.failed("ValueError")
    traces.close()
    traces.close()


class Kept(SpanExporter):
    """An exporter as somebody might install one."""

    seen: list[ReadableSpan] = []  # noqa: RUF012 (the class stands for the other side)
    closed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.seen.extend(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        Kept.closed += 1


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Exporters by the names asked for, all of them ``Kept``; and clean variables."""
    asked: list[str] = []

    def found(*, group: str, name: str) -> EntryPoints:
        asked.append(name)
        point = EntryPoint(name=name, value=f"{__name__}:Kept", group=group)
        return EntryPoints([point] if name != "absent" else [])

    monkeypatch.setattr(_traces, "entry_points", found)
    for variable in (
        "OTEL_TRACES_EXPORTER",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_SERVICE_NAME",
        "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_SDK_DISABLED",
    ):
        monkeypatch.delenv(variable, raising=False)
    Kept.seen.clear()
    return asked


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["otlp_proto_grpc"]),
        (
            {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            ["otlp_proto_http"],
        ),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
    ],
)
def test_traces_go_where_the_standard_variables_say(
    installed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    asked: list[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    traces = Traces.from_environment()
    with traces.request_span("auto", {}):
        pass
    traces.close()
    assert installed == asked
    assert [span.name for span in Kept.seen] == ["chat auto"] * len(asked)


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "foretell"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours"}, "ours"),
    ],
)
def test_the_service_is_foretell_unless_it_is_named(
    installed: list[str], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    traces = Traces.from_environment()
    traces.request_span("auto", {}).end()
    traces.close()
    assert installed
    assert Kept.seen[0].resource.attributes["service.name"] == name


def test_the_variable_that_disables_the_sdk_does(
    installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    traces = Traces.from_environment()
    traces.request_span("auto", {}).end()
    traces.close()
    assert installed
    assert Kept.seen == []


def test_an_exporter_that_is_missing_is_named_with_what_to_install(
    installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "absent")
    with pytest.raises(ConfigError, match=r"'absent'.*pip install .*OTEL_TRACES_EXPORTER"):
        Traces.from_environment()
    assert installed == ["absent"]


@pytest.mark.usefixtures("installed")
def test_a_protocol_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL.*grpc, http/protobuf"):
        Traces.from_environment()


@pytest.mark.usefixtures("installed")
def test_without_the_sdk_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"SDK is not installed; pip install opentelemetry-sdk"):
        Traces.from_environment()
