"""What requests cost, by what providers report: the same however an answer is sent."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import (
    ESCALATED,
    KEPT,
    Served,
    foretell_block,
    gateway_config,
    remote,
    serving,
    upstream,
)

from upstreams.scripted_server import COMPLETION, ScriptedServer, chunk, replies, streams


class Metered:
    """An upstream that reports these tokens."""

    def __init__(self) -> None:
        self.usage: dict[str, Any] | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if not (await request.json()).get("stream"):
            return await replies(200, {**COMPLETION, "usage": self.usage})(request)
        told = [] if self.usage is None else [chunk(usage=self.usage)]
        return await streams(chunk("Hi"), chunk(finish="stop"), *told, b"data: [DONE]\n\n")(request)


@pytest.fixture(scope="module")
def metered() -> Metered:
    return Metered()


@pytest.fixture(scope="module")
def large(metered: Metered) -> Generator[ScriptedServer]:
    with upstream(otherwise=metered) as server:
        yield server


@pytest.fixture(scope="module")
def served(shared_toy: Path, large: ScriptedServer) -> Generator[Served]:
    models = {"large": remote(large.url), "unpriced": remote(large.url, "who-knows", price=None)}
    with serving(gateway_config(shared_toy, models)) as gateway:
        yield gateway


def costs(served: Served, messages: list[Any], **body: Any) -> tuple[float | None, float | None]:
    """Of an answer sent whole, and streamed."""
    whole = served.chat(messages, **body)
    assert whole.status_code == 200, whole.text
    block = foretell_block(served.events(messages, **body))
    return whole.json()["foretell"]["cost_usd"], block["cost_usd"]


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any]:
    tokens = st.integers(0, 10**7)
    prompt, completion = draw(tokens), draw(tokens)
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    if draw(st.booleans()):
        usage["total_tokens"] = prompt + completion
    if draw(st.booleans()):
        usage["prompt_tokens_details"] = {"cached_tokens": draw(st.integers(0, prompt))}
    if draw(st.booleans()):
        usage["completion_tokens_details"] = {"reasoning_tokens": draw(st.integers(0, completion))}
    return usage


@given(usages())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_answer_costs_the_same_streamed_and_whole(
    served: Served, metered: Metered, usage: dict[str, Any]
):
    metered.usage = usage
    whole, streamed = costs(served, KEPT, model="large")
    assert whole == streamed
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    # Reasoning is part of the completion, and costs what that does.
    expected = (
        (usage["prompt_tokens"] - cached) * 2.5 + cached * 1.25 + usage["completion_tokens"] * 10
    ) / 1e6
    assert whole == pytest.approx(expected)


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": "many"}],
    ids=["none", "empty", "negative", "words"],
)
def test_what_was_not_reported_has_no_known_cost(
    served: Served, metered: Metered, usage: dict[str, Any] | None
):
    metered.usage = usage
    before = served.metric("foretell_cost_unknown_total", route="auto", model="large")
    assert costs(served, ESCALATED) == (None, None)
    record = served.last()
    assert (record.cost_usd, record.strong_usd) == (None, None)
    assert record.weak_usd > 0, "the prefill is known"
    assert served.metric("foretell_cost_unknown_total", route="auto", model="large") == before + 2


def test_a_price_that_nobody_knows_is_no_price(served: Served, metered: Metered):
    metered.usage = {"prompt_tokens": 10, "completion_tokens": 2}
    before = served.metric("foretell_cost_unknown_total", route="", model="unpriced")
    assert costs(served, KEPT, model="unpriced") == (None, None)
    served.at_rest()
    assert served.metric("foretell_cost_unknown_total", route="", model="unpriced") == before + 2


def test_a_price_is_found_by_the_model_where_none_is_configured(
    toy: Path, large: ScriptedServer, metered: Metered
):
    metered.usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    known = {"large": remote(large.url, "gpt-4o-mini", price=None)}
    with serving(gateway_config(toy, known)) as served:
        whole, streamed = costs(served, KEPT, model="large")
        assert whole == streamed
        assert whole is None or whole > 0


def test_a_kept_answer_costs_the_same_streamed_and_whole(served: Served):
    for _ in range(2):  # the second time most of the prompt is cached
        whole, streamed = costs(served, KEPT, max_tokens=7)
        assert whole == streamed
    record = served.last()
    assert record.weak_usd == record.cost_usd
    assert record.strong_usd == 0
    assert record.always_strong_usd == pytest.approx(
        (
            (record.usage.prompt_tokens - record.usage.cached_tokens) * 2.5
            + record.usage.cached_tokens * 1.25
            + record.usage.completion_tokens * 10
        )
        / 1e6
    )


def test_a_prefill_is_charged_whoever_answers(served: Served, metered: Metered):
    metered.usage = {"prompt_tokens": 100, "completion_tokens": 10}
    whole, streamed = costs(served, ESCALATED)
    strong = (100 * 2.5 + 10 * 10) / 1e6
    assert whole == streamed > strong
    record = served.last()
    assert record.strong_usd == pytest.approx(strong)
    assert record.weak_usd == pytest.approx(51 * 0.02 / 1e6)
    assert record.always_strong_usd == pytest.approx(strong)
    unread = served.chat(ESCALATED, headers={"x-foretell-route": "strong"})
    assert unread.json()["foretell"]["cost_usd"] == pytest.approx(strong)


def test_the_callers_own_report_of_tokens_is_the_upstreams_verbatim(
    served: Served, metered: Metered
):
    metered.usage = {"prompt_tokens": 5, "completion_tokens": 2, "vendor": {"kv": [1, 2]}}
    assert served.chat(ESCALATED).json()["usage"] == metered.usage
    events = served.events(ESCALATED, stream_options={"include_usage": True})
    assert json.loads(events[-2])["usage"] == metered.usage
