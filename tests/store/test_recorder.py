"""A recorder before stores that work, fail for a while, or never work again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from foretell.errors import InputError, StoreError
from foretell.records import RequestRecord
from foretell.store import Recorder

NEVER_S = 60.0


class UnreliableStore:
    """A store that fails while ``failure`` is set, and holds writers back while it is shut."""

    def __init__(self, store) -> None:
        self.store = store
        self.failure: Exception | None = None
        self.commits: list[int] = []
        self.tries = 0
        self.open = threading.Event()
        self.open.set()

    def append_traffic(self, records: Sequence[RequestRecord], observations=()) -> None:
        self.tries += 1
        self.open.wait(NEVER_S)
        if self.failure is not None:
            raise self.failure
        self.store.append_traffic(records, observations)
        self.commits.append(len(records))


@pytest.fixture
def unreliable(store):
    return UnreliableStore(store)


def wait_until(claim: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def ids(store) -> set[str]:
    return {record.id for record in store.requests(limit=100_000)}


def test_what_many_threads_put_is_stored_exactly_once(any_store, served):
    with Recorder(any_store, interval_s=0.01) as recorder:
        threads = [
            threading.Thread(
                target=lambda thread=thread: [
                    recorder.put(served(f"{thread}-{i}")) for i in range(400)
                ]
            )
            for thread in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert recorder.flush()
        assert ids(any_store) == {f"{thread}-{i}" for thread in range(4) for i in range(400)}
        assert (recorder.queued, recorder.shed, recorder.error) == (0, 0, None)


def test_records_are_committed_together_and_soon_without_a_flush(unreliable, served):
    with Recorder(unreliable, interval_s=0.05) as recorder:
        for i in range(20):
            recorder.put(served(f"{i}"))
        wait_until(lambda: recorder.queued == 0)
        assert len(ids(unreliable.store)) == 20
        assert len(unreliable.commits) <= 2
        recorder.put(served("later"))
        wait_until(lambda: "later" in ids(unreliable.store))


def test_a_flush_does_not_wait_for_the_interval(store, served):
    with Recorder(store, interval_s=NEVER_S) as recorder:
        assert recorder.flush(timeout_s=0)
        recorder.put(served("a"))
        began = time.monotonic()
        assert recorder.flush(timeout_s=20)
        assert time.monotonic() - began < 10
        assert ids(store) == {"a"}


def test_a_flush_under_constant_load_ends(store, served):
    stop = threading.Event()
    with Recorder(store, interval_s=0.001) as recorder:

        def keep_putting() -> None:
            number = 0
            while not stop.wait(0.0005):
                recorder.put(served(f"{number}"))
                number += 1

        load = threading.Thread(target=keep_putting)
        load.start()
        for i in range(20):
            recorder.put(served(f"mine {i}"))
            assert recorder.flush(timeout_s=10)
            assert store.request(f"mine {i}") is not None
        stop.set()
        load.join()


def test_a_store_that_fails_is_tried_again_and_the_queue_is_kept(unreliable, served, caplog):
    unreliable.failure = StoreError("the disk is full")
    with Recorder(unreliable, interval_s=0.002, longest_wait_s=0.01) as recorder:
        for i in range(30):
            recorder.put(served(f"{i}"))
        assert not recorder.flush(timeout_s=0.05)
        wait_until(lambda: unreliable.tries > 3)
        assert (recorder.queued, recorder.error) == (30, unreliable.failure)
        unreliable.failure = None
        assert recorder.flush()
        assert (recorder.queued, recorder.shed, recorder.error) == (0, 0, None)
    assert ids(unreliable.store) == {f"{i}" for i in range(30)}
    assert (
        "30 records of requests, 0 observations and the vectors of 0 wait: the disk is full"
        in caplog.text
    )


def test_waits_between_tries_double_up_to_the_longest(unreliable, served):
    unreliable.failure = StoreError("the disk is full")
    with Recorder(unreliable, interval_s=0.01, longest_wait_s=0.08) as recorder:
        recorder.put(served("a"))
        time.sleep(0.5)
        # at 0.01, 0.02, 0.04, 0.08, 0.16, 0.24, 0.32, 0.40, 0.48 s at the earliest
        assert 2 <= unreliable.tries <= 10
        unreliable.failure = None


def test_a_full_queue_sheds_its_oldest_records_and_counts_them(unreliable, served):
    unreliable.open.clear()
    with Recorder(unreliable, limit=10, interval_s=0.001) as recorder:
        recorder.put(served("being written"))
        wait_until(lambda: unreliable.tries == 1)
        for i in range(25):
            recorder.put(served(f"{i}"))
        assert recorder.queued == 10
        assert recorder.shed == 16
        unreliable.open.set()
        assert recorder.flush()
    assert ids(unreliable.store) == {"being written", *(f"{i}" for i in range(16, 25))}


def test_a_flush_says_when_what_it_waited_for_was_shed(unreliable, served):
    unreliable.open.clear()
    with Recorder(unreliable, limit=2, interval_s=0.001) as recorder:
        recorder.put(served("being written"))
        wait_until(lambda: unreliable.tries == 1)
        recorder.put(served("shed"))
        flushed: list[bool] = []
        flush = threading.Thread(target=lambda: flushed.append(recorder.flush(20)))
        flush.start()
        wait_until(lambda: recorder._row_flushes == 1)
        recorder.put(served("newest"))
        unreliable.open.set()
        flush.join()
        assert flushed == [False]
        assert recorder.flush()
    assert ids(unreliable.store) == {"being written", "newest"}


def test_a_flush_is_not_deceived_by_sheddings_while_an_older_record_is_written(unreliable, served):
    unreliable.open.clear()
    with Recorder(unreliable, limit=2, interval_s=0.001) as recorder:
        recorder.put(served("being written"))
        wait_until(lambda: unreliable.tries == 1)
        for i in range(10):  # each but the last is settled, since it was shed
            recorder.put(served(f"{i}"))
        assert not recorder.flush(timeout_s=0.05)
        unreliable.open.set()


@pytest.mark.parametrize(
    "unusable",
    [{"session": "\ud800"}, {"finish_reason": None, "status": 2**70}, {"model": None}, {"at": "?"}],
    ids=["half a surrogate pair", "a number too large", "nothing", "no time"],
)
def test_records_that_no_database_takes_are_shed_alone(any_store, served, unusable, caplog):
    with Recorder(any_store, interval_s=NEVER_S) as recorder:
        for i in range(20):
            recorder.put(served(f"{i}", **(unusable if i in (3, 11) else {})))
        assert not recorder.flush()
        assert recorder.shed == 2
        assert recorder.flush()
    assert ids(any_store) == {f"{i}" for i in range(20)} - {"3", "11"}
    assert "the record of request '11' is lost" in caplog.text


def test_closing_writes_what_is_queued(store, served):
    recorder = Recorder(store, interval_s=NEVER_S)
    for i in range(1200):  # more than one commit
        recorder.put(served(f"{i}"))
    recorder.close()
    recorder.close()
    assert len(ids(store)) == 1200
    assert recorder.flush(timeout_s=0)


def test_closing_before_a_store_that_fails_ends_and_counts_the_loss(unreliable, served, caplog):
    unreliable.failure = StoreError("the disk is full")
    recorder = Recorder(unreliable, limit=20, interval_s=0.001, longest_wait_s=NEVER_S)
    for i in range(15):
        recorder.put(served(f"{i}"))
    wait_until(lambda: unreliable.tries > 0)
    recorder.close(timeout_s=0.05)
    assert (recorder.queued, recorder.shed) == (0, 15)
    assert "were not stored: the disk is full" in caplog.text
    recorder.put(served("too late"))
    assert recorder.shed == 16


def test_closing_lets_a_store_that_comes_back_in_time_have_the_rest(unreliable, served):
    unreliable.failure = StoreError("the disk is full")
    recorder = Recorder(unreliable, interval_s=0.01, longest_wait_s=NEVER_S)
    recorder.put(served("a"))
    wait_until(lambda: unreliable.tries > 0)
    mend = threading.Timer(0.05, lambda: setattr(unreliable, "failure", None))
    mend.start()
    recorder.close(timeout_s=20)
    assert ids(unreliable.store) == {"a"}
    assert recorder.shed == 0


def test_what_comes_while_closing_does_not_cost_what_came_before(unreliable, served):
    unreliable.failure = StoreError("the disk is full")
    recorder = Recorder(unreliable, interval_s=0.001, longest_wait_s=0.01)
    recorder.put(served("in time"))
    closing = threading.Thread(target=recorder.close, args=(20,))
    closing.start()
    wait_until(lambda: recorder._give_up_at is not None)
    recorder.put(served("too late"))
    unreliable.failure = None
    closing.join()
    assert ids(unreliable.store) == {"in time"}
    assert recorder.shed == 1


def test_closing_before_a_store_that_hangs_ends_too(unreliable, served, caplog):
    unreliable.open.clear()
    recorder = Recorder(unreliable, limit=10, interval_s=0.001)
    recorder.put(served("being written"))
    wait_until(lambda: unreliable.tries == 1)
    recorder.put(served("queued"))
    recorder.close(timeout_s=0.01)
    assert recorder.shed == 1
    assert "1 records of requests" in caplog.text
    assert "were not stored: the store hangs" in caplog.text
    unreliable.open.set()
    wait_until(lambda: not recorder._thread.is_alive())
    assert ids(unreliable.store) == {"being written"}


def test_a_queue_for_less_than_two_is_refused(store):
    with pytest.raises(InputError, match="limit is 1; wanted at least 2"):
        Recorder(store, limit=1)
