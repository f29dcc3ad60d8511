"""Labellers and judges that misbehave: the worker goes on, the job says so, other duties go on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from judge_api import said, verdict
from scripted_server import Script, ScriptedServer, hangs_up, never_answers, replies

from foretell.config import Config
from foretell.flywheel import Worker, flywheel_status
from foretell.flywheel._duties import work_on
from foretell.flywheel._queue import JobQueue
from foretell.records import (
    Answer,
    Feedback,
    Job,
    Observation,
    Query,
    RequestRecord,
    Usage,
)
from foretell.store import Store
from toy_project import CONFIG, changed

DAY_S = 86_400.0


def config_with(
    folder: Path, labeller: Mapping[str, Any], *, models: Mapping[str, Any] | None = None
) -> Config:
    """The toy's domain labelled by ``labeller``, and traffic older than a day erased."""
    raw = changed(CONFIG)
    return Config(
        **{**raw, "models": {**raw["models"], **(models or {})}},
        store={
            "url": f"sqlite:///{folder}/foretell.db",
            "vectors": str(folder / "vectors"),
            "traffic": {"text": True, "vectors": "none"},
            "retention": {"days": 1.0},
        },
        probes={"dir": str(folder / "probes")},
        flywheel={"every_s": 0.05, "labellers": {"toy": labeller}, "influence_cap": 1.0},
    )


def open_store(config: Config) -> Store:
    return Store.open(config.store.url, config.store.vectors)


def fill(store: Store, *answers: str, metric: str = "useful") -> None:
    """Requests that the weak model answered like that, one of them to be erased, and a vote."""
    now = time.time()
    for number, text in enumerate(("old", *answers)):
        request_id = f"req-{number:03}"
        record = RequestRecord(
            id=request_id,
            at=now - (2 * DAY_S if text == "old" else 0),
            key_id="key-1",
            route="auto",
            domain="toy",
            model="small",
            serve="weak",
            action="keep",
            cause=None,
            status=200,
            streamed=False,
            weak_model="tiny",
            weak_chance=1.0,
        )
        observation = Observation(
            domain="toy",
            query=Query(
                id=request_id, messages=({"role": "user", "content": f"question {number}"},)
            ),
            role="weak",
            answer=Answer(
                text=text,
                model="tiny",
                finish_reason="stop",
                usage=Usage(prompt_tokens=5, completion_tokens=1),
            ),
            tenant="key-1",
            origin="traffic",
        )
        store.append_traffic([record], [observation])
    vote = Feedback(request_id="req-001", metric=metric, value=1, source="client")
    store.put_feedback(vote, key_id="key-1")


def here(job: Job, config: Config, queue: JobQueue, _: threading.Event) -> None:
    """A workplace that starts no process."""
    work_on(job, config, queue)


def by_kind(jobs: list[Job]) -> dict[str, Job]:
    return {job.kind: job for job in jobs}


class Package:
    """Another package that brings a labeller."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
        class Point:
            name = "theirs"
            value = "their_package:labeller"

            def load(self) -> Any:
                return make

        points: list[EntryPoint] = [Point()]  # type: ignore[list-item]
        monkeypatch.setattr(
            "foretell.flywheel._registry.entry_points",
            lambda *, group, name=None: points,  # noqa: ARG005 - called by name
        )


def test_an_answer_that_a_pattern_never_ends_with_does_not_hold_up_the_worker(tmp_path):
    config = config_with(tmp_path, {"name": "regex", "options": {"pattern": "^(a+)+$"}})
    with open_store(config) as store:
        fill(store, "a" * 60 + "b")
        done = by_kind(Worker(config, lease_s=4.0).tick())
        assert done["label"].state == "waiting"
        assert "its process ended with exit status 1; its log says why" in done["label"].message
        assert done["retention"].state == "done"
        assert store.request("req-000") is None


def test_a_labeller_that_takes_its_process_down_takes_down_nothing_else(tmp_path):
    config = config_with(tmp_path, {"name": "regex", "options": {"pattern": "."}})
    dies = (sys.executable, "-c", "import os; os._exit(7)")

    def elsewhere(job: Job, config: Config, queue: JobQueue, stop: threading.Event) -> None:
        from foretell.flywheel import _worker

        if job.kind != "label":
            here(job, config, queue, stop)
            return
        with pytest.MonkeyPatch.context() as patch:
            popen = _worker.subprocess.Popen
            patch.setattr(_worker.subprocess, "Popen", lambda _, **rest: popen(dies, **rest))
            _worker.in_process_of_its_own(job, config, queue, stop)

    with open_store(config) as store:
        fill(store, "right")
        done = by_kind(Worker(config, workplace=elsewhere).tick())
        assert done["label"].state == "waiting"
        assert "its process ended with exit status 7" in done["label"].message
        assert done["retention"].state == "done"


def test_a_labeller_whose_extra_is_missing_fails_with_the_cure_and_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    schema = tmp_path / "schema.json"
    schema.write_text("{}", encoding="utf-8")
    options = {"schema": str(schema)}
    config = config_with(tmp_path, {"name": "json_schema", "options": options})
    with open_store(config) as store:
        fill(store, "{}", metric="json_schema")
        done = by_kind(Worker(config, workplace=here).tick())
        assert done["label"].state == "failed"
        assert "pip install 'foretell[label]'" in done["label"].message
        assert {job.state for kind, job in done.items() if kind != "label"} == {"done"}
        assert store.label_counts("toy") == {"client": 1}  # feedback is taken all the same
        (status,) = flywheel_status(store, config, now=time.time())
        assert [job.id for job in status.jobs] == [done["label"].id]


def cannot_be_made(_: Mapping[str, str]) -> Any:
    raise OSError("no model file")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("theirs", "their_package:labeller cannot be made: OSError: no model file"),
        ("nobodys", "no labeller is called 'nobodys'"),
    ],
)
def test_a_labeller_that_cannot_be_made_is_told_by_the_job_and_the_status(
    tmp_path, monkeypatch, name, why
):
    if name == "theirs":
        Package(monkeypatch, cannot_be_made)
    config = config_with(tmp_path, {"name": name})
    with open_store(config) as store:
        fill(store, "right")
        done = by_kind(Worker(config, workplace=here).tick())
        assert done["label"].state == "failed"
        assert why in done["label"].message
        assert done["retention"].state == "done"
        (status,) = flywheel_status(store, config, now=time.time())
        assert why in status.labelling


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (said("I should think that this is quite a good answer."), "judge: no verdict"),
        (never_answers, "judge: timeout"),
        (hangs_up, "judge: unreachable"),
        (replies(500, {"error": {"message": "no"}}), "judge: error"),
    ],
)
def test_a_judge_that_gives_no_verdict_labels_nothing_and_says_so(
    tmp_path, script: Script, reason: str
):
    with ScriptedServer(otherwise=script) as api:
        judge = {
            "engine": "openai",
            "base_url": api.url,
            "model": "j",
            "price": {"input": 1, "output": 1},
            "deadlines": {"connect_s": 0.3, "first_byte_s": 0.3, "idle_s": 0.3, "total_s": 0.5},
            "retries": {"attempts": 1},
        }
        labeller = {"name": "judge", "options": {"model": "judge"}}
        config = config_with(tmp_path, labeller, models={"judge": judge})
        with open_store(config) as store:
            fill(store, "right", "wrong")
            done = by_kind(Worker(config, workplace=here).tick())
            assert done["label"].state == "done"
            assert "0 answers labelled by judge" in done["label"].result["words"]
            reasons = done["label"].result["labelled"]["weak"]["reasons"]
            assert any(one.startswith(reason) for one in reasons), reasons
            assert store.label_counts("toy").get("judge", 0) == 0
            assert done["retention"].state == "done"
            # what may pass is asked again another day, and what will not is not
            again = store.unlabelled("toy", "judge")
            assert bool(again) == (reason != "judge: no verdict")


def test_a_judge_that_comes_to_itself_labels_what_was_left(tmp_path):
    with ScriptedServer(otherwise=never_answers) as api:
        judge = {
            "engine": "openai",
            "base_url": api.url,
            "model": "j",
            "price": {"input": 1, "output": 1},
            "deadlines": {"connect_s": 0.3, "first_byte_s": 0.3, "idle_s": 0.3, "total_s": 0.5},
            "retries": {"attempts": 1},
        }
        labeller = {"name": "judge", "options": {"model": "judge"}}
        config = config_with(tmp_path, labeller, models={"judge": judge})
        with open_store(config) as store:
            fill(store, "right", "wrong")
            worker = Worker(config, workplace=here)
            worker.tick()
            api.otherwise = said(verdict("pass"))
            time.sleep(6 * config.flywheel.every_s)
            assert "label" not in by_kind(worker.tick())
            time.sleep(60 * config.flywheel.every_s)
            label = by_kind(worker.tick())["label"]
            assert label.args["reason"] == "3 queries were left for later"
            assert store.label_counts("toy")["judge"] == 3
