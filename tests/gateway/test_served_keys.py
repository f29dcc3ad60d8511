"""What callers may do, each by a key of their own, with the books kept in the store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import ESCALATED, KEPT, Served, gateway_config, serving, until, upstream

from foretell.records import KeyLimits
from toy_project import foretell, write_config
from upstreams.scripted_server import ScriptedServer, answers, error

ANSWER_USD = (7 * 2.5 + 4 * 1.25 + 3 * 10) / 1e6
"""Of the scripted upstream: 11 tokens, of which 4 were cached, and 3 tokens of an answer."""

OFF = {"x-foretell-route": "off"}


@pytest.fixture(scope="module")
def large() -> Iterator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture(scope="module")
def served(shared_toy: Path, large: ScriptedServer) -> Iterator[Served]:
    server = {"stored_keys": True, "api_keys_env": "T_SERVED_KEYS"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T_SERVED_KEYS", "configured-key")
        with serving(gateway_config(shared_toy, large.url, server=server)) as gateway:
            yield gateway


class Key:
    """A stored key, and requests made with it."""

    def __init__(self, served: Served, **limits: Any) -> None:
        assert served.gateway.store is not None
        self.stored, self.secret = served.gateway.store.create_key("test", KeyLimits(**limits))
        self._served = served

    def chat(self, messages: Any = None, headers: Any = None, **body: Any) -> httpx2.Response:
        named = {"authorization": f"Bearer {self.secret}", **(headers or {})}
        return self._served.chat(messages, headers=named, **{"max_tokens": 2, **body})

    def get(self, path: str) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.secret}"}
        return httpx2.get(f"{self._served.url}{path}", headers=headers)

    def spent_usd(self) -> float:
        records = [r for r in self._served.records() if r.key_id == self.stored.id]
        return sum(record.cost_usd or 0.0 for record in records)


def refused(response: httpx2.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code
    if status == 429:
        assert int(response.headers["retry-after"]) > 0


def test_configured_and_stored_keys_work_beside_each_other(served: Served) -> None:
    assert Key(served).chat().status_code == 200
    configured = {"authorization": "Bearer configured-key"}
    assert served.chat(headers=configured).status_code == 200
    refused(served.chat(headers={"authorization": "Bearer fk-nobody"}), 401, "invalid_api_key")
    refused(served.chat(), 401, "invalid_api_key")


def test_a_key_made_while_the_gateway_runs_works_at_once_and_a_revoked_one_soon_no_more(
    served: Served, shared_toy: Path
) -> None:
    served.gateway._keys._ttl_s = 0.2
    write_config(shared_toy, served.gateway.snapshot.config.model_dump(mode="json"))
    made = foretell(shared_toy, "keys create app --json").json()
    headers = {"authorization": f"Bearer {made['key']}"}
    assert served.chat(headers=headers).status_code == 200
    assert foretell(shared_toy, f"keys revoke {made['id']}").code == 0
    until(lambda: served.chat(headers=headers).status_code == 401)


def test_a_key_may_use_the_routes_it_was_made_for(served: Served) -> None:
    key = Key(served, routes=("auto",))
    assert key.chat().status_code == 200
    for name in ("large", "small", "nobody"):
        refused(key.chat(model=name), 403, "model_not_allowed")
    assert [model["id"] for model in key.get("/v1/models").json()["data"]] == ["auto"]
    assert key.get("/v1/models/auto").status_code == 200
    assert key.get("/v1/models/large").status_code == 404


def test_a_key_may_send_so_many_requests_a_minute(served: Served) -> None:
    key = Key(served, requests_per_minute=3)
    assert [key.chat().status_code for _ in range(3)] == [200, 200, 200]
    refused(key.chat(), 429, "rate_limit_exceeded")
    assert Key(served).chat().status_code == 200


def test_a_key_may_have_so_many_requests_under_way(served: Served, large: ScriptedServer) -> None:
    key = Key(served, concurrent=2)
    release = threading.Event()

    async def waits(request: Any) -> Any:
        await asyncio.to_thread(release.wait, 20)
        return await answers(request)

    before = len(large.requests)
    large.script(waits, waits)
    with ThreadPoolExecutor() as threads:
        try:
            streams = (False, True)
            slow = [threads.submit(key.chat, headers=OFF, stream=s) for s in streams]
            until(lambda: len(large.requests) == before + 2)
            refused(key.chat(), 429, "concurrency_limit_exceeded")
            assert Key(served).chat().status_code == 200
        finally:
            release.set()
        assert [one.result().status_code for one in slow] == [200, 200]
    served.at_rest()
    assert key.chat().status_code == 200


def test_a_budget_is_never_overspent_however_requests_overlap(
    served: Served, large: ScriptedServer
) -> None:
    # What a request may cost at most is put aside first: far more than it costs in the end.
    budget = 20 * ANSWER_USD
    key = Key(served, usd_per_day=budget)

    async def takes_a_while(request: Any) -> Any:
        await asyncio.sleep(0.01)
        return await answers(request)

    large.otherwise = takes_a_while
    try:
        with ThreadPoolExecutor(16) as threads:
            asked = [
                threads.submit(key.chat, ESCALATED, OFF, max_tokens=3, stream=bool(i % 2))
                for i in range(80)
            ]
            statuses = [one.result().status_code for one in asked]
    finally:
        large.otherwise = answers
    assert set(statuses) == {200, 429}
    served.at_rest()
    spent = key.spent_usd()
    assert spent == pytest.approx(statuses.count(200) * ANSWER_USD)
    assert budget / 2 < spent <= budget
    refused(key.chat(ESCALATED, OFF, max_tokens=10_000), 429, "insufficient_quota")


def test_what_a_refused_or_broken_answer_had_put_aside_comes_back(
    served: Served, large: ScriptedServer
) -> None:
    key = Key(served, usd_per_day=0.001)
    assert key.chat(KEPT, OFF, max_tokens=80).status_code == 200
    # Nearly all of the budget is put aside each time, and none of it spent.
    large.script(*[error(400, "no")] * 3)
    assert [key.chat(KEPT, OFF, max_tokens=80).status_code for _ in range(3)] == [400] * 3
    assert key.chat(KEPT, OFF, model="nobody").status_code == 404
    assert key.chat(KEPT, {"x-foretell-route": "sideways"}).status_code == 400
    assert key.chat(KEPT, OFF, max_tokens=80).status_code == 200
    assert key.spent_usd() == pytest.approx(2 * ANSWER_USD)


def test_a_key_without_escalations_left_is_served_by_the_weak_model(served: Served) -> None:
    key = Key(served, escalations_per_day=2)
    decisions = [key.chat(ESCALATED).headers["x-foretell-decision"] for _ in range(2)]
    assert decisions == ["escalate", "escalate"]
    third = key.chat(ESCALATED)
    assert third.status_code == 200
    assert third.headers["x-foretell-decision"] == "pinned"
    assert third.headers["x-foretell-model"] == "small"
    assert third.headers["x-foretell-cause"] == "escalations"
    assert key.chat(KEPT).headers["x-foretell-model"] == "small"


def test_a_restart_gives_no_budget_back(toy: Path, large: ScriptedServer) -> None:
    config = gateway_config(toy, large.url, server={"stored_keys": True})
    limits = {"usd_per_day": 1.5 * ANSWER_USD + 30e-6, "escalations_per_day": 1}
    with serving(config) as first:
        key = Key(first, **limits)
        assert key.chat(ESCALATED, max_tokens=1).headers["x-foretell-decision"] == "escalate"
    with serving(config) as second:
        key._served = second
        pinned = key.chat(ESCALATED, max_tokens=1)
        assert pinned.headers["x-foretell-cause"] == "escalations"
        refused(key.chat(ESCALATED, OFF, max_tokens=20), 429, "insufficient_quota")


def test_another_keys_response_cannot_be_gone_on_from(served: Served) -> None:
    mine, other = Key(served), Key(served)
    body = {"model": "auto", "input": "Which town in the north is nr 4?", "max_output_tokens": 16}

    def respond(key: Key, **more: Any) -> httpx2.Response:
        return served.post("/v1/responses", {**body, **more}, authorization=f"Bearer {key.secret}")

    first = respond(mine).json()["id"]
    refused(respond(other, previous_response_id=first), 404, "previous_response_not_found")
    assert respond(mine, previous_response_id=first).status_code == 200


def test_an_x_api_key_is_as_good(served: Served) -> None:
    key = Key(served)
    body = {"model": "auto", "max_tokens": 2, "messages": KEPT}
    assert served.post("/v1/messages", body, x_api_key=key.secret).status_code == 200
    wrong = served.post("/v1/messages", body, x_api_key="fk-wrong")
    assert wrong.status_code == 401
    assert wrong.json()["error"]["type"] == "authentication_error"
