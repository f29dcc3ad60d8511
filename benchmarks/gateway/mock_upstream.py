"""An OpenAI-shaped upstream that costs next to nothing, in a process of its own.

python -m benchmarks.gateway.mock_upstream [--port 0]

No framework, so that what is measured is what stands before it. It answers at once, with JSON or,
where the body asks for a stream, with server-sent events. Somewhere in the body ``[mock …]`` may
order something else, such as ``[mock chunks=25 every=0.2]``:

- ``after``: seconds until the answer begins.
- ``chunks``, ``every``: how many pieces a stream has, and the seconds between two of them.
- ``status``: answer with this HTTP status instead.
- ``cut``: hang up after that many pieces of a stream.

Each piece holds the time it was sent, of ``time.monotonic_ns``, which processes of one machine
share: so whoever reads it knows how long it was under way.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import time
from collections.abc import Mapping
from functools import partial
from typing import cast

import uvloop

PIECE = re.compile(rb'"content":"at (\d+) "')
"""Finds when a piece of a stream was sent."""

_ORDER = re.compile(rb"\[mock ([^\]]*)\]")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream": *true')

_USAGE = b'"usage":{"prompt_tokens":20,"completion_tokens":5,"total_tokens":25}'
_ANSWER = (
    b'{"id":"chatcmpl-mock","object":"chat.completion","created":1790000000,"model":"mock-1",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"A town, nr 5."},'
    b'"finish_reason":"stop"}],%b}' % _USAGE
)
_CHUNK = (
    b'data: {"id":"chatcmpl-mock","object":"chat.completion.chunk","created":1790000000,'
    b'"model":"mock-1","choices":[%b]%b}\n\n'
)
_PIECE = _CHUNK % (
    b'{"index":0,"delta":{"role":"assistant","content":"at %d "},"finish_reason":null}',
    b"",
)
_LAST = (
    _CHUNK % (b'{"index":0,"delta":{},"finish_reason":"stop"}', b"")
    + _CHUNK % (b"", b"," + _USAGE)
    + b"data: [DONE]\n\n"
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_HALF_A_SECOND = {"chunks": 5.0, "every": 0.1}


def _json_answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Mock\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


_OK = _json_answer(200, _ANSWER)


class Connection(asyncio.Protocol):
    """One connection, on which requests follow one another."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what is under way."""
        del exc
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Answer once a request is whole."""
        received = self._received
        received += data
        head = received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(received, 0, head)
        end = head + 4 + (int(length[1]) if length else 0)
        if len(received) < end:
            return
        body = bytes(received[head + 4 : end])
        del received[:end]
        order = _ORDER.search(body)
        if order is None and not _STREAMED.search(body):
            self._write(_OK)
            return
        wanted = dict(_HALF_A_SECOND)
        for name, _, value in (
            word.partition(b"=") for word in (order[1] if order else b"").split()
        ):
            wanted[name.decode()] = float(value)
        streamed = _STREAMED.search(body) is not None
        self._later(wanted.get("after", 0.0), partial(self._answer, wanted, streamed))

    def _answer(self, wanted: Mapping[str, float], streamed: bool) -> None:
        if "status" in wanted:
            self._write(_json_answer(int(wanted["status"]), b'{"error":{"message":"ordered"}}'))
        elif not streamed:
            self._write(_OK)
        else:
            self._write(_STREAM_HEAD)
            # Streams that begin together must not send all their pieces at the same moments.
            first = asyncio.get_running_loop().time() + random.random() * wanted["every"]  # noqa: S311
            self._send_piece(wanted, 0, first)

    def _send_piece(self, wanted: Mapping[str, float], sent: int, at: float) -> None:
        if sent == wanted.get("cut"):
            if self._transport is not None:
                self._transport.close()
            return
        if sent >= wanted["chunks"]:
            self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(_LAST), _LAST))
            return
        piece = _PIECE % time.monotonic_ns()
        self._write(b"%x\r\n%b\r\n" % (len(piece), piece))
        at += wanted["every"]
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(at, self._send_piece, wanted, sent + 1, at)

    def _later(self, seconds: float, work: partial[None]) -> None:
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds, work)
        else:
            work()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    uvloop.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
