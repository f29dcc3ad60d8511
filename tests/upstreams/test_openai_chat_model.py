"""The client against a real server on the loopback that misbehaves on cue."""

import asyncio
import socket
import time

import pytest
from scripted_server import (
    USAGE,
    WHOLE,
    Script,
    ScriptedServer,
    chunk,
    hangs_up,
    never_answers,
    replies,
    serving,
    streams,
)

from foretell.errors import ConfigError, InputError
from foretell.records import Answer, Sampling, Usage
from foretell.upstreams import (
    ChatModel,
    Deadlines,
    OpenAIChatModel,
    Retries,
    UpstreamCallError,
)

KEY = "sk-very-secret-0123456789"
ASKED = ({"role": "user", "content": "Hello?"},)
PLAIN = Sampling()
QUICK = Retries(attempts=3, first_wait_s=0.01, longest_wait_s=0.02, jitter_s=0)


def model_at(url: str, **options) -> OpenAIChatModel:
    return OpenAIChatModel(
        **{
            "name": "large",
            "base_url": url,
            "model": "big-1",
            "api_key_env": "LARGE_KEY",
            "environment": {"LARGE_KEY": KEY},
            "retries": QUICK,
            **options,
        }
    )


def ask(
    *scripts: Script, messages=ASKED, sampling=PLAIN, on_text=None, **options
) -> tuple[Answer, ScriptedServer]:
    async def call():
        async with serving(*scripts) as server, model_at(server.url, **options) as model:
            return await model.chat(messages, sampling, on_text=on_text), server

    return asyncio.run(call())


def failure(*scripts: Script, served: int = 1, **options) -> UpstreamCallError:
    """The error that the scripts lead to, after ``served`` requests."""

    async def call():
        async with serving(*scripts) as server, model_at(server.url, **options) as model:
            with pytest.raises(UpstreamCallError) as caught:
                await model.chat(ASKED, Sampling(), on_text=options.get("on_text"))
            assert len(server.requests) == served
            return caught.value

    return asyncio.run(call())


def test_an_answer_is_put_together_from_its_pieces():
    answer, _ = ask(streams(*WHOLE))
    assert answer == Answer(
        text="Hello",
        model="big-1-2030",
        finish_reason="stop",
        usage=Usage(prompt_tokens=11, completion_tokens=3, cached_tokens=4),
    )


def test_each_piece_is_handed_on_as_it_arrives():
    arrived: list[tuple[str, float]] = []
    ask(
        streams(WHOLE[0], 0.2, *WHOLE[1:]),
        on_text=lambda piece: arrived.append((piece, time.monotonic())),
    )
    assert [piece for piece, _ in arrived] == ["Hel", "lo"]
    assert arrived[1][1] - arrived[0][1] > 0.1


def test_the_request_says_how_to_decode_and_asks_for_the_usage():
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.9, stop=("\n",), seed=7)
    _, server = ask(streams(*WHOLE), sampling=sampling)
    assert server.requests == [
        {
            "model": "big-1",
            "messages": [{"role": "user", "content": "Hello?"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["\n"],
            "seed": 7,
        }
    ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_options_that_change_nothing_are_not_sent():
    _, server = ask(streams(*WHOLE))
    assert not server.requests[0].keys() & {"top_p", "stop", "seed"}


def test_the_beginning_of_an_answer_is_left_to_the_model():
    messages = (*ASKED, {"role": "assistant", "content": '{"country": "'})
    _, server = ask(streams(*WHOLE), messages=messages)
    assert server.requests[0]["messages"] == list(ASKED)


def test_a_conversation_without_a_question_is_refused():
    with pytest.raises(InputError, match="nothing to answer"):
        ask(streams(*WHOLE), messages=({"role": "assistant", "content": "{"},))


def test_without_a_key_variable_no_authorization_is_sent():
    _, server = ask(streams(*WHOLE), api_key_env=None)
    assert "Authorization" not in server.headers[0]


def test_a_length_stop_is_told_from_a_natural_end():
    answer, _ = ask(streams(chunk("Hel", finish="length"), chunk(usage=USAGE)))
    assert (answer.text, answer.finish_reason) == ("Hel", "length")


@pytest.mark.parametrize("fault", [replies(500), replies(503), replies(429), hangs_up])
def test_a_passing_fault_is_tried_again(fault):
    answer, server = ask(fault, fault, streams(*WHOLE))
    assert answer.text == "Hello"
    assert len(server.requests) == 3


def test_a_lasting_fault_is_given_up_after_the_attempts():
    error = failure(*[replies(503, {"error": {"message": "overloaded"}})] * 3, served=3)
    assert error.status == 503
    assert str(error).endswith("answered with HTTP 503: overloaded")


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_fault_of_the_request_is_not_tried_again(status):
    error = failure(replies(status, {"error": {"message": "no such thing"}}))
    assert (error.status, error.retryable) == (status, False)
    assert "no such thing" in str(error)


def test_retry_after_is_honoured():
    started = time.monotonic()
    answer, _ = ask(replies(429, Retry_After="0.3"), streams(*WHOLE))
    assert answer.text == "Hello"
    assert time.monotonic() - started >= 0.3


def test_a_retry_after_beyond_the_deadline_is_not_waited_for():
    started = time.monotonic()
    error = failure(replies(429, Retry_After="60"), deadlines=Deadlines(total_s=5))
    assert (error.status, error.retry_after_s) == (429, 60)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "broken",
    [
        streams(chunk("Hel")),
        streams(chunk("Hel"), then_cut=True),
        streams(chunk("Hel"), chunk("lo", finish="stop")[:-1]),
        streams(b": only a comment\n\n"),
        streams(chunk("Hel"), b'data: {"error": {"message": "out of memory"}}\n\n'),
        streams(chunk("Hel"), b"data: [DONE]\n\n"),
    ],
    ids=["ended", "cut", "cut in an event", "empty", "error sent", "done without a reason"],
)
def test_a_stream_that_breaks_off_is_an_error_and_not_begun_again(broken):
    assert "broke off" in str(failure(broken))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (streams(b"data: {oops\n\n"), "not JSON"),
        (streams(b"data: 7\n\n"), "not a JSON object"),
        (streams(b'data: {"choices": [7]}\n\n'), "not shaped like a completion"),
        (streams(b'data: {"usage": {"prompt_tokens": 1}}\n\n'), "not shaped like a completion"),
        (streams(b'data: {"choices": [{"delta": {"content": 7}}]}\n\n'), "not shaped like"),
        (streams(chunk("Hi", finish="stop"), b"data: [DONE]\n\n"), "did not report the tokens"),
        (streams(chunk("", finish="content_filter"), chunk(usage=USAGE)), "'content_filter'"),
        (streams(b"data: " + b"x" * (1 << 20)), "broke the protocol: one event is larger"),
        (replies(200, {"choices": []}), "wanted 'text/event-stream'"),
        (replies(307, Location="http://127.0.0.1:1/v1"), "redirects .HTTP 307., which is not"),
        (replies(418, "no object"), "HTTP 418: I'm a Teapot"),
        (replies(418, {"detail": "no coffee"}), "HTTP 418: no coffee"),
        (replies(418, {"choices": []}), "HTTP 418: no reason given"),
    ],
)
def test_what_is_no_streamed_completion_is_an_error(script, says):
    with pytest.raises(UpstreamCallError, match=says):
        ask(script)


def test_nobody_there_is_an_error_that_names_the_url():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"

        async def call():
            async with model_at(url) as model:
                await model.chat(ASKED, Sampling())

        with pytest.raises(UpstreamCallError, match="could not be reached") as caught:
            asyncio.run(call())
    assert url in str(caught.value)
    assert caught.value.status is None


def test_silence_before_the_answer_is_tried_again_and_then_an_error():
    error = failure(*[never_answers] * 3, served=3, deadlines=Deadlines(idle_s=0.05))
    assert "did not answer in time" in str(error)


def test_silence_within_the_answer_is_an_error_and_not_begun_again():
    error = failure(streams(chunk("Hel"), 60.0), deadlines=Deadlines(idle_s=0.1))
    assert "broke off: silent for too long" in str(error)


def test_the_total_deadline_ends_an_answer_that_trickles():
    trickle = [piece for _ in range(100) for piece in (chunk("x"), 0.05)]
    started = time.monotonic()
    error = failure(streams(*trickle), deadlines=Deadlines(total_s=0.3))
    assert "no whole answer within 0.3 s" in str(error)
    assert time.monotonic() - started < 2


def test_the_total_deadline_covers_the_waits_between_attempts():
    slow = Retries(attempts=9, first_wait_s=5, longest_wait_s=5, jitter_s=0)
    error = failure(replies(500), retries=slow, deadlines=Deadlines(total_s=0.2))
    assert "no whole answer within 0.2 s" in str(error)


@pytest.mark.parametrize("raised", [ConnectionResetError, TimeoutError, ValueError])
def test_an_error_of_the_listener_is_passed_on_as_it_is(raised):
    def listener(_: str) -> None:
        raise raised("the listener's own")

    with pytest.raises(raised, match="the listener's own"):
        ask(streams(*WHOLE), on_text=listener)


@pytest.mark.parametrize(
    "script",
    [
        replies(401, {"error": {"message": f"Incorrect API key provided: {KEY[:8]}***"}}),
        replies(403, {"error": {"message": f"{KEY} may not do this"}}),
        replies(400, {"error": {"message": f"bad header Bearer {KEY}"}}),
        streams(f'data: {{"error": "token {KEY} expired"}}\n\n'.encode()),
        streams(chunk("", finish=KEY), chunk(usage=USAGE)),
    ],
)
def test_the_api_key_is_in_no_error_nor_in_what_caused_it(script):
    error: BaseException | None = failure(script)
    while error is not None:
        assert KEY[:8] not in f"{error} {error!r}"
        assert error.__cause__ is None
        error = None if error.__suppress_context__ else error.__context__


def test_a_refused_key_is_named_by_its_variable():
    assert "refused the API key in LARGE_KEY (HTTP 401)" in str(failure(replies(401)))
    error = failure(replies(401), api_key_env=None)
    assert "refused a call without an API key" in str(error)


@pytest.mark.parametrize("environment", [{}, {"LARGE_KEY": " "}])
def test_a_key_that_is_not_set_is_named_by_its_variable(environment):
    with pytest.raises(ConfigError, match="variable LARGE_KEY, which is not set"):
        ask(environment=environment)


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_quoting_it(key):
    with pytest.raises(ConfigError, match="characters that no key has") as caught:
        ask(environment={"LARGE_KEY": key})
    assert key not in str(caught.value)


def test_a_key_is_read_at_every_call():
    environment = {"LARGE_KEY": "first"}

    async def call():
        async with (
            serving(streams(*WHOLE), streams(*WHOLE)) as server,
            model_at(server.url, environment=environment) as model,
        ):
            await model.chat(ASKED, Sampling())
            environment["LARGE_KEY"] = "second"
            await model.chat(ASKED, Sampling())
            return [headers["Authorization"] for headers in server.headers]

    assert asyncio.run(call()) == ["Bearer first", "Bearer second"]


def test_calls_at_once_do_not_wait_for_each_other():
    n = 120

    async def call():
        slow = streams(0.5, *WHOLE)
        async with serving(*[slow] * n) as server, model_at(server.url) as model:
            await asyncio.gather(*(model.chat(ASKED, Sampling()) for _ in range(n)))

    started = time.monotonic()
    asyncio.run(call())
    assert time.monotonic() - started < 10  # one after another would take a minute


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "host/v1",
        "",
        "file:///etc/passwd",
        "http://",
        "http://user:password@host/v1",
        "http://host/v1?key=secret",
        "http://host/v1#x",
        "http://host:port/v1",
        "http://[::1/v1",
    ],
)
def test_a_url_that_cannot_be_called_safely_is_refused_and_not_quoted(url):
    with pytest.raises(ConfigError, match="base_url of model 'large'") as caught:
        model_at(url)
    assert "password" not in str(caught.value)


def test_it_is_a_chat_model_with_the_name_it_was_given():
    model = model_at("https://host/v1/")
    assert isinstance(model, ChatModel)
    assert model.name == "large"
    asyncio.run(model.aclose())
