"""A gateway that keeps its traffic, in a hostile world: feedback that is late or forged, a store
that is gone or full, probes that are broken.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import ESCALATED, KEPT, Served, gateway_config, serving, until, upstream

from foretell.config import Config
from foretell.flywheel import take_feedback
from foretell.gateway import _gateway
from foretell.records import Outcome
from foretell.store import Store
from upstreams.scripted_server import ScriptedServer, answers

KEYS = ("key-one", "key-two")
ADMIN = {"authorization": "Bearer admin-token"}


@pytest.fixture(scope="module")
def large() -> Iterator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


def with_store(config: Config, **settings: Any) -> Config:
    """Other settings of the store; those of ``traffic`` as a mapping."""
    store = config.model_dump(mode="json", exclude_unset=True)["store"]
    parts = config.model_dump(mode="json", exclude_unset=True)
    return Config(**{**parts, "store": {**store, **settings}})


@contextmanager
def with_keys(
    project: Path, url: str, monkeypatch: pytest.MonkeyPatch, **route: Any
) -> Generator[Served]:
    monkeypatch.setenv("T_FAULT_KEYS", ",".join(KEYS))
    server = {"api_keys_env": "T_FAULT_KEYS"}
    with serving(gateway_config(project, url, server=server, **route)) as served:
        yield served


def ask(served: Served, messages: Any = KEPT, *, key: str = KEYS[0], **headers: str) -> str:
    """The id of a request that was answered."""
    sent = {"authorization": f"Bearer {key}", **headers}
    reply = served.chat(messages, max_tokens=2, headers=sent)
    assert reply.status_code == 200
    return reply.headers["x-request-id"]


def give(
    served: Served, request_id: str, value: float = 1, *, key: str = KEYS[0], **given: Any
) -> httpx2.Response:
    body = {"request_id": request_id, "metric": "right", "source": "client", **given}
    headers = {"authorization": f"Bearer {key}"}
    return served.post("/v1/feedback", {**body, "value": value}, **headers)


def the_store(served: Served) -> Store:
    store = served.gateway.store
    assert store is not None
    return store


def by_feedback(served: Served, cap: float = 1.0) -> list[Outcome]:
    """What the traffic's labels are once feedback was taken over."""
    store = the_store(served)
    served.records()  # all that was served is stored
    take_feedback(store, "toy", metric="right", influence_cap=cap)
    return [
        one
        for of_model in store.outcomes("toy").values()
        for one in of_model
        if one.query_id.startswith("req-")
    ]


# Feedback


def test_nobody_becomes_trusted_by_saying_so(toy, large, monkeypatch):
    with with_keys(toy, large.url, monkeypatch) as served:
        request_id = ask(served)
        for source in ("human", "code", "judge"):
            assert give(served, request_id, 0, source=source, author="the boss").status_code == 200
        assert give(served, request_id, 1, source="human", author="ann").status_code == 200
        (label,) = by_feedback(served)
        (key_id,) = {record.key_id for record in served.records()}
        assert (label.source, label.author, label.value) == ("client", key_id, 1.0)


def test_feedback_twice_is_once_and_another_keys_request_is_nobodys(toy, large, monkeypatch):
    with with_keys(toy, large.url, monkeypatch) as served:
        request_id = ask(served, ESCALATED)
        assert [give(served, request_id).json()["status"] for _ in range(2)] == [
            "created",
            "replaced",
        ]
        forged = give(served, request_id, 0, key=KEYS[1])
        assert forged.status_code == 404
        assert [one.value for one in by_feedback(served)] == [1.0]
        assert give(served, request_id, 0).status_code == 200
        assert [one.value for one in by_feedback(served)] == [0.0]


def test_a_key_that_floods_a_domain_gives_no_more_than_its_share(toy, large, monkeypatch):
    with with_keys(toy, large.url, monkeypatch) as served:
        for _ in range(30):
            assert give(served, ask(served, ESCALATED), 0).status_code == 200
        modest = ask(served, ESCALATED, key=KEYS[1])
        assert give(served, modest, key=KEYS[1]).status_code == 200
        labels = by_feedback(served, cap=0.05)
        others = the_store(served).label_counts("toy", "strong")["code"]
        flood = [one for one in labels if one.query_id != modest]
        assert len(labels) == len(flood) + 1
        assert 0 < len(flood) <= 0.05 * (others + len(labels)) < len(flood) + 1


def test_feedback_that_comes_after_the_request_was_erased_is_told_so(toy, large, monkeypatch):
    with with_keys(toy, large.url, monkeypatch) as served:
        request_id = ask(served)
        assert give(served, request_id).status_code == 200
        served.records()
        the_store(served).erase(request_ids=[request_id])
        late = give(served, request_id)
        assert late.status_code == 404
        assert late.json()["error"]["code"] == "request_not_found"
        assert "erased" in late.json()["error"]["message"]
        assert by_feedback(served) == []


def test_feedback_counts_for_the_model_that_answered(toy, large, monkeypatch):
    runs = {"share": 1.0, "tokens_per_day": 100_000}
    with with_keys(toy, large.url, monkeypatch, shadow_runs=runs) as served:
        kept, escalated = ask(served), ask(served, ESCALATED)
        until(lambda: served.metric("foretell_shadow_runs_total", outcome="done") == 1)
        for request_id in (kept, escalated):
            assert give(served, request_id).status_code == 200
        assert {one.query_id: one.role for one in by_feedback(served)} == {
            kept: "weak",
            escalated: "strong",  # whatever the weak model said of it in the shadow
        }


def test_feedback_on_an_explored_answer_counts_for_the_model_that_answered(toy, large, monkeypatch):
    with with_keys(toy, large.url, monkeypatch, explore=1.0) as served:
        request_id = ask(served)
        assert served.last().action == "explore"
        assert give(served, request_id, 0).status_code == 200
        (label,) = by_feedback(served)
        assert (label.query_id, label.role) == (request_id, "strong")


def test_feedback_on_a_fallback_counts_for_the_model_that_answered(toy, monkeypatch):
    with upstream() as gone:
        url = gone.url
    with with_keys(toy, url, monkeypatch) as served:
        request_id = ask(served, ESCALATED)
        record = served.last()
        assert (record.action, record.serve) == ("fallback", "weak")
        assert give(served, request_id, 0).status_code == 200
        (label,) = by_feedback(served)
        assert label.role == "weak"


# A store that is gone or full


@contextmanager
def locked(project: Path) -> Generator[None]:
    """Another program that holds the database for itself."""
    connection = sqlite3.connect(project / "foretell.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def seconds(served: Served) -> float:
    begun = time.perf_counter()
    assert served.chat(KEPT, max_tokens=2).status_code == 200
    return time.perf_counter() - begun


def test_a_store_that_hangs_holds_up_feedback_and_no_request(toy, large, monkeypatch):
    monkeypatch.setattr(_gateway, "_STORE_S", 0.6)
    monkeypatch.setattr(_gateway, "_FLUSH_S", 0.3)
    with serving(gateway_config(toy, large.url)) as served:
        before = [served.chat(max_tokens=2).headers["x-request-id"] for _ in range(3)]
        acknowledged = give(served, before[0])
        assert acknowledged.status_code == 200
        usual = max(seconds(served) for _ in range(5))
        with locked(toy), ThreadPoolExecutor(100) as threads:
            unwritten = served.chat(max_tokens=2).headers["x-request-id"]
            # more than there are threads in the gateway
            given = [threads.submit(give, served, before[i % 3]) for i in range(80)]
            given.append(threads.submit(give, served, unwritten))
            time.sleep(0.2)
            assert max(seconds(served) for _ in range(10)) < max(20 * usual, 0.5)
            refused = [one.result() for one in given]
            assert served.metric("foretell_store_waiting", kind="rows") > 0
        assert {reply.status_code for reply in refused} == {503}
        assert {reply.json()["error"]["code"] for reply in refused} == {"store_unavailable"}
        assert give(served, unwritten).status_code == 200
        assert len(served.records()) == 3 + 5 + 1 + 10
        assert [one.value for one in the_store(served).feedback(before[0])] == [1.0]
        assert served.metric("foretell_store_waiting", kind="rows") == 0
        assert served.metric("foretell_records_shed_total") == 0
