"""HTTP/1.1 with a deadline on a request's headers, which uvicorn does not have."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def deadline_protocol(header_timeout_s: float) -> type[HttpToolsProtocol]:
    """A protocol that hangs up on whoever does not send whole headers in time.

    The time runs from the connection, or from a request's first byte. Bodies have a deadline of
    their own, where they are read.
    """

    class DeadlineProtocol(HttpToolsProtocol):
        _header_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._wait_for_headers()

        def on_headers_complete(self) -> None:
            self._stop_waiting()
            super().on_headers_complete()

        def _wait_for_headers(self) -> None:
            self._stop_waiting()
            self._header_timer = self.loop.call_later(header_timeout_s, self._hang_up)

        def _stop_waiting(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

        def _hang_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return DeadlineProtocol
