"""The flywheel in the gateway's own process: hears what was decided, and works if it is to."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Final, Self

from foretell.cli._desk import PeopleDesk
from foretell.errors import RoutingError
from foretell.flywheel import EventWatch, Worker, alarms_now, quality_now
from foretell.gateway import Gateway

_logger = logging.getLogger(__name__)

_EVERY_S: Final = 5.0
_LOOK_S: Final = 0.1
_ESTIMATE_EVERY_S: Final = 60.0
_PATIENCE_S: Final = 6.0
"""How long the end waits for threads that the store may be holding up."""


class FlywheelBeside:
    """Threads beside a gateway, for as long as it is entered; to be entered in its event loop.

    One looks into the store for what was decided, on this machine or another, and has the gateway
    open its probes again; so whoever promotes, everybody serves the same within seconds. With
    ``flywheel.worker: in_process`` another does the flywheel's work. A configuration that takes
    over while the gateway runs holds for both. The gateway also gets the flywheel's desk, where
    people judge answers over HTTP.
    """

    def __init__(self, gateway: Gateway, *, every_s: float = _EVERY_S) -> None:
        """``every_s`` is how often the store is looked into."""
        self._gateway = gateway
        gateway.desk = PeopleDesk()
        self._every_s = every_s
        self._stop = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="foretell-watch", daemon=True)
        self._working: tuple[threading.Thread, threading.Event, Worker] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        if self._gateway.store_state() is not None:
            self._watching.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._watching.ident is not None:
            self._watching.join(_PATIENCE_S + 1)

    def _watch(self) -> None:
        gateway = self._gateway
        watch: EventWatch | None = None
        unheard, said, estimated = False, "", 0.0
        try:
            while not self._stop.is_set():
                try:
                    self._follow()
                    if (store := gateway.store) is None:  # it could not be opened yet
                        self._stop.wait(self._every_s)
                        continue
                    now = gateway.clock()
                    watch = watch or EventWatch(store, now=now)
                    unheard = bool(watch.news(now)) or unheard
                    if unheard:
                        self._refresh()
                        unheard = False
                    gateway.alarms = alarms_now(store, gateway.active.config)
                    if now - estimated >= _ESTIMATE_EVERY_S:
                        gateway.quality = quality_now(store, gateway.active.config)
                        estimated = now
                    said = ""
                except RoutingError as error:
                    if str(error) != said:  # once, and not every few seconds
                        _logger.error("what was decided elsewhere is not followed: %s", error)
                    said = str(error)
                except Exception:
                    _logger.exception("what was decided elsewhere is not followed")
                self._stop.wait(self._every_s)
        finally:
            self._end_work()

    def _follow(self) -> None:
        """Work, or do not, as the configuration says that is active now."""
        config = self._gateway.active.config
        if config.flywheel.worker != "in_process":
            self._end_work()
        elif self._working is not None:
            self._working[2].config = config
        else:
            worker, stop = Worker(config), threading.Event()
            thread = threading.Thread(
                target=worker.run, args=(stop,), name="foretell-flywheel", daemon=True
            )
            thread.start()
            self._working = (thread, stop, worker)

    def _end_work(self) -> None:
        if self._working is not None:
            thread, stop, _ = self._working
            stop.set()
            thread.join(_PATIENCE_S)
            self._working = None

    def _refresh(self) -> None:
        assert self._loop is not None  # noqa: S101 - set when it was entered
        refreshed: Future[str] = asyncio.run_coroutine_threadsafe(
            self._gateway.refresh(by="flywheel"), self._loop
        )
        # Whoever ends the gateway waits for this thread, so the loop may never come to it.
        while not (self._stop.is_set() or wait({refreshed}, timeout=_LOOK_S).done):
            pass
        if refreshed.done():
            refreshed.result()
            _logger.info("the probes and steps that are in force were opened again")
