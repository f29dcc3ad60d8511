"""From HTTP to an exchange and back: bodies within limits, answers that notice who has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from foretell.gateway._bodies import json_bytes
from foretell.gateway._errors import ApiError

_Result = TypeVar("_Result")


class CallerGoneError(Exception):
    """Nobody is there to answer any more."""


async def body_of(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body; raises ``ApiError`` 413 when it is larger and 408 when it takes longer."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise CallerGoneError
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                chunks.append(chunk)
                if not message.get("more_body"):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError:
        raise ApiError(
            408, f"the body was not there within {timeout_s:g} s", code="timeout"
        ) from None


async def unless_gone(receive: Receive, work: Awaitable[_Result]) -> _Result:
    """The result of ``work``, which is cancelled when the caller leaves.

    Raises ``CallerGoneError`` then.
    """
    me = asyncio.current_task()
    if me is None:
        raise RuntimeError("only a task can be cancelled")
    cancelled_before = me.cancelling()
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        me.cancel()

    watcher = asyncio.get_running_loop().create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        # As in asyncio.timeout: whoever else cancels at the same time must be obeyed.
        if left and me.uncancel() <= cancelled_before:
            raise CallerGoneError from None
        raise
    finally:
        watcher.cancel()


class EventStream(Response):
    """Server-sent events; ``after`` runs once, however the stream ends.

    When the caller leaves, what makes the events is closed at once, not at the next event. When
    the request is cancelled, since the gateway stops, what ``cut`` says is the last event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        headers: Mapping[str, str],
        cut: Callable[[], bytes],
        after: Callable[[], Awaitable[None]],
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        self._events = events
        self._cut = cut
        self._after = after

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it, or until the caller leaves."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with suppress(CallerGoneError):
                await unless_gone(receive, self._send(send))
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": self._cut(), "more_body": False})
        finally:
            await self._after()

    async def _send(self, send: Send) -> None:
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def json_response(
    value: bytes | Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON body, written already or not."""
    body = value if isinstance(value, bytes) else json_bytes(value)
    return Response(
        body, status_code=status, headers=dict(headers or {}), media_type="application/json"
    )


def error_response(error: ApiError, *, request_id: str | None = None) -> Response:
    """What a caller gets instead of an answer."""
    headers = {**error.headers, **({} if request_id is None else {"x-request-id": request_id})}
    return json_response(error.body(), status=error.status, headers=headers)


def not_here(request: Request, error: HTTPException) -> ApiError:
    """No such path, or a method that it does not have."""
    if error.status_code != 405:
        return ApiError(error.status_code, "there is nothing at this path", code="not_found")
    path = request.url.path
    found = [route for route in request.app.routes if isinstance(route, Route)]
    methods = {m for route in found if route.path_regex.match(path) for m in route.methods or ()}
    return ApiError(
        405,
        f"method {request.method} is not allowed here",
        code="method_not_allowed",
        headers={"Allow": ", ".join(sorted(methods))},
    )


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        413, f"the body is larger than {max_bytes / 2**20:g} MiB", code="body_too_large"
    )
