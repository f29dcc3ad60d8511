"""Strong models for plain threads: the event loop lives on a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Sequence
from queue import SimpleQueue

from foretell.errors import EngineClosedError
from foretell.records import Answer, Message, Sampling
from foretell.upstreams._protocol import ChatModel, OnText


class BlockingChat:
    """A ``ChatModel`` to be called from any thread, several at once.

    Owns the model: closing this gives up the calls under way and closes the model.
    """

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self._loop = asyncio.new_event_loop()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"foretell-chat-{model.name}", daemon=True
        )
        self._thread.start()

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    def chat(
        self, messages: Sequence[Message], sampling: Sampling, *, on_text: OnText | None = None
    ) -> Answer:
        """As ``ChatModel.chat``; ``on_text`` is called on the calling thread.

        Whatever interrupts the wait (Ctrl-C, an error in ``on_text``) gives the request up.
        Raises ``EngineClosedError`` when this is closed, before the call or during it.
        """
        pieces: SimpleQueue[str | None] = SimpleQueue()
        with self._closing:
            if self._closed:
                raise EngineClosedError(f"model {self.name!r} was closed; open it again to call it")
            future = asyncio.run_coroutine_threadsafe(
                self._model.chat(messages, sampling, on_text=pieces.put), self._loop
            )
        future.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := pieces.get()) is not None:
                if on_text is not None:
                    on_text(piece)
            return future.result()
        except concurrent.futures.CancelledError:
            raise EngineClosedError(f"model {self.name!r} was closed while it answered") from None
        finally:
            future.cancel()

    def close(self) -> None:
        """Give up what is under way, close the model and end the thread; safe to call twice."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> BlockingChat:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def _wind_up(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._model.aclose()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()  # host names are looked up in it
