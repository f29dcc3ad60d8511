from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foretell.errors import CancelledError
from foretell.flywheel._queue import MOST_ATTEMPTS, Heartbeat, JobQueue, wait_after
from foretell.store import Store

LEASE_S = 60.0


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def eventually(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/f.db", tmp_path / "vectors", clock=clock) as opened:
        yield opened


@pytest.fixture
def queue_of(store: Store, clock: Clock) -> Callable[[str], JobQueue]:
    return lambda name: JobQueue(store, name, lease_s=LEASE_S, clock=clock)


def test_asking_twice_for_the_same_asks_once(store, queue_of):
    first = queue_of("a").ask("refit", "geo", by="me")
    assert queue_of("b").ask("refit", "geo", by="you").id == first.id
    assert queue_of("b").ask("refit", "maths", by="you").id != first.id
    assert queue_of("b").ask("ladder", "geo", by="you").id != first.id
    assert len(store.jobs()) == 3


def test_what_is_over_can_be_asked_for_again(queue_of):
    queue = queue_of("a")
    first = queue.ask("refit", "geo", by="me")
    taken = queue.take(["refit"])
    assert taken is not None
    queue.done(taken, {"words": "it is better"})
    assert queue.ask("refit", "geo", by="me").id != first.id


def test_a_job_that_was_asked_for_at_the_same_moment_is_done_once(store, queue_of):
    # Neither looked before the other had asked.
    first = store.add_job("refit", {"domain": "geo"}, by="a")
    second = store.add_job("refit", {"domain": "geo"}, by="b")
    queue = queue_of("a")
    taken = queue.take(["refit"])
    assert taken is not None
    assert taken.id == first.id
    assert queue_of("b").take(["refit"]) is None
    assert store.job(second.id).state == "failed"
    assert f"job {first.id} does the same" in store.job(second.id).message


def test_an_earlier_job_that_shows_up_late_waits_until_the_later_one_is_over(
    store, queue_of, clock
):
    # On PostgreSQL a row may be there only after one with a higher id was claimed.
    early = store.add_job("refit", {"domain": "geo"}, by="a", not_before=clock.now + 5)
    store.add_job("refit", {"domain": "maths"}, by="b")
    other = queue_of("b").take(["refit"])
    assert other is not None
    late = store.add_job("refit", {"domain": "geo"}, by="c")
    with pytest.MonkeyPatch.context() as blind:
        blind.setattr(JobQueue, "_is_mine", lambda *_: True)
        assert queue_of("c").take(["refit"]).id == late.id
    clock.now += 10
    assert queue_of("d").take(["refit"]) is None
    assert store.job(early.id).state == "waiting"


def test_a_silent_worker_loses_its_job_to_another(store, queue_of, clock):
    queue_of("a").ask("refit", "geo", by="me")
    taken = queue_of("a").take(["refit"])
    clock.now += LEASE_S - 1
    assert queue_of("b").take(["refit"]) is None
    assert queue_of("a").beat(taken, 0.5, "half")
    clock.now += LEASE_S + 1
    again = queue_of("b").take(["refit"])
    assert again is not None
    assert (again.id, again.attempts) == (taken.id, 2)
    assert not queue_of("a").beat(taken, 0.6, "more")
    queue_of("a").done(taken, {"words": "too late"})
    assert store.job(taken.id).state == "running"


def test_failures_are_tried_again_after_growing_waits_and_then_no_more(store, queue_of, clock):
    queue = queue_of("a")
    asked = queue.ask("refit", "geo", by="me")
    for attempt in range(1, MOST_ATTEMPTS + 1):
        taken = queue.take(["refit"])
        assert taken is not None
        assert taken.attempts == attempt
        queue.failed(taken, "the disk is full")
        wait_s = wait_after(attempt)
        if wait_s is not None:
            assert store.job(asked.id).message == f"attempt {attempt} failed: the disk is full"
            clock.now += wait_s - 1
            assert queue.take(["refit"]) is None
            clock.now += 1
    assert store.job(asked.id).state == "failed"
    assert store.job(asked.id).message == "the disk is full"


def test_waits_grow_and_end():
    waits = [wait_after(attempts) for attempts in range(1, MOST_ATTEMPTS + 1)]
    assert waits == [60.0, 240.0, 960.0, None]


def test_what_is_in_vain_is_not_tried_again(store, queue_of):
    queue = queue_of("a")
    queue.ask("refit", "geo", by="me")
    taken = queue.take(["refit"])
    queue.failed(taken, "there are 3 labels", lasting=True)
    assert store.job(taken.id).state == "failed"


def test_a_job_that_takes_its_workers_down_is_given_up(store, queue_of, clock):
    asked = queue_of("a").ask("refit", "geo", by="me")
    for number in range(MOST_ATTEMPTS):
        assert queue_of(f"worker {number}").take(["refit"]) is not None
        clock.now += LEASE_S + 1
    assert queue_of("the last").take(["refit"]) is None
    assert store.job(asked.id).state == "failed"
    assert "was begun 4 times and never ended" in store.job(asked.id).message


def test_a_heartbeat_tells_the_store_and_whoever_looks_on(store):
    queue = JobQueue(store, "a", lease_s=0.1)
    asked = queue.ask("refit", "geo", by="me")
    seen = []
    with Heartbeat(queue, queue.take(["refit"]), lambda *now: seen.append(now)) as heartbeat:
        heartbeat.tell(0.25, "fitting")
        eventually(lambda: store.job(asked.id).progress == 0.25)
    assert seen == [(0.25, "fitting")]
    assert store.job(asked.id).message == "fitting"


def test_a_job_that_is_anothers_by_now_is_let_go_of(store, queue_of, clock):
    queue = JobQueue(store, "a", lease_s=0.1, clock=clock)
    queue.ask("refit", "geo", by="me")
    job = queue.take(["refit"])
    clock.now += LEASE_S + 1
    assert queue_of("b").take(["refit"]) is not None
    with Heartbeat(queue, job) as heartbeat:
        eventually(lambda: heartbeat._lost)
        with pytest.raises(CancelledError, match="taken over"):
            heartbeat.tell(0.5, "fitting")
