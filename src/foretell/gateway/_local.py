"""Answers of models in this process: made on a worker thread, sent from the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Executor
from contextlib import contextmanager

from foretell.errors import CancelledError, RoutingError
from foretell.gateway._local_answers import LocalAnswer
from foretell.records import Answer

_logger = logging.getLogger(__name__)

Run = Callable[[Callable[[str], None]], Answer]
"""Makes the whole answer, telling each piece of its text; what the teller raises ends it."""


class EngineFailedError(RoutingError):
    """A model here failed in a way that nobody foresaw; the log says how."""


@contextmanager
def foreseen() -> Generator[None]:
    """Turns what no engine should raise into ``EngineFailedError``: another model may do better."""
    try:
        yield
    except RoutingError:
        raise
    except Exception as error:
        _logger.exception("a model in this process failed")
        raise EngineFailedError("the model failed; the gateway's log says how") from error


class LocalSource:
    """One answer under way on a thread, as an upstream's would be: its bytes, or its frames.

    ``open`` waits for the first piece, so that a model which fails at once can still be replaced
    by another. ``close`` gives the answer up if it is not finished, and frees what it held.
    """

    attempts = 1
    status = 200

    def __init__(
        self,
        run: Run,
        answer: LocalAnswer,
        *,
        streamed: bool,
        include_usage: bool,
        executor: Executor,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        self._run = run
        self._answer = answer
        self._streamed = streamed
        self._include_usage = include_usage
        self._executor = executor
        self._give_up = give_up
        self._abandoned = threading.Event()
        self._pieces: list[str] = []
        self._news = asyncio.Event()
        self._job: asyncio.Future[Answer] | None = None

    async def open(self) -> LocalSource:
        """Start, and wait for the first piece of text or the end; raises what the model does."""
        loop = asyncio.get_running_loop()
        self._job = loop.run_in_executor(self._executor, self._work, loop)
        self._job.add_done_callback(lambda _: self._news.set())
        try:
            await self._news.wait()
            if self._job.done():
                self._job.result()
        except BaseException:
            await self.close()
            raise
        return self

    async def read(self) -> bytes:
        """The whole ``chat.completion``."""
        return self._answer.body(await asyncio.shield(self._opened()))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        job = self._opened()
        yield self._answer.first_frame()
        while True:
            await self._news.wait()
            self._news.clear()
            ended = job.done()
            pieces, self._pieces = self._pieces, []
            if pieces:
                yield self._answer.text_frame("".join(pieces))
            if ended:
                break
        yield b"".join(self._answer.last_frames(job.result(), include_usage=self._include_usage))

    async def close(self) -> None:
        """Give up what is unfinished; safe to call twice."""
        self._abandoned.set()
        if self._job is None or self._job.done():
            if self._job is not None and not self._job.cancelled():
                self._job.exception()  # heard
            return
        if self._give_up is not None:
            self._give_up()
        self._job.add_done_callback(_hear)

    def _opened(self) -> asyncio.Future[Answer]:
        if self._job is None:
            raise RuntimeError("the answer was not opened")
        return self._job

    def _work(self, loop: asyncio.AbstractEventLoop) -> Answer:
        def tell(piece: str) -> None:
            if self._abandoned.is_set():
                raise CancelledError("the caller is gone")
            if self._streamed and piece:
                loop.call_soon_threadsafe(self._take, piece)

        with foreseen():
            return self._run(tell)

    def _take(self, piece: str) -> None:
        self._pieces.append(piece)
        self._news.set()


def _hear(job: asyncio.Future[Answer]) -> None:
    if not job.cancelled():
        job.exception()
