"""What holds from turn to turn of a conversation."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from serving import ESCALATED, KEPT, Served, gateway_config, remote, serving, upstream

from upstreams.scripted_server import COMPLETION, ScriptedServer, answers, error, replies

TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
CALLING = {
    **COMPLETION,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
}
THOUGHT = {"type": "reasoning.text", "text": "Hm.", "signature": "c2lnbmVk"}
IN_FAVOUR = "moved in favour of large, which answered before"


@pytest.fixture(scope="module")
def large() -> Generator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture(scope="module")
def spare() -> Generator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture(scope="module")
def served(shared_toy: Path, large: ScriptedServer, spare: ScriptedServer) -> Generator[Served]:
    """A route that leaves a model only for a very good reason."""
    models = {
        "large": remote(large.url, retries={"attempts": 1}, breaker={"failures": 1000}),
        "spare": remote(spare.url, "spare-1"),
    }
    config = gateway_config(shared_toy, models, conversation={"switch_margin": 0.4})
    with serving(config) as gateway:
        yield gateway


def said(reply: Any) -> tuple[str, str]:
    assert reply.status_code == 200, reply.text
    return reply.headers["x-foretell-model"], reply.headers["x-foretell-decision"]


def test_a_conversation_named_by_a_header_stays_with_the_model_that_serves_it(served: Served):
    ours = {"x-foretell-session": "ours"}
    assert said(served.chat(KEPT, headers={"x-foretell-session": "theirs"})) == ("small", "keep")
    first = served.chat(ESCALATED, headers=ours)
    assert said(first) == ("large", "escalate")
    assert first.headers["x-foretell-session"] == "ours"
    # By itself it would be kept.
    second = served.chat(KEPT, headers=ours)
    assert said(second) == ("large", "escalate")
    assert IN_FAVOUR in second.headers["x-foretell-reason"]
    assert said(served.chat(KEPT)) == ("small", "keep")
    assert {record.session for record in served.records()} >= {"ours", "theirs"}


def test_a_look_at_a_route_leaves_the_conversation_as_it_was(served: Served):
    named = {"x-foretell-session": "looked-at"}
    served.post("/v1/route", {"model": "auto", "messages": ESCALATED}, **named)
    assert said(served.chat(KEPT, headers=named)) == ("small", "keep")


def test_a_conversation_is_known_by_its_history(served: Served):
    opening = [{"role": "user", "content": "Which town in the south is nr 16?"}]
    first = served.chat(opening)
    assert said(first) == ("large", "escalate")
    answer = first.json()["choices"][0]["message"]
    longer = [*opening, answer, {"role": "user", "content": KEPT[0]["content"]}]
    second = served.chat(longer)
    assert second.headers["x-foretell-session"] == first.headers["x-foretell-session"]
    assert IN_FAVOUR in second.headers["x-foretell-reason"]
    # Another history with the same question at its end is another conversation.
    other = [{"role": "user", "content": "Which town in the south is nr 28?"}, answer, longer[-1]]
    assert IN_FAVOUR not in served.chat(other).headers["x-foretell-reason"]


def test_a_response_that_goes_on_from_another_stays_with_its_model(served: Served):
    client = served.openai()
    first = client.responses.create(model="auto", input=ESCALATED[0]["content"])
    second = client.responses.with_raw_response.create(
        model="auto", input=KEPT[0]["content"], previous_response_id=first.id
    )
    assert IN_FAVOUR in second.headers["x-foretell-reason"]
    assert second.headers["x-foretell-session"]


def test_tenants_do_not_share_conversations(
    toy: Path, large: ScriptedServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GATEWAY_KEYS", "fk-one,fk-two")
    config = gateway_config(
        toy,
        large.url,
        server={"api_keys_env": "GATEWAY_KEYS"},
        conversation={"switch_margin": 0.4},
    )
    with serving(config) as served:
        one = {"x-api-key": "fk-one", "x-foretell-session": "same"}
        two = {"x-api-key": "fk-two", "x-foretell-session": "same"}
        assert said(served.chat(ESCALATED, headers=one)) == ("large", "escalate")
        assert said(served.chat(KEPT, headers=one)) == ("large", "escalate")
        assert said(served.chat(KEPT, headers=two)) == ("small", "keep")
        first, second = (served.openai(api_key=key) for key in ("fk-one", "fk-two"))
        mine = first.responses.create(model="auto", input=ESCALATED[0]["content"])
        with pytest.raises(Exception, match="not known here"):
            second.responses.create(model="auto", input="And?", previous_response_id=mine.id)


def test_a_silent_conversation_is_forgotten(toy: Path, large: ScriptedServer):
    config = gateway_config(toy, large.url, conversation={"switch_margin": 0.4, "ttl_s": 1e-6})
    with serving(config) as served:
        named = {"x-foretell-session": "silent"}
        served.chat(ESCALATED, headers=named)
        assert said(served.chat(KEPT, headers=named)) == ("small", "keep")


def test_whoever_called_tools_reads_what_they_said(
    served: Served, large: ScriptedServer, spare: ScriptedServer
):
    """Even where that is a fallback, and the first model is well again."""
    large.script(error(500, "a hiccup"))
    spare.script(replies(200, CALLING))
    first = served.chat(KEPT, tools=TOOLS)
    assert said(first) == ("spare", "fallback")
    loop = [*KEPT, first.json()["choices"][0]["message"]]
    loop.append({"role": "tool", "tool_call_id": "call_1", "content": "Ayr"})
    second = served.chat(loop, tools=TOOLS)
    assert said(second) == ("spare", "pinned")
    assert "called the tools" in second.headers["x-foretell-reason"]
    assert spare.requests[-1]["messages"][-1]["content"] == "Ayr"


def test_inside_a_tool_loop_the_strong_model_is_not_left_for_the_weak_one(
    toy: Path, large: ScriptedServer
):
    small = {"engine": "tiny", "capabilities": {"tools": True}}
    with serving(gateway_config(toy, large.url, models={"small": small})) as served:
        large.script(replies(200, CALLING))
        named = {"x-foretell-session": "loop", "x-foretell-route": "strong"}
        first = served.chat(KEPT, tools=TOOLS, headers=named)
        named.pop("x-foretell-route")
        loop = [*KEPT, first.json()["choices"][0]["message"]]
        loop.append({"role": "tool", "tool_call_id": "call_1", "content": "Ayr"})
        assert said(served.chat(loop, tools=TOOLS, headers=named)) == ("large", "pinned")
        # Once it is over, the probe is asked again.
        over = [*loop, {"role": "assistant", "content": "Ayr"}, *KEPT]
        assert said(served.chat(over, tools=TOOLS, headers=named))[1] != "pinned"


def test_reasoning_stays_with_the_model_that_signed_it(
    served: Served, large: ScriptedServer, spare: ScriptedServer
):
    named = {"x-foretell-session": "signed"}
    signed = {**COMPLETION["choices"][0]["message"], "reasoning_details": [THOUGHT]}
    large.script(replies(200, {**COMPLETION, "choices": [{"index": 0, "message": signed}]}))
    first = served.chat(ESCALATED, headers=named)
    assert said(first) == ("large", "escalate")
    history = [*ESCALATED, first.json()["choices"][0]["message"], *KEPT]
    second = served.chat(history, headers=named)
    assert said(second) == ("large", "pinned")
    assert "only large can read" in second.headers["x-foretell-reason"]
    assert large.requests[-1]["messages"] == history
    # Whoever answers in its stead must not see it.
    large.script(error(500, "a hiccup"))
    third = served.chat(history, headers=named)
    assert said(third) == ("spare", "fallback")
    assert "signature" not in str(spare.requests[-1])
    assert spare.requests[-1]["messages"][1]["content"] == "Hello"


def test_reasoning_that_nobody_here_made_is_left_out(served: Served, large: ScriptedServer):
    foreign = {"role": "assistant", "content": "Ayr", "reasoning_details": [THOUGHT]}
    opening = {"role": "user", "content": "Which town in the south is nr 40?"}
    served.chat([opening, foreign, *ESCALATED], headers={"x-foretell-route": "strong"})
    assert "signature" not in str(large.requests[-1])
    assert len(large.requests[-1]["messages"]) == 3


def test_a_thinking_block_of_a_message_is_not_sent_on(served: Served, large: ScriptedServer):
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmVk"}
    messages: Any = [
        *ESCALATED,
        {"role": "assistant", "content": [thinking, {"type": "text", "text": "Ayr"}]},
        *ESCALATED,
    ]
    served.anthropic().messages.create(model="auto", max_tokens=5, messages=messages)
    assert "signature" not in str(large.requests[-1])


def test_a_cached_prefix_counts_when_a_model_would_be_left(toy: Path, large: ScriptedServer):
    """Leaving it costs what its cache saves, which here is more than the weak model ever could."""
    cheap = {"input": 100.0, "output": 0.1, "cached_input": 0.0}
    models = {"large": remote(large.url, price=cheap)}
    small = {"engine": "tiny", "price": {"input": 99.0, "output": 0.1}}
    config = gateway_config(
        toy, models, models={"small": small}, conversation={"switch_margin": 0.0}
    )
    with serving(config) as served:
        named = {"x-foretell-session": "cached"}
        assert said(served.chat(ESCALATED, headers=named)) == ("large", "escalate")
        assert said(served.chat(KEPT, headers=named)) == ("large", "escalate")
        assert said(served.chat(KEPT)) == ("small", "keep")
