"""A gateway that keeps its traffic, in a hostile world: feedback that is late or forged, a store
that is gone or full, probes that are broken.
"""

from __future__ import annotations

import base64
import json
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateway_process import GatewayProcess, running, settings
from serving import ESCALATED, KEPT, Served, gateway_config, serving, until, upstream

from foretell.config import Config
from foretell.errors import ProbeFileError
from foretell.flywheel import take_feedback
from foretell.gateway import _gateway
from foretell.records import Outcome
from foretell.runtime import promote, roll_back, set_shadow
from foretell.store import Store
from toy_project import foretell
from upstreams.scripted_server import ScriptedServer, answers, error

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


def test_a_store_that_cannot_be_opened_at_the_start_is_opened_once_it_can(toy, large, monkeypatch):
    monkeypatch.setattr(_gateway, "_REOPEN_S", 0.05)
    blocked = toy / "elsewhere"
    blocked.write_text("not a folder yet", encoding="utf-8")
    config = with_store(
        gateway_config(toy, large.url),
        url=f"sqlite:///{blocked}/foretell.db",
        vectors=str(toy / "others"),
        traffic={"text": True},
    )
    with serving(config) as served:
        early = served.chat(max_tokens=2)
        assert early.status_code == 200
        assert give(served, early.headers["x-request-id"]).json()["error"]["code"] == (
            "store_unavailable"
        )
        assert served.metric("foretell_store_failing") == 1
        blocked.unlink()
        until(lambda: served.metric("foretell_store_failing") == 0)
        until(lambda: served.gateway.snapshot.capture is not None)
        request_id = served.chat(max_tokens=2).headers["x-request-id"]
        assert give(served, request_id).status_code == 200
        (observation,) = the_store(served).observations("toy")
        assert observation.query.messages == tuple(KEPT)


# Probes that are broken


def copy_probe(project: Path, version: int) -> Path:
    """Another version of the toy's probe, which is as good as the first."""
    folder = project / "probes" / "toy" / str(version)
    shutil.copytree(folder.with_name("1"), folder)
    card = folder / "card.json"
    content = {**json.loads(card.read_text(encoding="utf-8")), "version": version}
    card.write_text(json.dumps(content), encoding="utf-8")
    return folder


def halve(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def forget_card(folder: Path) -> None:
    (folder / "card.json").unlink()


def garble_card(folder: Path) -> None:
    (folder / "card.json").write_text('{"version": 2', encoding="utf-8")


def of_other_weights(folder: Path) -> None:
    card = folder / "card.json"
    content = json.loads(card.read_text(encoding="utf-8"))
    content["model"]["weights_sha256"] = "f" * 64
    card.write_text(json.dumps(content), encoding="utf-8")


def decided(served: Served) -> tuple[str, str | None, str | None]:
    headers = served.chat(max_tokens=2).headers
    return (
        headers["x-foretell-decision"],
        headers.get("x-foretell-probe"),
        headers.get("x-foretell-cause"),
    )


@pytest.mark.parametrize("spoil", [halve, forget_card, garble_card])
def test_a_broken_probe_is_not_promoted(toy, large, spoil):
    spoil(copy_probe(toy, 2))
    with serving(gateway_config(toy, large.url)) as served:
        with pytest.raises(ProbeFileError):
            promote(toy / "probes", "toy", 2)
        served.run(served.gateway.refresh(by="test"))
        assert decided(served) == ("keep", "toy@1", None)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (halve, "no_probe"),
        (forget_card, "no_probe"),
        (garble_card, "no_probe"),
        (of_other_weights, "probe_mismatch"),
    ],
)
def test_a_probe_that_breaks_once_it_serves_is_declined_and_can_be_rolled_back(
    toy, large, spoil, cause
):
    folder = copy_probe(toy, 2)
    promote(toy / "probes", "toy", 2)
    with serving(gateway_config(toy, large.url)) as served:
        assert decided(served) == ("keep", "toy@2", None)
        spoil(folder)
        assert decided(served) == ("keep", "toy@2", None)  # it is in memory
        served.run(served.gateway.refresh(by="test"))
        assert decided(served) == ("declined", None, cause)
        assert roll_back(toy / "probes", "toy") == 1
        served.run(served.gateway.refresh(by="test"))
        assert decided(served) == ("keep", "toy@1", None)


@pytest.mark.parametrize("spoil", [halve, forget_card, garble_card, of_other_weights])
def test_a_broken_probe_on_trial_troubles_nobody(toy, large, spoil):
    folder = copy_probe(toy, 2)
    set_shadow(toy / "probes", "toy", 2)
    spoil(folder)
    with serving(gateway_config(toy, large.url)) as served:
        assert decided(served) == ("keep", "toy@1", None)
        assert served.last().shadow_probe is None


# Processes


WORKING = {
    "every_s": 0.2,
    "worker": "in_process",
    "labellers": {"toy": {"name": "regex", "options": {"pattern": "."}}},
}


def kept(upstream_url: str, *, text: bool = True, **store: Any) -> dict[str, Any]:
    """A configuration whose gateway keeps its traffic; other settings of its store by name."""
    vectors = "full" if text else "subspace"
    return {
        **settings(upstream_url),
        "store": {"traffic": {"text": text, "vectors": vectors}, **store},
        "flywheel": WORKING,
    }


def give_to(served: GatewayProcess, request_id: str, note: str = "") -> httpx2.Response:
    body = {"request_id": request_id, "metric": "m", "value": 1, "source": "client", "note": note}
    return httpx2.post(f"{served.url}/v1/feedback", json=body, timeout=20)


@pytest.mark.slow
def test_whatever_moment_a_gateway_is_killed_at_nothing_acknowledged_is_lost(toy, large):
    acknowledged: list[str] = []
    config = kept(large.url)
    for round_ in range(5):
        with running(toy, config) as served:
            served.is_ready()

            def load(served: GatewayProcess = served) -> None:
                with suppress(httpx2.HTTPError):
                    while True:
                        request_id = served.chat().headers["x-request-id"]
                        if give_to(served, request_id).status_code == 200:
                            acknowledged.append(request_id)

            before = len(acknowledged)
            threads = [threading.Thread(target=load) for _ in range(4)]
            for thread in threads:
                thread.start()
            until(lambda before=before: len(acknowledged) > before + 20)
            time.sleep(0.07 * round_)
            served.send(signal.SIGKILL)
            for thread in threads:
                thread.join()
        checked = foretell(toy, "data check --repair --json -c gateway.yaml").json()
        assert (checked["missing"], checked["damaged"]) == ([], [])
        assert foretell(toy, "data check -c gateway.yaml").code == 0
    with Store.open(f"sqlite:///{toy}/foretell.db", toy / "vectors") as store:
        assert [one for one in acknowledged if not store.feedback(one)] == []
        answered = {one.query.id for one in store.observations("toy") if one.origin == "traffic"}
        assert {one.id for one in store.requests(limit=100_000)} <= answered


WORD = "Quetzalcoatlus"


def holds(folder: Path, word: str) -> list[str]:
    """Names of the files in which a word is."""
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and word.encode() in path.read_bytes()
    ]


def ask_with_word(served: GatewayProcess) -> list[str]:
    """Ids of requests of all kinds that hold the word, with feedback that does."""
    asked = [
        [{"role": "user", "content": f"Which town in the {where} is nr 4? {WORD}"}]
        for where in ("north", "south")
    ]
    ids: list[str] = []
    for messages in asked:
        for headers in ({}, {"x-foretell-route": "weak"}, {"x-foretell-route": "strong"}):
            for stream in (False, True):
                reply = served.chat(messages, headers, stream=stream)
                ids.append(reply.headers["x-request-id"])
    for request_id in ids:
        give_to(served, request_id)
    return ids


def everything_told(served: GatewayProcess) -> str:
    """What a gateway says of itself, to whoever asks."""
    paths = ("events?limit=1000", "jobs?limit=1000", "state", "ledger", "config")
    admin = "".join(served.admin("GET", path).text for path in paths)
    return served.get("/metrics").text + admin + served.stderr


def worked(served: GatewayProcess) -> bool:
    """Whether the worker has looked at feedback."""
    jobs = served.admin("GET", "jobs").json()["data"]
    return any(job["kind"] == "label" and job["state"] == "done" for job in jobs)


def test_without_text_nothing_that_was_said_is_anywhere(toy):
    quotes = error(400, f"I do not like {WORD}")
    with upstream(quotes, otherwise=answers) as large:
        with upstream(otherwise=answers) as hook:
            config = kept(large.url, text=False)
            config["flywheel"] = {**WORKING, "webhook": f"{hook.url}/hook"}
            with running(toy, config, "--log-level", "debug") as served:
                served.is_ready()
                ids = ask_with_word(served)
                until(lambda: worked(served))
                assert WORD not in everything_told(served)
                served.send(signal.SIGTERM)
                assert served.ends() == 0
            assert WORD not in json.dumps(hook.requests, default=str)
        assert holds(toy, WORD) == []
        with Store.open(f"sqlite:///{toy}/foretell.db", toy / "vectors") as store:
            assert len([one for one in ids if store.request(one)]) == len(ids)


def test_the_files_of_an_encrypted_store_show_no_word(toy, large):
    key = bytes(range(32))
    sealed = {"url": "sqlite:///sealed.db", "vectors": "sealed"}
    config = kept(large.url, encryption_key_env="T_STORE_KEY", **sealed)
    with running(toy, config, T_STORE_KEY=base64.b64encode(key).decode()) as served:
        served.is_ready()
        ids = ask_with_word(served)
        give_to(served, ids[0], note=WORD)
        until(lambda: worked(served))
        assert WORD not in everything_told(served)
        assert holds(toy, WORD) == []
        with Store.open(f"sqlite:///{toy}/sealed.db", toy / "sealed", key=key) as store:
            assert any(WORD in one.query.text for one in store.observations("toy"))
            assert store.feedback(ids[0])[0].note == WORD


def test_an_erased_tenant_leaves_nothing_while_a_gateway_serves(toy, large):
    config = kept(large.url)
    config["server"]["api_keys_env"] = "T_KEYS"
    with running(toy, config, T_KEYS="first-key,second-key") as served:
        served.is_ready()
        asked = [{"role": "user", "content": f"Which town in the north is nr 4? {WORD}"}]
        for number in range(6):
            key = {"authorization": f"Bearer {'second' if number % 2 else 'first'}-key"}
            reply = served.chat(KEPT if number % 2 else asked, {**key, "x-foretell-route": "weak"})
            body = {"request_id": reply.headers["x-request-id"], "metric": "m", "value": 1}
            body |= {"source": "client", "note": "mine" if number % 2 else WORD}
            told = httpx2.post(f"{served.url}/v1/feedback", json=body, headers=key, timeout=20)
            assert told.status_code == 200
        until(lambda: worked(served))
        assert holds(toy, WORD) != []
        with Store.open(f"sqlite:///{toy}/foretell.db", toy / "vectors") as store:
            (tenant,) = {one.tenant for one in store.observations("toy") if WORD in one.query.text}
        erased = foretell(toy, f"data delete --tenant {tenant} -c gateway.yaml --yes --json")
        assert erased.code == 0, erased.err
        assert holds(toy, WORD) == []
        assert served.chat(KEPT, {"authorization": "Bearer first-key"}).status_code == 200
        with Store.open(f"sqlite:///{toy}/foretell.db", toy / "vectors") as store:
            others = [one for one in store.observations("toy") if one.origin == "traffic"]
            assert len([one for one in others if one.tenant != tenant]) == 3


@pytest.mark.slow
def test_two_gateways_on_one_store_follow_a_promotion_and_its_way_back(toy, large):
    copy_probe(toy, 2)
    config = settings(large.url)
    with running(toy, config) as one, running(toy, config) as other:
        one.is_ready()
        other.is_ready()

        def serve(version: int) -> bool:
            return all(
                served.chat().headers["x-foretell-probe"] == f"toy@{version}"
                for served in (one, other)
            )

        promoted = foretell(toy, "probes promote toy@2 -c gateway.yaml")
        assert promoted.code == 0, promoted.err
        until(lambda: serve(2))
        rolled_back = other.admin("POST", "probes/toy/rollback")
        assert rolled_back.json()["serving"] == 1
        until(lambda: serve(1))
