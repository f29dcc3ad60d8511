"""Records of requests and what they showed, written behind the requests' back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from foretell.errors import InputError, StoreError
from foretell.records import Observation, RequestRecord, content_text
from foretell.store._database import UnusableValueError
from foretell.store._lines import Line, Pace
from foretell.store._store import Store
from foretell.store._vectors import check_vectors

_BATCH: Final = 500  # rows of a kind in one commit; other writers of the database wait that long
_SHARD_ROWS: Final = 500  # that many vectors need not wait for more
_ROW_BYTES: Final = 1000  # about what a record takes in memory, besides its texts

T = TypeVar("T")

_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Vectors:
    """An observation whose vectors are to be written once its row is there to name them."""

    observation: Observation
    is_ready: bool = False
    is_shed: bool = False
    is_lost: bool = False
    """That no database takes them, or that the row is not there."""


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """An observation without its vectors, and those."""

    observation: Observation
    vectors: _Vectors | None


class Recorder:
    """A bounded queue of records and observations before a store, and one thread that writes them.

    Rows that are queued are committed together, ``interval_s`` after the first of them came. Their
    vectors are gathered for ``vectors_interval_s``, so that the files are not tiny, and written
    after the rows. A store that fails is tried again, after waits that double up to
    ``longest_wait_s``, and the queue is kept meanwhile.

    When it is full it sheds the *oldest* of what is not being written: first vectors, then
    observations, then records; what people ask about, and give feedback on, was served last. What
    no database takes is shed alone. A process that is killed loses what it had queued, and nothing
    for which ``flush`` returned ``True``.

    All methods are safe to call from any thread. Use as a context manager, or call ``close``.

    Args:
        store: Where to; it must stay open until this is closed.
        limit: How many things may wait, those being written included; at least 2. A record, an
            observation and the vectors of one are a thing each.
        limit_mb: How many megabytes their texts and vectors may take, roughly.
        interval_s: How long a row waits for others to be committed with.
        vectors_interval_s: How long vectors wait for others to be written with.
        longest_wait_s: Most seconds between two tries of a store that fails.
    """

    def __init__(
        self,
        store: Store,
        *,
        limit: int = 30_000,
        limit_mb: float = 256.0,
        interval_s: float = 0.1,
        vectors_interval_s: float = 5.0,
        longest_wait_s: float = 5.0,
    ) -> None:
        if limit < 2:
            raise InputError(f"limit is {limit}; wanted at least 2")
        if not limit_mb > 0:
            raise InputError(f"limit_mb is {limit_mb}; wanted more than 0")
        self._store = store
        self._limit = limit
        self._limit_bytes = limit_mb * 1e6
        # At most half of all that waits is being written, so a full queue has something to shed.
        self._batch = max(1, min(_BATCH, limit // 4))
        self._records: Line[RequestRecord] = Line()
        self._rows: Line[_Row] = Line()
        self._vectors: Line[_Vectors] = Line()
        self._ready = 0  # of the vectors that wait, the oldest ones, whose rows are stored
        self._rows_pace = Pace(interval_s, longest_wait_s)
        self._vectors_pace = Pace(vectors_interval_s, longest_wait_s)
        self._row_flushes = 0
        self._vector_flushes = 0
        self._give_up_at: float | None = None
        self._gave_up = False
        lock = threading.Lock()
        self._work = threading.Condition(lock)  # what the thread waits for
        self._done = threading.Condition(lock)  # what others wait for the thread for
        self._thread = threading.Thread(target=self._run, name="foretell-recorder", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """How many records and observations wait, those being written included."""
        with self._work:
            return len(self._records) + len(self._rows)

    @property
    def queued_vectors(self) -> int:
        """Of how many observations the vectors wait, those being written included."""
        with self._work:
            return len(self._vectors)

    @property
    def shed(self) -> int:
        """How many records were lost so far."""
        with self._work:
            return self._records.shed

    @property
    def shed_observations(self) -> int:
        """How many observations were lost so far."""
        with self._work:
            return self._rows.shed

    @property
    def shed_vectors(self) -> int:
        """Of how many observations the vectors were lost so far."""
        with self._work:
            return self._vectors.shed

    @property
    def error(self) -> Exception | None:
        """Why the store cannot be written to just now; ``None`` when the last try succeeded."""
        with self._work:
            return self._rows_pace.error or self._vectors_pace.error

    def put(self, record: RequestRecord | None, observations: Sequence[Observation] = ()) -> None:
        """Queue a record and what its request showed.

        It never waits for the store; after ``close`` all is shed.
        """
        rows = [_row(observation) for observation in observations]
        with self._work:
            if self._give_up_at is None:
                self._put(record, rows)
                self._shed_until(self._is_within_limits)
            else:
                self._records.shed += record is not None
                self._rows.shed += len(rows)
                self._vectors.shed += sum(row.vectors is not None for row in rows)

    def flush(self, timeout_s: float = 5.0, *, vectors: bool = True) -> bool:
        """Have all that is queued written now, and wait for that.

        Returns at once when nothing is queued. ``False``: not within ``timeout_s``, or something
        was shed meanwhile.

        Args:
            timeout_s: How long to wait.
            vectors: Whether to wait for vectors, too; those that are flushed often make tiny files.
        """
        lines = [self._records, self._rows, *([self._vectors] if vectors else [])]
        with self._work:
            before = [(line, line.newest, line.shed) for line in lines]
            self._row_flushes += 1
            self._vector_flushes += vectors
            self._work.notify()
            settled = self._done.wait_for(
                lambda: all(line.settled >= newest for line, newest, _ in before), timeout_s
            )
            self._row_flushes -= 1
            self._vector_flushes -= vectors
            return settled and all(line.shed == shed for line, _, shed in before)

    def close(self, timeout_s: float = 10.0) -> None:
        """Write all that is queued, then end the thread; safe to call twice.

        What a store that fails has not taken after ``timeout_s`` is shed, which is logged.
        """
        with self._work:
            if self._give_up_at is None:
                self._give_up_at = time.monotonic() + timeout_s
            left_s = max(0.0, self._give_up_at - time.monotonic())
            self._work.notify()
        self._thread.join(left_s + 1)  # a moment more for a last try
        with self._work:
            # a database that does not even fail has told no error
            why = self._rows_pace.error or self._vectors_pace.error or "the store hangs"
            n_left = [line.waiting for line in (self._records, self._rows, self._vectors)]
            self._shed_until(lambda: False)
        if any(n_left):
            _logger.error(
                "%d records of requests, %d observations and the vectors of %d were not stored: %s",
                *n_left,
                why,
            )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _put(self, record: RequestRecord | None, rows: Sequence[_Row]) -> None:
        if record is not None:
            self._records.put(record, _ROW_BYTES)
        for row in rows:
            self._rows.put(row, _size(row.observation))
            if row.vectors is not None:
                values = row.vectors.observation.activations.values()
                self._vectors.put(row.vectors, sum(vector.nbytes for vector in values))
        # Waking the thread for each record would cost more than writing it.
        if self._rows_pace.since is None and (record is not None or rows):
            self._rows_pace.since = time.monotonic()
            self._work.notify()
        elif self._is_row_batch_full():
            self._work.notify()

    def _is_within_limits(self) -> bool:
        lines = (self._records, self._rows, self._vectors)
        things, size = sum(map(len, lines)), sum(line.size for line in lines)
        return things <= self._limit and size <= self._limit_bytes

    def _shed_until(self, is_enough: Callable[[], bool]) -> None:
        while not is_enough():
            self._done.notify_all()
            if self._vectors.waiting:
                vectors = self._vectors.shed_oldest()
                vectors.is_shed = True
                self._ready -= vectors.is_ready
            elif self._rows.waiting:
                self._rows.shed_oldest()
            elif self._records.waiting:
                self._records.shed_oldest()
            else:
                break  # all that is left is being written

    def _run(self) -> None:
        while (write := self._next_write()) is not None:
            write()

    def _next_write(self) -> Callable[[], None] | None:
        """Wait until there is something to write; ``None`` when there will be no more."""
        with self._work:
            while not self._gave_up:
                rows_at = self._rows_pace.due_at(self._is_row_urgent)
                vectors_at = self._vectors_pace.due_at(self._is_vector_urgent)
                next_at = min(rows_at, vectors_at)
                if self._give_up_at is not None:
                    if next_at == float("inf"):
                        return None
                    next_at = min(next_at, self._give_up_at)
                now = time.monotonic()
                if now >= next_at:
                    # Rows before vectors, should the store be too slow for both.
                    is_turn_of_rows = rows_at <= max(now, vectors_at)
                    return self._write_rows if is_turn_of_rows else self._write_vectors
                self._work.wait(next_at - now if next_at < float("inf") else None)
        return None

    def _is_row_urgent(self) -> bool:
        closing = self._give_up_at is not None
        return closing or self._row_flushes > 0 or self._is_row_batch_full()

    def _is_row_batch_full(self) -> bool:
        return max(self._records.waiting, self._rows.waiting) >= self._batch

    def _is_vector_urgent(self) -> bool:
        closing = self._give_up_at is not None
        # Vectors of every token are large: they are written well before there is no room.
        many = self._ready >= _SHARD_ROWS or self._vectors.size > self._limit_bytes / 4
        return closing or self._vector_flushes > 0 or many

    def _write_rows(self) -> None:
        with self._work:
            records, rows = self._records.take(self._batch), self._rows.take(self._batch)
        error = _write([*records, *rows], self._store_rows, self._lose_row)
        with self._work:
            if error is None:
                self._records.settle()
                self._rows.settle()
                self._make_ready(rows)
            else:
                self._records.put_back()
                self._rows.put_back()
            n_left = self._records.waiting + self._rows.waiting
            self._end(self._rows_pace, n_left, error)

    def _write_vectors(self) -> None:
        with self._work:
            gathered = self._vectors.take(min(self._ready, _SHARD_ROWS))
            self._ready -= len(gathered)
        for vectors in gathered:
            self._check(vectors)
        usable = [vectors for vectors in gathered if not vectors.is_lost]
        error = _write(usable, self._store_vectors, self._lose_vectors)
        with self._work:
            if error is None:
                self._vectors.settle()
            else:
                self._ready += self._vectors.put_back()
            self._end(self._vectors_pace, self._ready, error)

    def _store_rows(self, things: Sequence[RequestRecord | _Row]) -> None:
        self._store.append_traffic(
            [thing for thing in things if isinstance(thing, RequestRecord)],
            [thing.observation for thing in things if isinstance(thing, _Row)],
        )

    def _store_vectors(self, gathered: Sequence[_Vectors]) -> None:
        self._store.append_vectors([vectors.observation for vectors in gathered])

    def _lose_row(self, thing: RequestRecord | _Row, error: Exception) -> None:
        if isinstance(thing, RequestRecord):
            _logger.error("the record of request %r is lost: %s", thing.id, error)
            with self._work:
                self._records.drop(thing)
            return
        query_id = thing.observation.query.id
        _logger.error("an observation of query %r is lost: %s", query_id, error)
        with self._work:
            self._rows.drop(thing)
            if thing.vectors is not None:
                thing.vectors.is_lost = True

    def _lose_vectors(self, vectors: _Vectors, error: Exception) -> None:
        query_id = vectors.observation.query.id
        _logger.error("vectors of query %r are lost: %s", query_id, error)
        with self._work:
            vectors.is_lost = True
            self._vectors.drop(vectors)

    def _check(self, vectors: _Vectors) -> None:
        """Lose vectors that will never be stored, before they keep others from being stored."""
        if vectors.is_lost:
            with self._work:
                self._vectors.drop(vectors)
            return
        try:
            check_vectors(vectors.observation)
        except StoreError as error:
            self._lose_vectors(vectors, error)

    def _make_ready(self, rows: Sequence[_Row]) -> None:
        """The rows are stored or lost, so their vectors are the next to be written."""
        waiting = [row.vectors for row in rows if row.vectors and not row.vectors.is_shed]
        for vectors in waiting:
            vectors.is_ready = True
        self._ready += len(waiting)
        if self._ready and self._vectors_pace.since is None:
            self._vectors_pace.since = time.monotonic()

    def _end(self, pace: Pace, n_left: int, error: Exception | None) -> None:
        """After a try to write, of which ``n_left`` things wait for the next one."""
        now = time.monotonic()
        pace.since = now if n_left else None
        if error is None:
            pace.error = None
        else:
            pace.failed(error, now)
            self._gave_up = self._give_up_at is not None and now >= self._give_up_at
            _logger.warning(
                "%d records of requests, %d observations and the vectors of %d wait: %s",
                len(self._records),
                len(self._rows),
                len(self._vectors),
                error,
            )
        self._done.notify_all()


def _row(observation: Observation) -> _Row:
    if not observation.activations:
        return _Row(observation, None)
    return _Row(replace(observation, activations={}), _Vectors(observation))


def _size(observation: Observation) -> int:
    """About how many bytes an observation takes, without its vectors."""
    texts = sum(len(content_text(message)) for message in observation.query.messages)
    return _ROW_BYTES + texts + len(observation.answer.text)


def _write(
    things: Sequence[T],
    store: Callable[[Sequence[T]], None],
    lose: Callable[[T, Exception], None],
) -> Exception | None:
    """Store what can be stored; why it has to be tried again, if so.

    Things that can never be stored are found by halves, and lost, so that the others are stored.
    """
    if not things:
        return None
    try:
        store(things)
    except Exception as error:  # noqa: BLE001 - nothing may end the only thread that writes
        if isinstance(error, StoreError) and not isinstance(error, UnusableValueError):
            return error
        if len(things) == 1:
            lose(things[0], error)
            return None
        middle = len(things) // 2
        return _write(things[:middle], store, lose) or _write(things[middle:], store, lose)
    return None
