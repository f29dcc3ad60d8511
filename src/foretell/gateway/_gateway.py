"""The gateway itself: what outlives a request and a configuration, and the books on both."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from foretell.config import Config, load_config
from foretell.errors import ConfigError, RoutingError, StoreError
from foretell.gateway._admission import Admission
from foretell.gateway._answering import Answering
from foretell.gateway._callers import Caller, KeySource
from foretell.gateway._chat_request import ChatRequest
from foretell.gateway._errors import ApiError
from foretell.gateway._exchange import Exchange
from foretell.gateway._logs import log_request
from foretell.gateway._memory import ResponseMemory
from foretell.gateway._metrics import LiveState, Metrics
from foretell.gateway._records import record_of
from foretell.gateway._responses_api import kept_messages
from foretell.gateway._service import Service
from foretell.gateway._snapshot import Snapshot, config_hash
from foretell.gateway._traces import Traces
from foretell.gateway._turns import Turns
from foretell.runtime import EngineShelf
from foretell.store import Recorder, Store
from foretell.upstreams import PriceBook

_logger = logging.getLogger(__name__)

_THREADS: Final = 64
_VERSIONS_KEPT: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A configuration that was active."""

    hash: str
    config: Config
    by: str
    at: float


class Gateway:
    """Made by ``open``; belongs to one event loop. ``close`` frees all of it."""

    def __init__(
        self,
        config: Config,
        *,
        path: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.clock = clock
        self.executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="foretell-gateway")
        self.store: Store | None = None
        self.recorder: Recorder | None = None
        self.draining = False
        self.previous: deque[Version] = deque(maxlen=_VERSIONS_KEPT)
        self.activated_at = clock()
        self._shelf = EngineShelf()
        self._background: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self.snapshot = Snapshot(config, self._shelf, self.executor)
        self.metrics = Metrics(routes=config.routes, models=config.models, live=self._live_state)
        self.traces = Traces.from_environment() if config.server.traces else Traces()
        if config.server.record or config.server.stored_keys:
            self._open_store(config)
        self._keys = self._key_source(config)
        self.admission = Admission(
            self._keys,
            clock,
            max_concurrent=config.server.max_concurrent,
            spent_today=self._spent_by_key,
        )
        prices = PriceBook()
        self.turns = Turns(prices=prices, clock=time.monotonic)
        self.memory = ResponseMemory(clock=time.monotonic)
        self.service = Service(
            turns=self.turns,
            prices=prices,
            executor=self.executor,
            on_attempt=lambda target, outcome, status: self.metrics.attempted(target, outcome),
        )

    # A request's life

    def exchange(
        self, caller: Caller, request: ChatRequest, *, id_prefix: str, **details: Any
    ) -> Exchange:
        """A request that was let in, with the configuration that it will keep.

        The caller leaves it by ``finish`` or ``forget``.
        """
        ticket = self.admission.enter(caller, request.model)
        unique = uuid4().hex
        return Exchange(
            id=f"req-{unique}",
            response_id=f"{id_prefix}{unique}",
            created=int(self.clock()),
            caller=caller,
            ticket=ticket,
            snapshot=self.snapshot.take(),
            request=request,
            **details,
        )

    def forget(self, exchange: Exchange) -> None:
        """Leave no trace of a request that only asked what would be done."""
        exchange.close_prefill()
        exchange.ticket.settle(0.0)
        self._leave(exchange)

    def remember_response(
        self, exchange: Exchange, raw: Mapping[str, Any], said: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep a response's messages for one that goes on from it, unless it asked not to."""
        if raw.get("store") is not False:
            messages = kept_messages(raw, exchange.request.raw, said)
            self.memory.keep(exchange.tenant, exchange.response_id, messages)

    async def finish(self, exchange: Exchange, answering: Answering | None, *, status: int) -> None:
        """Settle, count, log and keep a request that is over, however it ended."""
        try:
            if answering is not None:
                await answering.close()
            exchange.close_prefill()
            record = record_of(exchange, answering, status=status, at=self.clock())
            exchange.ticket.settle(record.cost_usd if answering is not None else 0.0)
            exchange.settle_goal(record.cost_usd)
            if answering is not None and status < 400:
                self.turns.end(exchange, answering)
            decision = exchange.decision
            probe_ms = None if decision is None else decision.probe_ms
            self.metrics.served(record, probe_s=None if probe_ms is None else probe_ms / 1e3)
            log_request(record)
            if self.recorder is not None and decision is not None:
                self.recorder.put(record)
        finally:
            self._leave(exchange)

    def _leave(self, exchange: Exchange) -> None:
        exchange.ticket.release()
        if exchange.snapshot.put_back():
            self._close_later(exchange.snapshot)

    # Configurations

    async def load(self) -> None:
        """Open the models of the first configuration; the gateway answers meanwhile."""
        snapshot = self.snapshot
        await asyncio.get_running_loop().run_in_executor(
            self.executor, lambda: self._load(snapshot, None)
        )
        for name, route in snapshot.routes.items():
            if route.waits_for is not None:
                _logger.warning("route %r declines every query: %s", name, route.waits_for.reason)

    async def change(self, config: Config, *, by: str) -> str:
        """Serve by another configuration from now on; returns its hash.

        It is opened whole before it takes over, all at once; requests under way keep theirs. Raises
        ``ConfigError``, and changes nothing, when it cannot be used or needs a restart.
        """
        async with self._changing:
            old = self.snapshot
            _refuse_restart(old.config, config)
            new = Snapshot(config, self._shelf, self.executor)
            try:
                keys = self._key_source(config)
                await asyncio.get_running_loop().run_in_executor(
                    self.executor, lambda: self._load(new, old)
                )
            except BaseException:
                self._close_later(new)
                raise
            self.metrics.know(routes=config.routes, models=config.models)
            self.admission.reload(keys=keys, max_concurrent=config.server.max_concurrent)
            self._keys = keys
            self.previous.append(
                Version(hash=old.hash, config=old.config, by=by, at=self.activated_at)
            )
            self.snapshot, self.activated_at = new, self.clock()
            if old.retire():
                self._close_later(old)
            await self._keep_version(new, by)
            return new.hash

    async def reload(self, *, by: str) -> str:
        """Serve by the file as it is now."""
        if self.path is None:
            raise ConfigError("the gateway was started without a configuration file")
        return await self.change(load_config(self.path), by=by)

    async def roll_back(self, *, by: str) -> str:
        """Serve by the configuration before this one."""
        if not self.previous:
            raise ConfigError("there is no earlier configuration to go back to")
        version = self.previous[-1]
        active = await self.change(version.config, by=by)
        self.previous.pop()  # what was just left
        self.previous.pop()  # what is active again
        return active

    def file_hash(self) -> str | None:
        """Hash of the file as it is now; ``None`` when it cannot be read or is not valid."""
        if self.path is None:
            return None
        try:
            return config_hash(load_config(self.path))
        except ConfigError:
            return None

    @property
    def ready(self) -> bool:
        """Whether every weak model is loaded, or known to be unavailable."""
        return self.snapshot.loaded and not self.draining

    # The store

    async def flushed(self) -> None:
        """Wait until what was served so far is stored."""
        if self.recorder is not None:
            recorder = self.recorder
            await asyncio.get_running_loop().run_in_executor(
                self.executor, lambda: recorder.flush(2.0)
            )

    async def with_store(self, work: Callable[[Store], Any]) -> Any:
        """Do something with the store on a thread; raises ``ApiError`` when there is none."""
        store = self.store
        if store is None:
            raise ApiError(503, "this gateway keeps no store", code="no_store")
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self.executor, lambda: work(store)
            )
        except StoreError as error:
            _logger.error("the store failed: %s", error)
            raise ApiError(
                503, "the store cannot be used at the moment; try again", code="store_unavailable"
            ) from None

    async def close(self) -> None:
        """Flush the books, close the connections, free the models."""
        for task in tuple(self._background):
            await asyncio.gather(task, return_exceptions=True)
        self._keys.close()
        self.traces.close()
        await self.snapshot.aclose_targets()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self.snapshot.close_models)
        if self.recorder is not None:
            await loop.run_in_executor(None, self.recorder.close)
        if self.store is not None:
            self.store.close()
        self.executor.shutdown(wait=False, cancel_futures=True)

    def _load(self, snapshot: Snapshot, previous: Snapshot | None) -> None:
        snapshot.load(
            now=datetime.fromtimestamp(self.clock(), UTC),
            clock=self.clock,
            spent_today=self._spent_by_route,
            previous=previous,
            progress=lambda what: _logger.info("%s", what),
        )

    def _open_store(self, config: Config) -> None:
        # A store that cannot be opened must not keep the models from answering.
        try:
            self.store = Store.open(config.store.url, config.store.vectors)
        except RoutingError as error:
            if config.server.stored_keys:
                raise
            _logger.error("no ledger is kept: %s", error)
            return
        if config.server.record:
            self.recorder = Recorder(self.store, on_shed=lambda n: self.metrics.shed(n))

    def _key_source(self, config: Config) -> KeySource:
        store = self.store
        keys = KeySource.from_config(
            config.server,
            stored=(lambda sha256: None) if store is None else store.key_by_sha256,
            clock=self.clock,
        )
        keys.require_keys_off_loopback(config.server.host)
        return keys

    def _spent_by_key(self, key_id: str, at: float) -> tuple[float, int]:
        if self.store is None:
            return 0.0, 0
        return self.store.spent_today(now=at, key_id=key_id)

    def _spent_by_route(self, route: str) -> float:
        if self.store is None:
            return 0.0
        try:
            return self.store.spent_today(now=self.clock(), route=route)[0]
        except StoreError as error:
            _logger.error("what %r has spent today is not known: %s", route, error)
            return 0.0

    async def _keep_version(self, snapshot: Snapshot, by: str) -> None:
        store = self.store
        if store is None:
            return
        text = snapshot.config.model_dump_json()
        try:
            await asyncio.get_running_loop().run_in_executor(
                self.executor,
                lambda: store.put_config_version(snapshot.hash, text, by=by, at=self.clock()),
            )
        except StoreError as error:
            _logger.error("the version of the configuration is not kept: %s", error)

    def _close_later(self, snapshot: Snapshot) -> None:
        async def close() -> None:
            await snapshot.aclose_targets()
            await asyncio.get_running_loop().run_in_executor(self.executor, snapshot.close_models)

        task = asyncio.get_running_loop().create_task(close())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _live_state(self) -> LiveState:
        snapshot = self.snapshot
        controls = {
            name: [side.control for side in route.sides.values()]
            for name, route in snapshot.routes.items()
        }
        only = {name: sides[0] for name, sides in controls.items() if len(sides) == 1}
        return LiveState(
            in_flight=self.admission.in_flight,
            config_hash=snapshot.hash,
            breakers={name: target.breaker.state for name, target in snapshot.targets.items()},
            strong_share={name: control.strong_share for name, control in only.items()},
            keep_at={name: control.keep_at for name, control in only.items()},
        )


def _refuse_restart(old: Config, new: Config) -> None:
    """Sockets and the store are opened once."""
    fixed = ("host", "port", "admin", "traces", "record", "stored_keys", "header_timeout_s")
    changed = [
        f"server.{name}" for name in fixed if getattr(old.server, name) != getattr(new.server, name)
    ]
    if old.store != new.store:
        changed.append("store")
    if changed:
        raise ConfigError(
            f"{', '.join(changed)} cannot change while the gateway runs; restart it for that"
        )
