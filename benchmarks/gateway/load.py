"""Callers, in a process of their own: so many a second, or so many at a time.

python -m benchmarks.gateway.load --url http://127.0.0.1:8400/v1 --model auto --rate 200
python -m benchmarks.gateway.load --url http://127.0.0.1:8400/v1 --model auto --callers 32

With ``--rate`` the loop is open: requests leave at the times of a Poisson process, whatever became
of those before, on a connection of their own where none is idle; so a server that stalls is charged
for all who wait (no coordinated omission). With ``--callers`` it is closed: each sends its next
request when its last one is answered. Times run from the moment that a request is written; how far
that was behind its schedule is reported as ``late_ms``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop
from benchmarks.gateway.mock_upstream import PIECE

_OVERHEAD = b"x-foretell-overhead-ms"
_DECISION = b"x-foretell-decision"
_MODEL = b"x-foretell-model"
_PREFILL = re.compile(rb'"prefill_ms":([0-9.]+)')
_GIVE_UP_S = 30.0


@dataclass(slots=True)
class Reply:
    """What came back; times in nanoseconds of ``time.monotonic_ns``.

    ``marked`` is when the connection's mark came. ``pieces`` of a stream are when each came and
    how long it was under way.
    """

    status: int = 0
    sent: int = 0
    first_byte: int = 0
    marked: int = 0
    done: int = 0
    overhead_ms: float | None = None
    prefill_ms: float = 0.0
    decision: str = ""
    model: str = ""
    pieces: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, *, mark: bytes | None = None) -> None:
        """``mark`` is what to note the first arrival of."""
        self._mark = mark
        self._parser = httptools.HttpResponseParser(self)
        self._reply = Reply()
        self._waiter: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None
        self.open = False

    async def ask(self, request: bytes) -> Reply:
        """The whole reply; status 0 when the connection broke."""
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._reply = Reply(sent=time.monotonic_ns())
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        """Hang up, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport, self.open = cast("asyncio.Transport", transport), True

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is under way."""
        del exc
        self.open = False
        self._finish(0)

    def data_received(self, data: bytes) -> None:
        """Take the time first, then read."""
        now = time.monotonic_ns()
        reply = self._reply
        reply.first_byte = reply.first_byte or now
        if self._mark is not None and not reply.marked and self._mark in data:
            reply.marked = now
        for match in PIECE.finditer(data):
            reply.pieces.append((now, now - int(match[1])))
        if prefill := _PREFILL.search(data):
            reply.prefill_ms = float(prefill[1])
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if name == _OVERHEAD:
            self._reply.overhead_ms = float(value)
        elif name == _DECISION:
            self._reply.decision = value.decode()
        elif name == _MODEL:
            self._reply.model = value.decode()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        keeps = self._parser.should_keep_alive()
        self._finish(self._parser.get_status_code())
        self._parser = httptools.HttpResponseParser(self)
        if not keeps:
            self.open = False
            self.close()

    def _finish(self, status: int) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            self._reply.status, self._reply.done = status, time.monotonic_ns()
            waiter.set_result(self._reply)


class Connections:
    """Idle connections to one address, and new ones where none is idle."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = parts.hostname, parts.port
        self._idle: list[Connection] = []

    async def take(self) -> Connection:
        """A connection that nobody uses."""
        while self._idle:
            if (connection := self._idle.pop()).open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, *self._address)
        return connection

    def put_back(self, connection: Connection) -> None:
        """Nobody uses it any more."""
        if connection.open:
            self._idle.append(connection)

    async def ask(self, request: bytes) -> Reply:
        """One request on one of them; status 0 when it could not be made."""
        try:
            connection = await self.take()
        except OSError:
            return Reply()
        try:
            return await connection.ask(request)
        finally:
            self.put_back(connection)


def http_request(
    url: str, body: dict[str, Any], *, key: str | None = None, headers: Sequence[str] = ()
) -> bytes:
    """A POST to ``/chat/completions`` below ``url``, as bytes."""
    parts = urlsplit(url)
    payload = json.dumps(body).encode()
    lines = [
        f"POST {parts.path}/chat/completions HTTP/1.1",
        f"host: {parts.netloc}",
        "content-type: application/json",
        f"content-length: {len(payload)}",
        *([] if key is None else [f"authorization: Bearer {key}"]),
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


TEXT = "Which town in the south is nr {}?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send: ``rate`` requests a second, or ``callers`` at a time."""

    url: str
    model: str
    rate: float | None = None
    callers: int | None = None
    seconds: float = 5.0
    warm_up_s: float = 1.0
    stream: bool = False
    order: str = ""
    text: str = TEXT
    key: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What came of it, after the warm-up; milliseconds of the requests with status 200.

    ``pieces_ms`` are those of all streams, however early they began. ``models`` are who answered
    each of the requests, in the order in which they were sent.
    """

    seconds: float
    statuses: dict[str, int]
    decisions: dict[str, int]
    models: list[str]
    total_ms: list[float]
    first_byte_ms: list[float]
    overhead_ms: list[float]
    prefill_ms: list[float]
    pieces_ms: list[float]
    late_ms: list[float]

    @property
    def per_second(self) -> float:
        """Whole answers a second."""
        return self.statuses.get("200", 0) / self.seconds

    @property
    def failed(self) -> int:
        """Requests that were not answered with 200."""
        return sum(n for status, n in self.statuses.items() if status != "200")


class _Run:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._connections = Connections(load.url)
        self._random = random.Random(load.seed)  # noqa: S311
        self._counting_from = self._until = 0.0
        self._replies: list[Reply] = []
        self._late_ns: list[int] = []
        self._pieces_ns: list[int] = []
        self._number = 0

    async def run(self) -> Loaded:
        load, loop = self._load, asyncio.get_running_loop()
        self._counting_from = loop.time() + load.warm_up_s
        until = self._until = self._counting_from + load.seconds
        if load.rate is not None:
            await self._open_loop(load.rate, until)
        else:
            await asyncio.gather(*(self._caller(until) for _ in range(load.callers or 1)))
        return self._loaded(loop.time() - self._counting_from)

    async def _caller(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            await self._one()

    async def _open_loop(self, rate: float, until: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time()
        async with asyncio.timeout_at(until + _GIVE_UP_S), asyncio.TaskGroup() as requests:
            while (at := at + self._random.expovariate(rate)) < until:
                if (wait := at - loop.time()) > 0:
                    await asyncio.sleep(wait)
                if at >= self._counting_from:
                    self._late_ns.append(max(0, round((loop.time() - at) * 1e9)))
                requests.create_task(self._one())

    async def _one(self) -> None:
        load = self._load
        self._number += 1
        order = f" [mock {load.order}]" if load.order else ""
        content = load.text.format(self._number) + order
        body: dict[str, Any] = {
            "model": load.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 16,
        }
        if load.stream:
            body["stream"] = True
        counts = asyncio.get_running_loop().time() >= self._counting_from
        reply = await self._connections.ask(http_request(load.url, body, key=load.key))
        if counts:
            self._replies.append(reply)
        if reply.status == HTTPStatus.OK:
            from_ns, until_ns = self._counting_from * 1e9, self._until * 1e9
            self._pieces_ns += [took for at, took in reply.pieces if from_ns <= at < until_ns]

    def _loaded(self, seconds: float) -> Loaded:
        replies = self._replies
        good = [reply for reply in replies if reply.status == HTTPStatus.OK]

        def milliseconds(nanoseconds: Sequence[int]) -> list[float]:
            return [round(value / 1e6, 4) for value in nanoseconds]

        return Loaded(
            seconds=seconds,
            statuses=dict(Counter(str(reply.status) for reply in replies)),
            models=[reply.model for reply in sorted(good, key=lambda reply: reply.sent)],
            decisions=dict(Counter(reply.decision for reply in good if reply.decision)),
            total_ms=milliseconds([reply.done - reply.sent for reply in good]),
            first_byte_ms=milliseconds([reply.first_byte - reply.sent for reply in good]),
            overhead_ms=[r.overhead_ms for r in good if r.overhead_ms is not None],
            prefill_ms=[reply.prefill_ms for reply in good],
            pieces_ms=milliseconds(self._pieces_ns),
            late_ms=milliseconds(self._late_ns),
        )


def quantiles(values: Sequence[float]) -> dict[str, float | None]:
    """Median, 99th percentile and count."""
    if not values:
        return {"p50": None, "p99": None, "n": 0}
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": round(float(p50), 4), "p99": round(float(p99), 4), "n": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="up to and including /v1")
    parser.add_argument("--model", required=True)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rate", type=float, help="requests a second")
    how.add_argument("--callers", type=int, help="requests at a time")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up-s", type=float, default=1.0)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--order", default="", help="for the mock upstream")
    parser.add_argument("--text", default=TEXT, help="what is asked; {} is a number")
    parser.add_argument("--key", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--raw", type=Path, help="a file for every value, as one JSON object")
    options = vars(parser.parse_args())
    raw = options.pop("raw")
    with suppress(KeyboardInterrupt):
        loaded = uvloop.run(_Run(Load(**options)).run())
        if raw is not None:
            raw.write_text(json.dumps(asdict(loaded)))
            return
        print(f"{loaded.per_second:.1f} a second; {loaded.statuses} {loaded.decisions}")
        for name in ("total_ms", "first_byte_ms", "overhead_ms", "pieces_ms", "late_ms"):
            print(f"{name}: {quantiles(getattr(loaded, name))}")


if __name__ == "__main__":
    main()
