"""The gateway itself: what outlives a request and a configuration, and the books on both."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

import numpy as np

from foretell.config import Config
from foretell.errors import ConfigError, RoutingError, StoreError
from foretell.gateway._admission import Admission
from foretell.gateway._answering import Answering
from foretell.gateway._callers import Caller, KeySource
from foretell.gateway._capture import Capture
from foretell.gateway._chat_request import ChatRequest
from foretell.gateway._errors import ApiError
from foretell.gateway._exchange import Exchange
from foretell.gateway._logs import log_request
from foretell.gateway._memory import ResponseMemory
from foretell.gateway._metrics import LiveState, Metrics, StoreState
from foretell.gateway._reachability import warn_of_unreachable
from foretell.gateway._records import RULED, record_of, weak_could
from foretell.gateway._responses_api import kept_messages
from foretell.gateway._service import Service
from foretell.gateway._shadow_runs import NO_SHADOWS, ShadowRuns, ShadowShares
from foretell.gateway._snapshot import Snapshot, config_hash
from foretell.gateway._traces import Traces
from foretell.gateway._turns import Turns
from foretell.records import Observation
from foretell.runtime import EngineShelf
from foretell.store import Recorder, Store, store_key
from foretell.upstreams import PriceBook

if TYPE_CHECKING:
    from foretell.gateway._desk import LabelDesk

_Result = TypeVar("_Result")

_logger = logging.getLogger(__name__)

_THREADS: Final = 64
_VERSIONS_KEPT: Final = 20
_PATIENCE_S: Final = 3.0
"""How long the end waits for models that are being opened or freed."""
_FLUSH_S: Final = 2.0
_REOPEN_S: Final = 5.0
_STORE_THREADS: Final = 8
_STORE_S: Final = 5.0
"""How long a caller who asks the store waits for its answer, or for their turn to ask."""
LONG_STORE_S: Final = 60.0
"""The same, of those who run the gateway and ask for much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A configuration that is, or was, active: since when, and who or what brought it."""

    hash: str
    config: Config
    by: str
    at: float


class Gateway:
    """All that is behind HTTP; of one event loop.

    ``load`` opens the models, ``close`` frees everything.
    """

    def __init__(
        self,
        config: Config,
        *,
        read: Callable[[], Config] | None = None,
        on_config: Callable[[Config], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``read`` reads the configuration again; ``on_config`` is told of each before it serves.

        Raises ``ConfigError`` for keys that are missing, and ``StoreError`` when the store must be
        there and is not.
        """
        self._read = read
        self._on_config = on_config
        self.clock = clock
        self.store: Store | None = None
        self.store_error: str | None = None
        """Why the store could not be opened; ``None`` once it is open, or when none is wanted."""
        self.recorder: Recorder | None = None
        self._salt = b""
        self.alarms: Mapping[tuple[str, str], bool] = {}
        """By domain and name, as whoever watches the store last told; for the metrics."""
        self.quality: Mapping[tuple[str, str, str], float] = {}
        """By route, policy and bound, the share of answers that succeed; told likewise."""
        self.desk: LabelDesk | None = None
        """Where people judge answers; given by whoever composes the gateway and the flywheel."""
        self.draining = False
        self.active = Version(hash=config_hash(config), config=config, by="start", at=clock())
        self.previous: deque[Version] = deque(maxlen=_VERSIONS_KEPT)
        self._shelf = EngineShelf()
        self._background: set[asyncio.Task[Any]] = set()
        self._ending = asyncio.Event()
        self._under_way: dict[str, Exchange] = {}
        self._changing = asyncio.Lock()
        with ExitStack() as stack:
            self.executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="foretell-gateway")
            stack.callback(self.executor.shutdown, wait=False, cancel_futures=True)
            # Threads of their own: those that wait for a store that hangs keep no model from
            # answering.
            self._store_executor = ThreadPoolExecutor(
                _STORE_THREADS, thread_name_prefix="foretell-store"
            )
            stack.callback(self._store_executor.shutdown, wait=False, cancel_futures=True)
            self.metrics = Metrics(
                routes=config.routes, models=config.models, live=self._live_state
            )
            self.traces = Traces.from_environment() if config.server.traces else Traces()
            stack.callback(self.traces.close)
            if _wants_store(config):
                self._open_store(config, stack)
            self.snapshot = self._snapshot_of(config)
            self._keys = self._key_source(config)
            self._release = stack.pop_all()
        self.admission = Admission(
            self._keys,
            clock,
            max_concurrent=config.server.max_concurrent,
            spent_today=self._spent_by_key,
        )
        prices = self._prices = PriceBook()
        self.turns = Turns(prices=prices, clock=time.monotonic)
        self.shadow_runs = ShadowRuns(
            executor=self.executor,
            prices=prices,
            clock=clock,
            idle=lambda: not self._under_way,
            keep=self._keep_observation,
            on_run=lambda outcome: self.metrics.ran_shadow(outcome),
            release=self._give_back,
            rng=np.random.default_rng(),
        )
        self.memory = ResponseMemory(clock=time.monotonic)
        self.service = Service(
            turns=self.turns,
            prices=prices,
            executor=self.executor,
            on_attempt=lambda target, outcome, _: self.metrics.attempted(target, outcome),
        )

    # A request's life

    def exchange(
        self,
        caller: Caller,
        request: ChatRequest,
        *,
        id_prefix: str,
        headers: Mapping[str, str],
        **details: Any,
    ) -> Exchange:
        """A request that was let in, with the configuration that it will keep.

        The caller leaves it by ``finish`` or ``forget``.
        """
        ticket = self.admission.enter(caller, request.model)
        snapshot, unique = self.snapshot.take(), uuid4().hex
        asked = request.model if snapshot.knows(request.model) else "unknown"
        exchange = Exchange(
            id=f"req-{unique}",
            response_id=f"{id_prefix}{unique}",
            created=int(self.clock()),
            caller=caller,
            ticket=ticket,
            snapshot=snapshot,
            request=request,
            headers=headers,
            span=self.traces.request_span(asked, headers, streamed=request.stream),
            **details,
        )
        self._under_way[exchange.id] = exchange
        return exchange

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
            shares = self._shadow_shares(exchange)
            record = record_of(
                exchange,
                answering,
                prices=self._prices,
                status=status,
                at=self.clock(),
                shares=shares,
            )
            cost_usd = record.cost_usd
            exchange.ticket.settle(cost_usd or 0.0 if answering is None else cost_usd)
            exchange.settle_goal(record.cost_usd)
            if answering is not None and status < 400:
                self.turns.end(exchange, answering)
            decision = exchange.decision
            probe_ms = None if decision is None else decision.probe_ms
            self.metrics.served(
                record,
                probe_s=None if probe_ms is None else probe_ms / 1e3,
                declined=exchange.declined,
            )
            exchange.span.served(record)
            log_request(record)
            if self.recorder is not None and decision is not None:
                capture = exchange.snapshot.capture
                seen = () if capture is None else capture.observations(exchange, answering)
                self.recorder.put(record, seen)
                if status < 400:
                    self._perhaps_ask_again(exchange, shares)
        finally:
            self._leave(exchange)

    def _leave(self, exchange: Exchange) -> None:
        exchange.ticket.release()
        exchange.span.end()
        self._under_way.pop(exchange.id, None)
        exchange.over.set()
        self._give_back(exchange)

    def _give_back(self, exchange: Exchange) -> None:
        if exchange.snapshot.put_back():
            self._close_later(exchange.snapshot)

    # What one model served, and the other is asked afterwards

    def _shadow_shares(self, exchange: Exchange) -> ShadowShares:
        route = exchange.route
        if route is None or self.recorder is None or exchange.snapshot.capture is None:
            return NO_SHADOWS
        return self.shadow_runs.shares(route.name, route.config.shadow_runs)

    def _perhaps_ask_again(self, exchange: Exchange, shares: ShadowShares) -> None:
        """Have chance decide whether the other model answers, too, once there is time."""
        route, decision = exchange.route, exchange.decision
        if route is None or decision is None or exchange.side is None or exchange.domain is None:
            return
        if decision.action not in RULED or decision.p_weak is None or not weak_could(decision):
            return
        if self.shadow_runs.draw(shares, served=decision.serve, config=route.config.shadow_runs):
            exchange.snapshot.take()
            self.shadow_runs.put(exchange, exchange.side, exchange.domain)

    def _keep_observation(self, observation: Observation) -> None:
        if self.recorder is not None:
            self.recorder.put(None, (observation,))

    # Configurations

    async def load(self) -> None:
        """Open the models of the first configuration; the gateway answers meanwhile."""
        if self.store is None and _wants_store(self.active.config):
            self._in_background(self._open_store_later())
        async with self._changing:
            snapshot = self.snapshot
            for failure in await asyncio.gather(
                self._in_thread(lambda: self._load(snapshot, None)),
                warn_of_unreachable(snapshot.config.models),
                self._keep_version(self.active),
                return_exceptions=True,
            ):
                if failure is not None:
                    _logger.error("something failed at the start", exc_info=failure)
            for name, route in snapshot.routes.items():
                if route.waits_for is not None:
                    _logger.warning(
                        "route %r declines every query: %s", name, route.waits_for.reason
                    )

    def check(self, config: Config) -> None:
        """Raises ``ConfigError`` for a configuration that cannot take over while this one runs."""
        _refuse_restart(self.active.config, config)
        self._key_source(config).close()

    async def change(self, config: Config, *, by: str, expected: str | None = None) -> str:
        """Serve by another configuration from now on; returns its hash.

        It is opened whole before it takes over, all at once; requests under way keep theirs. Raises
        ``ConfigError``, and changes nothing, when it cannot be used or needs a restart, and
        ``ApiError`` (412) when the active one's hash is not ``expected``.
        """
        return await self._apart(self._change(lambda: config, by, expected))

    async def reload(self, *, by: str, expected: str | None = None) -> str:
        """``change`` to what the configuration's file holds now."""
        read = self._read
        if read is None:
            raise ConfigError("the gateway was started without a configuration file")
        return await self._apart(self._change(read, by, expected))

    async def roll_back(self, *, by: str, expected: str | None = None) -> str:
        """``change`` to the configuration before this one, which is forgotten."""

        def earlier() -> Config:
            if not self.previous:
                raise ConfigError("there is no earlier configuration to go back to")
            return self.previous[-1].config

        return await self._apart(self._change(earlier, by, expected, forget=True))

    async def refresh(self, *, by: str) -> str:
        """Open the active configuration again: other probes, or another step, may be in force."""
        return await self.change(self.active.config, by=by)

    def file_hash(self) -> str | None:
        """Hash of the file as it is now; ``None`` when it cannot be read or is not valid."""
        try:
            return None if self._read is None else config_hash(self._read())
        except ConfigError:
            return None

    @property
    def ready(self) -> bool:
        """Whether every weak model is loaded, or known to be unavailable."""
        return self.snapshot.loaded and not self.draining

    # The store

    async def flushed(self, request_id: str = "", key_id: str = "") -> None:
        """Wait until what was served so far is stored.

        So is that request of that key: its caller may have read its last byte before its books are
        closed. Raises ``ApiError`` (503) when the store takes nothing.
        """
        exchange = self._under_way.get(request_id)
        if exchange is not None and exchange.caller.key_id == key_id:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_S):
                    await exchange.over.wait()
        recorder = self.recorder
        if recorder is not None and recorder.queued:
            flushed = await self._of_store(lambda: recorder.flush(_FLUSH_S, vectors=False))
            if not flushed:
                raise _no_store()

    async def with_store(
        self, work: Callable[[Store], _Result], *, patience_s: float | None = None
    ) -> _Result:
        """Do something with the store on a thread.

        Raises ``ApiError`` (503) when there is none, when it fails, and when it takes too long:
        then the work may be done all the same, later.
        """
        store = self.store
        if store is None and self.store_error is not None:
            raise _no_store()
        if store is None:
            raise ApiError(503, "this gateway keeps no store", code="no_store")
        return await self._of_store(lambda: work(store), patience_s)

    async def close(self) -> bool:
        """Flush the books, close the connections, free the models.

        ``False`` when a model is still being opened, which no one can end: it is left as it is.
        """
        self._ending.set()
        self._keys.close()
        await self.shadow_runs.close()
        if self.recorder is not None:
            # First, and whatever becomes of the rest: the books are not to be lost.
            await asyncio.to_thread(self.recorder.close)
        await self.snapshot.aclose_targets()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                async with self._changing:
                    while self._background:
                        await asyncio.wait(self._background)
        except TimeoutError:
            return False
        await asyncio.to_thread(self.snapshot.close_models)
        await asyncio.to_thread(self._release.close)
        return True

    @property
    def drain_s(self) -> float:
        """How long answers may go on at the end."""
        return self.snapshot.config.server.drain_s

    async def _apart(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run it to its end even when whoever waits is cancelled: threads do not stop half-way."""
        return await asyncio.shield(self._in_background(work))

    def _in_background(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """A task that the end waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _change(
        self,
        config_now: Callable[[], Config],
        by: str,
        expected: str | None,
        *,
        forget: bool = False,
    ) -> str:
        async with self._changing:
            old, active = self.snapshot, self.active
            if expected not in (None, active.hash):
                raise ApiError(
                    412, "the configuration was changed meanwhile; read it again", code="stale_etag"
                )
            config = config_now()
            _refuse_restart(active.config, config)
            keys = self._key_source(config)
            new = self._snapshot_of(config)
            if self._on_config is not None:
                self._on_config(config)
            try:
                await self._in_thread(lambda: self._load(new, old))
                _refuse_loss(old, new)
            except BaseException:
                keys.close()
                self._close_later(new)
                raise
            self.metrics.know(routes=config.routes, models=config.models)
            self.admission.reload(keys=keys, max_concurrent=config.server.max_concurrent)
            self._keys = keys
            if forget:
                self.previous.pop()
            elif new.hash != active.hash:
                self.previous.append(active)
            self.active = Version(hash=new.hash, config=config, by=by, at=self.clock())
            self.snapshot = new
            if old.retire():
                self._close_later(old)
            await self._keep_version(self.active)
            return new.hash

    async def _of_store(
        self, work: Callable[[], _Result], patience_s: float | None = None
    ) -> _Result:
        patience_s = _STORE_S if patience_s is None else patience_s
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.get_running_loop().run_in_executor(self._store_executor, work)
        except (StoreError, TimeoutError) as error:
            _logger.error(
                "the store failed: %s", str(error) or f"no answer within {patience_s:g} s"
            )
            raise _no_store() from None

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self.executor, work)

    def _load(self, snapshot: Snapshot, previous: Snapshot | None) -> None:
        self._prices.warm()
        snapshot.load(
            now=datetime.fromtimestamp(self.clock(), UTC),
            clock=self.clock,
            spent_today=self._spent_by_route,
            decided=self._decided_by_route,
            previous=previous,
            progress=lambda what: _logger.info("%s", what),
        )
        self._keep_subspaces(snapshot)

    def _snapshot_of(self, config: Config) -> Snapshot:
        capture = None
        if self.recorder is not None:
            capture = Capture(config.store.traffic, self._salt)
        return Snapshot(config, self._shelf, self.executor, capture=capture)

    def _keep_subspaces(self, snapshot: Snapshot) -> None:
        """Without its basis a reduced vector says nothing, so it is stored before any of them."""
        if self.store is None or snapshot.capture is None:
            return
        for side in snapshot.sides():
            subspace = side.watched.subspace
            if subspace is not None:
                try:
                    self.store.put_subspace(subspace.id, subspace.bases)
                except StoreError as error:
                    side.watched = replace(side.watched, kept=(), subspace=None)
                    _logger.error("no vectors of domain %r are kept: %s", side.domain, error)

    def _open_store(self, config: Config, stack: ExitStack) -> None:
        # A store that cannot be opened must not keep the models from answering.
        try:
            store, salt = self._opened(config)
        except RoutingError as error:
            if config.server.stored_keys:
                raise
            _logger.error("nothing is kept until the store can be opened: %s", error)
            self.store_error = str(error)
            return
        self._use_store(store, salt, stack)

    def _opened(self, config: Config) -> tuple[Store, bytes]:
        """The store, and the key of its hashes."""
        key = store_key(config.store)
        store = Store.open(config.store.url, config.store.vectors, clock=self.clock, key=key)
        try:
            return store, store.salt()
        except BaseException:
            store.close()
            raise

    def _use_store(self, store: Store, salt: bytes, stack: ExitStack) -> None:
        self.store, self._salt, self.store_error = store, salt, None
        stack.callback(store.close)
        if self.active.config.server.record:
            self.recorder = Recorder(store)
            stack.callback(self.recorder.close)

    async def _open_store_later(self) -> None:
        """Try until it opens: it may be started after the gateway, or be gone for a while."""
        while not self._ending.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_REOPEN_S):
                    await self._ending.wait()
                    return
            try:
                store, salt = await self._in_thread(lambda: self._opened(self.active.config))
            except RoutingError as error:
                if str(error) != self.store_error:
                    _logger.error("nothing is kept until the store can be opened: %s", error)
                self.store_error = str(error)
                continue
            if self._ending.is_set():
                store.close()
                return
            self._use_store(store, salt, self._release)
            _logger.info("the store is open now")
            try:
                await self.refresh(by="store")
            except RoutingError as error:
                _logger.error("answers are not kept before the next reload: %s", error)
            return

    def _key_source(self, config: Config) -> KeySource:
        store = self.store
        keys = KeySource.from_config(
            config.server,
            stored=(lambda _: None) if store is None else store.key_by_sha256,
            clock=self.clock,
        )
        keys.require_keys_off_loopback(config.server.host)
        return keys

    def _spent_by_key(self, key_id: str, at: float) -> tuple[float, int]:
        if self.store is None:
            return 0.0, 0
        return self.store.spent_today(now=at, key_id=key_id)

    def _decided_by_route(self, route: str, domain: str | None) -> int:
        if self.store is None:
            return 0
        try:
            return self.store.decided(route, domain)
        except StoreError as error:
            _logger.warning("exploration starts anew: %s", error)
            return 0

    def _spent_by_route(self, route: str) -> float:
        if self.store is None:
            return 0.0
        try:
            return self.store.spent_today(now=self.clock(), route=route)[0]
        except StoreError as error:
            _logger.error("what %r has spent today is not known: %s", route, error)
            return 0.0

    async def _keep_version(self, version: Version) -> None:
        store = self.store
        if store is None:
            return
        text = version.config.model_dump_json()
        try:
            await self._in_thread(
                lambda: store.put_config_version(version.hash, text, by=version.by, at=version.at)
            )
        except StoreError as error:
            _logger.error("the version of the configuration is not kept: %s", error)

    def _close_later(self, snapshot: Snapshot) -> None:
        async def close() -> None:
            await snapshot.aclose_targets()
            await self._in_thread(snapshot.close_models)

        self._in_background(close())

    def store_state(self) -> StoreState | None:
        """How the store does; ``None`` when there is to be none."""
        recorder = self.recorder
        if recorder is None:
            wanted = self.store is not None or self.store_error is not None
            return StoreState(error=self.store_error) if wanted else None
        error = recorder.error
        return StoreState(
            error=None if error is None else str(error),
            waiting={"rows": recorder.queued, "vectors": recorder.queued_vectors},
            shed={
                "records": recorder.shed,
                "observations": recorder.shed_observations,
                "vectors": recorder.shed_vectors,
            },
        )

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
            explore={name: control.explore for name, control in only.items()},
            shadow_waiting=self.shadow_runs.waiting,
            alarms=self.alarms,
            quality=self.quality,
            store=self.store_state(),
        )


def _wants_store(config: Config) -> bool:
    return config.server.record or config.server.stored_keys


def _refuse_restart(old: Config, new: Config) -> None:
    """Sockets and the store are opened once."""
    fixed = ("host", "port", "admin", "traces", "record", "stored_keys", "header_timeout_s")
    changed = [
        f"server.{name}" for name in fixed if getattr(old.server, name) != getattr(new.server, name)
    ]
    changed += [
        f"store.{name}"
        for name in ("url", "vectors", "encryption_key_env")
        if getattr(old.store, name) != getattr(new.store, name)
    ]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)} cannot change while the gateway runs; restart it for that"
        )


def _refuse_loss(old: Snapshot, new: Snapshot) -> None:
    """A weak model that serves is not given up for one that cannot be opened."""
    lost = [
        f"routes.{name}: {route.waits_for.reason}"
        for name, route in new.routes.items()
        if route.waits_for is not None
        and not (name in old.routes and old.routes[name].waits_for is not None)
    ]
    if lost:
        raise ConfigError("\n".join(lost))


def _no_store() -> ApiError:
    return ApiError(
        503, "the store cannot be used at the moment; try again", code="store_unavailable"
    )
