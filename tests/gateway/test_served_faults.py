"""Upstreams that fail in every way there is: somebody answers, or an error says what went wrong."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from serving import (
    ESCALATED,
    KEPT,
    Paced,
    Served,
    foretell_block,
    gateway_config,
    remote,
    serving,
    sse_data,
    until,
    upstream,
)

from upstreams.scripted_server import (
    NO_SUCH_HOST,
    WHOLE,
    Script,
    ScriptedServer,
    answers,
    broken_chunking,
    error,
    hangs_up,
    html_instead,
    huge_header,
    malformed_json,
    never_answers,
    no_http,
    nobody_there,
    replies,
    reset_stream,
    resets,
    says,
    streams,
    too_long_for_context,
    truncated_json,
)

KEY = "sk-canary-0123456789abcdef"
QUICK = {
    "deadlines": {"connect_s": 0.3, "first_byte_s": 0.3, "idle_s": 0.3, "total_s": 2},
    "retries": {"attempts": 1},
}


@dataclass
class Two:
    """A gateway with two strong models."""

    served: Served
    first: ScriptedServer
    second: ScriptedServer


@pytest.fixture(scope="module")
def two(shared_toy: Path) -> Generator[Two]:
    """``first`` is tried once and given up soon; its breaker stays closed."""
    with upstream() as first, upstream(otherwise=answers) as second:
        quick = {**QUICK, "breaker": {"failures": 10_000}}
        models = {
            "large": remote(first.url, **quick),
            "spare": remote(second.url, "spare-1", **quick),
        }
        with serving(gateway_config(shared_toy, models, server={"record": False})) as served:
            yield Two(served, first, second)


@contextmanager
def one(toy: Path, *scripts: Script, otherwise: Script | None = None, **route: Any):
    """A gateway with one strong model; ``large`` are settings of it."""
    large = route.pop("large", {})
    with upstream(*scripts, otherwise=otherwise) as server:
        config = gateway_config(toy, {"large": remote(server.url, **large)}, **route)
        with serving(config) as served:
            yield served, server


BEFORE_THE_FIRST_BYTE = {
    "500": (error(500, "the server had an error"), "error"),
    "503": (error(503, "overloaded"), "error"),
    "429": (error(429, "slow down", Retry_After="30"), "busy"),
    "401": (error(401, "Incorrect API key provided: sk-x"), "unauthorised"),
    "context": (too_long_for_context, "context_window"),
    "hangs_up": (hangs_up, "unreachable"),
    "resets": (resets, "unreachable"),
    "never_answers": (never_answers, "timeout"),
    "no_http": (no_http, "error"),
    "huge_header": (huge_header, "error"),
    "html": (html_instead, "error"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("script", "kind"), BEFORE_THE_FIRST_BYTE.values(), ids=BEFORE_THE_FIRST_BYTE
)
def test_the_next_strong_model_answers_when_the_first_one_does_not(
    two: Two, script: Script, kind: str, stream: bool
):
    two.first.script(script)
    before = len(two.second.requests)
    reply = two.served.chat(ESCALATED, stream=stream)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-foretell-decision"] == "fallback"
    assert reply.headers["x-foretell-model"] == "spare"
    assert len(two.second.requests) == before + 1
    assert two.second.requests[-1]["model"] == "spare-1"
    block = foretell_block(sse_data(reply.text)) if stream else reply.json()["foretell"]
    assert block["decision"] == "fallback"
    assert block["model"] == "spare"
    assert block["reason"].endswith("spare answers instead")
    assert block["cause"] == kind


@pytest.mark.parametrize(
    "script", [malformed_json, truncated_json, replies(200, []), replies(200, {"choices": None})]
)
def test_a_whole_answer_that_is_none_is_replaced_as_well(two: Two, script: Script):
    """Nothing of it has gone to the caller."""
    two.first.script(script)
    reply = two.served.chat(ESCALATED)
    assert reply.status_code == 200
    assert reply.headers["x-foretell-model"] == "spare"
    assert reply.json()["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize(
    "script",
    [
        streams(),
        streams(b'data: {"error": {"message": "overloaded", "code": 529}}\n\n'),
        streams(b"data: nonsense\n\n"),
        streams(b"data: {", then_cut=True),
        says(b"data: {}\n\n", content_type="text/html"),
        replies(200, {"choices": []}),
    ],
    ids=["empty", "error first", "no JSON", "half an event", "another type", "not streamed"],
)
def test_a_stream_that_breaks_before_its_first_event_is_replaced(two: Two, script: Script):
    two.first.script(script)
    events = two.served.events(ESCALATED)
    assert events[-1] == "[DONE]"
    assert foretell_block(events)["model"] == "spare"


BROKEN_STREAMS = {
    "cut": ([], True),
    "cut after half an event": ([b"data: [DONE"], True),
    "without done": (WHOLE[1:-1], False),
    "an error": ([b'data: {"error": {"message": "out of memory"}}\n\n'], False),
    "idle": ([5.0], False),
    "nonsense": ([b"data: nonsense\n\n"], False),
    "a list": ([b"data: [1, 2]\n\n"], False),
}


@pytest.mark.parametrize(("rest", "cut"), BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
def test_a_stream_that_breaks_ends_with_an_error_and_never_with_done(
    two: Two, rest: list[bytes | float], cut: bool
):
    paced = Paced(WHOLE[0], *rest, then_cut=cut)
    two.first.script(paced)
    before = len(two.second.requests)
    with two.served.streaming(ESCALATED) as (_, events):
        assert json.loads(next(events))["choices"][0]["delta"]["content"] == "Hel"
        paced.go_on()
        *_, last = events
    assert json.loads(last)["error"]["message"]
    assert len(two.second.requests) == before, "half an answer is not begun anew"
    two.served.at_rest()


@pytest.mark.parametrize("script", [reset_stream, broken_chunking], ids=["reset", "chunking"])
def test_a_stream_that_breaks_at_once_ends_in_an_error_or_is_replaced(two: Two, script: Script):
    """Whether its first event is read before the connection is gone is a matter of chance."""
    two.first.script(script)
    events = two.served.events(ESCALATED)
    if events[-1] == "[DONE]":
        assert foretell_block(events)["model"] == "spare"
    else:
        assert json.loads(events[-1])["error"]["message"]


def test_the_official_client_is_told_that_a_stream_broke(two: Two):
    paced = Paced(WHOLE[0], then_cut=True)
    two.first.script(paced)
    stream = two.served.openai().chat.completions.create(
        model="auto", messages=ESCALATED, stream=True
    )
    assert next(stream).choices[0].delta.content == "Hel"
    paced.go_on()
    with pytest.raises(openai.APIError, match="broke off"):
        next(stream)


def test_a_refusal_is_passed_on_in_the_upstreams_own_words(two: Two):
    told = {"error": {"message": "temperature is too high", "type": "invalid_request_error"}}
    told["error"] |= {"code": "too_high", "param": "temperature"}
    before = len(two.second.requests)
    for stream in (False, True):
        two.first.script(replies(400, told))
        reply = two.served.chat(ESCALATED, temperature=2, stream=stream)
        assert reply.status_code == 400
        assert reply.json() == told
        assert reply.headers["x-foretell-model"]
    assert len(two.second.requests) == before, "nobody else would take it"


def test_a_refusal_of_another_shape_is_told_in_openais(two: Two):
    two.first.script(says(b"<h1>Unprocessable</h1>", status=422, content_type="text/html"))
    told = two.served.chat(ESCALATED)
    assert told.status_code == 422
    assert set(told.json()["error"]) == {"message", "type", "code", "param"}


def test_a_prompt_too_long_for_all_is_the_callers_fault(two: Two):
    two.first.script(too_long_for_context)
    two.second.script(too_long_for_context)
    reply = two.served.chat(ESCALATED, headers={"x-foretell-route": "strong"})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"


def test_a_model_known_to_hold_no_more_is_not_asked_after_one_whose_context_is_exceeded(
    toy: Path,
):
    with upstream(too_long_for_context) as first, upstream(otherwise=answers) as rest:
        models = {
            "large": remote(first.url, capabilities={"context_tokens": 8192}),
            "same": remote(rest.url, "same", capabilities={"context_tokens": 8192}),
            "larger": remote(rest.url, "larger", capabilities={"context_tokens": 100_000}),
        }
        with serving(gateway_config(toy, models)) as served:
            reply = served.chat(ESCALATED)
        assert reply.headers["x-foretell-model"] == "larger"
        assert reply.headers["x-foretell-cause"] == "context_window"
        assert [request["model"] for request in rest.requests] == ["larger"]


def test_a_long_prompt_goes_first_to_a_model_that_is_known_to_hold_it(toy: Path):
    with upstream(otherwise=answers) as server:
        models = {
            "large": remote(server.url, "large", capabilities={"context_tokens": 40}),
            "larger": remote(server.url, "larger", capabilities={"context_tokens": 100_000}),
        }
        with serving(gateway_config(toy, models)) as served:
            assert served.chat(ESCALATED).headers["x-foretell-model"] == "larger"
            # Where nobody is known to hold it, whoever counts otherwise may still say so.
            only = served.chat(
                [{"role": "user", "content": "Which town in the south? " * 30}],
            )
            assert only.status_code == 200


def test_a_failure_is_tried_again_before_the_next_model_is_asked(toy: Path):
    with one(toy, error(500, "hiccup"), error(503, "hiccup"), otherwise=answers) as (
        served,
        server,
    ):
        for stream in (False, True):
            server.scripts = [error(500, "hiccup")]
            reply = served.chat(ESCALATED, stream=stream)
            assert reply.status_code == 200
            assert reply.headers["x-foretell-decision"] == "escalate"
        served.at_rest()
        attempts = {
            outcome: served.metric(
                "foretell_upstream_attempts_total", target="large", outcome=outcome
            )
            for outcome in ("ok", "error", "busy")
        }
        assert attempts == {"ok": 2, "error": 2, "busy": 0}


def test_a_short_retry_after_is_waited_for(toy: Path):
    with one(toy, error(429, "slow down", Retry_After="1"), otherwise=answers) as (served, _):
        reply = served.chat(ESCALATED)
        assert reply.headers["x-foretell-decision"] == "escalate"
        assert reply.elapsed.total_seconds() >= 1


def test_a_long_retry_after_is_not_waited_for_when_the_weak_model_can_answer(toy: Path):
    with one(toy, error(429, "slow down", Retry_After="15"), otherwise=answers) as (served, server):
        reply = served.chat(ESCALATED, max_tokens=4)
        assert reply.headers["x-foretell-decision"] == "fallback"
        assert reply.headers["x-foretell-model"] == "small"
        assert reply.headers["x-foretell-cause"] == "busy"
        assert len(server.requests) == 1


def test_a_caller_is_told_how_long_an_upstream_asks_to_be_left_alone(toy: Path):
    with one(
        toy, otherwise=error(429, "slow down", Retry_After="55"), weak_as_last_resort=False
    ) as (
        served,
        _,
    ):
        reply = served.chat(ESCALATED)
        assert reply.status_code == 429
        assert reply.headers["retry-after"] == "55"
        with pytest.raises(openai.RateLimitError):
            served.openai().chat.completions.create(model="auto", messages=ESCALATED)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_weak_model_is_the_last_resort(toy: Path, stream: bool):
    with one(toy, otherwise=error(500, "down for good")) as (served, _):
        reply = served.chat(ESCALATED, max_tokens=4, stream=stream)
        assert reply.status_code == 200
        assert reply.headers["x-foretell-decision"] == "fallback"
        assert reply.headers["x-foretell-model"] == "small"
        assert reply.headers["x-foretell-cause"] == "error"
        block = foretell_block(sse_data(reply.text)) if stream else reply.json()["foretell"]
        assert block["reason"].endswith("the weak model answers instead")
        record = served.last()
        assert (record.action, record.serve, record.model) == ("fallback", "weak", "small")
        assert record.strong_usd == 0
        assert record.weak_usd > 0


def test_whoever_asked_for_the_strong_model_gets_no_other(toy: Path):
    with one(toy, otherwise=error(500, "down for good")) as (served, _):
        for control in ("strong", "off"):
            reply = served.chat(ESCALATED, headers={"x-foretell-route": control})
            assert reply.status_code == 502
            assert reply.json()["error"]["type"] == "upstream_error"


def test_without_a_last_resort_the_failure_is_told(toy: Path):
    with one(toy, otherwise=error(500, "down for good"), weak_as_last_resort=False) as (served, _):
        reply = served.chat(ESCALATED)
        assert reply.status_code == 502
        assert "down for good" in reply.json()["error"]["message"]
        assert reply.headers["x-request-id"]
        assert served.chat(KEPT).status_code == 200
        assert [record.status for record in served.records()] == [502, 200]


def test_a_model_asked_by_its_name_fails_alone(toy: Path):
    with one(toy, otherwise=error(500, "down for good")) as (served, _):
        reply = served.chat(KEPT, model="large")
        assert reply.status_code == 502


@pytest.mark.parametrize("url", [NO_SUCH_HOST, nobody_there()], ids=["no name", "nobody listens"])
def test_a_start_with_a_dead_strong_model_works(toy: Path, url: str):
    with serving(gateway_config(toy, {"large": remote(url, **QUICK)})) as served:
        assert served.gateway.ready
        assert served.chat(KEPT).headers["x-foretell-decision"] == "keep"
        reply = served.chat(ESCALATED)
        assert reply.headers["x-foretell-decision"] == "fallback"
        assert reply.headers["x-foretell-cause"] == "unreachable"
        told = served.chat(ESCALATED, headers={"x-foretell-route": "strong"})
        assert told.status_code == 502
        assert "Traceback" not in told.text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_our_key_is_told_to_nobody(
    toy: Path, stream: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("LARGE_KEY", KEY)
    quoting = [
        error(status, f"Incorrect API key provided: {KEY}")
        for status in (401, 401, 403, 403, 400, 400, 500, 500)
    ]
    large = {"api_key_env": "LARGE_KEY", "retries": {"attempts": 1}}
    large["breaker"] = {"failures": 100}
    with one(toy, *quoting, large=large) as (served, server):
        for _ in range(len(quoting) // 2):
            reply = served.chat(ESCALATED, stream=stream, headers={"x-foretell-route": "strong"})
            assert reply.status_code >= 400
            assert "canary" not in reply.text
            assert "canary" not in str(reply.headers)
            assert "canary" not in served.chat(ESCALATED, max_tokens=2).text
        in_stream = Paced(WHOLE[0], b'data: {"error": {"message": "bad %b"}}\n\n' % KEY.encode())
        server.script(in_stream)
        with served.streaming(ESCALATED) as (_, events):
            next(events)
            in_stream.go_on()
            assert json.loads(next(events))["error"]["message"].startswith("bad ")
            assert "canary" not in "".join(events)
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert "canary" not in str(served.records())
    assert "canary" not in "".join(capfd.readouterr())


def test_the_breaker_leaves_a_broken_target_alone_and_tries_it_later(toy: Path):
    large = {
        "retries": {"attempts": 1},
        "breaker": {"failures": 3, "open_s": 3},
    }
    with one(toy, otherwise=error(500, "broken"), large=large) as (served, server):

        def state() -> str:
            return served.gateway.snapshot.targets["large"].breaker.state

        for _ in range(3):
            assert served.chat(ESCALATED).headers["x-foretell-cause"] == "error"
        assert state() == "open"
        assert served.metric("foretell_breaker_state", target="large") == 2
        asked = len(server.requests)
        assert served.chat(ESCALATED).headers["x-foretell-cause"] == "breaker_open"
        told = served.chat(ESCALATED, headers={"x-foretell-route": "strong"})
        assert told.status_code == 503
        assert int(told.headers["retry-after"]) >= 1
        assert len(server.requests) == asked, "it is left alone"
        until(lambda: state() == "half_open")
        assert served.chat(ESCALATED).headers["x-foretell-cause"] == "error"
        assert state() == "open", "the one call that tried it failed"
        until(lambda: state() == "half_open")
        server.otherwise = answers
        assert served.chat(ESCALATED).headers["x-foretell-decision"] == "escalate"
        assert state() == "closed"


def test_a_slow_first_byte_is_given_up(toy: Path):
    slow = says(5.0, b"{}")
    with one(toy, slow, otherwise=answers, large=QUICK) as (served, _):
        reply = served.chat(ESCALATED)
        assert reply.headers["x-foretell-decision"] == "fallback"
        assert reply.headers["x-foretell-model"] == "small"
        assert reply.elapsed.total_seconds() < 3


def test_a_slow_first_event_of_a_stream_is_given_up(two: Two):
    two.first.script(streams(5.0, *WHOLE))
    events = two.served.events(ESCALATED)
    assert foretell_block(events)["model"] == "spare"


def test_what_failed_costs_nothing_and_what_broke_off_is_not_known(toy: Path):
    paced = Paced(WHOLE[0], then_cut=True)
    with one(toy, error(500, "no"), paced, large={"retries": {"attempts": 1}}) as (served, _):
        served.chat(ESCALATED, headers={"x-foretell-route": "strong"})
        assert served.last().cost_usd == 0
        with served.streaming(ESCALATED, headers={"x-foretell-route": "strong"}) as (_, events):
            next(events)
            paced.go_on()
            assert "error" in next(events)
        broken = served.last()
        assert (broken.cost_usd, broken.strong_usd) == (None, None)
        assert broken.status == 502
        assert served.metric("foretell_cost_unknown_total", route="auto", model="large") == 1


def test_a_query_that_was_declined_counts_as_such_though_another_model_answered(two: Two):
    two.served.at_rest()
    before = two.served.metric("foretell_declined_total", cause="n")
    two.first.script(error(500, "no"))
    assert two.served.chat(KEPT, n=2).headers["x-foretell-decision"] == "fallback"
    two.served.at_rest()
    assert two.served.metric("foretell_declined_total", cause="n") == before + 1
