"""The raw pass-through against a real server on the loopback that misbehaves on cue."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from scripted_server import (
    COMPLETION,
    NO_SUCH_HOST,
    WHOLE,
    Script,
    ScriptedServer,
    answers,
    broken_chunking,
    chunk,
    error,
    hangs_up,
    huge_header,
    malformed_json,
    never_answers,
    no_http,
    nobody_there,
    raw,
    replies,
    reset_stream,
    resets,
    says,
    streams,
    too_long_for_context,
    trickles,
    truncated_json,
    truncated_stream,
)

from foretell.config import OpenAIModel
from foretell.errors import ConfigError
from foretell.upstreams import Opened, Target, UpstreamCallError

KEY = "sk-very-secret-0123456789"
PATH = "/chat/completions"
BODY = b'{"model":"big-1","messages":[{"role":"user","content":"Hello?"}],"stream":true}'
ONCE = {"attempts": 1}
QUICK = {"attempts": 3, "first_wait_s": 0.01, "longest_wait_s": 0.02, "budget": 1.0}


def target_at(
    url: str,
    *,
    environment: dict[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    **config: Any,
) -> Target:
    settings = {
        "engine": "openai",
        "model": "big-1",
        "base_url": url,
        "api_key_env": "LARGE_KEY",
        "retries": QUICK,
        **config,
    }
    return Target(
        name="large",
        config=OpenAIModel.model_validate(settings),
        environment={"LARGE_KEY": KEY} if environment is None else environment,
        clock=clock,
        draw=lambda: 1.0,
    )


Act = Callable[[Target, ScriptedServer], Awaitable[Any]]


def against(*scripts: Script, do: Act, otherwise: Script | None = None, **config: Any) -> Any:
    """What ``do`` gives, after which neither task nor connection may be left."""

    async def run(server: ScriptedServer):
        async with aclosing(target_at(server.url, **config)) as target:
            result = await do(target, server)
            assert await _soon(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        assert await _soon(lambda: server.open_connections == 0)
        return result

    with ScriptedServer(list(scripts), otherwise) as server:
        return asyncio.run(run(server))


async def _soon(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    give_up_at = time.monotonic() + within_s
    while not condition() and time.monotonic() < give_up_at:
        await asyncio.sleep(0.005)
    return condition()


async def whole(opened: Opened) -> bytes:
    try:
        return await opened.read()
    finally:
        await opened.close()


async def fetch(target: Target, _: ScriptedServer) -> bytes:
    return await whole(await target.open(PATH, BODY))


def failure(*scripts: Script, served: int = 1, **config: Any) -> UpstreamCallError:
    """The error that a call ends with, before or after its answer has begun."""

    async def do(target: Target, server: ScriptedServer):
        with pytest.raises(UpstreamCallError) as caught:
            await fetch(target, server)
        assert len(server.requests) == served
        return caught.value

    return against(*scripts, do=do, **config)


# What passes through.


def test_a_stream_comes_through_byte_for_byte():
    assert against(streams(*WHOLE), do=fetch) == b"".join(WHOLE)


def test_a_body_comes_through_byte_for_byte():
    odd = b'{ "id":"1",\r\n"text":"\xc3\xa9 \\u00e9", "x":1e400 }\n'
    assert against(says(odd), do=fetch) == odd


def test_no_bytes_are_no_trouble_outside_of_a_stream():
    assert against(says(b""), do=fetch) == b""


def test_pieces_are_handed_on_as_they_arrive():
    async def do(target, _):
        async with _closing(await target.open(PATH, BODY)) as opened:
            return [(piece, time.monotonic()) async for piece in opened]

    arrived = against(streams(WHOLE[0], 0.2, *WHOLE[1:]), do=do)
    assert arrived[0][0] == WHOLE[0]
    assert arrived[1][1] - arrived[0][1] > 0.1
    assert b"".join(piece for piece, _ in arrived) == b"".join(WHOLE)


def test_the_status_headers_and_attempts_are_told():
    async def do(target, _):
        async with _closing(await target.open(PATH, BODY)) as opened:
            return opened.status, opened.content_type, opened.attempts, opened.headers

    status, content_type, attempts, headers = against(
        replies(503), replies(200, COMPLETION, X_Request_Id="r-1"), do=do
    )
    assert (status, content_type, attempts) == (200, "application/json", 2)
    assert headers["X-Request-Id"] == "r-1"


class _closing:  # noqa: N801 (reads like contextlib's, which wants aclose)
    def __init__(self, opened: Opened) -> None:
        self.opened = opened

    async def __aenter__(self) -> Opened:
        return self.opened

    async def __aexit__(self, *exc: object) -> None:
        await self.opened.close()


def test_the_request_is_the_bytes_with_our_own_headers():
    async def do(target, server):
        sent = {"traceparent": "00-1-2-03", "authorization": "Bearer other", "X-Request-Id": "7"}
        await whole(await target.open(PATH, BODY, headers=sent))
        await whole(await target.open("/responses", BODY))
        return server

    server = against(answers, answers, do=do)
    assert server.requests == [json.loads(BODY)] * 2
    assert server.paths == ["/v1/chat/completions", "/v1/responses"]
    first, second = server.headers
    assert first["traceparent"] == "00-1-2-03"
    assert first["X-Request-Id"] == "7"
    for headers in (first, second):
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert headers["Accept-Encoding"] == "identity"
        assert headers["Content-Type"] == "application/json"
        assert headers["User-Agent"] == "foretell"
    assert not {"traceparent", "X-Request-Id", "Cookie"} & set(second)


def test_no_cookie_of_an_upstream_is_kept():
    async def do(target, server):
        await fetch(target, server)
        await fetch(target, server)
        return server.headers

    headers = against(replies(200, {}, Set_Cookie="a=1"), answers, do=do)
    assert "Cookie" not in headers[1]


def test_a_compression_that_nobody_asked_for_is_undone():
    import gzip

    packed = gzip.compress(b'{"id": 1}')
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    script = raw(head, b"Content-Length: %d\r\n\r\n" % len(packed), packed)
    assert against(script, do=fetch) == b'{"id": 1}'


def test_a_large_body_is_sent_whole():
    body = json.dumps({"text": "x" * (3 << 20)}).encode()

    async def do(target, server):
        await whole(await target.open(PATH, body))
        return server.requests

    assert against(answers, do=do) == [json.loads(body)]


def test_without_a_key_variable_no_authorization_is_sent():
    async def do(target, server):
        await fetch(target, server)
        return server.headers[0]

    assert "Authorization" not in against(answers, do=do, api_key_env=None)


def test_the_key_is_read_at_every_call():
    environment = {"LARGE_KEY": "first"}

    async def do(target, server):
        await fetch(target, server)
        environment["LARGE_KEY"] = "second"
        await fetch(target, server)
        return [headers["Authorization"] for headers in server.headers]

    sent = against(answers, answers, do=do, environment=environment)
    assert sent == ["Bearer first", "Bearer second"]


def test_one_connection_serves_calls_one_after_another():
    async def do(target, server):
        for _ in range(5):
            await fetch(target, server)
            assert server.open_connections == 1

    against(do=do, otherwise=answers)


def test_many_calls_at_once_do_not_wait_for_each_other():
    async def do(target, server):
        await asyncio.gather(*(fetch(target, server) for _ in range(120)))

    started = time.monotonic()
    against(do=do, otherwise=streams(0.5, *WHOLE))
    assert time.monotonic() - started < 10  # one after another would take a minute


# What is tried again.


@pytest.mark.parametrize(
    "fault",
    [
        replies(408),
        replies(425),
        replies(429),
        replies(500),
        replies(503),
        replies(529),
        hangs_up,
        resets,
        no_http,
        huge_header,
        streams(),
    ],
)
def test_a_passing_fault_is_tried_again(fault):
    outcomes: list[tuple[str, int | None]] = []

    async def do(target, server):
        opened = await target.open(PATH, BODY, on_attempt=lambda *told: outcomes.append(told))
        assert (opened.attempts, len(server.requests)) == (3, 3)
        assert target.breaker.state == "closed"
        return await whole(opened)

    assert against(fault, fault, streams(*WHOLE), do=do) == b"".join(WHOLE)
    assert [word for word, _ in outcomes][2] == "ok"
    assert {word for word, _ in outcomes[:2]} <= {"busy", "error", "timeout", "unreachable"}


@pytest.mark.parametrize(
    ("fault", "kind", "outcome", "status"),
    [
        (error(429, "slow down"), "busy", "busy", 429),
        (error(503, "overloaded"), "error", "error", 503),
        (error(408, "too slow"), "timeout", "timeout", 408),
        (hangs_up, "unreachable", "unreachable", None),
        (huge_header, "error", "error", None),
        (never_answers, "timeout", "timeout", None),
        (streams(), "error", "error", None),
        (streams(60.0), "timeout", "timeout", None),
    ],
)
def test_a_lasting_fault_is_given_up_after_the_attempts(fault, kind, outcome, status):
    outcomes: list[tuple[str, int | None]] = []

    async def do(target, _):
        with pytest.raises(UpstreamCallError) as caught:
            await target.open(PATH, BODY, on_attempt=lambda *told: outcomes.append(told))
        return caught.value

    waits = {"first_byte_s": 0.1} if status is None and kind == "timeout" else {}
    raised = against(do=do, otherwise=fault, deadlines=waits)
    assert (raised.kind, raised.status, raised.retryable) == (kind, status, True)
    assert outcomes == [(outcome, status)] * 3


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 418, 422])
def test_a_fault_of_the_request_is_not_tried_again_and_its_words_are_kept(status):
    raised = failure(error(status, "no such tool", "bad_tool"))
    assert (raised.kind, raised.status, raised.retryable) == ("refused", status, False)
    assert str(raised) == f"model 'large' answered with HTTP {status}: no such tool"
    assert raised.body is not None
    assert json.loads(raised.body)["error"]["code"] == "bad_tool"


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_not_accepted_is_named_by_its_variable(status):
    raised = failure(error(status, f"Incorrect API key provided: {KEY[:8]}***"))
    assert (raised.kind, raised.status, raised.body) == ("unauthorised", status, None)
    assert str(raised) == f"model 'large' refused the API key in LARGE_KEY (HTTP {status})"
    raised = failure(error(status, "who are you?"), api_key_env=None)
    assert str(raised) == f"model 'large' refused a call without an API key (HTTP {status})"


@pytest.mark.parametrize("environment", [{}, {"LARGE_KEY": " "}, {"LARGE_KEY": "two\nlines"}])
def test_a_key_that_is_not_there_is_a_failed_call_and_not_the_end(environment):
    raised = failure(served=0, environment=environment)
    assert raised.kind == "unauthorised"
    assert "LARGE_KEY" in str(raised)


@pytest.mark.parametrize(
    "fault",
    [
        too_long_for_context,
        error(400, "whatever", "context_length_exceeded"),
        error(413, "prompt is too long: 208310 tokens > 200000 maximum"),  # Anthropic
        replies(  # llama.cpp
            400,
            {
                "error": {
                    "code": 400,
                    "message": "the request exceeds the available context size",
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": 9001,
                }
            },
        ),
        replies(  # vLLM of old
            400,
            {
                "object": "error",
                "message": "This model's maximum context length is 4096 tokens. However, you …",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            },
        ),
        replies(  # Google
            400,
            [{"error": {"message": "The input token count (9) exceeds the maximum number of …"}}],
        ),
    ],
)
def test_a_prompt_that_is_too_long_is_told_from_other_refusals(fault):
    raised = failure(fault)
    assert (raised.kind, raised.retryable) == ("context_window", False)


def test_an_account_without_money_is_busy_but_not_tried_again():
    raised = failure(error(429, "You exceeded your current quota", "insufficient_quota"))
    assert (raised.kind, raised.retryable) == ("busy", False)


def test_a_redirect_is_not_followed():
    raised = failure(replies(307, Location="http://127.0.0.1:1/v1"))
    assert (raised.kind, raised.status) == ("error", 307)
    assert "redirects (HTTP 307)" in str(raised)
    assert "127.0.0.1:1" not in str(raised)


def test_retry_after_is_waited_for():
    started = time.monotonic()
    assert against(replies(429, Retry_After="0.3"), streams(*WHOLE), do=fetch) == b"".join(WHOLE)
    assert time.monotonic() - started >= 0.3


def test_a_retry_after_that_does_not_fit_the_time_left_is_not_waited_for():
    started = time.monotonic()
    raised = failure(replies(429, Retry_After="60"), deadlines={"total_s": 5})
    assert (raised.status, raised.retry_after_s) == (429, 60)
    assert time.monotonic() - started < 10


def test_a_retry_after_beyond_the_callers_patience_is_not_waited_for():
    async def do(target, server):
        with pytest.raises(UpstreamCallError) as caught:
            await target.open(PATH, BODY, patience_s=1.0)
        assert len(server.requests) == 1
        return caught.value

    started = time.monotonic()
    assert against(replies(503, Retry_After="60"), do=do).retry_after_s == 60
    assert time.monotonic() - started < 10


def test_in_an_outage_the_retries_of_all_calls_are_limited_together():
    async def do(target, server):
        for _ in range(100):
            with pytest.raises(UpstreamCallError):
                await target.open(PATH, BODY)
        return len(server.requests)

    retries = {**QUICK, "budget": 0.1}
    asked = against(do=do, otherwise=replies(503), retries=retries, breaker={"failures": 10_000})
    assert 100 + 10 <= asked <= 100 + 10 + 100 * 0.1


# Deadlines.


def test_the_first_byte_of_a_stream_is_waited_for_no_longer_than_said():
    started = time.monotonic()
    raised = failure(streams(60.0), retries=ONCE, deadlines={"first_byte_s": 0.2})
    assert raised.kind == "timeout"
    assert "did not begin to answer within 0.2 s" in str(raised)
    assert 0.15 < time.monotonic() - started < 10


def test_silence_within_an_answer_breaks_it_off():
    raised = failure(streams(chunk("Hel"), 60.0), deadlines={"idle_s": 0.1})
    assert raised.kind == "broke_off"
    assert "nothing came for 0.1 s" in str(raised)


def test_the_wait_for_the_first_byte_may_be_longer_than_the_silence_allowed_later():
    script = streams(0.6, *WHOLE)
    assert against(script, do=fetch, deadlines={"idle_s": 0.3}) == b"".join(WHOLE)


def test_an_answer_that_trickles_ends_with_the_time_in_all():
    started = time.monotonic()
    slow = trickles(b"{" + b" " * 1000, 0.02)
    raised = failure(slow, deadlines={"total_s": 0.3})
    assert raised.kind == "broke_off"
    assert "total_s" in str(raised)
    assert time.monotonic() - started < 10


def test_the_time_in_all_includes_attempts_and_waits():
    started = time.monotonic()
    retries = {"attempts": 9, "first_wait_s": 0.15, "longest_wait_s": 0.15, "budget": 1.0}

    async def do(target, server):
        with pytest.raises(UpstreamCallError) as caught:
            await fetch(target, server)
        assert 2 <= len(server.requests) <= 6
        return caught.value

    against(do=do, otherwise=replies(500), retries=retries, deadlines={"total_s": 0.4})
    assert time.monotonic() - started < 10


def test_an_error_body_that_does_not_end_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("foretell.upstreams._connections._ERROR_BODY_S", 0.1)
    raised = failure(says(b'{"error": {', 60.0, status=422))
    assert (raised.kind, raised.status, raised.body) == ("refused", 422, b'{"error": {')


def test_an_error_body_without_measure_is_cut():
    raised = failure(says(*[b"x" * 65_536] * 100, status=400))
    assert raised.body is not None
    assert len(raised.body) == 16_384
    assert len(str(raised)) < 500


# What breaks off.


@pytest.mark.parametrize(
    "broken",
    [truncated_stream, reset_stream, truncated_json],
    ids=["cut", "reset", "length"],
)
def test_an_answer_that_breaks_off_is_an_error_and_not_begun_again(broken):
    raised = failure(broken)
    assert (raised.kind, raised.retryable, raised.status) == ("broke_off", False, 200)
    assert "the answer of model 'large' broke off: the connection was lost" in str(raised)


def test_a_body_that_is_not_framed_as_promised_breaks_off():
    # aiohttp's own parser in C tells of it only by falling silent.
    assert failure(broken_chunking, deadlines={"idle_s": 0.2}).kind == "broke_off"


def test_what_came_before_the_break_is_given_out():
    async def do(target, _):
        async with _closing(await target.open(PATH, BODY)) as opened:
            piece = await anext(opened)
            for _ in range(2):  # it is never taken for the end
                with pytest.raises(UpstreamCallError, match="the connection was lost"):
                    await anext(opened)
            return piece

    assert against(streams(chunk("Hel"), 0.05, then_cut=True), do=do) == chunk("Hel")


def test_nonsense_is_passed_on_for_others_to_judge():
    assert against(malformed_json, do=fetch).startswith(b'{"id"')


def test_a_body_without_measure_is_not_taken_in(monkeypatch):
    monkeypatch.setattr("foretell.upstreams._opened._LARGEST_BODY_BYTES", 1 << 20)
    raised = failure(says(*[b"x" * 65_536] * 100))
    assert raised.kind == "broke_off"
    assert "it is larger than 1 MiB" in str(raised)


def test_an_answer_that_was_closed_is_not_taken_for_a_whole_one():
    async def do(target, _):
        opened = await target.open(PATH, BODY)
        await opened.close()
        await opened.close()
        with pytest.raises(UpstreamCallError, match="it was closed") as caught:
            await opened.read()
        return caught.value.kind

    assert against(streams(chunk("Hel"), 60.0), do=do) == "broke_off"


# Callers who go away.


def test_a_caller_who_goes_away_before_the_answer_ends_the_call_upstream():
    async def do(target, server):
        call = asyncio.create_task(target.open(PATH, BODY))
        assert await _soon(lambda: len(server.requests) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await _soon(lambda: server.given_up == 1)
        assert server.open_connections == 0
        assert target.breaker.state == "closed"

    against(never_answers, do=do, breaker={"failures": 1})


def test_a_caller_who_goes_away_within_the_answer_ends_the_call_upstream():
    async def do(target, server):
        read: list[bytes] = []

        async def caller():
            opened = await target.open(PATH, BODY)
            try:
                read.append(await anext(opened))
                await anext(opened)
            finally:
                await opened.close()

        call = asyncio.create_task(caller())
        assert await _soon(lambda: read == [chunk("Hel")])
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await _soon(lambda: server.given_up == 1)
        assert target.breaker.state == "closed"

    against(streams(chunk("Hel"), 60.0), do=do, breaker={"failures": 1})


def test_closing_an_answer_ends_the_call_upstream_though_another_task_reads_it():
    async def do(target, server):
        opened = await target.open(PATH, BODY)
        await anext(opened)
        reader = asyncio.create_task(anext(opened))
        await asyncio.sleep(0.01)
        await opened.close()
        with pytest.raises(UpstreamCallError, match="it was closed"):
            await reader
        assert await _soon(lambda: server.given_up == 1)
        assert target.breaker.state == "closed"

    against(streams(chunk("Hel"), 60.0), do=do, breaker={"failures": 1})


def test_a_caller_who_goes_away_while_the_body_is_stuck_leaves_no_connection():
    async def run():
        connections: list[asyncio.StreamWriter] = []

        async def reads_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter):
            connections.append(writer)
            writer.transport.pause_reading()
            await asyncio.sleep(60)

        server = await asyncio.start_server(reads_nothing, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        target = target_at(f"http://127.0.0.1:{port}/v1")
        before = _open_files()
        call = asyncio.create_task(target.open(PATH, b"x" * (32 << 20)))
        assert await _soon(lambda: len(connections) == 1)
        await asyncio.sleep(0.2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        try:
            # The server's end of the connection stays.
            assert await _soon(lambda: _open_files() <= before + 1)
        finally:
            await target.aclose()
            for writer in connections:
                writer.transport.abort()
            server.close()

    asyncio.run(run())


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (only their number counts)


# The breaker.


def test_a_target_that_fails_is_left_alone_and_tried_again_by_one_call():
    now = [0.0]
    outcomes: list[tuple[str, int | None]] = []

    async def do(target, server):
        for _ in range(3):
            with pytest.raises(UpstreamCallError, match="HTTP 503"):
                await target.open(PATH, BODY)
        assert target.breaker.state == "open"
        with pytest.raises(UpstreamCallError, match=r"left alone for 15\.0 s more") as caught:
            await target.open(PATH, BODY, on_attempt=lambda *told: outcomes.append(told))
        assert (caught.value.kind, caught.value.retry_after_s) == ("breaker_open", 15.0)
        assert outcomes == [("breaker_open", None)]
        assert len(server.requests) == 3
        now[0] = 15.0
        assert target.breaker.state == "half_open"
        probe = asyncio.create_task(target.open(PATH, BODY))
        assert await _soon(lambda: len(server.requests) == 4)
        with pytest.raises(UpstreamCallError, match="left alone while another call tries it"):
            await target.open(PATH, BODY)
        opened = await probe
        # The rest of the answer need not be waited for.
        assert target.breaker.state == "closed"
        await opened.close()
        assert await fetch(target, server) == b"".join(WHOLE)

    against(
        *[replies(503)] * 3,
        streams(0.2, chunk("Hel"), 60.0),
        streams(*WHOLE),
        do=do,
        retries=ONCE,
        breaker={"failures": 3, "open_s": 15},
        clock=lambda: now[0],
    )


def test_an_open_breaker_ends_the_attempts_with_the_error_that_opened_it():
    raised = failure(*[error(503, "overloaded")] * 2, served=2, breaker={"failures": 2})
    assert (raised.kind, raised.status) == ("error", 503)


def test_a_probe_whose_caller_goes_away_leaves_its_place_to_the_next():
    now = [0.0]

    async def do(target, server):
        with pytest.raises(UpstreamCallError):
            await target.open(PATH, BODY)
        now[0] = 15.0
        probe = asyncio.create_task(target.open(PATH, BODY))
        assert await _soon(lambda: len(server.requests) == 2)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert target.breaker.state == "half_open"
        await fetch(target, server)
        assert target.breaker.state == "closed"

    against(
        replies(503),
        never_answers,
        streams(*WHOLE),
        do=do,
        retries=ONCE,
        breaker={"failures": 1, "open_s": 15},
        clock=lambda: now[0],
    )


@pytest.mark.parametrize("status", [400, 403, 404, 413, 415, 422])
def test_no_caller_can_open_the_breaker_with_requests_that_are_refused(status):
    async def do(target, _):
        for _ in range(5):
            with pytest.raises(UpstreamCallError):
                await target.open(PATH, BODY)
        return target.breaker.state

    state = against(do=do, otherwise=replies(status), breaker={"failures": 2})
    assert state == "closed"


@pytest.mark.parametrize("fault", [replies(401), replies(307), truncated_stream, hangs_up])
def test_what_is_wrong_with_the_target_opens_its_breaker(fault):
    async def do(target, server):
        for _ in range(2):
            with pytest.raises(UpstreamCallError):
                await fetch(target, server)
        return target.breaker.state

    state = against(do=do, otherwise=fault, retries=ONCE, breaker={"failures": 2})
    assert state == "open"


def test_an_answer_that_is_whole_ends_a_row_of_failures():
    async def do(target, server):
        for _ in range(3):
            with pytest.raises(UpstreamCallError):
                await fetch(target, server)
            await fetch(target, server)
        return target.breaker.state

    scripts = [replies(503), streams(*WHOLE)] * 3
    assert against(*scripts, do=do, retries=ONCE, breaker={"failures": 2}) == "closed"


def test_an_answer_that_came_whole_counts_though_its_end_was_not_read():
    async def do(target, server):
        for _ in range(2):
            with pytest.raises(UpstreamCallError):
                await target.open(PATH, BODY)
            opened = await target.open(PATH, BODY)
            await asyncio.sleep(0.05)
            await opened.close()
        assert target.breaker.state == "closed"
        return server.open_connections

    scripts = [replies(503), answers] * 2
    assert against(*scripts, do=do, retries=ONCE, breaker={"failures": 2}) == 1


# Hosts.


def unreachable(url: str, **config: Any) -> UpstreamCallError:
    async def call():
        async with aclosing(target_at(url, retries=ONCE, **config)) as target:
            with pytest.raises(UpstreamCallError) as caught:
                await target.open(PATH, BODY)
            return caught.value

    return asyncio.run(call())


def test_nobody_there_is_told_without_the_address():
    url = nobody_there()
    raised = unreachable(url)
    assert (raised.kind, raised.status, raised.retryable) == ("unreachable", None, True)
    assert str(raised) == "model 'large' could not be reached: connection refused"


def test_a_host_that_no_name_server_knows_is_told_without_its_name():
    raised = unreachable(NO_SUCH_HOST)
    assert raised.kind == "unreachable"
    assert str(raised) == "model 'large' could not be reached: its host name was not found"


def test_a_server_that_speaks_no_tls_is_told():
    async def do(_, server):
        async with aclosing(target_at(server.url.replace("http:", "https:"))) as target:
            with pytest.raises(UpstreamCallError, match="no TLS connection came about") as caught:
                await target.open(PATH, BODY)
        return caught.value.kind

    assert against(do=do) == "unreachable"


def test_a_connection_that_does_not_come_about_is_given_up_in_time(monkeypatch):
    async def never(*_: object, **__: object) -> object:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", never)
    started = time.monotonic()
    raised = unreachable("http://127.0.0.1:9/v1", deadlines={"connect_s": 0.1})
    assert raised.kind == "timeout"
    assert "could not be connected to within 0.1 s" in str(raised)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1:8080",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "100.100.100.200",
    ],
)
def test_the_address_of_a_clouds_metadata_is_refused_at_once(host):
    with pytest.raises(ConfigError, match="base_url of model 'large' is a link-local address"):
        target_at(f"http://{host}/v1")


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "fd00:ec2::254"])
def test_a_name_that_leads_to_a_clouds_metadata_is_not_connected_to(monkeypatch, address):
    import socket

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    where = (address, 80, 0, 0) if ":" in address else (address, 80)
    harmless = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))
    found = [harmless, (family, socket.SOCK_STREAM, 6, "", where)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    raised = unreachable("http://rebound.example/v1")
    assert raised.kind == "unreachable"
    assert "its host name leads to a link-local address" in str(raised)
    assert "rebound" not in str(raised)


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "169.254.43518"])
def test_an_address_in_an_unusual_spelling_is_no_way_around(host):
    raised = unreachable(f"http://{host}/v1", deadlines={"connect_s": 1})
    assert raised.kind == "unreachable"


@pytest.mark.parametrize(
    "url", ["http://user:password@host/v1", "http://host/v1?key=secret", "http://host/v1#x"]
)
def test_a_url_that_cannot_be_called_safely_is_no_configuration(url):
    with pytest.raises(ConfigError, match="base_url of model 'large'"):
        target_at(url)


def test_a_closed_target_opens_no_connection():
    async def run():
        target = target_at(nobody_there(), retries=ONCE)
        await target.aclose()
        await target.aclose()
        with pytest.raises(UpstreamCallError, match="'large' was closed") as caught:
            await target.open(PATH, BODY)
        return caught.value.kind

    assert asyncio.run(run()) == "unreachable"


def test_closing_a_target_breaks_its_answers_off():
    async def do(target, _):
        async with _closing(await target.open(PATH, BODY)) as opened:
            await anext(opened)
            reader = asyncio.create_task(anext(opened))
            await asyncio.sleep(0.01)
            await target.aclose()
            with pytest.raises(UpstreamCallError, match="it was closed") as caught:
                await reader
            return caught.value.kind

    assert against(streams(chunk("Hel"), 60.0), do=do) == "broke_off"


def test_closing_a_target_ends_the_calls_that_are_not_answered_yet():
    async def do(target, server):
        call = asyncio.create_task(target.open(PATH, BODY))
        assert await _soon(lambda: len(server.requests) == 1)
        await target.aclose()
        with pytest.raises(UpstreamCallError) as caught:
            await call
        return caught.value.kind

    assert against(never_answers, do=do) == "unreachable"


# Secrets.


@pytest.mark.parametrize(
    "script",
    [
        error(400, f"bad header Bearer {KEY}"),
        error(401, f"Incorrect API key provided: {KEY}"),
        error(422, KEY, KEY),
        error(500, f"{KEY} is over its quota"),
        says(f"<html>{KEY}</html>".encode(), status=400, content_type="text/html"),
        raw(b"HTTP/1.1 400 " + KEY.encode() + b"\r\nContent-Length: 0\r\n\r\n"),
        replies(307, Location=f"http://127.0.0.1:1/{KEY}"),
        raw(b"HTTP/1.1 200 OK\r\nX: " + KEY.encode() * 1000 + b"\r\n\r\n{}"),
        truncated_stream,
        hangs_up,
    ],
)
def test_neither_the_key_nor_the_url_is_in_an_error_or_in_what_caused_it(script):
    async def do(target, server):
        with pytest.raises(UpstreamCallError) as caught:
            await fetch(target, server)
        return caught.value, server.url

    raised, url = against(script, do=do, retries=ONCE)
    assert raised.__context__ is None
    assert raised.__cause__ is None
    shown = f"{raised} {raised!r} {raised.body!r}"
    assert KEY not in shown
    assert url not in shown
    assert "127.0.0.1" not in shown


def test_a_key_with_characters_that_json_escapes_is_struck_out_too():
    key = 'sk-"quoted"\\and-more'
    raised = failure(error(400, f"bad key {key}"), environment={"LARGE_KEY": key}, retries=ONCE)
    assert raised.body is not None
    assert b"and-more" not in raised.body
    assert "and-more" not in str(raised)
