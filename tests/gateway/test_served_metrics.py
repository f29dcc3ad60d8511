"""What ``/metrics`` tells of a gateway that serves, and what nobody can make it tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from serving import ESCALATED, KEPT, Served, gateway_config, remote, serving, upstream

from foretell.gateway._metrics import CAUSES, DIVERSIONS, OUTCOMES, REJECTIONS
from upstreams.scripted_server import ScriptedServer, answers, error, nobody_there

NAMES = {
    "foretell_requests": {"route", "decision", "model", "status_class"},
    "foretell_declined": {"route", "cause"},
    "foretell_diverted": {"route", "decision", "cause"},
    "foretell_overhead_seconds": {"le"},
    "foretell_prefill_seconds": {"route", "le"},
    "foretell_probe_seconds": {"le"},
    "foretell_request_seconds": {"route", "le"},
    "foretell_first_byte_seconds": {"route", "le"},
    "foretell_upstream_attempts": {"target", "outcome"},
    "foretell_breaker_state": {"target"},
    "foretell_cost_usd": {"route", "model"},
    "foretell_cost_unknown": {"route", "model"},
    "foretell_always_strong_usd": {"route"},
    "foretell_compared_usd": {"route"},
    "foretell_strong_share": {"route"},
    "foretell_keep_at": {"route"},
    "foretell_feedback": {"source"},
    "foretell_records_shed": set(),
    "foretell_observations_shed": set(),
    "foretell_vectors_shed": set(),
    "foretell_shadow_runs": {"outcome"},
    "foretell_shadow_runs_waiting": set(),
    "foretell_store_failing": set(),
    "foretell_store_waiting": {"kind"},
    "foretell_explore": {"route"},
    "foretell_alarm": {"domain", "alarm"},
    "foretell_success": {"route", "policy", "bound"},
    "foretell_in_flight": set(),
    "foretell_tokens": {"route", "model", "kind"},
    "foretell_rejected": {"reason"},
    "foretell_config": {"hash"},
}
HOSTILE = ['"} 1\nforged_total 9', "hostile\\", "hostile\0name", "größe 🙂 hostile", "x" * 200]


@pytest.fixture(scope="module")
def large() -> Iterator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture(scope="module")
def served(shared_toy: Path, large: ScriptedServer) -> Iterator[Served]:
    models = {"large": remote(large.url), "gone": remote(nobody_there())}
    with serving(gateway_config(shared_toy, models)) as gateway:
        yield gateway


def exposition(served: Served, accept: str = "text/plain") -> str:
    response = httpx2.get(f"{served.url}/metrics", headers={"accept": accept})
    assert response.status_code == 200
    return response.text


def test_what_is_counted_adds_up_to_what_was_served(served: Served, large: ScriptedServer) -> None:
    for body in ({"max_tokens": 3}, {"max_tokens": 3, "stream": True}):
        served.chat(KEPT, **body)
        served.chat(ESCALATED, **body)
    served.chat(KEPT, tools=[{"type": "function", "function": {"name": "f"}}])
    large.script(error(500, "no"), error(500, "no"))
    fallen = served.chat(KEPT, headers={"x-foretell-route": "off"})
    assert fallen.status_code == 502  # the caller asked for the strong ones alone
    large.script(error(500, "no"), error(500, "no"))
    fallen = served.chat(ESCALATED)
    assert fallen.headers["x-foretell-decision"] == "fallback"
    served.chat(model="nobody")
    served.chat(messages=[{"role": "nobody"}])
    records = served.records()

    def count(**labels: str) -> float:
        return served.metric("foretell_requests_total", **labels)

    assert count(decision="keep", model="small", status_class="2xx", route="auto") == 2
    assert count(decision="escalate", model="large", status_class="2xx") == 2
    assert count(decision="declined", model="large") == 1
    assert count(decision="fallback", model="small") == 1
    assert count(status_class="5xx") == 1
    assert count(status_class="4xx", model="other", route="") == 1
    assert served.metric("foretell_declined_total", route="auto", cause="tools") == 1
    diverted = {"route": "auto", "decision": "fallback", "cause": "unreachable"}
    assert served.metric("foretell_diverted_total", **diverted) == 1
    assert served.metric("foretell_rejected_total", reason="invalid_value") == 1
    attempts = "foretell_upstream_attempts_total"
    assert served.metric(attempts, target="large", outcome="error") == 4
    assert served.metric(attempts, target="large", outcome="ok") == 3
    assert served.metric(attempts, target="gone", outcome="unreachable") >= 2
    cost = sum(record.cost_usd or 0.0 for record in records)
    assert served.metric("foretell_cost_usd_total") == pytest.approx(cost)
    tokens = sum(record.usage.completion_tokens for record in records if record.usage)
    assert served.metric("foretell_tokens_total", kind="completion") == tokens
    assert served.metric("foretell_request_seconds_count") == count()
    assert served.metric("foretell_prefill_seconds_count", route="auto") > 0
    assert served.metric("foretell_in_flight") == 0
    assert served.metric("foretell_config_info", hash=served.gateway.snapshot.hash) == 1
    assert served.metric("foretell_keep_at", route="auto") == 0.5
    assert 0 < served.metric("foretell_strong_share", route="auto") < 1
    assert served.metric("foretell_breaker_state", target="large") == 0


def test_every_family_is_known_by_its_name_and_labels(served: Served) -> None:
    served.chat(KEPT, max_tokens=1)
    families = {
        family.name.removesuffix("_info"): family
        for family in text_string_to_metric_families(exposition(served))
    }
    for name, labels in NAMES.items():
        assert families[name].documentation
        for sample in families[name].samples:
            assert sample.labels.keys() <= labels, sample
    ours = {name for name in families if name.startswith("foretell_")}
    assert {name.removesuffix("_created") for name in ours} == set(NAMES)


def test_open_metrics_is_spoken_to_who_asks_for_it(served: Served) -> None:
    text = exposition(served, "application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    assert {family.name for family in open_metrics_families(text)} >= set(NAMES)


def test_nothing_that_callers_send_becomes_a_label(served: Served) -> None:
    def series(text: str) -> set[str]:
        lines = [line.rpartition(" ")[0] for line in text.splitlines() if line[:1] != "#"]
        return {re.sub(r'le="[^"]*"', "", line) for line in lines}

    for _ in range(2):
        before = series(exposition(served))
        for text in HOSTILE:
            served.chat(model=text)
            served.chat([{"role": text, "content": text}], user=text, **{text: 1})
            served.chat(KEPT, max_tokens=1, user=text, tool_choice="none", metadata={text: text})
            feedback = {"request_id": text, "metric": text, "value": 1, "source": text}
            served.post("/v1/feedback", feedback)
            for name in ("x-foretell-session", "x-foretell-domain", "x-foretell-route"):
                plain = re.sub(r"[^ -~]", "", text)
                served.chat(KEPT, max_tokens=1, headers={name: plain})
            httpx2.get(f"{served.url}/v1/models/{plain}")
        served.at_rest()
    text = exposition(served)
    assert series(text) == before
    assert "hostile" not in text
    assert "forged" not in text
    assert "xxx" not in text


def test_a_scrape_while_requests_are_served_is_whole(served: Served) -> None:
    def ask(number: int) -> Any:
        return served.chat(KEPT if number % 2 else ESCALATED, max_tokens=1, stream=number % 3 == 0)

    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(ask, number) for number in range(40)]
        while not all(one.done() for one in asked):
            list(text_string_to_metric_families(exposition(served)))
    assert all(one.result().status_code == 200 for one in asked)


def test_records_that_are_lost_are_counted(toy: Path, large: ScriptedServer) -> None:
    with serving(gateway_config(toy, large.url)) as gateway:
        assert gateway.gateway.recorder is not None
        gateway.gateway.recorder.close()
        assert [gateway.chat(max_tokens=1).status_code for _ in range(3)] == [200] * 3
        gateway.at_rest()
        assert gateway.metric("foretell_records_shed_total") == 3


def test_the_words_that_label_causes_are_those_that_the_code_uses() -> None:
    source = Path(__file__).parents[2] / "src" / "foretell"
    code = "".join(
        path.read_text()
        for room in ("gateway", "runtime", "policy", "upstreams")
        for path in sorted((source / room).glob("*.py"))
        if path.name != "_metrics.py"
    )
    for word in (CAUSES | DIVERSIONS | OUTCOMES | REJECTIONS) - {"other"}:
        assert f'"{word}"' in code, word
    given = set(re.findall(r'cause="([a-z_]+)"', code))
    assert given <= CAUSES | DIVERSIONS
    refused = set(re.findall(r'code="([a-z_]+)"', code))
    elsewhere = {
        "broke_off",
        "context_length_exceeded",
        "domain_not_found",
        "feedback_not_found",
        "headers_too_large",
        "invalid_config",
        "invalid_http",
        "invalid_token",
        "method_not_allowed",
        "no_desk",
        "no_earlier_config",
        "no_earlier_probe",
        "no_store",
        "not_found",
        "probe_not_found",
        "probe_unusable",
        "request_not_found",
        "role_not_allowed",
        "stale_etag",
        "stopping",
        "store_unavailable",
        "unknown_domain",
        "unsupported_request",
        "upstream_failed",
    }
    assert refused - elsewhere <= REJECTIONS
