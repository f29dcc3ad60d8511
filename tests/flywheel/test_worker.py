"""The worker on a real store: what it asks for, what it does, what becomes of it when killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from judge_api import said, verdict
from scripted_server import ScriptedServer, never_answers

from foretell.config import Config
from foretell.errors import InputError
from foretell.flywheel import Worker, ask_for, do_here, flywheel_status
from foretell.flywheel._duties import work_on
from foretell.flywheel._queue import JobQueue, domain_of
from foretell.records import Answer, Feedback, Observation, Query, RequestRecord, Usage
from foretell.store import Store
from toy_project import CONFIG, changed

REGEX = {"toy": {"name": "regex", "options": {"pattern": "^right"}}}
NOTHING: Mapping[str, Any] = {"text": True, "vectors": "none"}


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    """Makes a configuration whose store is in the test's own folder."""

    def make(*, models: Mapping[str, Any] | None = None, **flywheel: Any) -> Config:
        raw = changed(CONFIG)
        return Config(
            **{**raw, "models": {**raw["models"], **(models or {})}},
            store={
                "url": f"sqlite:///{tmp_path}/foretell.db",
                "vectors": str(tmp_path / "vectors"),
                "traffic": NOTHING,
            },
            probes={"dir": str(tmp_path / "probes")},
            flywheel={"every_s": 0.05, **flywheel},
        )

    return make


def open_store(config: Config) -> Store:
    return Store.open(config.store.url, config.store.vectors)


def serve(
    store: Store, count: int, *, first: int = 0, at: float | None = None, domain: str = "toy"
) -> None:
    """Requests of a domain that the weak model answered, every other one rightly."""
    numbers = range(first, first + count)
    store.append_requests(
        [
            RequestRecord(
                id=f"req-{number:03}",
                at=time.time() if at is None else at,
                key_id="key-1",
                route="auto",
                domain=domain,
                model="small",
                serve="weak",
                action="keep",
                cause=None,
                status=200,
                streamed=False,
                weak_model="tiny",
                weak_chance=1.0,
            )
            for number in numbers
        ]
    )
    store.append(
        [
            Observation(
                domain=domain,
                query=Query(
                    id=f"req-{number:03}",
                    messages=({"role": "user", "content": f"question {number}"},),
                ),
                role="weak",
                answer=Answer(
                    text="right" if number % 2 else "wrong",
                    model="tiny",
                    finish_reason="stop",
                    usage=Usage(prompt_tokens=5, completion_tokens=1),
                ),
                tenant="key-1",
                origin="traffic",
            )
            for number in numbers
        ]
    )


def here(job: Any, config: Config, queue: JobQueue, _stop: threading.Event) -> None:
    """A workplace that starts no process."""
    work_on(job, config, queue)


def eventually(true: Callable[[], object], within_s: float = 60.0) -> None:
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_traffic_is_labelled_as_it_comes_and_only_what_is_new(configure):
    config = configure(labellers=REGEX)
    worker = Worker(config, workplace=here)
    with open_store(config) as store:
        serve(store, 4)
        (label,) = worker.tick()
        assert (label.kind, label.state) == ("label", "done")
        assert label.result["words"] == "no feedback; 4 answers labelled by regex"
        assert label.args["reason"] == "requests or feedback came"
        assert store.label_counts("toy") == {"code": 4}
        assert worker.tick() == []
        time.sleep(6 * config.flywheel.every_s)
        serve(store, 2, first=4)
        (label,) = worker.tick()
        assert label.result["words"] == "no feedback; 2 answers labelled by regex"


def test_feedback_becomes_labels_without_any_labeller(configure):
    config = configure(influence_cap=1.0)
    with open_store(config) as store:
        serve(store, 2)
        feedback = Feedback(request_id="req-000", metric="useful", value=1, source="client")
        store.put_feedback(feedback, key_id="key-1")
        (label,) = Worker(config, workplace=here).tick()
        assert label.result["words"] == "1 labels by feedback"
        assert store.label_counts("toy") == {"client": 1}


def test_a_labeller_that_crashes_ends_neither_the_job_nor_the_worker(configure, monkeypatch):
    config = configure(labellers=REGEX)
    with open_store(config) as store:
        serve(store, 3)
        monkeypatch.setattr("foretell.flywheel._text_labellers.Regex.label", lambda *_: 1 / 0)
        (label,) = Worker(config, workplace=here).tick()
        assert label.state == "done"
        assert label.result["labelled"]["weak"]["reasons"] == {
            "labeller crashed: ZeroDivisionError": 3
        }


def test_what_crashes_is_put_back_for_another_attempt(configure, monkeypatch):
    config = configure(labellers=REGEX)
    monkeypatch.setattr("foretell.flywheel._traffic_labels.label_domain", lambda *_, **__: 1 / 0)
    with open_store(config) as store:
        serve(store, 3)
        (label,) = Worker(config, workplace=here).tick()
        assert label.state == "waiting"
        assert label.message == "attempt 1 failed: ZeroDivisionError; the log says where"


def test_a_setting_that_cannot_work_fails_for_good_with_the_reason(configure):
    config = configure(labellers={"toy": {"name": "exact"}})
    with open_store(config) as store:
        serve(store, 3)
        (label,) = Worker(config, workplace=here).tick()
        assert label.state == "failed"
        assert "no query has one" in label.message
        (status,) = flywheel_status(store, config, now=time.time())
        assert [job.id for job in status.jobs] == [label.id]


def test_without_text_a_labeller_has_nothing_to_do_and_the_status_says_why(configure):
    config = configure(labellers=REGEX)
    silent = config.store.model_copy(
        update={"traffic": config.store.traffic.model_copy(update={"text": False})}
    )
    config = config.model_copy(update={"store": silent})
    with open_store(config) as store:
        serve(store, 1)
        (status,) = flywheel_status(store, config, now=time.time())
        assert "cannot label traffic, whose text is not kept" in status.labelling


def judged_by(configure: Callable[..., Config], url: str, **options: str) -> Config:
    """A configuration whose labeller is a judge behind an API, at a dollar a thousand tokens."""
    price = {"input": 1000, "output": 1000}
    judge = {"engine": "openai", "base_url": url, "model": "j", "price": price}
    labeller = {"name": "judge", "options": {"model": "judge", "max_usd": "1000", **options}}
    return configure(models={"judge": judge}, labellers={"toy": labeller})


def test_a_judge_costs_no_more_in_a_day_than_it_may(configure):
    with ScriptedServer(otherwise=said(verdict("pass"))) as api:
        dear = judged_by(configure, api.url, max_usd="0.6")  # each call costs 0.12 dollars
        with open_store(dear) as store:
            serve(store, 40)
            (label,) = Worker(dear, workplace=here).tick()
            assert label.state == "done"
            assert label.result["usd"] == pytest.approx(0.12 * len(api.requests))
            assert label.result["usd"] <= 0.6
            judged = sum(store.label_counts("toy").values())
            assert judged == len(api.requests)
            assert (
                f"{40 - judged} left for later (judge: cost cap reached)" in (label.result["words"])
            )
            assert len(store.unlabelled("toy", "judge")) == 40 - judged
            time.sleep(6 * dear.flywheel.every_s)
            serve(store, 1, first=40)
            spent = judged_by(configure, api.url, max_usd=str(label.result["usd"]))
            (label,) = Worker(spent, workplace=here).tick()
            assert "the judge has cost" in label.result["words"]
            assert len(api.requests) == judged


def test_one_of_two_workers_does_what_is_due(configure):
    config = configure(labellers=REGEX)
    with open_store(config) as store:
        serve(store, 4)
        workers = [Worker(config, workplace=here, name=f"worker {n}") for n in range(2)]
        asked = [worker.schedule(store) for worker in workers]
        assert asked[0] != []
        assert asked[1] == []
        assert [job.kind for worker in workers for job in worker.tick()] == ["label"]


def test_a_domain_whose_probes_are_damaged_is_left_alone_and_the_others_are_not(
    configure, caplog, tmp_path
):
    config = configure(labellers=REGEX)
    routes = {"other": config.routes["auto"].model_copy(update={"domain": "other"})}
    config = config.model_copy(update={"routes": {**config.routes, **routes}})
    (tmp_path / "probes" / "other").mkdir(parents=True)
    (tmp_path / "probes" / "other" / "serving.json").write_text("{", encoding="utf-8")
    with open_store(config) as store:
        serve(store, 2)
        serve(store, 2, first=2, domain="other")
        (label,) = Worker(config, workplace=here).tick()
        assert domain_of(label) == "toy"
    assert "domain 'other' is left alone" in caplog.text


def test_old_traffic_is_erased_and_what_was_collected_stays(configure):
    config = configure()
    kept = config.store.model_copy(
        update={"retention": config.store.retention.model_copy(update={"days": 1.0})}
    )
    config = config.model_copy(update={"store": kept})
    with open_store(config) as store:
        serve(store, 2, at=time.time() - 3 * 86_400)
        serve(store, 2, first=2)
        done = Worker(config, workplace=here).tick()
        (retention,) = [job for job in done if job.kind == "retention"]
        assert retention.result["words"] == "2 requests erased"
        assert domain_of(retention) == ""
        assert store.request("req-000") is None
        assert store.request("req-002") is not None


def test_a_job_is_done_in_a_process_of_its_own(configure):
    config = configure(labellers=REGEX)
    with open_store(config) as store:
        serve(store, 4)
        (label,) = Worker(config).tick()
        assert (label.state, label.attempts) == ("done", 1)
        assert store.label_counts("toy") == {"code": 4}


def test_a_process_that_dies_leaves_its_reason(configure, monkeypatch):
    config = configure(labellers=REGEX)
    with open_store(config) as store:
        serve(store, 4)
        started = threading.Event()

        class Killed(subprocess.Popen):
            def __init__(self, *args: Any, **others: Any) -> None:
                super().__init__(*args, **others)
                self.send_signal(signal.SIGKILL)
                started.set()

        monkeypatch.setattr(subprocess, "Popen", Killed)
        (label,) = Worker(config).tick()
        assert started.is_set()
        assert label.state == "waiting"
        assert "its process was ended by SIGKILL" in label.message


def test_a_worker_that_is_stopped_ends_at_once_and_another_takes_its_job(configure):
    with ScriptedServer([never_answers], otherwise=said(verdict("pass"))) as api:
        config = judged_by(configure, api.url)
        with open_store(config) as store:
            serve(store, 1)
            stop = threading.Event()
            thread = threading.Thread(target=Worker(config).run, args=(stop,))
            thread.start()
            eventually(lambda: api.requests)
            begun = time.monotonic()
            stop.set()
            thread.join()
            assert time.monotonic() - begun < 5
            (job,) = store.jobs()
            assert job.state == "waiting"
            assert "another takes it up" in job.message
            (again,) = Worker(config).tick()
            assert (again.id, again.state, again.attempts) == (job.id, "done", 2)
            assert store.label_counts("toy") == {"judge": 1}


_ANOTHER = """
import sys, threading
from foretell.config import load_config
from foretell.flywheel import Worker
Worker(load_config(sys.argv[1]), lease_s=1.0).run(threading.Event())
"""


def test_the_job_of_a_worker_that_was_killed_is_taken_up_by_another(configure, tmp_path):
    with ScriptedServer([never_answers], otherwise=said(verdict("pass"))) as api:
        config = judged_by(configure, api.url)
        path = tmp_path / "foretell.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
        with open_store(config) as store:
            serve(store, 1)
            killed = subprocess.Popen([sys.executable, "-c", _ANOTHER, str(path)])
            eventually(lambda: api.requests)
            (job,) = store.jobs()
            assert job.state == "running"
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            eventually(lambda: api.given_up == 1)  # its process has ended with it
            other = Worker(config, lease_s=1.0)
            done: list[Any] = []
            eventually(lambda: done.extend(other.tick()) or done)
            assert (done[0].id, done[0].state, done[0].attempts) == (job.id, "done", 2)
            assert store.label_counts("toy") == {"judge": 1}


def test_a_store_that_is_gone_for_a_while_does_not_end_the_worker(configure, caplog):
    config = configure(labellers=REGEX)
    failures = 2

    def opened() -> Store:
        nonlocal failures
        if failures:
            failures -= 1
            return Store.open("postgresql+psycopg://nobody@127.0.0.1:1/none", "vectors")
        return open_store(config)

    with open_store(config) as store:
        serve(store, 2)
        stop = threading.Event()
        worker = Worker(config, open_store=opened, workplace=here)
        thread = threading.Thread(target=worker.run, args=(stop,))
        thread.start()
        eventually(lambda: store.label_counts("toy"))
        stop.set()
        thread.join()
    assert "the flywheel stands still" in caplog.text


def test_a_job_done_here_tells_how_it_goes_and_fails_in_words(configure):
    config = configure(labellers=REGEX)
    seen: list[Any] = []
    with open_store(config) as store:
        serve(store, 2)
        job = do_here(
            store, config, "label", "toy", by="me", on_progress=lambda *it: seen.append(it)
        )
        assert job.state == "done"
        assert seen[-1] == (0.5, "labelling by regex: 2 answers")
        with pytest.raises(
            InputError, match=r"refit of domain 'toy' failed: .* have people label some"
        ):
            do_here(store, config, "refit", "toy", by="me")
        assert [job.state for job in store.jobs()] == ["failed", "done"]


def test_what_is_asked_for_is_left_to_a_worker(configure):
    config = configure(labellers=REGEX)
    with open_store(config) as store:
        serve(store, 2)
        asked = ask_for(store, "label", "toy", by="me")
        assert ask_for(store, "label", "toy", by="you").id == asked.id
        (done,) = Worker(config, workplace=here).tick()
        assert (done.id, done.by) == (asked.id, "me")
