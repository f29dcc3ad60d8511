"""Jobs that workers claim, events that nobody changes, and what a store knows of itself."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from foretell.errors import InputError
from foretell.records import Event
from foretell.store import Store

NOW = 1_767_225_600.0
KINDS = ("refit", "label")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(any_store):
    clock = Clock()
    any_store._clock = clock
    return clock


def claim(store: Store, worker: str = "a", **others):
    return store.claim_job(worker, **{"kinds": KINDS, "lease_s": 30.0, **others})


def test_a_job_goes_from_waiting_through_running_to_done(any_store, clock):
    added = any_store.add_job("refit", {"domain": "geo"}, by="worker")
    assert (added.state, added.attempts, added.created_at) == ("waiting", 0, NOW)
    clock.now += 5
    claimed = claim(any_store)
    assert claimed.id == added.id
    assert (claimed.state, claimed.attempts) == ("running", 1)
    assert (claimed.started_at, claimed.beat_at) == (NOW + 5, NOW + 5)
    clock.now += 5
    assert any_store.beat_job(added.id, 0.5, "half of it", worker="a")
    beaten = any_store.job(added.id)
    assert (beaten.beat_at, beaten.progress, beaten.message) == (NOW + 10, 0.5, "half of it")
    assert any_store.finish_job(added.id, result={"version": 3}, worker="a")
    done = any_store.job(added.id)
    assert (done.state, done.progress, done.result) == ("done", 1.0, {"version": 3})
    assert (done.finished_at, done.args, done.by) == (NOW + 10, {"domain": "geo"}, "worker")
    assert claim(any_store) is None
    assert any_store.jobs(state="done") == [done]
    assert any_store.jobs(state="waiting") == []


def test_a_job_that_fails_says_why(any_store):
    job = any_store.add_job("refit", {}, by="worker")
    claim(any_store)
    assert any_store.finish_job(job.id, error="too few labels")
    failed = any_store.job(job.id)
    assert (failed.state, failed.message, failed.result) == ("failed", "too few labels", {})


def test_jobs_are_claimed_oldest_first_and_only_of_the_kinds_asked_for(any_store):
    label, refit, other = (
        any_store.add_job(kind, {}, by="worker") for kind in ("label", "refit", "other")
    )
    assert claim(any_store, kinds=["refit"]).id == refit.id
    assert claim(any_store).id == label.id
    assert claim(any_store) is None
    assert claim(any_store, kinds=[]) is None
    assert [job.id for job in any_store.jobs()] == [other.id, refit.id, label.id]
    assert [job.id for job in any_store.jobs(limit=1)] == [other.id]
    assert any_store.job(10**6) is None


def test_a_job_of_a_worker_that_died_is_taken_up_and_the_dead_one_cannot_touch_it(any_store, clock):
    job = any_store.add_job("refit", {}, by="worker")
    claim(any_store, "a")
    clock.now += 30
    assert claim(any_store, "b") is None
    any_store.beat_job(job.id)
    clock.now += 30.1
    taken = claim(any_store, "b")
    assert (taken.id, taken.attempts, taken.progress) == (job.id, 2, None)
    assert not any_store.beat_job(job.id, 0.9, worker="a")
    assert not any_store.finish_job(job.id, result={"by": "a"}, worker="a")
    assert not any_store.put_back_job(job.id, not_before=0, worker="a")
    assert any_store.finish_job(job.id, result={"by": "b"}, worker="b")
    assert not any_store.finish_job(job.id, error="too late")
    assert any_store.job(job.id).result == {"by": "b"}


def test_a_job_that_is_put_back_waits_for_its_time(any_store, clock):
    job = any_store.add_job("refit", {}, by="worker", not_before=NOW + 5)
    assert claim(any_store) is None
    clock.now += 5
    assert claim(any_store).id == job.id
    assert any_store.put_back_job(job.id, not_before=NOW + 60, message="the judge is down")
    waiting = any_store.job(job.id)
    assert (waiting.state, waiting.message, waiting.beat_at) == (
        "waiting",
        "the judge is down",
        None,
    )
    assert claim(any_store) is None
    clock.now += 55
    assert claim(any_store).attempts == 2


def test_no_job_is_given_to_two_workers(any_store):
    added = {any_store.add_job("refit", {"n": n}, by="test").id for n in range(40)}

    def work(worker: str) -> list[int]:
        claimed = []
        while (job := claim(any_store, worker)) is not None:
            claimed.append(job.id)
        return claimed

    with ThreadPoolExecutor(6) as workers:
        claimed = [job_id for ids in workers.map(work, "abcdef") for job_id in ids]
    # whoever finds all that waits locked by others leaves early, but nobody takes a job twice
    assert sorted(claimed) == sorted(added)


def test_a_job_that_is_not_there_is_named(any_store):
    with pytest.raises(InputError, match="no job 7; 'foretell flywheel jobs' shows them"):
        any_store.finish_job(7)


def test_events_come_newest_first_and_as_they_were_noted(any_store, clock):
    first = any_store.note("ladder", "auto/geo", by="worker", details={"step": "length"})
    clock.now += 1
    second = any_store.note("drift", "geo", by="worker", details={"p": [0.5, None], "who": "é"})
    late = any_store.note("ladder", "auto/geo", by="ann", details={}, at=NOW - 5)
    assert first == Event(
        kind="ladder", subject="auto/geo", at=NOW, by="worker", details={"step": "length"}
    )
    assert any_store.events() == [second, first, late]
    assert any_store.events(kind="ladder") == [first, late]
    assert any_store.events(subject="geo") == [second]
    assert any_store.events(since=NOW) == [second, first]
    assert any_store.events(limit=1) == [second]


def test_of_events_of_one_moment_the_last_noted_comes_first(any_store):
    noted = [any_store.note("step", "geo", by="x", details={"n": n}) for n in range(5)]
    assert any_store.events() == noted[::-1]


@pytest.mark.parametrize("details", [{"p": math.nan}, {"ids": {1, 2}}, {"p": np.ones(2)}])
def test_details_that_are_no_json_are_refused(any_store, details):
    with pytest.raises(InputError, match="details of the event 'drift' about 'geo' are not plain"):
        any_store.note("drift", "geo", by="x", details=details)
    with pytest.raises(InputError, match="arguments of the job 'refit' are not plain JSON"):
        any_store.add_job("refit", details, by="x")
    job = any_store.add_job("refit", {}, by="x")
    with pytest.raises(InputError, match=f"results of job {job.id} are not plain JSON"):
        any_store.finish_job(job.id, result=details)
    assert any_store.events() == []


def test_the_salt_of_a_store_is_its_own_and_never_changes(any_store, tmp_path):
    with ThreadPoolExecutor(4) as threads:
        (salt,) = set(threads.map(lambda _: any_store.salt(), range(8)))
    assert len(salt) == 32
    with Store.open(f"sqlite:///{tmp_path}/other.db", tmp_path / "others") as other:
        assert other.salt() != salt
        assert other.salt() == other.salt()
