"""Sockets, signals, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from foretell.config import Config
from foretell.errors import ConfigError
from foretell.gateway._admin import AdminTokens, make_admin_app
from foretell.gateway._app import make_app
from foretell.gateway._gateway import Gateway
from foretell.gateway._protocols import deadline_protocol

_logger = logging.getLogger(__name__)

_BACKLOG = 2048


class _Server(uvicorn.Server):
    """Leaves signals to us: there are two servers in one loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def serve(config: Config, path: Path | None, *, on_listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    ``on_listening`` is told the address once connections are accepted. Raises ``ConfigError`` for
    an address that cannot be listened on, and for keys or tokens that are missing.
    """
    runner = asyncio.Runner(loop_factory=_loop_factory())
    with runner:
        runner.run(_serve(config, path, on_listening))


async def _serve(config: Config, path: Path | None, on_listening: Callable[[str], None]) -> None:
    gateway = Gateway(config, path=path)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(gateway.close)
        server_config = config.server
        listener = _listen(server_config.host, server_config.port)
        stack.callback(listener.close)
        servers = [(_server(make_app(gateway), config), listener)]
        if (admin := server_config.admin) is not None:
            tokens = AdminTokens.from_config(admin)
            admin_listener = _listen(admin.host, admin.port)
            stack.callback(admin_listener.close)
            servers.append((_server(make_admin_app(gateway, tokens), config), admin_listener))
        stop = _watch_signals(gateway, stack)
        running = [asyncio.create_task(server.serve(sockets=[at])) for server, at in servers]
        loading = asyncio.create_task(gateway.load())
        host, port = listener.getsockname()[:2]
        on_listening(f"http://{host}:{port}")
        if len(servers) > 1:
            host, port = servers[1][1].getsockname()[:2]
            _logger.info("admin listens on http://%s:%s", host, port)
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({waiting, *running}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        gateway.draining = True
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*running)
        await asyncio.gather(loading, return_exceptions=True)


def _server(app: FastAPI, config: Config) -> uvicorn.Server:
    server = config.server
    return _Server(
        uvicorn.Config(
            app,
            http=deadline_protocol(server.header_timeout_s),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(server.drain_s)),
            h11_max_incomplete_event_size=64 * 1024,
        )
    )


def _watch_signals(gateway: Gateway, stack: contextlib.AsyncExitStack) -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        try:
            active = await gateway.reload(by="SIGHUP")
            _logger.info("the configuration was read again; its hash is %s", active[:12])
        except ConfigError as error:
            _logger.error("the configuration stays as it was: %s", error)

    def hang_up() -> None:
        task = loop.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    handlers: list[tuple[signal.Signals, Any]] = [
        (signal.SIGTERM, stop.set),
        (signal.SIGINT, stop.set),
    ]
    if hasattr(signal, "SIGHUP"):
        handlers.append((signal.SIGHUP, hang_up))
    for number, handler in handlers:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, handler)
            stack.callback(loop.remove_signal_handler, number)
    return stop


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; set server.host and "
            "server.port to others, or end what listens there"
        ) from None
    return listener


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
