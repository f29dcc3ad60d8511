"""HTTP by hand: bytes as a client would never send them, and what comes back for them."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from serving import port_of

PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnswer:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, Any]:
        """The error object, which must be one of OpenAI's shape and nothing else."""
        document = json.loads(self.body)
        assert document.keys() == {"error"}
        error = document["error"]
        assert error.keys() == {"message", "type", "code", "param"}
        assert error["message"]
        assert "Traceback" not in error["message"]
        return error


class Wire:
    """A connection of one's own."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._stream = connected.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def answer(self, *, with_body: bool = True) -> RawAnswer:
        """The next answer; the status is 0 when the server hung up without a word."""
        first = self._stream.readline()
        if not first:
            return RawAnswer(status=0, headers={}, body=b"")
        headers = {}
        while line := self._stream.readline().rstrip(b"\r\n").decode("latin-1"):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0)) if with_body else 0
        return RawAnswer(
            status=int(first.split()[1]), headers=headers, body=self._stream.read(length)
        )

    def is_closed(self) -> bool:
        """Wait until the server closes; whatever it still sends is thrown away."""
        try:
            while self._stream.read(65_536):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True

    def is_silent(self, seconds: float) -> bool:
        """Whether the server neither says anything nor closes for so long."""
        readable, _, _ = select.select([self.socket], [], [], seconds)
        return not readable

    def close(self) -> None:
        self._stream.close()
        self.socket.close()


@contextmanager
def connection(url: str) -> Iterator[Wire]:
    wire = Wire(socket.create_connection(("127.0.0.1", port_of(url)), timeout=PATIENCE_S))
    try:
        yield wire
    finally:
        wire.close()


def talk(url: str, *pieces: bytes) -> RawAnswer:
    """Send the pieces on a connection of its own, and read the first answer."""
    with connection(url) as wire:
        wire.send(*pieces)
        return wire.answer(with_body=not pieces[0].startswith(b"HEAD "))


def head(
    method: str,
    path: str | bytes,
    *,
    headers: Iterable[str | bytes] = (),
    length: int | None = None,
) -> bytes:
    """A request line and headers, with a key unless another ``authorization`` is given."""
    lines = [
        b"%b %b HTTP/1.1" % (method.encode(), path.encode() if isinstance(path, str) else path)
    ]
    lines += [line.encode("latin-1") if isinstance(line, str) else line for line in headers]
    names = {line.partition(b":")[0].lower() for line in lines[1:]}
    if b"host" not in names:
        lines.append(b"Host: localhost")
    if b"authorization" not in names:
        lines.append(b"Authorization: Bearer key-one")
    if length is not None:
        lines.append(b"Content-Length: %d" % length)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(path: str, body: bytes | dict[str, Any], *headers: str | bytes) -> bytes:
    """A whole request with a body."""
    written = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head("POST", path, headers=headers, length=len(written)) + written
