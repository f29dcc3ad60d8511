"""Work over several machines, on a real PostgreSQL where FORETELL_TEST_POSTGRESQL names one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from judge_api import said, verdict
from scripted_server import ScriptedServer, never_answers

from foretell.config import Config
from foretell.errors import ConfigError, StoreError
from foretell.flywheel import Worker, ask_for, make_worker
from foretell.flywheel._duties import work_on
from foretell.flywheel._queue import JobQueue
from foretell.records import Answer, Job, Observation, Query, Usage
from foretell.store import Store
from toy_project import CONFIG, changed

POSTGRESQL = os.environ.get("FORETELL_TEST_POSTGRESQL", "")
needs_postgresql = pytest.mark.skipif(
    not POSTGRESQL, reason="FORETELL_TEST_POSTGRESQL names no database; make test-postgresql does"
)


def configured(url: str, folder: Path, **flywheel: Any) -> Config:
    models = flywheel.pop("models", {})
    raw = changed(CONFIG)
    return Config(
        **{**raw, "models": {**raw["models"], **models}},
        store={"url": url, "vectors": str(folder / "vectors"), "traffic": {"vectors": "none"}},
        probes={"dir": str(folder / "probes")},
        flywheel={"worker": "apart", "every_s": 0.2, **flywheel},
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    engine = sa.create_engine(POSTGRESQL)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    with Store.open(POSTGRESQL, tmp_path / "vectors") as opened:
        yield opened


def observe(store: Store, domain: str, count: int) -> None:
    store.append(
        [
            Observation(
                domain=domain,
                query=Query(id=f"{n}", messages=({"role": "user", "content": f"question {n}"},)),
                role="weak",
                answer=Answer(
                    text="right",
                    model="tiny",
                    finish_reason="stop",
                    usage=Usage(prompt_tokens=5, completion_tokens=1),
                ),
            )
            for n in range(count)
        ]
    )


class Running:
    """Workers on threads, stopped at the end of the test."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.threads: list[threading.Thread] = []

    def start(self, worker: Worker) -> None:
        thread = threading.Thread(target=worker.run, args=(self.stop,))
        thread.start()
        self.threads.append(thread)

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture
def running() -> Iterator[Running]:
    workers = Running()
    yield workers
    workers.end()


def eventually(true: Callable[[], object], within_s: float = 60.0) -> None:
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def calls_left() -> int:
    engine = sa.create_engine(POSTGRESQL)
    with engine.begin() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM procrastinate_jobs").scalar_one()
    engine.dispose()
    return int(count)


class Together:
    """A workplace that notes which jobs are under way at the same time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now: list[tuple[str, str]] = []
        self.done: list[int] = []
        self.clashes = 0

    def __call__(self, job: Job, _: Config, queue: JobQueue, _stop: threading.Event) -> None:
        key = (job.kind, str(job.args["domain"]))
        with self.lock:
            self.clashes += key in self.now
            self.now.append(key)
        time.sleep(0.1)
        with self.lock:
            self.now.remove(key)
            self.done.append(job.id)
        queue.done(job, {"words": "done"})


@needs_postgresql
def test_several_workers_share_the_jobs_and_do_each_once(store, tmp_path, running):
    config = configured(POSTGRESQL, tmp_path)
    place = Together()
    domains = [f"domain {n}" for n in range(6)]
    asked = {ask_for(store, "label", domain, by="me").id for domain in domains}
    # Asked for at the same moment as the first: dropped, or done after it.
    second = store.add_job("label", {"domain": "domain 0"}, by="you")
    for name in ("a", "b", "c"):
        worker = make_worker(config)
        worker.name, worker._workplace = name, place
        running.start(worker)
    eventually(lambda: all(job.state in ("done", "failed") for job in store.jobs()))
    eventually(lambda: calls_left() == 0)
    assert place.clashes == 0
    assert sorted(set(place.done) - {second.id}) == sorted(asked)
    assert len(place.done) == len(set(place.done))


@needs_postgresql
def test_what_is_due_is_done_in_a_process_of_its_own(store, tmp_path, running):
    labeller = {"toy": {"name": "regex", "options": {"pattern": "right"}}}
    config = configured(POSTGRESQL, tmp_path, labellers=labeller)
    observe(store, "toy", 3)
    job = ask_for(store, "label", "toy", by="me")
    running.start(make_worker(config))
    eventually(lambda: store.job(job.id).state == "done")
    assert store.label_counts("toy") == {"code": 3}


@needs_postgresql
def test_what_failed_is_called_for_again(store, tmp_path, running, monkeypatch):
    monkeypatch.setattr("foretell.flywheel._queue._FIRST_WAIT_S", 1.0)
    config = configured(POSTGRESQL, tmp_path)
    asked = ask_for(store, "label", "toy", by="me")
    attempts: list[int] = []

    def fails_once(job: Job, _: Config, queue: JobQueue, _stop: threading.Event) -> None:
        attempts.append(job.attempts)
        if job.attempts == 1:
            queue.failed(job, "the disk is full")
        else:
            queue.done(job, {"words": "there was room"})

    worker = make_worker(config)
    worker._workplace = fails_once
    running.start(worker)
    eventually(lambda: store.job(asked.id).state == "done")
    assert attempts == [1, 2]


_ANOTHER = """
import sys, threading
from foretell.config import load_config
from foretell.flywheel._procrastinate import ProcrastinateWorker
ProcrastinateWorker(load_config(sys.argv[1]), lease_s=1.0).run(threading.Event())
"""


@needs_postgresql
def test_the_job_of_a_worker_that_was_killed_is_taken_up_by_another(
    store, tmp_path, running, monkeypatch
):
    monkeypatch.setattr("foretell.flywheel._procrastinate._STALLED_S", 2.0)
    with ScriptedServer([never_answers], otherwise=said(verdict("pass"))) as api:
        judge = {
            "engine": "openai",
            "base_url": api.url,
            "model": "j",
            "price": {"input": 1, "output": 1},
        }
        config = configured(
            POSTGRESQL,
            tmp_path,
            models={"judge": judge},
            labellers={"toy": {"name": "judge", "options": {"model": "judge"}}},
        )
        path = tmp_path / "foretell.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
        observe(store, "toy", 1)
        job = ask_for(store, "label", "toy", by="me")
        killed = subprocess.Popen([sys.executable, "-c", _ANOTHER, str(path)])
        eventually(lambda: api.requests)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        eventually(lambda: api.given_up == 1)
        worker = make_worker(config)
        worker._lease_s = 1.0
        worker._workplace = lambda job, config, queue, _: work_on(job, config, queue)
        running.start(worker)
        eventually(lambda: store.job(job.id).state == "done")
        assert store.job(job.id).attempts == 2
        assert store.label_counts("toy") == {"judge": 1}


@needs_postgresql
def test_a_worker_that_is_stopped_leaves_its_job_to_another(store, tmp_path, running):
    config = configured(POSTGRESQL, tmp_path)
    job = ask_for(store, "label", "toy", by="me")
    begun = threading.Event()

    def waits(job: Job, _: Config, queue: JobQueue, stop: threading.Event) -> None:
        begun.set()
        stop.wait()
        queue.put_back(job, "the worker was stopped")

    worker = make_worker(config)
    worker._workplace = waits
    running.start(worker)
    assert begun.wait(30)
    running.end()
    assert store.job(job.id).state == "waiting"


@needs_postgresql
@pytest.mark.usefixtures("store")
def test_two_workers_may_make_the_tables_at_the_same_moment(tmp_path, running):
    for _ in range(3):
        running.start(make_worker(configured(POSTGRESQL, tmp_path)))
    time.sleep(1)
    assert calls_left() == 0


def test_without_procrastinate_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "procrastinate", None)
    with pytest.raises(ConfigError, match=r"pip install 'foretell\[postgres\]'"):
        make_worker(configured("postgresql+psycopg://nobody@127.0.0.1:1/none", tmp_path))


def test_on_sqlite_or_in_the_gateway_a_worker_looks_into_the_store_itself(tmp_path):
    sqlite = configured(f"sqlite:///{tmp_path}/foretell.db", tmp_path)
    assert type(make_worker(sqlite)) is Worker
    url = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    assert type(make_worker(configured(url, tmp_path, worker="in_process"))) is Worker


def test_a_database_that_cannot_be_reached_is_said_so():
    pytest.importorskip("procrastinate")
    from foretell.flywheel._procrastinate import ensure_schema

    with pytest.raises(StoreError, match="procrastinate's tables cannot be made"):
        ensure_schema("postgresql+psycopg://nobody@127.0.0.1:1/none")
