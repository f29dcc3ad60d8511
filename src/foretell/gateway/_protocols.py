"""HTTP/1.1 with limits on what a connection may hold without asking anything.

uvicorn has a deadline for idle connections alone. Missing there are one for a request's headers,
one for a body that nobody reads any more, and a limit on the size of headers.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from foretell.gateway._bodies import json_bytes
from foretell.gateway._errors import ApiError

MOST_HEADER_BYTES: Final = 64 * 1024


def guarded_protocol(header_timeout_s: float) -> type[HttpToolsProtocol]:
    """A protocol that hangs up on whoever holds a connection without a whole request.

    ``header_timeout_s`` runs from the connection, from a request's first byte, and from the answer
    to a request whose body is not there yet, so that a body which was refused can still be sent
    and the answer be read. Bodies that are read have a deadline of their own, where that is done.
    """

    class GuardedProtocol(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _in_headers = True
        _header_bytes = 0
        _requests = 0
        _refused = False
        _running: RequestResponseCycle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._limit_time()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)
            # The parent tells the newest request alone; of several that were sent at once, the one
            # being answered is another.
            if not self._idle and self._running is not None:
                self._running.disconnected = True
                self._running.message_event.set()

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            before = self._in_headers, self._requests
            super().data_received(data)
            # What came with the end of a request before it is small enough not to be counted.
            if self._in_headers and before == (True, self._requests):
                self._header_bytes += len(data)
                if self._header_bytes > MOST_HEADER_BYTES:
                    self._refuse_headers()
            # Bytes that begin no request have ended the wait of an idle connection all the same.
            if self._timer is None and self.timeout_keep_alive_task is None and self._idle:
                self._limit_time()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_headers, self._header_bytes = True, 0
            self._requests += 1
            self._limit_time()

        def on_header(self, name: bytes, value: bytes) -> None:
            # Trailers come the same way; they must not become headers of a request under way.
            if self._in_headers:
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._stop_timer()
            self._in_headers = False
            if self._over:
                return
            if sum(len(name) + len(value) for name, value in self.headers) > MOST_HEADER_BYTES:
                self._refuse_headers()
                return
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self._over:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if self._over:
                return
            if self._idle:  # the rest of a body that was refused
                self._limit_time()
            super().on_message_complete()
            self._in_headers, self._header_bytes = True, 0

        def on_response_complete(self) -> None:
            answered = self._running
            super().on_response_complete()
            if answered is not None and answered.more_body:
                self._limit_time()

        def shutdown(self) -> None:
            if self._refused:
                self.transport.close()
            else:
                super().shutdown()

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - ours says the same
            self._refuse(ApiError(400, "this is not HTTP/1.1", code="invalid_http"))

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            self._running = cycle
            super()._start_asgi_task(cycle, app)

        def _unsupported_upgrade_warning(self) -> None:
            """Callers may ask for WebSockets as often as they like; it is not worth a line."""

        @property
        def _over(self) -> bool:
            return self._refused or self.transport.is_closing()

        @property
        def _idle(self) -> bool:
            return self._running is None or self._running.response_complete

        def _limit_time(self) -> None:
            self._stop_timer()
            self._timer = self.loop.call_later(header_timeout_s, self._hang_up)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _hang_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

        def _refuse_headers(self) -> None:
            kib = MOST_HEADER_BYTES // 1024
            self._refuse(
                ApiError(431, f"the headers have more than {kib} KiB", code="headers_too_large")
            )

        def _refuse(self, error: ApiError) -> None:
            """Answer what is no request, or its broken body, unless another answer comes first.

            What else arrives is thrown away for a while: a connection that is closed at once is
            reset, and the answer may be lost.
            """
            if self.transport.is_closing() or self._refused:
                return
            running = self._running
            if running is not None and not running.response_complete:
                its_body = running is self.cycle and running.more_body
                if running.response_started or not its_body:
                    self.transport.close()
                    return
                running.disconnected = True
                running.message_event.set()
            self._refused = True
            body = json_bytes(error.body())
            self.transport.write(
                b"%bcontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b" % (STATUS_LINE[error.status], len(body), body)
            )
            self.transport.write_eof()
            self._limit_time()

    return GuardedProtocol
