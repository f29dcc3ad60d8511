from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from foretell.gateway._metrics import CAUSES, OUTCOMES, REJECTIONS, LiveState, Metrics, StoreState
from foretell.records import Action, MeteredUsage, RequestRecord

LIVE = LiveState(
    in_flight=3,
    config_hash="c0ffee",
    breakers={"big": "open", "huge": "half_open"},
    strong_share={"auto": 0.25},
    keep_at={"auto": None},
    explore={"auto": 0.05},
    shadow_waiting=2,
    alarms={("geo", "vectors"): True, ("geo", "scores"): False},
    store=StoreState(
        error="the disk is full",
        waiting={"rows": 5, "vectors": 2},
        shed={"records": 0, "observations": 1, "vectors": 7},
    ),
    quality={("auto", "served", "value"): 0.8},
)
SERVED = RequestRecord(
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
    streamed=False,
    usage=MeteredUsage(
        prompt_tokens=100, completion_tokens=20, cached_tokens=30, reasoning_tokens=5
    ),
    cost_usd=0.25,
    always_strong_usd=0.5,
    seconds=0.3,
    first_byte_s=0.2,
    prefill_s=0.04,
    overhead_s=0.001,
)


def gateway_metrics(live: LiveState = LIVE) -> Metrics:
    return Metrics(routes=("auto",), models=("small", "big"), live=lambda: live)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(metrics.render()[0].decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def series(metrics: Metrics) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(metrics.render()[0].decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        (
            "foretell_requests_total",
            {"route": "auto", "decision": "escalate", "model": "big", "status_class": "2xx"},
            1,
        ),
        ("foretell_tokens_total", {"route": "auto", "model": "big", "kind": "prompt"}, 100),
        ("foretell_tokens_total", {"route": "auto", "model": "big", "kind": "cached"}, 30),
        ("foretell_tokens_total", {"route": "auto", "model": "big", "kind": "completion"}, 20),
        ("foretell_tokens_total", {"route": "auto", "model": "big", "kind": "reasoning"}, 5),
        ("foretell_cost_usd_total", {"route": "auto", "model": "big"}, 0.25),
        ("foretell_cost_unknown_total", {"route": "auto", "model": "big"}, 0),
        ("foretell_always_strong_usd_total", {"route": "auto"}, 0.5),
        ("foretell_compared_usd_total", {"route": "auto"}, 0.25),
        ("foretell_request_seconds_sum", {"route": "auto"}, 0.3),
        ("foretell_first_byte_seconds_sum", {"route": "auto"}, 0.2),
        ("foretell_prefill_seconds_sum", {"route": "auto"}, 0.04),
        ("foretell_overhead_seconds_sum", {}, 0.001),
        ("foretell_probe_seconds_sum", {}, 0.0002),
        (
            "gen_ai_server_request_duration_seconds_sum",
            {
                "gen_ai_operation_name": "chat",
                "gen_ai_provider_name": "foretell",
                "gen_ai_response_model": "big",
            },
            0.3,
        ),
    ],
)
def test_one_served_request_is_seen_everywhere(
    name: str, labels: dict[str, str], expected: float
) -> None:
    metrics = gateway_metrics()
    metrics.served(SERVED, probe_s=0.0002)
    assert value(metrics, name, **labels) == expected


def test_a_cost_that_is_not_known_is_counted_and_not_taken_for_none() -> None:
    metrics = gateway_metrics()
    metrics.served(replace(SERVED, cost_usd=None))
    assert value(metrics, "foretell_cost_unknown_total", route="auto", model="big") == 1
    assert value(metrics, "foretell_cost_usd_total", route="auto", model="big") == 0
    assert value(metrics, "foretell_always_strong_usd_total", route="auto") == 0


def test_the_net_saving_compares_the_same_requests() -> None:
    metrics = gateway_metrics()
    metrics.served(SERVED)
    metrics.served(replace(SERVED, always_strong_usd=None, cost_usd=7.0))
    assert value(metrics, "foretell_cost_usd_total", route="auto", model="big") == 7.25
    assert value(metrics, "foretell_compared_usd_total", route="auto") == 0.25


def test_what_was_not_measured_is_not_observed() -> None:
    metrics = gateway_metrics()
    metrics.served(replace(SERVED, first_byte_s=None, prefill_s=None, overhead_s=None, usage=None))
    assert value(metrics, "foretell_first_byte_seconds_count", route="auto") == 0
    assert value(metrics, "foretell_prefill_seconds_count", route="auto") == 0
    assert value(metrics, "foretell_overhead_seconds_count") == 0
    assert value(metrics, "foretell_probe_seconds_count") == 0
    assert value(metrics, "foretell_tokens_total", route="auto", model="big", kind="prompt") == 0


def test_a_model_asked_for_by_its_own_name_has_no_route() -> None:
    metrics = gateway_metrics()
    metrics.served(replace(SERVED, route=None, action="bypass"))
    assert (
        value(
            metrics,
            "foretell_requests_total",
            route="",
            decision="bypass",
            model="big",
            status_class="2xx",
        )
        == 1
    )


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_each_declined_query_is_counted_with_its_cause(cause: str) -> None:
    metrics = gateway_metrics()
    metrics.served(replace(SERVED, action="declined", cause=cause))
    metrics.served(replace(SERVED, action="keep", cause=cause))
    assert value(metrics, "foretell_declined_total", route="auto", cause=cause) == 1


@pytest.mark.parametrize("outcome", sorted(OUTCOMES))
def test_each_call_of_an_upstream_is_counted_with_its_outcome(outcome: str) -> None:
    metrics = gateway_metrics()
    metrics.attempted("big", outcome)
    assert value(metrics, "foretell_upstream_attempts_total", target="big", outcome=outcome) == 1


def test_refusals_feedback_and_shadow_runs_are_counted() -> None:
    metrics = gateway_metrics()
    metrics.rejected("invalid_api_key")
    metrics.took_feedback("human")
    metrics.ran_shadow("done")
    assert value(metrics, "foretell_rejected_total", reason="invalid_api_key") == 1
    assert value(metrics, "foretell_feedback_total", source="human") == 1
    assert value(metrics, "foretell_shadow_runs_total", outcome="done") == 1


def test_gauges_show_what_is_so_when_they_are_read() -> None:
    metrics = gateway_metrics()
    assert value(metrics, "foretell_in_flight") == 3
    assert value(metrics, "foretell_config_info", hash="c0ffee") == 1
    assert value(metrics, "foretell_breaker_state", target="big") == 2
    assert value(metrics, "foretell_breaker_state", target="huge") == 1
    assert value(metrics, "foretell_strong_share", route="auto") == 0.25
    assert value(metrics, "foretell_keep_at", route="auto") is None
    assert value(metrics, "foretell_explore", route="auto") == 0.05
    assert value(metrics, "foretell_shadow_runs_waiting") == 2
    assert value(metrics, "foretell_alarm", domain="geo", alarm="vectors") == 1
    assert value(metrics, "foretell_alarm", domain="geo", alarm="scores") == 0
    assert value(metrics, "foretell_store_failing") == 1
    assert value(metrics, "foretell_store_waiting", kind="rows") == 5
    found = value(metrics, "foretell_success", route="auto", policy="served", bound="value")
    assert found == 0.8
    assert value(metrics, "foretell_records_shed_total") == 0
    assert value(metrics, "foretell_vectors_shed_total") == 7


def test_names_that_a_reload_brings_may_be_labels_and_old_ones_stay() -> None:
    metrics = gateway_metrics()
    metrics.served(SERVED)
    metrics.know(routes=("new",), models=("bigger",))
    metrics.served(SERVED)
    metrics.served(replace(SERVED, route="new", model="bigger"))
    labels = {"decision": "escalate", "status_class": "2xx"}
    assert value(metrics, "foretell_requests_total", route="auto", model="big", **labels) == 2
    assert value(metrics, "foretell_requests_total", route="new", model="bigger", **labels) == 1


def hostile(metrics: Metrics, text: str, number: int) -> None:
    """Everything a caller or an upstream could get into a label, if anything could."""
    anything: Any = text
    record = replace(
        SERVED,
        route=text,
        model=text,
        action=anything,
        cause=text,
        status=number,
        id=text,
        key_id=text,
        session=text,
        domain=text,
        probe=text,
        finish_reason=text,
    )
    metrics.served(record)
    metrics.served(replace(record, action="declined"))
    metrics.attempted(text, text)
    metrics.rejected(text)
    metrics.took_feedback(text)


@given(st.text(max_size=20), st.integers(0, 10_000))
def test_what_a_caller_sends_is_in_no_label(text: str, status: int) -> None:
    marked = f"hostile{text}"
    metrics = gateway_metrics()
    hostile(metrics, marked, status)
    assert b"hostile" not in metrics.render()[0]


def test_no_caller_can_add_series() -> None:
    metrics = gateway_metrics()
    for status in (0, 100, 200, 300, 400, 500, 600):
        hostile(metrics, "first", status)
    before = series(metrics)
    for number in range(200):
        hostile(metrics, f"name-{number}", number * 5)
    assert series(metrics) == before


def test_every_word_of_the_lists_is_its_own_series_at_most() -> None:
    """The bound that is promised: routes, models and words of fixed lists multiply, no more."""
    metrics = gateway_metrics()
    for route in ("auto", None, "x"):
        for model in ("small", "big", "x"):
            for action in get_args(Action):
                metrics.served(replace(SERVED, route=route, model=model, action=action))
    requests = {labels for name, labels in series(metrics) if name == "foretell_requests_total"}
    assert len(requests) == 3 * 3 * len(get_args(Action))
    assert "other" not in CAUSES | OUTCOMES | REJECTIONS


@pytest.mark.parametrize(
    ("accept", "open_metrics"),
    [
        (None, False),
        ("", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", True),
        ("application/openmetrics-text;version=no\r\nx: y", True),
    ],
)
def test_the_exposition_is_open_metrics_where_that_is_asked_for(
    accept: str | None, open_metrics: bool
) -> None:
    metrics = gateway_metrics()
    metrics.served(SERVED)
    body, content_type = metrics.render(accept)
    assert content_type.startswith("application/openmetrics-text") == open_metrics
    assert content_type.isprintable()
    parse = open_metrics_families if open_metrics else text_string_to_metric_families
    names = {family.name for family in parse(body.decode())}
    assert {"foretell_requests", "process_cpu_seconds", "python_info"} <= {
        name.removesuffix("_total") for name in names
    }


def test_every_metric_says_what_it_is() -> None:
    helps: Mapping[str, str] = {
        family.name: family.documentation
        for family in text_string_to_metric_families(gateway_metrics().render()[0].decode())
    }
    assert all(helps.values())


def test_two_gateways_in_one_process_count_apart() -> None:
    one, other = gateway_metrics(), gateway_metrics()
    one.ran_shadow("done")
    assert value(one, "foretell_shadow_runs_total", outcome="done") == 1
    assert value(other, "foretell_shadow_runs_total", outcome="done") is None
