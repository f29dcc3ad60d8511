"""The Responses API and Anthropic's Messages API, driven by their official clients."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from serving import ESCALATED, KEPT, Paced, Served, gateway_config, serving, sse_data, upstream

from upstreams.scripted_server import (
    COMPLETION,
    USAGE,
    WHOLE,
    ScriptedServer,
    answers,
    error,
    replies,
    streams,
)

ASKED_NORTH = KEPT[0]["content"]
ASKED_SOUTH = ESCALATED[0]["content"]
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "find_town", "arguments": '{"nr":4}'},
}
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


def delta(finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return f"data: {json.dumps({'model': 'big-1', 'choices': [choice]})}\n\n".encode()


CALLING_STREAM = (
    delta(role="assistant", content=None),
    delta(tool_calls=[{"index": 0, **CALL, "function": {"name": "find_town", "arguments": ""}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"nr"'}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": ":4}"}}]),
    delta("tool_calls"),
    f"data: {json.dumps({'model': 'big-1', 'choices': [], 'usage': USAGE})}\n\n".encode(),
    b"data: [DONE]\n\n",
)
SCHEMA = {"type": "object", "properties": {"nr": {"type": "integer"}}, "required": ["nr"]}
RESPONSES_TOOL: Any = {
    "type": "function",
    "name": "find_town",
    "description": "Finds a town.",
    "parameters": {**SCHEMA, "additionalProperties": False},
    "strict": True,
}
MESSAGES_TOOL: Any = {"name": "find_town", "description": "Finds a town.", "input_schema": SCHEMA}


@pytest.fixture(scope="module")
def large() -> Generator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture(scope="module")
def served(shared_toy: Path, large: ScriptedServer) -> Generator[Served]:
    with serving(gateway_config(shared_toy, large.url)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.openai()


@pytest.fixture(scope="module")
def claude(served: Served) -> anthropic.Anthropic:
    return served.anthropic()


# Responses


@pytest.mark.parametrize(
    ("asked", "model", "decision"),
    [(ASKED_NORTH, "small", "keep"), (ASKED_SOUTH, "large", "escalate")],
    ids=["kept", "escalated"],
)
def test_a_response_is_made(client: openai.OpenAI, asked: str, model: str, decision: str):
    raw = client.responses.with_raw_response.create(model="auto", input=asked, max_output_tokens=5)
    assert raw.headers["x-foretell-decision"] == decision
    assert raw.headers["x-foretell-model"] == model
    response = raw.parse()
    assert response.object == "response"
    assert response.id.startswith("resp_")
    assert response.output_text
    assert response.usage.input_tokens > 0
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.model_extra["foretell"]["decision"] == decision
    assert response.status in ("completed", "incomplete")


@pytest.mark.parametrize("asked", [ASKED_NORTH, ASKED_SOUTH], ids=["kept", "escalated"])
def test_a_response_is_streamed(client: openai.OpenAI, asked: str):
    with client.responses.stream(model="auto", input=asked, max_output_tokens=6) as stream:
        events = list(stream)
    final = events[-1].response
    assert (events[-1].type, final.status) in {
        ("response.completed", "completed"),
        ("response.incomplete", "incomplete"),
    }
    numbers = [event.sequence_number for event in events if hasattr(event, "sequence_number")]
    assert numbers == sorted(set(numbers))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == final.output_text != ""
    assert final.usage.output_tokens in (3, 6)
    assert final.model_extra["foretell"]["cost_usd"] > 0


def test_a_response_goes_on_from_an_earlier_one(client: openai.OpenAI, large: ScriptedServer):
    first = client.responses.create(model="auto", input=ASKED_SOUTH)
    second = client.responses.create(
        model="auto", input="And in the south of that?", previous_response_id=first.id
    )
    assert [message["content"] for message in large.requests[-1]["messages"]] == [
        ASKED_SOUTH,
        "Hello",
        "And in the south of that?",
    ]
    assert second.previous_response_id == first.id
    with client.responses.stream(
        model="auto", input="And south of that?", previous_response_id=second.id
    ) as stream:
        third = stream.get_final_response()
    client.responses.create(model="auto", input="And south?", previous_response_id=third.id)
    assert len(large.requests[-1]["messages"]) == 7


def test_a_kept_response_is_gone_on_from_as_well(client: openai.OpenAI):
    first = client.responses.create(model="auto", input=ASKED_NORTH, max_output_tokens=4)
    second = client.responses.with_raw_response.create(
        model="auto", input=ASKED_NORTH, previous_response_id=first.id, max_output_tokens=4
    )
    assert second.parse().previous_response_id == first.id
    assert second.headers["x-foretell-session"]


def test_what_was_not_to_be_stored_cannot_be_gone_on_from(client: openai.OpenAI):
    first = client.responses.create(model="auto", input=ASKED_SOUTH, store=False)
    for unknown in (first.id, "resp_nobody"):
        with pytest.raises(openai.NotFoundError) as refused:
            client.responses.create(model="auto", input="And?", previous_response_id=unknown)
        assert refused.value.code == "previous_response_not_found"
        assert refused.value.param == "previous_response_id"


def test_a_response_calls_a_tool_and_goes_on_with_what_it_said(
    served: Served, client: openai.OpenAI, large: ScriptedServer
):
    large.script(replies(200, CALLING), answers)
    first = client.responses.create(
        model="auto", input=ASKED_NORTH, tools=[RESPONSES_TOOL], tool_choice="required"
    )
    assert large.requests[-1]["tools"][0]["function"]["name"] == "find_town"
    assert large.requests[-1]["tool_choice"] == "required"
    (call,) = first.output
    assert (call.type, call.name, call.call_id) == ("function_call", "find_town", "call_1")
    second = client.responses.create(
        model="auto",
        previous_response_id=first.id,
        tools=[RESPONSES_TOOL],
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "Ayr"}],
    )
    assert second.output_text == "Hello"
    assert large.requests[-1]["messages"][-1] == {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": "Ayr",
    }
    assert served.last().action == "pinned"


def test_a_streamed_response_calls_a_tool(client: openai.OpenAI, large: ScriptedServer):
    large.script(streams(*CALLING_STREAM))
    with client.responses.stream(model="auto", input=ASKED_NORTH, tools=[RESPONSES_TOOL]) as stream:
        final = stream.get_final_response()
    (call,) = final.output
    assert (call.name, json.loads(call.arguments)) == ("find_town", {"nr": 4})


def test_a_response_that_breaks_off_has_failed(client: openai.OpenAI, large: ScriptedServer):
    paced = Paced(WHOLE[0], then_cut=True)
    large.script(paced)
    stream = client.responses.create(model="auto", input=ASKED_SOUTH, stream=True)
    kinds = []
    for event in stream:
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            paced.go_on()
    assert kinds[-1] == "response.failed"
    assert "response.completed" not in kinds


def test_errors_of_responses_are_openais(client: openai.OpenAI, large: ScriptedServer):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="auto", input=[{"role": "nobody", "content": "x"}])
    assert refused.value.param.startswith("input.0")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nobody", input="x")
    large.script(error(400, "no", "bad_thing"))
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="auto", input=ASKED_SOUTH)
    assert refused.value.code == "bad_thing"


def test_a_model_is_asked_by_name_for_a_response(client: openai.OpenAI):
    raw = client.responses.with_raw_response.create(model="large", input=ASKED_NORTH)
    assert raw.headers["x-foretell-decision"] == "bypass"
    assert raw.parse().output_text == "Hello"


# Messages


@pytest.mark.parametrize(
    ("asked", "model", "decision"),
    [(ASKED_NORTH, "small", "keep"), (ASKED_SOUTH, "large", "escalate")],
    ids=["kept", "escalated"],
)
def test_a_message_is_made(claude: anthropic.Anthropic, asked: str, model: str, decision: str):
    raw = claude.messages.with_raw_response.create(
        model="auto", max_tokens=5, messages=[{"role": "user", "content": asked}]
    )
    assert raw.headers["x-foretell-decision"] == decision
    assert raw.headers["x-foretell-model"] == model
    message = raw.parse()
    assert message.type == "message"
    assert message.role == "assistant"
    assert message.content[0].type == "text"
    assert message.content[0].text
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.output_tokens > 0
    assert message.model_extra["foretell"]["decision"] == decision


@pytest.mark.parametrize("asked", [ASKED_NORTH, ASKED_SOUTH], ids=["kept", "escalated"])
def test_a_message_is_streamed(claude: anthropic.Anthropic, asked: str):
    with claude.messages.stream(
        model="auto", max_tokens=6, messages=[{"role": "user", "content": asked}]
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text != ""
    assert final.stop_reason in ("end_turn", "max_tokens")
    assert final.usage.output_tokens in (3, 6)


def test_a_message_calls_a_tool_and_goes_on_with_what_it_said(
    claude: anthropic.Anthropic, large: ScriptedServer
):
    large.script(replies(200, CALLING), answers)
    asked: list[Any] = [{"role": "user", "content": ASKED_NORTH}]
    first = claude.messages.create(
        model="auto",
        max_tokens=20,
        system="Use tools.",
        messages=asked,
        tools=[MESSAGES_TOOL],
        tool_choice={"type": "any"},
    )
    assert large.requests[-1]["tool_choice"] == "required"
    assert large.requests[-1]["messages"][0] == {"role": "system", "content": "Use tools."}
    (use,) = first.content
    assert (use.type, use.name, use.input) == ("tool_use", "find_town", {"nr": 4})
    assert first.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "Ayr"}
    second = claude.messages.create(
        model="auto",
        max_tokens=20,
        tools=[MESSAGES_TOOL],
        messages=[
            *asked,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ],
    )
    assert second.content[0].text == "Hello"
    assert large.requests[-1]["messages"][-1]["role"] == "tool"


def test_a_streamed_message_calls_a_tool(claude: anthropic.Anthropic, large: ScriptedServer):
    large.script(streams(*CALLING_STREAM))
    with claude.messages.stream(
        model="auto",
        max_tokens=20,
        messages=[{"role": "user", "content": ASKED_NORTH}],
        tools=[MESSAGES_TOOL],
    ) as stream:
        final = stream.get_final_message()
    assert final.content[0].input == {"nr": 4}
    assert final.stop_reason == "tool_use"


def test_a_message_that_breaks_off_ends_with_an_error(
    claude: anthropic.Anthropic, large: ScriptedServer
):
    paced = Paced(WHOLE[0], then_cut=True)
    large.script(paced)
    with (
        claude.messages.stream(
            model="auto", max_tokens=6, messages=[{"role": "user", "content": ASKED_SOUTH}]
        ) as stream,
    ):
        texts = stream.text_stream
        assert next(texts) == "Hel"
        paced.go_on()
        with pytest.raises(anthropic.APIError, match="broke off"):
            next(texts)


def test_errors_of_messages_are_anthropics(
    served: Served, claude: anthropic.Anthropic, large: ScriptedServer
):
    asked: list[Any] = [{"role": "user", "content": ASKED_SOUTH}]
    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.messages.create(model="auto", max_tokens=0, messages=asked)
    assert refused.value.body["type"] == "error"
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    assert "max_tokens" in refused.value.body["error"]["message"]
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="nobody", max_tokens=5, messages=asked)
    large.script(error(422, "no", "bad_thing"))
    with pytest.raises(anthropic.UnprocessableEntityError, match="no"):
        claude.messages.create(model="auto", max_tokens=5, messages=asked)
    malformed = served.post("/v1/messages", ["not an object"])
    assert malformed.status_code == 400
    assert malformed.json()["type"] == "error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_keys_are_asked_for_in_each_api(
    toy: Path, large: ScriptedServer, monkeypatch: pytest.MonkeyPatch, path: str
):
    monkeypatch.setenv("GATEWAY_KEYS", "fk-one")
    config = gateway_config(toy, large.url, server={"api_keys_env": "GATEWAY_KEYS"})
    with serving(config) as served:
        good = served.anthropic(api_key="fk-one").messages.create(
            model="auto", max_tokens=3, messages=[{"role": "user", "content": ASKED_NORTH}]
        )
        assert good.content
        assert served.openai(api_key="fk-one").responses.create(
            model="auto", input=ASKED_NORTH, max_output_tokens=3
        )
        told = served.post(path, {"model": "auto"}, x_api_key="fk-two")
        assert told.status_code == 401
        body = told.json()
        assert ("type" in body) == (path == "/v1/messages")
        assert body["error"]["type"] == "authentication_error"
        assert "fk-two" not in told.text


def test_a_stream_of_every_api_ends_in_its_own_way(served: Served):
    bodies: dict[str, Any] = {
        "/v1/responses": {"input": ASKED_SOUTH},
        "/v1/messages": {
            "max_tokens": 9,
            "messages": [{"role": "user", "content": ASKED_SOUTH}],
        },
    }
    for path, body in bodies.items():
        reply = served.post(path, {"model": "auto", "stream": True, **body})
        assert reply.headers["content-type"].startswith("text/event-stream")
        last = json.loads(sse_data(reply.text)[-1])
        assert last["type"] in ("response.completed", "message_stop")
        assert reply.text.count('"foretell"') == 1
