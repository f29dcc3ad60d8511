"""One trace from the caller through the gateway to the upstream."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id
from serving import ESCALATED, KEPT, Paced, Served, gateway_config, serving, upstream

from foretell.gateway._traces import Traces
from upstreams.scripted_server import WHOLE, ScriptedServer, answers, error

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def large() -> Generator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(Traces, "from_environment", classmethod(lambda cls: cls(provider)))
    return exporter


@pytest.fixture
def served(toy: Path, large: ScriptedServer, exporter: InMemorySpanExporter) -> Generator[Served]:
    assert not exporter.get_finished_spans()
    with serving(gateway_config(toy, large.url, server={"traces": True})) as gateway:
        yield gateway


def spans(served: Served, exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    served.at_rest()
    found = {span.name: span for span in exporter.get_finished_spans()}
    exporter.clear()
    return found


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_escalated_request_is_one_trace(
    served: Served, large: ScriptedServer, exporter: InMemorySpanExporter, stream: bool
):
    reply = served.chat(ESCALATED, stream=stream, headers={"traceparent": TRACEPARENT})
    found = spans(served, exporter)
    assert found.keys() == {"chat auto", "prefill", "chat large"}
    root, call = found["chat auto"], found["chat large"]
    assert {format_trace_id(span.context.trace_id) for span in found.values()} == {TRACE_ID}
    assert call.parent.span_id == found["prefill"].parent.span_id == root.context.span_id
    told = attributes(root)
    assert told["gen_ai.response.id"] == reply.headers["x-request-id"]
    assert told["gen_ai.response.model"] == "large"
    assert told["gen_ai.usage.output_tokens"] == 3
    assert told["gen_ai.response.finish_reasons"] == ("stop",)
    assert told["foretell.decision"] == "escalate"
    assert attributes(call)["gen_ai.request.model"] == "big-1"
    sent = large.headers[-1]
    assert sent["traceparent"] == f"00-{TRACE_ID}-{format_span_id(call.context.span_id)}-01"
    assert sent["x-request-id"] == reply.headers["x-request-id"]
    assert "town" not in str([attributes(span) for span in found.values()])


def test_a_kept_request_calls_nobody(served: Served, exporter: InMemorySpanExporter):
    served.chat(KEPT, max_tokens=2)
    assert spans(served, exporter).keys() == {"chat auto", "prefill"}


def test_attempts_and_failures_are_told(
    served: Served, large: ScriptedServer, exporter: InMemorySpanExporter
):
    large.script(error(500, "no"))
    served.chat(ESCALATED)
    call = spans(served, exporter)["chat large"]
    outcomes = [event.attributes["foretell.outcome"] for event in call.events]
    assert outcomes == ["error", "ok"]
    assert "error.type" not in attributes(call)
    large.script(error(500, "no"), error(500, "no"))
    served.chat(ESCALATED, max_tokens=2)
    found = spans(served, exporter)
    assert attributes(found["chat large"])["error.type"] == "error"
    assert attributes(found["chat auto"])["foretell.decision"] == "fallback"


def test_a_stream_that_breaks_off_has_failed(
    served: Served, large: ScriptedServer, exporter: InMemorySpanExporter
):
    paced = Paced(WHOLE[0], then_cut=True)
    large.script(paced)
    with served.streaming(ESCALATED) as (_, events):
        next(events)
        assert "chat large" not in {span.name for span in exporter.get_finished_spans()}
        paced.go_on()
        assert "error" in next(events)
    found = spans(served, exporter)
    assert attributes(found["chat large"])["error.type"] == "broke_off"
    assert attributes(found["chat auto"])["error.type"] == "502"


def test_names_of_spans_are_those_of_the_configuration(
    served: Served, exporter: InMemorySpanExporter
):
    served.chat(KEPT, model="who-knows")
    served.post("/v1/route", {"model": "auto", "messages": KEPT})
    assert spans(served, exporter).keys() == {"chat unknown", "chat auto", "prefill"}


def test_without_traces_the_callers_own_is_handed_on(toy: Path, large: ScriptedServer):
    with serving(gateway_config(toy, large.url)) as served:
        served.chat(ESCALATED, headers={"traceparent": TRACEPARENT, "tracestate": "a=b"})
        assert large.headers[-1]["traceparent"] == TRACEPARENT
        assert large.headers[-1]["tracestate"] == "a=b"
        served.chat(ESCALATED)
        assert "traceparent" not in large.headers[-1]
