"""The admin listener of a gateway that runs, and clients of both roles."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import httpx2
from serving import Served

from foretell.gateway._admin import AdminTokens, make_admin_app
from foretell.gateway._server import _listen, _server

ADMIN = {"authorization": "Bearer admin-token"}
VIEWER = {"authorization": "Bearer viewer-token"}


@contextmanager
def admin_of(served: Served) -> Generator[httpx2.Client]:
    """The admin listener of a gateway that runs already, and a client that may change things."""
    tokens = AdminTokens({"admin-token": "admin", "viewer-token": "viewer"})
    listener = _listen("127.0.0.1", 0)
    server = _server(make_admin_app(served.gateway, tokens), served.gateway.snapshot.config)

    async def start() -> asyncio.Task[None]:
        return asyncio.create_task(server.serve(sockets=[listener]))

    async def stop(running: asyncio.Task[None]) -> None:
        server.should_exit = True
        await running

    running = served.run(start())
    served.tasks_at_rest += 1
    host, port = listener.getsockname()
    with httpx2.Client(base_url=f"http://{host}:{port}", headers=ADMIN, timeout=30) as client:
        yield client
    served.run(stop(running))
    served.tasks_at_rest -= 1


def told(response: httpx2.Response, status: int, code: str, *words: str) -> None:
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code), response.text
    for word in words:
        assert word in error["message"]
