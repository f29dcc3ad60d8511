"""The façade for threads, in front of a fake and in front of a real server."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from scripted_server import WHOLE, ScriptedServer, streams

from foretell.errors import EngineClosedError
from foretell.records import Answer, Message, Sampling, Usage
from foretell.upstreams import BlockingChat, OnText, OpenAIChatModel, UpstreamCallError

ASKED = ({"role": "user", "content": "Hello?"},)
ANSWER = Answer(
    text="Hello",
    model="fake",
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, completion_tokens=2),
)


class FakeChatModel:
    """Gives the pieces out, then ``fails`` or answers; with ``hangs`` it never ends."""

    name = "fake"

    def __init__(self, *, fails: Exception | None = None, hangs: bool = False) -> None:
        self.fails = fails
        self.hangs = hangs
        self.given_up = threading.Event()
        self.started = threading.Event()
        self.closed = 0

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, *, on_text: OnText | None = None
    ) -> Answer:
        del messages, sampling
        self.started.set()
        try:
            for piece in ("Hel", "lo"):
                if on_text is not None:
                    on_text(piece)
                await asyncio.sleep(0)
            if self.hangs:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        if self.fails:
            raise self.fails
        return ANSWER

    async def aclose(self) -> None:
        self.closed += 1


def test_a_thread_gets_the_answer_and_its_pieces_on_itself():
    pieces: list[tuple[str, int]] = []
    with BlockingChat(FakeChatModel()) as chat:
        answer = chat.chat(
            ASKED, Sampling(), on_text=lambda piece: pieces.append((piece, threading.get_ident()))
        )
    assert answer == ANSWER
    assert pieces == [("Hel", threading.get_ident()), ("lo", threading.get_ident())]


def test_an_answer_without_a_listener_is_the_same():
    with BlockingChat(FakeChatModel()) as chat:
        assert chat.chat(ASKED, Sampling()) == ANSWER
        assert chat.name == "fake"


def test_an_error_of_the_model_reaches_the_caller():
    with (
        BlockingChat(FakeChatModel(fails=UpstreamCallError("busy", status=429))) as chat,
        pytest.raises(UpstreamCallError, match="busy"),
    ):
        chat.chat(ASKED, Sampling())


def test_an_error_of_the_listener_gives_the_call_up():
    model = FakeChatModel(hangs=True)

    def listener(_: str) -> None:
        raise KeyboardInterrupt

    with BlockingChat(model) as chat:
        with pytest.raises(KeyboardInterrupt):
            chat.chat(ASKED, Sampling(), on_text=listener)
        assert model.given_up.wait(10)


def test_closing_ends_the_calls_under_way_with_a_clear_error():
    model = FakeChatModel(hangs=True)
    chat = BlockingChat(model)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(chat.chat, ASKED, Sampling())
        assert model.started.wait(10)
        chat.close()
        with pytest.raises(EngineClosedError, match="'fake' was closed while it answered"):
            call.result(10)


def test_closing_twice_closes_the_model_once_and_ends_the_thread():
    model = FakeChatModel()
    before = threading.active_count()
    chat = BlockingChat(model)
    chat.close()
    chat.close()
    assert model.closed == 1
    assert threading.active_count() == before


def test_a_call_after_closing_is_refused():
    chat = BlockingChat(FakeChatModel())
    chat.close()
    with pytest.raises(EngineClosedError, match="'fake' was closed"):
        chat.chat(ASKED, Sampling())


def test_threads_share_one_client_of_a_real_server():
    n = 8
    with (
        ScriptedServer([streams(*WHOLE)] * n) as server,
        BlockingChat(OpenAIChatModel(name="large", base_url=server.url, model="big-1")) as chat,
        ThreadPoolExecutor(n) as pool,
    ):
        calls = [pool.submit(chat.chat, ASKED, Sampling()) for _ in range(n)]
        assert [call.result(10).text for call in calls] == ["Hello"] * n


def test_a_client_with_an_open_connection_is_closed_without_a_trace():
    with ScriptedServer([streams(WHOLE[0], 60.0)]) as server:
        chat = BlockingChat(OpenAIChatModel(name="large", base_url=server.url, model="big-1"))
        with ThreadPoolExecutor(1) as pool:
            heard = threading.Event()
            call = pool.submit(chat.chat, ASKED, Sampling(), on_text=lambda _: heard.set())
            assert heard.wait(10)
            chat.close()
            with pytest.raises(EngineClosedError):
                call.result(10)
