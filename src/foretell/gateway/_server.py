"""Sockets, signals, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Final

import uvicorn
from fastapi import FastAPI

from foretell.config import Config
from foretell.errors import ConfigError, RoutingError
from foretell.gateway._admin import AdminTokens, make_admin_app
from foretell.gateway._app import make_app
from foretell.gateway._gateway import Gateway
from foretell.gateway._protocols import guarded_protocol

_logger = logging.getLogger(__name__)

_BACKLOG: Final = 2048
_UNWIND_S: Final = 5.0
"""How long requests that were cut short may take to say so and to settle."""

_SWITCH_S: Final = 0.0005
_COLLECT_AFTER: Final = (20_000, 20, 50)
"""Objects, and rounds: a request makes some hundred that refer to each other in circles. What was
loaded before stays out of it."""

Stops = asyncio.Queue[signal.Signals]
Beside = Callable[[Gateway], contextlib.AbstractContextManager[object]]


class _Server(uvicorn.Server):
    """Leaves signals to us: there are two servers in one loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def serve(
    config: Config,
    *,
    read: Callable[[], Config] | None = None,
    on_listening: Callable[[str], None],
    on_config: Callable[[Config], None] | None = None,
    beside: Beside | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; a second one cuts answers short that are still under way.

    ``read`` reads the configuration again, as on SIGHUP; ``on_config`` is told of each one before
    it takes over. ``on_listening`` is told the address once connections are accepted. What
    ``beside`` makes of the gateway is entered in its event loop before that, and left once no
    request is served any more. Raises
    ``ConfigError`` for an address that cannot be listened on, and for keys or tokens that are
    missing. A model that is still being loaded when all else is closed ends with the process.
    """
    # The loop lets go of the interpreter at every wait, and gets it back from a busy thread (the
    # ledger's, the engine's) only after this long; the 5 ms of the default are a tail of their own.
    sys.setswitchinterval(_SWITCH_S)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        if not runner.run(_serve(config, read, on_listening, on_config, beside)):
            # Threads cannot be ended, and the interpreter would wait for this one.
            _logger.warning("a model is still being loaded; the process ends without it")
            logging.shutdown()
            sys.stderr.flush()
            os._exit(0)


async def _serve(
    config: Config,
    read: Callable[[], Config] | None,
    on_listening: Callable[[str], None],
    on_config: Callable[[Config], None] | None,
    beside: Beside | None,
) -> bool:
    """Whether all is closed at the end, and nothing left that only the process's end ends."""
    gateway = Gateway(config, read=read, on_config=on_config)
    try:
        with contextlib.ExitStack() as stack:
            listener = _listen(config.server.host, config.server.port)
            stack.callback(listener.close)
            servers = [(_server(make_app(gateway), config), listener)]
            if (admin := config.server.admin) is not None:
                tokens = AdminTokens.from_config(admin)
                admin_listener = _listen(admin.host, admin.port)
                stack.callback(admin_listener.close)
                servers.append((_server(make_admin_app(gateway, tokens), config), admin_listener))
                _logger.info("admin listens on %s", _address(admin_listener))
            stops = _watch_signals(gateway, stack)
            running = asyncio.gather(*(server.serve(sockets=[at]) for server, at in servers))
            loading = asyncio.create_task(_load(gateway))
            if beside is not None:
                stack.enter_context(beside(gateway))
            on_listening(_address(listener))
            ending = asyncio.create_task(stops.get())
            await asyncio.wait({ending, running}, return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            gateway.draining = True
            await _drain([server for server, _ in servers], running, stops, gateway.drain_s)
    finally:
        closed = await gateway.close()
    if closed:
        await loading
    return closed


async def _load(gateway: Gateway) -> None:
    """Open the models; what is there then stays, and need not be looked through for garbage."""
    await gateway.load()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


async def _drain(
    servers: Sequence[uvicorn.Server],
    running: asyncio.Future[list[None]],
    stops: Stops,
    drain_s: float,
) -> None:
    """Take no more connections, let answers end, and cut short what takes too long."""
    for server in servers:
        server.should_exit = True
    hurry = asyncio.create_task(stops.get())
    await asyncio.wait({hurry, running}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    late = {task for server in servers for task in server.server_state.tasks}
    if late:
        _logger.warning("%d requests are cut short", len(late))
        for task in late:
            task.cancel()
        await asyncio.wait(late, timeout=_UNWIND_S)
    for server in servers:
        server.force_exit = True
        for connection in tuple(server.server_state.connections):
            connection.transport.abort()  # whoever reads no more would be waited for
    await running


def _server(app: FastAPI, config: Config) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app,
            http=guarded_protocol(config.server.header_timeout_s),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # nobody's address is read, so nobody's word for it is needed
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
        )
    )


def _watch_signals(gateway: Gateway, stack: contextlib.ExitStack) -> Stops:
    """Signals to stop, as they come; the one to read the configuration again is seen to here."""
    stops: Stops = asyncio.Queue()
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        try:
            active = await gateway.reload(by="SIGHUP")
        except RoutingError as error:
            _logger.error("the configuration stays as it was: %s", error)
        except Exception:
            _logger.exception("the configuration stays as it was")
        else:
            _logger.info("the configuration was read again; its hash is %s", active[:12])

    def hang_up() -> None:
        task = loop.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    handlers: list[tuple[signal.Signals, Callable[[], object]]] = [
        (number, partial(stops.put_nowait, number)) for number in (signal.SIGTERM, signal.SIGINT)
    ]
    if hasattr(signal, "SIGHUP"):
        handlers.append((signal.SIGHUP, hang_up))
    for number, handler in handlers:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, handler)
            stack.callback(loop.remove_signal_handler, number)
    return stops


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name may stand for both kinds of address; clients that know no IPv6 are not rare.
        family, kind, proto, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen on {host} port {port}: {why}; set server.host and server.port to "
            "others, or end what listens there"
        ) from None
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
