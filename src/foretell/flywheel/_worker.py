"""Who does the flywheel's work: sees what is due, and does it, job by job."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final
from uuid import uuid4

from foretell.config import Config
from foretell.errors import InputError, RoutingError, StoreError
from foretell.flywheel._duties import DOMAIN_DUTIES, STORE_DUTIES, work_on
from foretell.flywheel._duty import Duty
from foretell.flywheel._duty_state import (
    DomainState,
    cared_for,
    newest_jobs,
    state_of_domain,
    state_of_store,
)
from foretell.flywheel._queue import JobQueue, Progress
from foretell.records import Job
from foretell.runtime import Foretell
from foretell.store import Store

_logger = logging.getLogger(__name__)

BY: Final = "worker"
_PROGRAM: Final = "foretell.flywheel._job_process"
KINDS: Final = tuple(duty.name for duty in (*DOMAIN_DUTIES, *STORE_DUTIES))
_LOOK_S: Final = 0.1
_FOLLOW_S: Final = 0.5
_PATIENCE_S: Final = 5.0


Workplace = Callable[[Job, Config, JobQueue, threading.Event], None]
"""Does a job that was claimed, and settles it; once the event is set, leaves it to the next."""


class Worker:
    """Looks every ``flywheel.every_s`` for what is due, and does it.

    Everything it goes by is in the store, so any number of workers may share one, and whatever
    becomes of one of them, the others go on. Jobs are done one after the other, each in a process
    of its own that yields to everything else on the machine.

    Args:
        config: All settings. ``config`` may be set to others at any time; they count from the next
            look on.
        open_store: Opens the store; called again after it failed.
        workplace: Where jobs are done.
        clock: Seconds since 1970 (UTC).
        name: Of this worker among others.
        lease_s: How long a worker is silent until its job is another's.
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
        self.config = config
        self._open_store = open_store or Foretell(config).open_store
        self._workplace = workplace or in_process_of_its_own
        self._clock = clock
        self.name = name or f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:6]}"
        self._lease_s = lease_s

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; then end within seconds, leaving a job that is under way.

        What goes wrong is logged, and tried again at the next look.
        """
        while not stop.is_set():
            try:
                with self._open_store() as store:
                    while not stop.is_set():
                        self.schedule(store)
                        self.work(store, stop)
                        stop.wait(self.config.flywheel.every_s)
            except RoutingError as error:
                _logger.error("the flywheel stands still: %s", error)
            except Exception:
                _logger.exception("the flywheel stands still")
            stop.wait(self.config.flywheel.every_s)

    def tick(self, stop: threading.Event | None = None) -> list[Job]:
        """One look: ask for all that is due and do it; returns the jobs that were worked on."""
        with self._open_store() as store:
            self.schedule(store)
            return self.work(store, stop or threading.Event())

    def schedule(self, store: Store) -> list[Job]:
        """Ask for all that is due; returns the jobs."""
        config, now, queue = self.config, self._clock(), self._queue(store)
        jobs = newest_jobs(store)
        asked: list[Job] = []

        def ask(state: DomainState, duties: Sequence[Duty]) -> None:
            for duty in duties:
                if (reason := duty.reason(state)) is not None:
                    args = {"reason": reason, **state.noted}
                    asked.append(queue.ask(duty.name, state.domain, by=BY, args=args))

        for domain in cared_for(config, store):
            try:
                ask(state_of_domain(store, config, domain, jobs, now), DOMAIN_DUTIES)
            except StoreError:
                raise
            except RoutingError as error:  # such as a damaged file of its probes
                _logger.error("domain %r is left alone: %s", domain, error)
        ask(state_of_store(store, config, jobs, now), STORE_DUTIES)
        return asked

    def work(self, store: Store, stop: threading.Event) -> list[Job]:
        """Do what waits until nothing does, or ``stop`` is set; returns the jobs."""
        queue, worked_on = self._queue(store), list[Job]()
        while not stop.is_set() and (job := queue.take(KINDS)) is not None:
            self._workplace(job, self.config, queue, stop)
            worked_on.append(store.job(job.id) or job)
        return worked_on

    def _queue(self, store: Store) -> JobQueue:
        return JobQueue(store, self.name, lease_s=self._lease_s, clock=self._clock)


def make_worker(config: Config) -> Worker:
    """The worker for a configuration: procrastinate's where several machines share the work.

    That takes a store on PostgreSQL and ``flywheel.worker: apart``; any other looks for jobs in the
    store itself. Raises ``ConfigError`` where procrastinate is wanted and not installed.
    """
    if config.flywheel.worker == "apart" and config.store.url.startswith("postgresql"):
        from foretell.flywheel._procrastinate import ProcrastinateWorker

        return ProcrastinateWorker(config)
    return Worker(config)


def ask_for(store: Store, kind: str, domain: str, *, by: str) -> Job:
    """Ask for a job, and leave it to a worker; the one that is there already, if any."""
    return JobQueue(store, by).ask(kind, domain, by=by)


def do_here(
    store: Store,
    config: Config,
    kind: str,
    domain: str,
    *,
    by: str,
    on_progress: Progress | None = None,
) -> Job:
    """Do a job now, in this thread; or wait for it where a worker has begun it already.

    Raises ``InputError`` when it failed, with the reason.
    """
    queue = JobQueue(store, f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:6]}")
    asked = queue.ask(kind, domain, by=by)
    while True:
        taken = queue.take([kind])
        if taken is not None:
            work_on(taken, config, queue, on_progress=on_progress)
        now = store.job(asked.id) or asked
        if now.state == "done":
            return now
        if now.state == "failed":
            raise InputError(f"{kind} of domain {domain!r} failed: {now.message}")
        if now.state == "waiting" and taken is None:
            raise InputError(
                f"job {now.id} waits for another attempt ({now.message}); a worker makes it, see "
                "foretell flywheel jobs"
            )
        if now.state == "running":
            if on_progress is not None:
                on_progress(now.progress, f"{now.message} (another worker has begun it)")
            time.sleep(_FOLLOW_S)


def in_process_of_its_own(job: Job, config: Config, queue: JobQueue, stop: threading.Event) -> None:
    """A workplace that nothing can bring down: a process for each job."""
    process = _start(job, config, queue)
    try:
        while process.poll() is None and not stop.wait(_LOOK_S):
            pass
        status = process.poll()
        if status is None:
            _end(process)
            queue.put_back(job, "the worker was stopped; another takes it up")
        elif status:
            queue.failed(job, _how_it_ended(status))
    finally:
        _end(process)


def _start(job: Job, config: Config, queue: JobQueue) -> subprocess.Popen[bytes]:
    """A process that settles the job itself, and ends when its standard input does: with us."""
    order = {
        "job_id": job.id,
        "worker": queue.worker,
        "lease_s": queue.lease_s,
        "config": config.model_dump(mode="json"),
    }
    # In a session of its own, a Ctrl-C is not for it: the worker ends it and puts the job back.
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", _PROGRAM], stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None  # noqa: S101 - it was asked for
    # One that is over already says so by its exit status.
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
        process.kill()
        process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):  # of what it did not read
            process.stdin.close()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"its process ended with exit status {status}; its log says why"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    why = "; the machine may have run out of memory" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{why}"
