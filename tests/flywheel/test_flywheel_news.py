"""Who is told of what was decided: a webhook by the worker, and gateways by the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import ScriptedServer, replies

from foretell.config import Config
from foretell.flywheel import EventWatch, Worker
from foretell.flywheel._duties import work_on
from foretell.flywheel._queue import JobQueue
from foretell.records import Job
from foretell.store import Store
from toy_project import CONFIG

NOW = 1_000_000.0


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/f.db", tmp_path / "vectors", clock=clock) as opened:
        yield opened


@pytest.fixture
def worker_telling(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Worker]:
    """Makes a worker that tells the webhook at an address, in this thread, without long waits."""
    monkeypatch.setenv("T_WEBHOOK", "the-token")
    monkeypatch.setattr("foretell.flywheel._webhook._ATTEMPTS", 1)

    def make(url: str) -> Worker:
        config = Config(
            **CONFIG,
            store={"url": f"sqlite:///{tmp_path}/f.db", "vectors": str(tmp_path / "vectors")},
            flywheel={"every_s": 60, "webhook": url, "webhook_token_env": "T_WEBHOOK"},
        )
        return Worker(
            config,
            open_store=lambda: Store.open(config.store.url, config.store.vectors, clock=clock),
            workplace=_here,
            clock=clock,
        )

    return make


def _here(job: Job, config: Config, queue: JobQueue, _: threading.Event) -> None:
    work_on(job, config, queue)


def note(store: Store, kind: str, **details: Any) -> None:
    store.note(kind, "toy", by="me", details=details)


def test_a_webhook_is_told_of_alarms_and_decisions_once(store, clock, worker_telling):
    with ScriptedServer(otherwise=replies(200)) as hook:
        worker = worker_telling(hook.url)
        for kind in ("drift", "promoted", "refused", "rolled_back", "stale"):
            note(store, kind, version=2)
        for kind in ("holdout", "refit", "shadow", "ladder"):
            note(store, kind)
        assert worker.tick() == []  # another machine's clock may be behind
        clock.now += 10
        (job,) = worker.tick()
        assert (job.state, job.result["words"]) == ("done", "told of 5 events")
        told = [request["kind"] for request in hook.requests]
        assert sorted(told) == ["drift", "promoted", "refused", "rolled_back", "stale"]
        assert {headers["Authorization"] for headers in hook.headers} == {"Bearer the-token"}
        clock.now += 60
        assert worker.tick() == []


def test_what_a_webhook_would_not_take_it_is_told_later(store, clock, worker_telling):
    with ScriptedServer([replies(500)], otherwise=replies(200)) as hook:
        worker = worker_telling(hook.url)
        note(store, "promoted", version=2)
        clock.now += 10
        (job,) = worker.tick()
        assert job.state == "waiting"
        assert "the webhook took 0 of 1 events" in job.message
        clock.now += 60
        (again,) = worker.tick()
        assert (again.id, again.state) == (job.id, "done")
        assert [request["kind"] for request in hook.requests] == ["promoted", "promoted"]
        assert hook.requests[0]["id"] == hook.requests[1]["id"]


def test_old_news_is_not_told_to_a_webhook_that_is_new(store, clock, worker_telling):
    with ScriptedServer(otherwise=replies(200)) as hook:
        note(store, "promoted", version=1)
        clock.now += 2 * 3600
        assert worker_telling(hook.url).tick() == []
        assert hook.requests == []


def test_each_change_is_told_once_and_only_what_changes_what_is_served(store, clock):
    note(store, "promoted", version=1)
    watch = EventWatch(store, now=clock.now)
    assert watch.news(clock.now) == []
    clock.now += 5
    for kind in ("refit", "holdout", "drift", "feedback"):
        note(store, kind)
    note(store, "ladder", came_from=None)
    assert watch.news(clock.now) == []
    note(store, "ladder", came_from="start")
    note(store, "promoted", version=2)
    assert [event.kind for event in watch.news(clock.now)] == ["ladder", "promoted"]
    assert watch.news(clock.now) == []


def test_what_a_machine_notes_whose_clock_is_behind_is_told_too(store, clock):
    watch = EventWatch(store, now=clock.now)
    clock.now += 5
    assert watch.news(clock.now) == []
    store.note("rolled_back", "toy", by="another", details={}, at=clock.now - 30)
    assert [event.kind for event in watch.news(clock.now)] == ["rolled_back"]
    clock.now += 3600
    assert watch.news(clock.now) == []
