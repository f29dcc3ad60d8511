"""A real HTTP server on the loopback whose replies are a queue: an upstream that fails on cue.

``serving`` runs it in the event loop of the test, ``ScriptedServer`` itself is a context manager
that runs it on a thread of its own. What it replies is a queue of scripts, one for each request:
those of this module, or any coroutine that takes the request.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]

NO_SUCH_HOST = "http://nobody.invalid/v1"
"""A URL whose host name no name server knows (RFC 6761)."""


@dataclass
class ScriptedServer:
    """Plays one script per request, in order; then ``otherwise`` for good.

    ``requests`` holds the JSON that was asked (``None`` for what is no JSON), ``headers`` and
    ``paths`` the rest of it. ``given_up`` counts requests whose client went away before the reply
    was whole, ``open_connections`` those there are right now.
    """

    scripts: list[Script] = field(default_factory=list)
    otherwise: Script | None = None
    requests: list[Any] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""
    given_up: int = 0
    _runner: web.AppRunner | None = None
    _stop: Callable[[], None] | None = None

    def script(self, *scripts: Script) -> None:
        """Play these next; also while it runs."""
        self.scripts.extend(scripts)

    @property
    def open_connections(self) -> int:
        assert self._runner is not None
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            self.requests.append(json.loads(body))
        except ValueError:
            self.requests.append(None)
        self.headers.append(request.headers.copy())
        self.paths.append(request.path)
        script = self.scripts.pop(0) if self.scripts else self.otherwise
        if script is None:
            return web.json_response({"error": {"message": "nothing is scripted"}}, status=501)
        try:
            return await script(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.given_up += 1
            raise

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[ScriptedServer]:
        """Serve in the running event loop."""
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/{path:.*}", self.handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
            yield self
        finally:
            await self._runner.cleanup()

    def start(self) -> None:
        """Serve on a thread of its own, until ``stop``."""
        loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

        async def serve() -> None:
            async with self.listening():
                ready.set()
                await stop.wait()

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run, name="scripted-server")
        thread.start()
        assert ready.wait(10)

        def end() -> None:
            loop.call_soon_threadsafe(stop.set)
            thread.join()

        self._stop = end

    def stop(self) -> None:
        """Close every connection and end the thread; safe to call twice."""
        end, self._stop = self._stop, None
        if end is not None:
            end()

    def __enter__(self) -> ScriptedServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


@asynccontextmanager
async def serving(
    *scripts: Script, otherwise: Script | None = None
) -> AsyncIterator[ScriptedServer]:
    """A server in the running event loop."""
    async with ScriptedServer(list(scripts), otherwise).listening() as server:
        yield server


# What a whole answer looks like.


def chunk(
    text: str | None = None, *, finish: str | None = None, usage: dict[str, Any] | None = None
) -> bytes:
    choices = [] if usage else [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    body = {"model": "big-1-2030", "choices": choices, "usage": usage}
    return f"data: {json.dumps(body)}\n\n".encode()


USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 4},
}
WHOLE = (
    chunk("Hel"),
    chunk("lo"),
    chunk(finish="stop"),
    chunk(usage=USAGE),
    b"data: [DONE]\n\n",
)
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_900_000_000,
    "model": "big-1-2030",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello"},
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}


async def answers(request: web.Request) -> web.StreamResponse:
    """The whole answer, streamed when the request asks for that."""
    asked = await request.json()
    script = streams(*WHOLE) if asked.get("stream") else replies(200, COMPLETION)
    return await script(request)


# What goes wrong, or takes long.


def streams(
    *pieces: bytes | float, then_cut: bool = False, then_reset: bool = False, status: int = 200
) -> Script:
    """Sends the pieces as events; a number is a pause in seconds.

    ``then_cut`` drops the connection before the end of the body, ``then_reset`` with a TCP reset.
    """

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            if isinstance(piece, bytes):
                await response.write(piece)
            else:
                await asyncio.sleep(piece)
        if then_cut or then_reset:
            _drop(request, reset=then_reset)
        return response

    return script


def replies(status: int, body: object = None, **headers: str) -> Script:
    """A JSON body; ``Retry_After="1"`` is the header ``Retry-After``."""

    async def script(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=status, headers=named)

    return script


def error(status: int, message: str, code: str | None = None, **headers: str) -> Script:
    """An OpenAI-shaped error."""
    body = {"error": {"message": message, "type": "some_error", "param": None, "code": code}}
    return replies(status, body, **headers)


def says(
    *pieces: bytes | float, status: int = 200, content_type: str = "application/json"
) -> Script:
    """A body of just these bytes; a number is a pause in seconds."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"Content-Type": content_type})
        await response.prepare(request)
        for piece in pieces:
            if isinstance(piece, bytes):
                await response.write(piece)
            else:
                await asyncio.sleep(piece)
        return response

    return script


def raw(*pieces: bytes | float, reset: bool = False) -> Script:
    """Writes the bytes to the connection as they are, head and all, then drops it.

    A number is a pause in seconds.
    """

    async def script(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        for piece in (*pieces, 0.02):
            if isinstance(piece, bytes):
                request.transport.write(piece)
            else:
                await asyncio.sleep(piece)
        _drop(request, reset=reset)
        return web.Response()

    return script


def trickles(body: bytes, pause_s: float) -> Script:
    """A slow loris: one byte at a time."""
    return says(*(part for byte in body for part in (bytes([byte]), pause_s)))


too_long_for_context = error(
    400,
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 "
    "tokens. Please reduce the length of the messages.",
    "context_length_exceeded",
)
malformed_json = says(b'{"id": "chatcmpl-1", "choices": [{"index"')
html_instead = says(b"<html><h1>It works!</h1></html>", content_type="text/html")
truncated_stream = streams(chunk("Hel"), then_cut=True)
reset_stream = streams(chunk("Hel"), then_reset=True)
stream_without_done = streams(*WHOLE[:-1])
stream_of_an_error = streams(chunk("Hel"), b'data: {"error": {"message": "out of memory"}}\n\n')
truncated_json = raw(
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n",
    b'{"id": "chatcmpl-1"',
)
broken_chunking = raw(
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"%x\r\n%s\r\n" % (len(chunk("Hel")), chunk("Hel")),
    0.02,
    b"no length\r\n",
)
no_http = raw(b"220 smtp.example ESMTP\r\n")
huge_header = raw(b"HTTP/1.1 200 OK\r\nX-Huge: " + b"x" * (1 << 20) + b"\r\n\r\n{}")


async def hangs_up(request: web.Request) -> web.StreamResponse:
    """Closes the connection without a word."""
    _drop(request)
    return web.Response()


async def resets(request: web.Request) -> web.StreamResponse:
    """Resets the connection without a word."""
    _drop(request, reset=True)
    return web.Response()


async def never_answers(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


def nobody_there() -> str:
    """A URL on the loopback at which nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"


def _drop(request: web.Request, *, reset: bool = False) -> None:
    transport = request.transport
    assert transport is not None
    if reset:
        connection = transport.get_extra_info("socket")
        # With a linger of nothing, the kernel sends RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
