"""Server-sent events: bytes in, whatever their cuts; the data of finished events out."""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventParser:
    """Reads a ``text/event-stream`` piece by piece (WHATWG HTML, section 9.2.6).

    Lines end with CRLF, LF or CR; comments and fields other than ``data`` are passed over; the
    ``data`` lines of one event are joined with a line feed. An event that no blank line ended is
    never given out. Bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, *, max_event_bytes: int = 1 << 20) -> None:
        self._max_event_bytes = max_event_bytes
        self._unfinished = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._at_start = True
        self._ended_with_cr = False

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that ``chunk`` finishes, in order.

        Raises ``ValueError`` when one event grows past ``max_event_bytes``.
        """
        if not chunk:
            return []
        if self._ended_with_cr:  # the line has been taken already; this is the rest of its end
            chunk = chunk.removeprefix(b"\n")
        self._ended_with_cr = chunk.endswith(b"\r")
        self._unfinished += chunk
        *lines, rest = _LINE_END.split(bytes(self._unfinished))
        self._unfinished = bytearray(rest)
        events = [event for line in lines if (event := self._take(line)) is not None]
        self._check_size(len(rest))
        return events

    def _take(self, line: bytes) -> str | None:
        """One line; the event's data when the line ends an event that has any."""
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            data, self._data, self._data_bytes = self._data, [], 0
            return b"\n".join(data).decode(errors="replace") if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_bytes += len(value)
            self._check_size(0)
        return None

    def _check_size(self, unfinished: int) -> None:
        if self._data_bytes + unfinished > self._max_event_bytes:
            raise ValueError(f"one event is larger than {self._max_event_bytes} bytes")
