"""foretell flywheel: what it shows, what it does here, and what it leaves to a worker."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from foretell.config import load_config, parse_config
from foretell.flywheel._duties import DOMAIN_DUTIES, STORE_DUTIES
from foretell.store import Store
from toy_project import CONFIG, changed, foretell, refused, write_config

FLYWHEEL = {**CONFIG, "flywheel": {}}


def opened(folder: Path) -> Store:
    return Store.open(f"sqlite:///{folder / 'foretell.db'}", folder / "vectors")


def test_the_status_says_where_each_domain_stands(project):
    finished = foretell(project, "flywheel status")
    assert finished.code == 0
    assert "worker: off; nothing happens by itself (flywheel.worker)" in finished.out
    assert "route auto: probe: version 1 serves" in finished.out
    assert "labels: 180 by code" in finished.out
    assert "refit: none yet; the next is due: there was none yet, and there are 180 labels" in (
        finished.out
    )
    assert "alarms: none" in finished.out


def test_the_status_is_json_when_asked(project):
    status = foretell(project, "flywheel status --json").json()
    (domain,) = status["domains"]
    assert status["worker"] == "off"
    assert (domain["domain"], domain["serving"], domain["shadow"]) == ("toy", 1, None)
    assert domain["labels"] == {"code": 180}
    assert set(domain["alarms"].values()) == {False}


def test_the_status_names_the_last_decision_and_the_alarms(project):
    with opened(project) as store:
        store.note("refused", "toy", by="me", details={"version": 2, "why": "no gain is shown"})
        details = {"name": "scores", "alarm": True, "raised": ["scores"], "words": "they moved"}
        store.note("drift", "toy", by="me", details=details)
        store.add_job("refit", {"domain": "toy", "reason": "500 new labels"}, by="worker")
    said = foretell(project, "flywheel status").out
    assert ": no gain is shown" in said
    assert "alarms: scores" in said
    assert "job 1: refit waiting: 500 new labels" in said
    assert "they moved" in foretell(project, "flywheel events").out


def test_the_status_of_an_empty_store_is_that_it_is_empty(fresh_project):
    said = foretell(fresh_project, "flywheel status").out
    assert "nothing is stored yet of a domain that a route serves" in said


def test_a_refit_here_and_now_says_what_became_of_it(project):
    job = foretell(project, "flywheel refit --domain toy --json").json()
    assert (job["kind"], job["state"]) == ("refit", "done")
    kinds = [
        event["kind"] for event in foretell(project, "flywheel events --json").json()["events"]
    ]
    assert {"holdout", "refit"} <= set(kinds)
    said = foretell(project, "flywheel jobs").out
    assert "refit" in said
    assert "done" in said
    only = foretell(project, "flywheel events --kind refit --subject toy --limit 1 --json").json()
    assert [event["kind"] for event in only["events"]] == ["refit"]


def test_a_job_may_be_left_to_a_worker_who_does_it_once(project):
    later = foretell(project, "flywheel drift --domain toy --later")
    assert "job 1 waits for a worker" in later.out
    assert foretell(project, "flywheel drift --domain toy --later --json").json()["id"] == 1
    done = foretell(project, "flywheel work --once --json").json()["jobs"]
    assert [job["state"] for job in done if job["kind"] == "drift"] == ["done"]


def test_drift_without_traffic_says_that_there_is_too_little(project):
    finished = foretell(project, "flywheel drift --domain toy")
    assert finished.code == 0
    assert "too few labels to judge the chances by" in finished.out


def test_the_ladder_is_climbed_on_demand(project):
    write_config(project, changed(FLYWHEEL, routes__auto__router="auto"))
    job = foretell(project, "flywheel ladder --domain toy --json").json()
    report = job["result"]["routes"]["auto"]
    assert report["step"] in ("keyword", "length", "embedding", "probe")
    said = foretell(project, "flywheel status").out
    assert f"route auto: {report['words']}" in " ".join(said.split())


def test_without_a_ladder_there_is_nothing_to_climb(project):
    refused(
        foretell(project, "flywheel ladder --domain toy"), "no route of domain 'toy' has router"
    )


def test_a_domain_that_nothing_is_stored_of_is_named_with_those_that_are(project):
    for verb in ("refit", "drift", "ladder"):
        finished = foretell(project, f"flywheel {verb} --domain nowhere")
        refused(finished, "nothing is stored of domain 'nowhere'", "toy")


def test_what_failed_is_told_by_the_status(project):
    with opened(project) as store:
        job = store.add_job("refit", {"domain": "toy"}, by="me")
        store.claim_job("me", kinds=["refit"], lease_s=60)
        store.finish_job(job.id, error="the disk is full")
    assert "refit failed: the disk is full" in foretell(project, "flywheel status").out


def test_no_jobs_and_no_events_are_said_in_words(fresh_project):
    assert "there are no jobs" in foretell(fresh_project, "flywheel jobs").out
    assert "nothing was noted yet" in foretell(fresh_project, "flywheel events").out
    assert "nothing was due" in foretell(fresh_project, "flywheel work --once").out


def test_a_worker_ends_when_it_is_told_to(fresh_project):
    program = "from foretell.cli import main; main()"
    worker = subprocess.Popen(
        [sys.executable, "-c", program, "flywheel", "work"],
        cwd=fresh_project,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stderr is not None
    assert "begins" in worker.stderr.readline()
    begun = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=30)
    assert worker.returncode == 0
    assert "ends" in said
    assert time.monotonic() - begun < 10


def test_settings_of_a_job_come_through_json_unchanged(project):
    # A worker hands them to the process that does a job.
    config = load_config(project / "foretell.yaml")
    handed_on = json.loads(json.dumps(config.model_dump(mode="json")))
    assert parse_config(handed_on, where="here") == config


def test_the_page_on_the_flywheel_shows_a_valid_configuration_and_commands_that_exist(project):
    page = (Path(__file__).parents[2] / "docs" / "flywheel.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert parse_config(yaml.safe_load(settings), where="the page").flywheel.worker == "in_process"
    verbs = set(re.findall(r"foretell (flywheel \w+|probes \w+)", page))
    assert len(verbs) >= 8
    for verb in verbs:
        assert foretell(project, f"{verb} --help").code == 0, verb
    table = page.partition("## What happens")[2].partition("##")[0]
    jobs = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert sorted(jobs) == sorted(duty.name for duty in (*DOMAIN_DUTIES, *STORE_DUTIES))
