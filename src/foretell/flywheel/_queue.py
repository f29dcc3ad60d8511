"""The store's jobs as workers share them: one of a kind and domain at a time, tried a few times."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from foretell.errors import CancelledError, StoreError
from foretell.records import Job
from foretell.store import Store

Progress = Callable[[float | None, str], None]
"""Told how much is done, 0 to 1 or ``None`` when it cannot be told, and what goes on now."""

MOST_ATTEMPTS: Final = 4
_FIRST_WAIT_S: Final = 60.0
_GROWTH: Final = 4.0
_YIELD_S: Final = 5.0
_BEAT_S: Final = 2.0


def wait_after(attempts: int) -> float | None:
    """Seconds until a job that failed is begun again: 1, 4, 16 minutes, then ``None``: never."""
    return None if attempts >= MOST_ATTEMPTS else _FIRST_WAIT_S * _GROWTH ** (attempts - 1)


def domain_of(job: Job) -> str:
    """The domain that a job is about; ``""`` where it is about the whole store."""
    return str(job.args.get("domain", ""))


class JobQueue:
    """What one worker asks of the jobs in the store.

    Of jobs of one kind and domain only one is worked on at a time, however many workers there are:
    whoever claimed one looks, once that is written down, whether another is under way, and of two
    that were asked for at the same moment the later one is dropped.
    """

    def __init__(
        self,
        store: Store,
        worker: str,
        *,
        lease_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``lease_s`` is how long a worker may be silent before its job is another's."""
        self.store = store
        self.clock = clock
        self.worker = worker
        self.lease_s = lease_s

    def ask(self, kind: str, domain: str, *, by: str, args: Mapping[str, Any] | None = None) -> Job:
        """A job of that kind and domain: the one that waits or runs already, or else a new one."""
        if there := self.store.open_jobs(kind, domain):
            return there[0]
        return self.store.add_job(kind, {**(args or {}), "domain": domain}, by=by)

    def take(self, kinds: Collection[str]) -> Job | None:
        """The next job to work on; ``None`` when none is ready."""
        while True:
            job = self.store.claim_job(self.worker, kinds=kinds, lease_s=self.lease_s)
            if job is None or self._is_mine(job):
                return job

    def beat(self, job: Job, progress: float | None, message: str) -> bool:
        """Say that the job is worked on; ``False`` when it is another's by now."""
        return self.store.beat_job(job.id, worker=self.worker, progress=progress, message=message)

    def done(self, job: Job, result: Mapping[str, Any]) -> None:
        """The job is over."""
        self.store.finish_job(job.id, worker=self.worker, result=result)

    def failed(self, job: Job, why: str, *, lasting: bool = False) -> None:
        """The job failed: it is begun again after a while, but not when that is in vain."""
        wait_s = None if lasting else wait_after(job.attempts)
        if wait_s is None:
            self.store.finish_job(job.id, worker=self.worker, error=why)
        else:
            self.put_back(job, f"attempt {job.attempts} failed: {why}", wait_s=wait_s)

    def put_back(self, job: Job, why: str, *, wait_s: float = 0.0) -> None:
        """Leave the job to whoever takes it next."""
        self.store.put_back_job(
            job.id, worker=self.worker, not_before=self.clock() + wait_s, message=why
        )

    def _is_mine(self, job: Job) -> bool:
        others = [one for one in self.store.open_jobs(job.kind, domain_of(job)) if one.id != job.id]
        if any(one.id < job.id for one in others):
            earlier = min(one.id for one in others)
            self.store.finish_job(job.id, worker=self.worker, error=f"job {earlier} does the same")
            return False
        if any(one.state == "running" for one in others):
            self.put_back(job, "another of the same kind is under way", wait_s=_YIELD_S)
            return False
        if job.attempts > MOST_ATTEMPTS:
            self.store.finish_job(
                job.id,
                worker=self.worker,
                error=f"was begun {job.attempts - 1} times and never ended: whoever worked on it "
                "was stopped or died",
            )
            return False
        return True


class Heartbeat:
    """Says while it is entered that a job is worked on, from a thread of its own.

    ``tell`` is the job's ``Progress``; it raises ``CancelledError`` once the job is another's,
    since a second worker has begun it by then.
    """

    def __init__(self, queue: JobQueue, job: Job, on_progress: Progress | None = None) -> None:
        self._queue = queue
        self._job = job
        self._on_progress = on_progress
        self._now: tuple[float | None, str] = (None, "begins")
        self._ending = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._beat, name="foretell-beat", daemon=True)

    def tell(self, progress: float | None, message: str) -> None:
        """Note how the job stands."""
        if self._lost:
            raise CancelledError(f"job {self._job.id} was taken over by another worker")
        self._now = (progress, message)
        if self._on_progress is not None:
            self._on_progress(progress, message)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _beat(self) -> None:
        every_s = min(self._queue.lease_s / 4, _BEAT_S)
        while not self._lost and not self._ending.wait(every_s):
            # A store that is gone for a moment is tried again: the lease is longer.
            with suppress(StoreError):
                self._lost = not self._queue.beat(self._job, *self._now)
