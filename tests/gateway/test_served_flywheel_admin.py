"""Probes, events, jobs and people's labels over the admin listener."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx2
import pytest
from admin_client import VIEWER, admin_of, told
from serving import ESCALATED, KEPT, Served, gateway_config, serving, upstream

from foretell.cli._beside import FlywheelBeside
from foretell.cli._desk import PeopleDesk
from foretell.config import Config
from foretell.errors import StoreError
from foretell.gateway import Gateway
from foretell.runtime import load_pointers
from foretell.store import Store
from toy_project import foretell
from upstreams.scripted_server import ScriptedServer, answers

PATHS = [
    ("GET", "/admin/probes", True),
    ("POST", "/admin/probes/toy/promote", False),
    ("POST", "/admin/probes/toy/rollback", False),
    ("GET", "/admin/events", True),
    ("GET", "/admin/jobs", True),
    ("POST", "/admin/jobs", False),
    # they show what was asked and answered
    ("GET", "/admin/labels", False),
    ("POST", "/admin/labels", False),
    ("DELETE", "/admin/labels", False),
]
BY_ANN = {"domain": "toy", "metric": "right", "author": "ann"}


@pytest.fixture(scope="module")
def large() -> Iterator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


def with_text(project: Path, url: str, **route: Any) -> Config:
    config = gateway_config(project, url, **route)
    whole = config.model_dump(mode="json", exclude_unset=True)
    whole["store"]["traffic"] = {"text": True}
    return Config(**whole)


@pytest.fixture(scope="module")
def trained_twice(shared_toy: Path) -> Path:
    trained = foretell(shared_toy, "train --domain toy --no-nested --kind linear --seed 1 --json")
    assert trained.json()["probe"] == "toy@2"
    return shared_toy


@pytest.fixture
def project(trained_twice: Path, tmp_path: Path) -> Path:
    """Two probes, of which the second serves."""
    return Path(shutil.copytree(trained_twice, tmp_path / "twice"))


@pytest.fixture
def served(project: Path, large: ScriptedServer) -> Iterator[Served]:
    with serving(with_text(project, large.url)) as gateway:
        gateway.gateway.desk = PeopleDesk()
        yield gateway


@pytest.fixture
def admin(served: Served) -> Iterator[httpx2.Client]:
    with admin_of(served) as client:
        yield client


def the_store(served: Served) -> Store:
    assert served.gateway.store is not None
    return served.gateway.store


def probe(served: Served) -> str:
    return served.chat(max_tokens=2).headers["x-foretell-probe"]


def test_each_path_asks_for_its_role(admin: httpx2.Client):
    for method, path, viewer_may in PATHS:
        for token in ("", "Bearer nobody", "admin-token"):
            reply = admin.request(method, path, headers={"authorization": token})
            told(reply, 401, "invalid_token")
        seen = admin.request(method, path, headers=VIEWER)
        if viewer_may:
            assert seen.status_code == 200, path
        else:
            told(seen, 403, "role_not_allowed")


# Probes


def test_every_version_is_listed_with_what_serves(admin: httpx2.Client):
    (domain,) = admin.get("/admin/probes").json()["data"]
    assert (domain["domain"], domain["serving"], domain["shadow"]) == ("toy", 2, None)
    assert [one["version"] for one in domain["versions"]] == [1, 2]
    for one in domain["versions"]:
        assert one["queries"] == 120
        assert 0.5 < one["auroc"] <= 1


def test_a_damaged_version_says_so_and_hides_no_other(project: Path, admin: httpx2.Client):
    (project / "probes" / "toy" / "1" / "card.json").write_text("{")
    (domain,) = admin.get("/admin/probes").json()["data"]
    damaged, fine = domain["versions"]
    assert damaged["version"] == 1
    assert "card.json" in damaged["error"]
    assert fine["version"] == 2
    told(admin.post("/admin/probes/toy/promote", json={"version": 1}), 404, "probe_not_found")
    told(admin.post("/admin/probes/toy/rollback"), 404, "probe_not_found")
    (project / "probes" / "toy" / "serving.json").write_text("{")
    (domain,) = admin.get("/admin/probes").json()["data"]
    assert "serving.json" in domain["error"]
    assert len(domain["versions"]) == 2


def test_a_probe_is_rolled_back_and_promoted_by_hand_without_a_restart(
    served: Served, admin: httpx2.Client, project: Path
):
    assert probe(served) == "toy@2"
    back = admin.post("/admin/probes/toy/rollback").json()
    assert (back["domain"], back["serving"], back["before"]) == ("toy", 1, 2)
    assert probe(served) == "toy@1"
    given = {"version": 2, "why": "it was not the probe"}
    forth = admin.post("/admin/probes/toy/promote", json=given).json()
    assert (forth["serving"], forth["before"]) == (2, 1)
    assert probe(served) == "toy@2"
    newest, before, *_ = the_store(served).events(subject="toy")
    assert asdict(newest) == forth["event"]
    assert (newest.kind, newest.by) == ("promoted", "admin")
    assert newest.details == {"version": 2, "before": 1, "why": "it was not the probe"}
    assert (before.kind, before.by) == ("rolled_back", "admin")
    assert before.details == {"version": 1, "before": 2, "why": "rolled back by hand"}
    again = admin.post("/admin/probes/toy/promote", json={"version": 1}).json()
    assert again["event"]["details"]["why"] == "promoted by hand"
    # What the command line notes has the same fields.
    assert foretell(project, "probes rollback toy").code == 0
    by_hand = the_store(served).events(subject="toy", limit=1)[0]
    assert by_hand.details == {"version": 2, "before": 1, "why": "rolled back by hand"}


def test_what_cannot_be_promoted_changes_nothing(
    served: Served, admin: httpx2.Client, project: Path
):
    before = load_pointers(project / "probes", "toy")
    path = "/admin/probes/toy/promote"
    told(admin.post(path, json={"version": 9}), 404, "probe_not_found", "toy@9")
    told(admin.post(path, json={}), 400, "missing_required_parameter", "version")
    for bad in (0, -1):
        told(admin.post(path, json={"version": bad}), 400, "invalid_value", "version")
    for bad in ("2", 1.5, True, [1]):
        told(admin.post(path, json={"version": bad}), 400, "invalid_type", "version")
    told(admin.post(path, json={"version": 1, "by": "me"}), 400, "unknown_parameter", "by")
    for bad in ("", "x" * 1001, "a\0b"):
        told(admin.post(path, json={"version": 1, "why": bad}), 400, "invalid_value", "why")
        told(admin.post("/admin/probes/toy/rollback", json={"why": bad}), 400, "invalid_value")
    for body in (b"", b"{", b"[]", b"\xff"):
        assert admin.post(path, content=body).status_code == 400
    assert load_pointers(project / "probes", "toy") == before
    assert the_store(served).events(kind="promoted") == []


@pytest.mark.parametrize("domain", ["nowhere", "..", "%2e%2e", ".hidden"])
def test_domains_without_a_probe_are_404_and_leave_no_folder(
    admin: httpx2.Client, project: Path, domain: str
):
    folders = sorted(path.name for path in (project / "probes").iterdir())
    for verb, body in (("promote", {"version": 1}), ("rollback", {})):
        reply = admin.post(f"/admin/probes/{domain}/{verb}", json=body)
        assert reply.status_code in (404, 409), reply.text
    assert sorted(path.name for path in (project / "probes").iterdir()) == folders


def test_there_is_an_end_to_going_back(admin: httpx2.Client):
    assert admin.post("/admin/probes/toy/rollback").status_code == 200
    told(admin.post("/admin/probes/toy/rollback"), 409, "no_earlier_probe", "nothing to go back")


def test_a_bad_probe_can_be_taken_back_while_the_store_is_gone(
    served: Served, admin: httpx2.Client, monkeypatch: pytest.MonkeyPatch
):
    def gone(*_: object, **__: object) -> None:
        raise StoreError("the database is gone")

    monkeypatch.setattr(Store, "note", gone)
    back = admin.post("/admin/probes/toy/rollback").json()
    assert (back["serving"], back["event"]) == (1, None)
    assert probe(served) == "toy@1"


# Events and jobs


def test_events_are_told_newest_first_by_kind_and_subject(served: Served, admin: httpx2.Client):
    store = the_store(served)
    for number in range(3):
        store.note("drift", "toy", by="watch", at=float(number), details={"number": number})
    store.note("ladder", "auto/toy", by="worker", at=9.0, details={})

    def numbers(**query: Any) -> list[Any]:
        events = admin.get("/admin/events", params=query).json()["data"]
        return [event["details"].get("number") for event in events]

    assert numbers() == [None, 2, 1, 0]
    assert numbers(kind="drift", limit=2) == [2, 1]
    assert numbers(subject="auto/toy") == [None]
    assert numbers(kind="nothing") == []
    for path in ("/admin/events", "/admin/jobs"):
        for bad in ("0", "-1", "1001", "ten", "", "²"):
            told(admin.get(path, params={"limit": bad}), 400, "invalid_value", "limit")


def test_a_refit_is_asked_for_once(served: Served, admin: httpx2.Client):
    job = admin.post("/admin/jobs", json={"kind": "refit", "domain": "toy"}).json()
    assert (job["kind"], job["args"], job["state"]) == ("refit", {"domain": "toy"}, "waiting")
    assert job["by"] == "admin"
    assert admin.post("/admin/jobs", json={"kind": "refit", "domain": "toy"}).json() == job
    assert admin.get("/admin/jobs").json()["data"] == [job]
    nowhere = {"kind": "refit", "domain": "nowhere"}
    told(admin.post("/admin/jobs", json=nowhere), 404, "domain_not_found", "nowhere")
    for bad in ({"kind": "label", "domain": "toy"}, {"kind": "refit", "domain": ""}):
        told(admin.post("/admin/jobs", json=bad), 400, "invalid_value")
    told(admin.post("/admin/jobs", json={"kind": "refit"}), 400, "missing_required_parameter")
    assert len(the_store(served).jobs()) == 1


# People


def test_people_judge_answers_and_take_it_back(served: Served, admin: httpx2.Client):
    reply = served.chat(KEPT, max_tokens=2)
    served.chat(ESCALATED, max_tokens=2)  # of the strong model, which is not asked about
    served.records()
    queue = admin.get("/admin/labels", params={**BY_ANN, "metric": "useful", "limit": 200})
    about = {item["id"]: item for item in queue.json()["data"]}
    item = about[reply.headers["x-request-id"]]
    assert item["question"] == KEPT[0]["content"]
    assert item["role"] == "weak"
    label = {"key": item["key"], "verdict": "right", "note": "it is"}
    body = {**BY_ANN, "metric": "useful", "labels": [label, {"key": "x", "verdict": "skip"}]}
    kept = admin.post("/admin/labels", json=body).json()
    # The tiny model is cut at its limit, but called right all the same.
    assert (kept["object"], kept["right"], kept["unknown"]) == ("labels", 1, 1)
    (outcome,) = [
        one
        for of_model in the_store(served).outcomes("toy").values()
        for one in of_model
        if one.metric == "useful"
    ]
    assert (outcome.source, outcome.author, outcome.value) == ("human", "ann", 1.0)

    def waiting() -> set[str]:
        query = {**BY_ANN, "metric": "useful", "limit": 200}
        return {one["key"] for one in admin.get("/admin/labels", params=query).json()["data"]}

    assert item["key"] not in waiting()
    undo = {**BY_ANN, "metric": "useful", "key": item["key"]}
    for deleted in (1, 0):
        gone = admin.request("DELETE", "/admin/labels", params=undo).json()
        assert gone == {"object": "labels.deleted", "deleted": deleted}
    assert item["key"] in waiting()
    events = the_store(served).events(kind="people_labels")
    assert [event.by for event in events] == ["ann", "ann"]
    assert "it is" not in str(events)


def test_what_is_no_label_is_refused(admin: httpx2.Client):
    for name in BY_ANN:
        query = {key: value for key, value in BY_ANN.items() if key != name}
        told(admin.get("/admin/labels", params=query), 400, "missing_required_parameter", name)
        told(
            admin.post("/admin/labels", json={**query, "labels": []}),
            400,
            "missing_required_parameter",
            name,
        )
        for bad in ("", "x" * 129, "a\0b"):
            told(admin.get("/admin/labels", params={**BY_ANN, name: bad}), 400, "invalid_value")
    told(admin.get("/admin/labels", params={**BY_ANN, "limit": "201"}), 400, "invalid_value")
    told(
        admin.get("/admin/labels", params={**BY_ANN, "author": "a\nb"}),
        400,
        "invalid_value",
        "name of who judged",
    )
    bad_labels: list[Any] = [
        "none",
        [1],
        [{"key": "k"}],
        [{"key": "k", "verdict": "perhaps"}],
        [{"key": "", "verdict": "right"}],
        [{"key": "k", "verdict": "right", "note": "\0"}],
        [{"key": "k", "verdict": "right", "author": "ben"}],
    ]
    for bad in bad_labels:
        reply = admin.post("/admin/labels", json={**BY_ANN, "labels": bad})
        assert reply.status_code == 400, bad
    told(
        admin.request("DELETE", "/admin/labels", params=BY_ANN),
        400,
        "missing_required_parameter",
        "key",
    )
    nothing = admin.get("/admin/labels", params={**BY_ANN, "domain": "nowhere"})
    assert nothing.json() == {"object": "list", "data": []}


def test_without_a_desk_or_a_store_nobody_labels(toy: Path, large: ScriptedServer):
    with serving(gateway_config(toy, large.url)) as served, admin_of(served) as admin:
        told(admin.get("/admin/labels", params=BY_ANN), 503, "no_desk")
    config = gateway_config(toy, large.url, server={"record": False})
    with serving(config) as served, admin_of(served) as admin:
        served.gateway.desk = PeopleDesk()
        told(admin.get("/admin/labels", params=BY_ANN), 503, "no_store")
        told(admin.get("/admin/events"), 503, "no_store")
        told(admin.get("/admin/jobs"), 503, "no_store")
        assert admin.get("/admin/probes").status_code == 200


def test_foretell_serve_gives_the_gateway_its_desk(toy: Path, large: ScriptedServer):
    async def composed() -> None:
        gateway = Gateway(gateway_config(toy, large.url))
        try:
            with FlywheelBeside(gateway):
                assert gateway.desk is not None
        finally:
            await gateway.close()

    asyncio.run(composed())
