"""Records of requests, written behind the requests' back."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from foretell.errors import InputError, StoreError
from foretell.records import RequestRecord
from foretell.store._database import UnusableValueError
from foretell.store._store import Store

_BATCH = 500  # records of one commit; other writers of the database wait that long

_logger = logging.getLogger(__name__)


class Recorder:
    """A bounded queue of records before a store, and one thread that writes them.

    What is queued is committed together, ``interval_s`` after the first of it came. A store that
    fails is tried again, after waits that double up to ``longest_wait_s``, and the queue is kept
    meanwhile. When it is full the *oldest* record that is not being written is shed: what people
    ask about, and give feedback on, was served last. A record that no database takes is shed
    alone. A process that is killed loses what it had queued.

    All methods are safe to call from any thread. Use as a context manager, or call ``close``.

    Args:
        store: Where to; it must stay open until this is closed.
        limit: How many records may wait, those being written included; at least 2.
        interval_s: How long a record waits for others to be committed with.
        longest_wait_s: Most seconds between two tries of a store that fails.
        on_shed: Told how many records were lost, on the thread that lost them; must not raise.
    """

    def __init__(
        self,
        store: Store,
        *,
        limit: int = 10_000,
        interval_s: float = 0.1,
        longest_wait_s: float = 5.0,
        on_shed: Callable[[int], None] | None = None,
    ) -> None:
        if limit < 2:
            raise InputError(f"limit is {limit}; wanted at least 2")
        self._store = store
        self._limit = limit
        self._interval_s = interval_s
        self._longest_wait_s = longest_wait_s
        self._on_shed = on_shed
        # At most half of all that wait are being written, so a full queue has one to shed.
        self._batch = min(_BATCH, limit // 2)
        self._queue: deque[RequestRecord] = deque()
        self._writing = 0
        # Records are numbered from 1 as they come. The queue holds the last of them without a
        # gap, and all up to `_settled` are stored or shed.
        self._newest = 0
        self._settled = 0
        self._shed = 0
        self._error: Exception | None = None
        self._flushes = 0
        self._give_up_at: float | None = None
        lock = threading.Lock()
        self._work = threading.Condition(lock)  # what the thread waits for
        self._done = threading.Condition(lock)  # what others wait for the thread for
        self._thread = threading.Thread(target=self._run, name="foretell-recorder", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """How many records wait, those being written included."""
        with self._work:
            return len(self._queue) + self._writing

    @property
    def shed(self) -> int:
        """How many records were lost so far."""
        with self._work:
            return self._shed

    @property
    def error(self) -> Exception | None:
        """Why the store cannot be written to just now; ``None`` when the last try succeeded."""
        with self._work:
            return self._error

    def put(self, record: RequestRecord) -> None:
        """Queue a record. It never waits for the store; after ``close`` the record is shed."""
        with self._work:
            closed = self._give_up_at is not None
            full = len(self._queue) + self._writing >= self._limit
            if not closed:
                if full:
                    self._queue.popleft()
                self._queue.append(record)
                self._newest += 1
                # Waking the thread for each record would cost more than writing it.
                if len(self._queue) in (1, self._batch):
                    self._work.notify()
        if closed or full:
            self._lose(1)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Have all that is queued written now, and wait for that.

        Returns at once when nothing is queued. ``False``: not within ``timeout_s``, or something
        was shed meanwhile.
        """
        with self._work:
            target, shed = self._newest, self._shed
            self._flushes += 1
            self._work.notify()
            settled = self._done.wait_for(lambda: self._settled >= target, timeout_s)
            self._flushes -= 1
            return settled and self._shed == shed

    def close(self, timeout_s: float = 10.0) -> None:
        """Write all that is queued, then end the thread; safe to call twice.

        What a store that fails has not taken after ``timeout_s`` is shed, which is logged.
        """
        with self._work:
            if self._give_up_at is None:
                self._give_up_at = time.monotonic() + timeout_s
            self._work.notify()
        self._thread.join(timeout_s + 1)  # a moment more for the thread's own account of it
        with self._work:
            n_left = len(self._queue)
            self._queue.clear()
        if n_left:  # a database that does not even fail
            _logger.error("%d records of requests were not stored: the store hangs", n_left)
            self._lose(n_left)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._write(batch)
            with self._done:
                self._writing = 0
                self._settled = self._newest - len(self._queue)
                self._done.notify_all()

    def _next_batch(self) -> list[RequestRecord]:
        """The oldest records once it is time to write them; none when there will be no more."""
        with self._work:
            self._work.wait_for(lambda: self._queue or self._give_up_at is not None)
            self._work.wait_for(self._is_urgent, self._interval_s)
            batch = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
            self._writing = len(batch)
            return batch

    def _is_urgent(self) -> bool:
        closing = self._give_up_at is not None
        return closing or self._flushes > 0 or len(self._queue) >= self._batch

    def _write(self, records: Sequence[RequestRecord]) -> None:
        """Return when every record is stored or shed."""
        wait_s = self._interval_s
        while True:
            try:
                self._store.append_requests(records)
            except Exception as error:  # noqa: BLE001 - nothing may end the only thread that writes
                if not isinstance(error, StoreError) or isinstance(error, UnusableValueError):
                    self._write_apart(records, error)
                    return
                if not self._wait_to_try_again(wait_s, error):
                    _logger.error("%d records of requests were not stored: %s", len(records), error)
                    self._lose(len(records))
                    return
                wait_s = min(2 * wait_s, self._longest_wait_s)
            else:
                with self._work:
                    self._error = None
                return

    def _write_apart(self, records: Sequence[RequestRecord], error: Exception) -> None:
        """Find the records that cannot be stored by halves, so that the others are."""
        if len(records) == 1:
            _logger.error("the record of request %r is lost: %s", records[0].id, error)
            self._lose(1)
            return
        middle = len(records) // 2
        self._write(records[:middle])
        self._write(records[middle:])

    def _wait_to_try_again(self, wait_s: float, error: Exception) -> bool:
        """Wait; ``False`` when there is to be no other try, since the time to close is over."""
        with self._work:
            self._error = error
            n_queued = len(self._queue) + self._writing
        _logger.warning("%d records of requests wait: %s", n_queued, error)
        with self._work:
            if self._give_up_at is None:
                self._work.wait_for(lambda: self._give_up_at is not None, wait_s)
                return True
            left_s = self._give_up_at - time.monotonic()
            if left_s > 0:
                self._work.wait(min(wait_s, left_s))
            return left_s > 0

    def _lose(self, n: int) -> None:
        with self._work:
            self._shed += n
        if self._on_shed is not None:
            self._on_shed(n)
