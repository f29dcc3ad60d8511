"""A recorder of what requests showed: rows soon, vectors in files that are not tiny."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.errors import InputError, StoreError
from foretell.records import ReadPoint
from foretell.store import Recorder
from foretell.store._lines import Line

NEVER_S = 60.0


class Faulty:
    """A store whose rows or vectors fail while they are in ``broken``; it can be shut, too."""

    def __init__(self, store) -> None:
        self.store = store
        self.broken: dict[str, Exception] = {}
        self.vector_batches: list[int] = []
        self.tries = {"rows": 0, "vectors": 0}
        self.open = threading.Event()
        self.open.set()

    def append_traffic(self, records, observations=()) -> None:
        self._try("rows")
        self.store.append_traffic(records, observations)

    def append_vectors(self, observations) -> int:
        self._try("vectors")
        self.vector_batches.append(len(observations))
        return self.store.append_vectors(observations)

    def _try(self, what: str) -> None:
        self.tries[what] += 1
        self.open.wait(NEVER_S)
        if what in self.broken:
            raise self.broken[what]


@pytest.fixture
def faulty(store):
    return Faulty(store)


@pytest.fixture
def seen(observe):
    """Makes what a request of this number showed."""

    def make(number: int, role="weak", **others):
        return observe(str(number), role, origin="traffic", tenant="key-1", **others)

    return make


def wait_until(claim: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def stored_rows(store) -> list[int]:
    return sorted(int(one.query.id) for one in store.observations("geo"))


def stored_vectors(store) -> dict[int, list[float]]:
    data = store.load_routing_data("geo", read_points=[ReadPoint(0)])
    return {
        int(query_id): row.tolist()
        for query_id, row in zip(data.ids, data.activations[ReadPoint(0)], strict=True)
    }


def test_what_a_flush_acknowledged_is_there_with_its_vectors(any_store, served, seen):
    with Recorder(any_store, interval_s=NEVER_S, vectors_interval_s=NEVER_S) as recorder:
        for i in range(30):
            recorder.put(served(str(i)), [seen(i), seen(i, "strong")])
        assert recorder.flush(20)
        assert (recorder.queued, recorder.queued_vectors) == (0, 0)
    found = list(any_store.observations("geo"))
    assert len(found) == 60
    assert {(one.tenant, one.origin) for one in found} == {("key-1", "traffic")}
    assert stored_vectors(any_store) == {i: [i, i + 1, i + 2, i + 3] for i in range(30)}
    assert len(any_store.requests(limit=100)) == 30


def test_rows_are_there_before_their_vectors_which_come_in_one_file(store, served, seen):
    with Recorder(store, interval_s=0.005, vectors_interval_s=NEVER_S) as recorder:
        for i in range(20):
            recorder.put(served(str(i)), [seen(i)])
            wait_until(lambda: recorder.queued == 0)
        assert stored_rows(store) == list(range(20))
        assert store.read_points("geo") == []
        assert recorder.queued_vectors == 20
    assert len(stored_vectors(store)) == 20
    assert len(list(store._shards.folder.glob("*.parquet"))) == 1


def test_vectors_are_written_after_their_interval_without_a_flush(store, served, seen):
    with Recorder(store, interval_s=0.005, vectors_interval_s=0.05) as recorder:
        recorder.put(served("1"), [seen(1)])
        wait_until(lambda: recorder.queued_vectors == 0)
        assert stored_vectors(store) == {1: [1, 2, 3, 4]}


def test_many_vectors_do_not_wait_for_the_interval(faulty, seen):
    with Recorder(faulty, interval_s=0.005, vectors_interval_s=NEVER_S) as recorder:
        recorder.put(None, [seen(i) for i in range(600)])
        wait_until(lambda: recorder.queued_vectors <= 100)
        assert faulty.vector_batches == [500]


def test_a_flush_of_rows_leaves_the_vectors_to_be_gathered(store, served, seen):
    with Recorder(store, interval_s=NEVER_S, vectors_interval_s=NEVER_S) as recorder:
        recorder.put(served("1"), [seen(1)])
        assert recorder.flush(20, vectors=False)
        assert (stored_rows(store), recorder.queued_vectors) == ([1], 1)


def test_under_pressure_vectors_go_first_then_observations_then_records(faulty, served, seen):
    faulty.open.clear()
    recorder = Recorder(faulty, limit=12, interval_s=0.001)
    recorder.put(served("being written"))
    wait_until(lambda: faulty.tries["rows"] == 1)
    counts = []
    for i in range(12):
        recorder.put(served(str(i)), [seen(i)])
        counts.append((recorder.shed_vectors, recorder.shed_observations, recorder.shed))
    # One thing is being written. 3 more requests with all they showed make 10; from the fifth
    # on, each request needs room: as much as there is of vectors, and so on.
    assert counts[:6] == [(0, 0, 0), (0, 0, 0), (0, 0, 0), (1, 0, 0), (4, 0, 0), (6, 1, 0)]
    assert counts[-1] == (12, 12, 1)
    faulty.open.set()
    assert recorder.flush(20)
    recorder.close()
    assert [record.id for record in faulty.store.requests()].count("0") == 0
    assert {record.id for record in faulty.store.requests()} == {
        "being written",
        *(str(i) for i in range(1, 12)),
    }


def test_vectors_are_bounded_by_their_size_and_the_oldest_go(faulty, seen):
    faulty.open.clear()
    # one vector of 4 floats at each of 2 read points takes 32 bytes, a row with its texts 1015
    recorder = Recorder(faulty, limit_mb=0.01022, interval_s=0.001)
    recorder.put(None, [seen(0)])
    wait_until(lambda: faulty.tries["rows"] == 1)
    for i in range(1, 10):
        recorder.put(None, [seen(i)])
    assert (recorder.shed_vectors, recorder.shed_observations) == (8, 0)
    faulty.open.set()
    recorder.close()
    assert stored_rows(faulty.store) == list(range(10))
    assert set(stored_vectors(faulty.store)) == {8, 9}


def test_long_texts_count(faulty, seen):
    faulty.open.clear()
    recorder = Recorder(faulty, limit_mb=0.1, interval_s=0.001)
    recorder.put(None, [seen(0)])
    wait_until(lambda: faulty.tries["rows"] == 1)
    for i in range(1, 5):
        recorder.put(None, [seen(i, prompt="x" * 20_000, text="y" * 20_000)])
    assert (recorder.shed_vectors, recorder.shed_observations) == (5, 2)
    faulty.open.set()
    recorder.close()


def test_rows_go_on_while_vectors_cannot_be_written(faulty, served, seen, caplog):
    faulty.broken["vectors"] = StoreError("the disk is full")
    with Recorder(
        faulty, interval_s=0.002, vectors_interval_s=0.002, longest_wait_s=0.01
    ) as recorder:
        recorder.put(served("0"), [seen(0)])
        wait_until(lambda: faulty.tries["vectors"] > 2)
        recorder.put(served("1"), [seen(1)])
        wait_until(lambda: recorder.queued == 0)
        assert stored_rows(faulty.store) == [0, 1]
        assert str(recorder.error) == "the disk is full"
        assert recorder.queued_vectors == 2
        del faulty.broken["vectors"]
        assert recorder.flush(20)
        assert recorder.error is None
    assert set(stored_vectors(faulty.store)) == {0, 1}
    assert "the vectors of 1 wait: the disk is full" in caplog.text


def test_an_outage_longer_than_the_queue_loses_vectors_alone(faulty, served, seen):
    faulty.broken["rows"] = StoreError("the database is gone")
    with Recorder(faulty, limit=100, interval_s=0.001, longest_wait_s=0.01) as recorder:
        for i in range(45):
            recorder.put(served(str(i)), [seen(i)])
            time.sleep(0.0005)
        assert str(recorder.error) == "the database is gone"
        assert (recorder.shed_vectors, recorder.shed_observations, recorder.shed) == (35, 0, 0)
        faulty.broken.clear()
        assert recorder.flush(20)
    assert stored_rows(faulty.store) == list(range(45))
    assert set(stored_vectors(faulty.store)) == set(range(35, 45))


def test_closing_before_a_store_that_fails_counts_all_that_is_lost(faulty, served, seen, caplog):
    faulty.broken["rows"] = StoreError("the database is gone")
    recorder = Recorder(faulty, interval_s=0.001)
    for i in range(5):
        recorder.put(served(str(i)), [seen(i), seen(i, "strong")])
    recorder.close(timeout_s=0.05)
    assert (recorder.shed_vectors, recorder.shed_observations, recorder.shed) == (5, 10, 5)
    assert (recorder.queued, recorder.queued_vectors) == (0, 0)
    assert (
        "5 records of requests, 10 observations and the vectors of 5 were not stored: "
        "the database is gone"
    ) in caplog.text
    recorder.put(served("too late"), [seen(9)])
    assert (recorder.shed_vectors, recorder.shed_observations, recorder.shed) == (6, 11, 6)


def test_observations_that_no_database_takes_are_shed_alone(any_store, served, seen, caplog):
    with Recorder(any_store, interval_s=NEVER_S) as recorder:
        for i in range(10):
            recorder.put(served(str(i)), [seen(i, text="\ud800" if i == 3 else "fine")])
        # the same query with other words, of which one must be wrong
        recorder.put(None, [seen(5, "strong", prompt="something else")])
        assert not recorder.flush(20)
        assert (recorder.shed, recorder.shed_observations, recorder.shed_vectors) == (0, 2, 1)
        assert recorder.flush()
    assert stored_rows(any_store) == [i for i in range(10) if i != 3]
    assert set(stored_vectors(any_store)) == {i for i in range(10) if i != 3}
    assert "an observation of query '3' is lost" in caplog.text


def test_vectors_that_no_file_takes_are_shed_alone(store, seen, caplog):
    broken = replace(seen(1), activations={ReadPoint(0): np.array([1, np.nan], np.float32)})
    with Recorder(store, interval_s=NEVER_S) as recorder:
        recorder.put(None, [seen(0), broken, seen(2)])
        assert not recorder.flush(20)
        assert (recorder.shed_observations, recorder.shed_vectors) == (0, 1)
        assert recorder.error is None
    assert stored_rows(store) == [0, 1, 2]
    assert set(stored_vectors(store)) == {0, 2}
    assert "vectors of query '1' are lost" in caplog.text


def test_vectors_of_what_was_erased_meanwhile_are_not_written(store, seen):
    with Recorder(store, interval_s=0.001, vectors_interval_s=NEVER_S) as recorder:
        recorder.put(None, [seen(0)])
        wait_until(lambda: recorder.queued == 0)
        store.delete_domain("geo")
        assert recorder.flush(20)
    assert not list(store._shards.folder.glob("*.parquet"))


def test_vectors_of_different_kinds_are_gathered_apart(store, seen):
    reduced = replace(seen(1), subspace="", activations={ReadPoint(0): np.ones(2, np.float32)})
    with Recorder(store, interval_s=NEVER_S) as recorder:
        recorder.put(None, [seen(0), reduced])
        assert recorder.flush(20)
    assert len(list(store._shards.folder.glob("*.parquet"))) == 2


def test_a_limit_of_no_size_is_refused(store):
    with pytest.raises(InputError, match="limit_mb is 0; wanted more than 0"):
        Recorder(store, limit_mb=0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["put", "take", "settle", "back", "shed", "drop"]), max_size=40))
def test_a_line_keeps_its_order_and_accounts_for_everything(steps):
    line: Line[int] = Line()
    model: list[int] = []  # what is in line
    taken: list[int] = []
    gone: set[int] = set()
    for step in steps:
        if step == "put":
            line.put(line.newest + 1, 10)
            model.append(line.newest)
        elif step == "take" and not taken:
            taken = line.take(2)
            assert taken == model[: len(taken)]
        elif step == "settle" and taken:
            line.settle()
            model = model[len(taken) :]
            gone |= set(taken)
            taken = []
        elif step == "back" and taken:
            assert line.put_back() == len(taken)
            taken = []
        elif step == "shed" and line.waiting:
            shed = line.shed_oldest()
            assert shed == model[len(taken)]
            model.remove(shed)
        elif step == "drop" and taken:
            line.drop(taken[-1])
            model.remove(taken.pop())
        assert (len(line), line.size) == (len(model), 10 * len(model))
        assert line.waiting == len(model) - len(taken)
        assert line.settled == len(gone) + line.shed
