"""An upstream's answer that has begun, passed on as the bytes it came in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, Self

from foretell.upstreams._protocol import UpstreamCallError

if TYPE_CHECKING:
    import aiohttp

Outcome = Literal["succeeded", "failed", "gave_up"]

_LARGEST_BODY_BYTES = 64 << 20


class Opened:
    """The status and headers are there, and of an event stream the first byte of the body.

    Read it once, with ``read`` or ``async for``, and close it, whatever happened. ``status`` is
    200 to 299. ``attempts`` counts the calls it took. The body comes as it was sent, but for a
    compression that nobody asked for, which is undone. Every failure from here on is an
    ``UpstreamCallError`` of the kind ``broke_off``: part of the answer may have been given out.
    """

    __slots__ = (
        "__weakref__",
        "_due",
        "_ended",
        "_first",
        "_give_up_at",
        "_guard",
        "_idle_s",
        "_name",
        "_on_end",
        "_problem",
        "_response",
        "attempts",
        "content_type",
        "headers",
        "status",
    )

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        *,
        name: str,
        first: bytes,
        attempts: int,
        idle_s: float,
        give_up_at: float,
        on_end: Callable[[Outcome], None],
    ) -> None:
        """``first`` was read already. ``give_up_at`` is a time of the running loop.

        ``on_end`` hears once how it ended.
        """
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.content_type = response.content_type
        self.attempts = attempts
        self._response = response
        self._name = name
        self._first = first
        self._idle_s = idle_s
        self._give_up_at = give_up_at
        self._on_end = on_end
        self._ended = False
        self._due: float | None = None
        self._guard: asyncio.TimerHandle | None = None
        self._problem: str | None = None

    async def read(self) -> bytes:
        """The whole body.

        Raises ``UpstreamCallError`` when it breaks off, or is larger than 64 MiB.
        """
        size, pieces = 0, list[bytes]()
        async for piece in self:
            size += len(piece)
            if size > _LARGEST_BODY_BYTES:
                raise self._broke_off(f"it is larger than {_LARGEST_BODY_BYTES >> 20} MiB")
            pieces.append(piece)
        return b"".join(pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        if not self._ended:
            piece = await self._next_piece()
            if isinstance(piece, str):
                raise self._broke_off(piece)
            if piece:
                return piece
            self._end("succeeded")
        if self._problem is not None:
            raise self._broke_off(self._problem)
        raise StopAsyncIteration

    async def close(self) -> None:
        """Give up what has not come yet, and the connection with it; safe to call twice."""
        if not self._ended:
            self._problem = "it was closed"
            self._end("succeeded" if self._response.content.is_eof() else "gave_up")

    async def _next_piece(self) -> bytes | str:
        """What comes next, nothing at the end, or why nothing does."""
        import aiohttp

        content, loop = self._response.content, asyncio.get_running_loop()
        try:
            if (piece := content.read_nowait()) or content.at_eof():
                return piece
            self._due = min(loop.time() + self._idle_s, self._give_up_at)
            if self._guard is None:
                self._guard = loop.call_at(self._due, self._look, loop)
            return await content.readany()
        except TimeoutError:
            if loop.time() >= self._give_up_at:
                return "it took longer than total_s in all"
            return f"nothing came for {self._idle_s:g} s"
        except (aiohttp.ClientError, OSError):
            return "the connection was lost"
        except BaseException:
            await self.close()
            raise
        finally:
            self._due = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Whether a piece is overdue; one timer for a stream costs less than one for each piece."""
        self._guard = None
        if self._due is None or self._ended:
            return
        if loop.time() >= self._due:
            self._response.content.set_exception(TimeoutError())
        else:
            self._guard = loop.call_at(self._due, self._look, loop)

    def _end(self, outcome: Outcome) -> None:
        self._ended = True
        if self._guard is not None:
            self._guard.cancel()
        self._response.close()  # a connection whose response is complete was given back before
        self._on_end(outcome)

    def _broke_off(self, why: str) -> UpstreamCallError:
        if not self._ended:
            self._problem = why
            self._end("failed")
        return UpstreamCallError(
            f"the answer of model {self._name!r} broke off: {self._problem or why}",
            kind="broke_off",
            status=self.status,
        )
