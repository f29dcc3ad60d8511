"""Chat completions over a real socket, asked by the official client and by curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from serving import (
    ESCALATED,
    KEPT,
    Served,
    foretell_block,
    gateway_config,
    remote,
    serving,
    sse_data,
    upstream,
)

from upstreams.scripted_server import ScriptedServer, answers

BLOCK_KEYS = {
    "request_id",
    "route",
    "model",
    "decision",
    "reason",
    "cause",
    "p_success",
    "p_strong",
    "gain",
    "threshold",
    "probe",
    "router",
    "stopped_at",
    "prefill_ms",
    "probe_ms",
    "overhead_ms",
    "cost_usd",
    "session",
}
TOOL = {
    "type": "function",
    "function": {
        "name": "find_town",
        "description": "Finds a town.",
        "parameters": {"type": "object", "properties": {"nr": {"type": "integer"}}},
    },
}


@pytest.fixture(scope="module")
def large() -> Iterator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture(scope="module")
def served(shared_toy: Path, large: ScriptedServer) -> Iterator[Served]:
    with serving(gateway_config(shared_toy, large.url)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.openai()


def test_a_kept_query_is_answered_by_the_weak_model(client: openai.OpenAI, large: ScriptedServer):
    before = len(large.requests)
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=KEPT, max_tokens=5
    )
    answer = raw.parse()
    assert answer.model == "small"
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert len(large.requests) == before
    block = answer.model_extra["foretell"]
    assert block.keys() == BLOCK_KEYS
    assert block["decision"] == "keep"
    assert block["probe"] == "toy@1"
    assert block["p_success"] >= block["threshold"] == 0.5
    assert block["stopped_at"] is None
    assert raw.headers["x-request-id"] == block["request_id"] == answer.id
    assert raw.headers["x-foretell-model"] == block["model"] == "small"
    assert raw.headers["x-foretell-decision"] == "keep"
    assert raw.headers["x-foretell-probe"] == "toy@1"
    assert float(raw.headers["x-foretell-p-success"]) == pytest.approx(block["p_success"], abs=1e-4)
    assert float(raw.headers["x-foretell-threshold"]) == 0.5
    assert raw.headers["x-foretell-reason"] == block["reason"]
    assert float(raw.headers["x-foretell-overhead-ms"]) > 0


def test_a_stream_says_the_same_as_the_whole_answer(client: openai.OpenAI):
    asked: dict[str, Any] = {"model": "auto", "messages": KEPT, "max_tokens": 12}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert {chunk.model for chunk in chunks} == {"small"}
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)
    told = chunks[-1].model_extra["foretell"]
    assert told["cost_usd"] == whole.model_extra["foretell"]["cost_usd"]
    assert told["decision"] == "keep"


@pytest.mark.parametrize("messages", [KEPT, ESCALATED], ids=["kept", "escalated"])
def test_tokens_are_reported_in_a_stream_when_asked_for(client: openai.OpenAI, messages):
    chunks = list(
        client.chat.completions.create(
            model="auto",
            messages=messages,
            max_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens in (3, 4)
    assert chunks[-1].model_extra["foretell"]["cost_usd"] > 0


def test_an_escalated_query_is_answered_by_the_strong_model(
    served: Served, client: openai.OpenAI, large: ScriptedServer
):
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=ESCALATED)
    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello"
    assert answer.model == "big-1-2030"  # as the upstream calls itself
    assert raw.headers["x-foretell-model"] == "large"
    assert raw.headers["x-foretell-decision"] == "escalate"
    assert large.paths[-1] == "/v1/chat/completions"
    assert large.requests[-1] == {"model": "big-1", "messages": ESCALATED}
    block = answer.model_extra["foretell"]
    # 7 fresh and 4 cached tokens in, 3 out, and the weak model's prefill.
    strong = (7 * 2.5 + 4 * 1.25 + 3 * 10) / 1e6
    assert block["cost_usd"] > strong
    record = served.last()
    assert record.strong_usd == pytest.approx(strong)
    assert record.weak_usd == pytest.approx(block["cost_usd"] - strong)
    assert record.domain == "toy"
    assert record.always_strong_usd == pytest.approx(strong)


def test_a_stream_of_the_strong_model_passes_through_byte_for_byte(served: Served):
    events = served.events(ESCALATED)
    assert events[-1] == "[DONE]"
    assert json.loads(events[0])["choices"][0]["delta"]["content"] == "Hel"
    assert not any(json.loads(event).get("usage") for event in events[:-1])
    block = foretell_block(events)
    assert block["decision"] == "escalate"
    # What the streaming itself took is nobody's overhead.
    assert block["overhead_ms"] < 1000


def test_whatever_else_is_asked_reaches_the_strong_model(
    client: openai.OpenAI, large: ScriptedServer
):
    client.chat.completions.create(
        model="auto",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Which town in the south is nr 1?"},
            {"role": "assistant", "content": "None."},
            {"role": "user", "content": "Which town in the south is nr 2?"},
        ],
        temperature=0.2,
        top_p=0.9,
        seed=7,
        stop=["\n\n"],
        user="someone",
        extra_body={"top_k": 5, "vendor": {"thinking": "deep"}},
        extra_headers={"x-foretell-route": "strong", "x-somebody-elses": "business"},
    )
    assert "x-somebody-elses" not in large.headers[-1]
    assert large.headers[-1]["x-request-id"].startswith("req-")
    sent = large.requests[-1]
    assert sent["model"] == "big-1"
    assert [message["role"] for message in sent["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert sent["temperature"] == 0.2
    assert sent["top_p"] == 0.9
    assert sent["seed"] == 7
    assert sent["stop"] == ["\n\n"]
    assert sent["user"] == "someone"
    assert sent["top_k"] == 5
    assert sent["vendor"] == {"thinking": "deep"}


@pytest.mark.parametrize(
    ("asked", "cause"),
    [
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools"),
        ({"response_format": {"type": "json_object"}}, "json_schema"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "town", "schema": {"type": "object"}},
                }
            },
            "json_schema",
        ),
        ({"n": 2}, "n"),
        ({"logprobs": True, "top_logprobs": 2}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_the_weak_model_cannot_take_goes_to_the_strong_one_and_says_so(
    served: Served, large: ScriptedServer, asked: dict[str, Any], cause: str, stream: bool
):
    before = served.metric("foretell_declined_total", route="auto", cause=cause)
    reply = served.chat(KEPT, **asked, stream=stream)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-foretell-decision"] == "declined"
    assert reply.headers["x-foretell-cause"] == cause
    assert reply.headers["x-foretell-model"] == "large"
    for name, value in asked.items():
        assert large.requests[-1][name] == value
    served.at_rest()
    assert served.metric("foretell_declined_total", route="auto", cause=cause) == before + 1


def test_a_picture_goes_to_the_strong_model(served: Served):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    message = {"role": "user", "content": [{"type": "text", "text": "North?"}, picture]}
    reply = served.chat([message])
    assert reply.headers["x-foretell-cause"] == "images"
    assert reply.json()["foretell"]["decision"] == "declined"


def test_a_prompt_that_the_weak_model_has_no_room_for_goes_to_the_strong_one(served: Served):
    reply = served.chat([{"role": "user", "content": "Which town in the north? " * 40}])
    assert reply.status_code == 200
    assert reply.headers["x-foretell-decision"] == "declined"
    assert reply.headers["x-foretell-cause"] == "context"


def test_a_long_limit_of_the_answer_keeps_nothing_from_the_weak_model(served: Served):
    reply = served.chat(KEPT, max_tokens=100_000)
    assert reply.headers["x-foretell-decision"] == "keep"


def test_stop_and_seed_hold_for_the_weak_model(client: openai.OpenAI):
    asked: dict[str, Any] = {"model": "auto", "messages": KEPT, "max_tokens": 12}
    text = client.chat.completions.create(**asked).choices[0].message.content
    stopped = client.chat.completions.create(**asked, stop=[text[4]]).choices[0]
    assert stopped.message.content == text[: text.index(text[4])]
    assert stopped.finish_reason == "stop"
    warm = [
        client.chat.completions.create(**asked, temperature=1.0, seed=seed)
        .choices[0]
        .message.content
        for seed in (1, 1, 2)
    ]
    assert warm[0] == warm[1] != warm[2]


def test_routes_and_models_are_listed(client: openai.OpenAI):
    listed = {model.id: model.model_extra["foretell"]["kind"] for model in client.models.list()}
    assert listed == {"auto": "route", "small": "model", "large": "model"}
    assert client.models.retrieve("auto").id == "auto"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", ["small", "large"])
def test_a_model_is_asked_by_its_own_name(served: Served, model: str, stream: bool):
    reply = served.chat(ESCALATED if model == "small" else KEPT, model=model, stream=stream)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-foretell-decision"] == "bypass"
    assert reply.headers["x-foretell-model"] == model
    assert "x-foretell-p-success" not in reply.headers
    block = foretell_block(sse_data(reply.text)) if stream else reply.json()["foretell"]
    assert block["decision"] == "bypass"
    assert block["route"] is None
    assert block["model"] == model
    assert block["cost_usd"] > 0
    record = served.last()
    assert (record.route, record.model, record.cost_usd) == (None, model, block["cost_usd"])


def test_what_a_model_cannot_do_is_refused_when_it_is_asked_by_name(served: Served):
    """Silently answering without the tools would be worse."""
    reply = served.chat(KEPT, model="small", tools=[TOOL])
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "unsupported_request"
    assert "tools" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("control", "messages", "decision", "model"),
    [
        ("off", KEPT, "bypass", "large"),
        ("strong", KEPT, "pinned", "large"),
        ("weak", ESCALATED, "pinned", "small"),
        ("shadow", KEPT, "bypass", "large"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_header_steers_the_route(
    served: Served, control: str, messages: list[Any], decision: str, model: str, stream: bool
):
    reply = served.chat(messages, headers={"x-foretell-route": control}, stream=stream)
    assert reply.status_code == 200
    assert reply.headers["x-foretell-decision"] == decision
    assert reply.headers["x-foretell-model"] == model
    served.at_rest()
    assert (control == "shadow") == ("x-foretell-p-success" in reply.headers)


def test_a_shadow_says_what_would_have_been_done(served: Served):
    reply = served.chat(KEPT, headers={"x-foretell-route": "shadow"})
    assert reply.headers["x-foretell-reason"].startswith("shadow: would keep")
    record = served.last()
    assert (record.action, record.serve, record.p_success) == (
        "bypass",
        "strong",
        reply.json()["foretell"]["p_success"],
    )


def test_an_unknown_control_is_refused(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="auto", messages=KEPT, extra_headers={"x-foretell-route": "sideways"}
        )
    assert refused.value.param == "x-foretell-route"


def test_an_unknown_model_is_not_found(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="nobody", messages=KEPT)
    assert refused.value.code == "model_not_found"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_curl_is_answered(served: Served, stream: bool):
    body = json.dumps({"model": "auto", "messages": KEPT, "max_tokens": 4, "stream": stream})
    words = ["curl", "-sS", "-N", "-i", "--max-time", "20", "-H", "content-type:application/json"]
    finished = subprocess.run(
        [*words, "-d", body, f"{served.url}/v1/chat/completions"],
        capture_output=True,
        text=True,
        check=True,
    )
    head, _, answer = finished.stdout.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 200")
    assert "x-foretell-decision: keep" in head
    if stream:
        assert "content-type: text/event-stream" in head
        assert sse_data(answer)[-1] == "[DONE]"
    else:
        assert json.loads(answer)["foretell"]["decision"] == "keep"


def test_a_foretell_may_stand_behind_another(shared_toy: Path, served: Served):
    """The outer one tells of its own decision; the inner one's header says what it thought."""
    inner = {"inner": remote(f"{served.url}/v1", model="auto")}
    with serving(gateway_config(shared_toy, inner, server={"record": False})) as outer:
        for messages, behind in ((KEPT, None), (ESCALATED, "big-1-2030")):
            reply = outer.chat(messages, max_tokens=4)
            assert reply.status_code == 200
            assert reply.json()["foretell"]["model"] == ("inner" if behind else "small")
            assert reply.text.count('"foretell"') == 1
            events = outer.events(messages, max_tokens=4)
            assert events[-1] == "[DONE]"
            assert sum('"foretell"' in event for event in events) == 1
            if behind:
                assert reply.json()["model"] == behind
        outer.at_rest()
    served.at_rest()
