"""How upstreams are connected to, and what it means when that fails."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection

from foretell.upstreams._addresses import is_forbidden_address
from foretell.upstreams._protocol import FailureKind

if TYPE_CHECKING:
    from collections.abc import Sequence


_ERROR_BODY_BYTES = 16_384
_ERROR_BODY_S = 5.0
_FORBIDDEN = (
    "its host name leads to a link-local address, where no model is but a cloud's metadata may be; "
    "check base_url and the name server"
)


class ForbiddenAddressError(OSError):
    """A host name stands for an address that is never connected to."""


class CheckingResolver(AbstractResolver):
    """Resolves as usual, and refuses a name that leads to a forbidden address.

    What is connected to is the address checked here, so another answer later changes nothing.
    """

    def __init__(self) -> None:
        self._resolver = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of ``host``; raises ``ForbiddenAddressError`` if one of them is forbidden."""
        found: Sequence[ResolveResult] = await self._resolver.resolve(host, port, family)
        if any(is_forbidden_address(result["host"]) for result in found):
            raise ForbiddenAddressError(errno.EACCES, _FORBIDDEN)
        return list(found)

    async def close(self) -> None:
        """Release what the resolver holds."""
        await self._resolver.close()


class AbortingConnector(aiohttp.TCPConnector):
    """Drops a connection that is closed at once.

    As it is, closing waits until the host has taken all of the request, however long that is.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A connection for one request."""
        connection = await super().connect(req, traces, timeout)
        if (transport := connection.transport) is not None:
            # Told right before the connection is closed or goes back to the pool.
            connection.add_callback(partial(_abort_once_closing, transport))
        return connection


def _abort_once_closing(transport: asyncio.Transport) -> None:
    asyncio.get_running_loop().call_soon(
        lambda: transport.abort() if transport.is_closing() else None
    )


def open_session(*, connect_s: float, idle_s: float | None = None) -> aiohttp.ClientSession:
    """Connections of one upstream, for the running event loop.

    No cookies, no proxy of the environment, no limit: how many call at once is the caller's.
    ``idle_s`` bounds the silence while a response is awaited or read; ``None`` leaves it to the
    caller.
    """
    return aiohttp.ClientSession(
        connector=AbortingConnector(limit=0, resolver=CheckingResolver()),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_s, sock_read=idle_s),
    )


def connection_failure(
    error: Exception, *, connect_s: float, first_byte_s: float
) -> tuple[FailureKind, str]:
    """The kind of a failure before the first byte, and what to say of it.

    The error's own text is left out: it may hold the URL, addresses and headers.
    """
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "timeout", f"could not be connected to within {connect_s:g} s"
        case TimeoutError():
            return "timeout", f"did not begin to answer within {first_byte_s:.3g} s"
        case aiohttp.ClientConnectorDNSError(os_error=ForbiddenAddressError()):
            return "unreachable", f"could not be reached: {_FORBIDDEN}"
        case aiohttp.ClientConnectorDNSError():
            return "unreachable", "could not be reached: its host name was not found"
        case aiohttp.ClientConnectorCertificateError():
            return "unreachable", "could not be reached: its certificate is not trusted"
        case aiohttp.ClientSSLError():
            return "unreachable", "could not be reached: no TLS connection came about"
        case aiohttp.ClientConnectorError():
            reason = os.strerror(error.errno) if error.errno else "no connection came about"
            return "unreachable", f"could not be reached: {reason[:1].lower()}{reason[1:]}"
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return "error", "answered with something that is no HTTP, or with too long a head"
        case aiohttp.InvalidURL():
            return "unreachable", "could not be reached: its address is written in no usual way"
        case _:
            return "unreachable", "could not be reached: it closed the connection unanswered"


async def beginning(response: aiohttp.ClientResponse) -> bytes:
    """The first 16 KiB of an error's body, or what of them came in a few seconds."""
    body = bytearray()
    # What came is enough, since the status has said the rest.
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(_ERROR_BODY_S):
            while len(body) < _ERROR_BODY_BYTES and (piece := await response.content.readany()):
                body += piece
    return bytes(body[:_ERROR_BODY_BYTES])
