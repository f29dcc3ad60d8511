"""Work over several machines: procrastinate hands out the jobs of a store on PostgreSQL.

The store's own table of jobs stays the one that says what is to be done and how it stands; what
procrastinate queues are calls to look there. So nothing is lost with its tables, and jobs that
others added, such as the gateway, are handed out, too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy import make_url

from foretell.config import Config
from foretell.errors import ConfigError, RoutingError, StoreError
from foretell.flywheel._queue import JobQueue, domain_of, wait_after
from foretell.flywheel._worker import Worker, Workplace
from foretell.records import Job
from foretell.store import Store

if TYPE_CHECKING:
    from procrastinate import App

_logger = logging.getLogger(__name__)

_QUEUE: Final = "foretell"
_TASK: Final = "foretell.work"
_SCHEMA_LOCK: Final = 0x666F7265  # any number that nobody else uses in this database
_STALLED_S: Final = 30.0
_LOOK_S: Final = 0.1
_ALL: Final = 10_000


class TriedAgainLaterError(RoutingError):
    """A job failed and is to be called for again in ``wait_s`` seconds."""

    def __init__(self, why: str, *, wait_s: float) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class ProcrastinateWorker(Worker):
    """A ``Worker`` that is called by procrastinate, as are its equals on other machines.

    Every one of them looks for what is due; whoever is free does it. Of one kind and domain one job
    is done at a time (procrastinate's lock), and what failed is called for again by its retries.
    """

    def __init__(
        self,
        config: Config,
        *,
        open_store: Callable[[], Store] | None = None,
        workplace: Workplace | None = None,
        clock: Callable[[], float] = time.time,
        name: str | None = None,
        lease_s: float = 60.0,
    ) -> None:
        """As ``Worker``. Raises ``ConfigError`` where procrastinate is not installed."""
        super().__init__(
            config,
            open_store=open_store,
            workplace=workplace,
            clock=clock,
            name=name,
            lease_s=lease_s,
        )
        _require()
        self._stop = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; then end within seconds, leaving a job that is under way."""
        self._stop = stop
        ensure_schema(self.config.store.url)
        while not stop.is_set():
            try:
                with self._open_store() as store:
                    asyncio.run(self._serve(store))
            except RoutingError as error:
                _logger.error("the flywheel stands still: %s", error)
            except Exception:
                _logger.exception("the flywheel stands still")
            stop.wait(self.config.flywheel.every_s)

    async def _serve(self, store: Store) -> None:
        app = self._app(store)
        async with app.open_async():
            serving = asyncio.create_task(
                app.run_worker_async(
                    queues=[_QUEUE],
                    name=self.name,
                    wait=True,
                    install_signal_handlers=False,
                    delete_jobs="always",
                    stalled_worker_timeout=_STALLED_S,
                )
            )
            dispatching = asyncio.create_task(self._dispatch(app, store))
            stopping = asyncio.create_task(self._stopped())
            tasks = {serving, dispatching, stopping}
            done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
            # A worker that is cancelled lets its job end, which a set ``stop`` sees to.
            ended = await asyncio.gather(*rest, return_exceptions=True)
            for outcome in (*(task.exception() for task in done), *ended):
                if isinstance(outcome, Exception):
                    raise outcome

    async def _stopped(self) -> None:
        while not self._stop.is_set():
            await asyncio.sleep(_LOOK_S)

    async def _dispatch(self, app: App, store: Store) -> None:
        """Look for what is due, and call for all that is to be done."""
        while True:
            await asyncio.to_thread(self.schedule, store)
            await _call_again_for_stalled(app)
            for job in await asyncio.to_thread(self._ready, store):
                await _call_for(app, job)
            await asyncio.sleep(self.config.flywheel.every_s)

    def _ready(self, store: Store) -> list[Job]:
        """What waits, and what a dead worker left."""
        deserted = self._clock() - self._lease_s
        running = store.jobs(state="running", limit=_ALL)
        return [
            *store.jobs(state="waiting", limit=_ALL),
            *(job for job in running if (job.beat_at or 0.0) < deserted),
        ]

    def _app(self, store: Store) -> App:
        from procrastinate import App, PsycopgConnector, RetryDecision
        from procrastinate.jobs import Job as Call
        from procrastinate.retry import BaseRetryStrategy

        class AsTheTableSays(BaseRetryStrategy):
            def get_retry_decision(
                self,
                *,
                exception: BaseException,
                job: Call,  # noqa: ARG002 - part of the interface
            ) -> RetryDecision | None:
                if isinstance(exception, TriedAgainLaterError):
                    return RetryDecision(retry_in={"seconds": int(exception.wait_s)})
                return None

        app = App(connector=PsycopgConnector(conninfo=_libpq(self.config.store.url)))

        @app.task(name=_TASK, queue=_QUEUE, retry=AsTheTableSays())
        def work(kind: str) -> None:  # pyright: ignore[reportUnusedFunction]
            self._work_on(store, kind)

        return app

    def _work_on(self, store: Store, kind: str) -> None:
        queue = JobQueue(store, self.name, lease_s=self._lease_s, clock=self._clock)
        job = queue.take([kind])
        if job is None:
            return  # done by another meanwhile, or not to be begun yet
        self._workplace(job, self.config, queue, self._stop)
        now = store.job(job.id)
        wait_s = wait_after(job.attempts)
        if now is None or now.state != "waiting" or wait_s is None or self._stop.is_set():
            return
        raise TriedAgainLaterError(now.message, wait_s=wait_s)


def ensure_schema(url: str) -> None:
    """Make procrastinate's tables in the store's database, unless they are there.

    Raises ``StoreError`` when the database cannot be reached.
    """
    _require()
    import psycopg
    from procrastinate.schema import SchemaManager

    try:
        with psycopg.connect(_libpq(url)) as connection:
            # Two workers may start at the same moment.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_SCHEMA_LOCK])
            row = connection.execute("SELECT to_regclass('procrastinate_jobs')").fetchone()
            if row == (None,):
                connection.execute(SchemaManager.get_schema().encode())
    except psycopg.Error as error:
        raise StoreError(f"procrastinate's tables cannot be made: {error}") from error


async def _call_for(app: App, job: Job) -> None:
    """Call for a job, unless a call waits already; one too many would find nothing to do."""
    lock = f"{job.kind}/{domain_of(job)}"
    if not await app.job_manager.list_jobs_async(queue=_QUEUE, lock=lock, status="todo"):
        await app.configure_task(_TASK, queue=_QUEUE, lock=lock).defer_async(kind=job.kind)


async def _call_again_for_stalled(app: App) -> None:
    """Free the locks of workers that died."""
    from procrastinate.exceptions import ConnectorException

    manager = app.job_manager
    for stalled in await manager.get_stalled_jobs(seconds_since_heartbeat=_STALLED_S):
        with suppress(ConnectorException):  # another worker was faster
            await manager.retry_job(stalled)


def _libpq(url: str) -> str:
    """SQLAlchemy's URL as PostgreSQL's own library reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _require() -> None:
    try:
        import procrastinate  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import psycopg  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ConfigError(
            f"work over several machines needs the package {error.name!r}, which is not "
            "installed; install it: pip install 'foretell[postgres]'"
        ) from None
