"""Goals while they are served: shares, budgets, and pools of more than two models."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from serving import ESCALATED, KEPT, Served, gateway_config, remote, serving, upstream

from foretell.prefill.engines.recorded import write_recording
from toy_project import (
    CONFIG,
    changed,
    foretell,
    strong_observations,
    write_config,
    write_lines,
    write_project,
)
from upstreams.scripted_server import ScriptedServer, answers, error

EAST = [{"role": "user", "content": "Which town in the east is nr 44?"}]
STRONG_USD = (7 * 2.5 + 4 * 1.25 + 3 * 10) / 1e6  # of what ``answers`` reports


@pytest.fixture(scope="module")
def large() -> Generator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


def ask_many(served: Served, directions: list[str], *, seed: int = 0) -> list[str]:
    """Who answered each of these questions, asked one after the other on one connection."""
    rng = np.random.default_rng(seed)
    models: list[str] = []
    with httpx2.Client(timeout=30) as client:
        for direction in directions:
            asked = f"Which town in the {direction} is nr {rng.integers(180)}?"
            body = {"model": "auto", "messages": [{"role": "user", "content": asked}]}
            reply = client.post(f"{served.url}/v1/chat/completions", json={**body, "max_tokens": 1})
            assert reply.status_code == 200, reply.text
            models.append(reply.headers["x-foretell-model"])
    return models


def drifting(n: int, *, seed: int = 0) -> list[str]:
    """Traffic whose mixture changes all the time, from nearly all easy to nearly all hard."""
    rng = np.random.default_rng(seed)
    easy = 0.5 + 0.45 * np.cos(np.linspace(0, 3 * np.pi, n))
    return ["north" if rng.random() < share else "south" for share in easy]


def test_a_strong_share_is_held_while_the_traffic_drifts(toy: Path, large: ScriptedServer):
    goal = {"strong_share": 0.4}
    with serving(gateway_config(toy, large.url, goal=goal, server={"record": False})) as served:
        models = ask_many(served, drifting(1000))
        share = models.count("large") / len(models)
        assert abs(share - 0.4) <= 0.02
        assert served.metric("foretell_strong_share", route="auto") == pytest.approx(share)
        assert 0 <= served.metric("foretell_keep_at", route="auto") <= 1
        explained = served.post("/v1/route", {"model": "auto", "messages": KEPT}).json()
        assert "40%" in explained["explanation"]["threshold"]["reason"]


def test_a_budget_per_1000_requests_is_spent_and_kept(toy: Path, large: ScriptedServer):
    budget = 0.02
    config = gateway_config(toy, large.url, goal={"usd_per_1k": budget})
    with serving(config) as served:
        models = ask_many(served, drifting(200))
        spent = sum(record.cost_usd or 0 for record in served.records())
    assert spent == pytest.approx(models.count("large") * STRONG_USD, rel=0.1)
    assert 0.8 * budget * 0.2 < spent < 1.1 * budget * 0.2


def test_a_daily_budget_is_never_exceeded_and_a_restart_knows_what_was_spent(
    toy: Path, large: ScriptedServer
):
    budget = 20 * STRONG_USD
    config = gateway_config(toy, large.url, goal={"usd_per_day": budget})
    with serving(config) as served:
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: served.chat(ESCALATED, max_tokens=3), range(60)))
        assert {reply.status_code for reply in replies} == {200}
        models = [reply.headers["x-foretell-model"] for reply in replies]
        assert models.count("large") > 0
        forced = {"x-foretell-route": "strong"}
        while (reply := served.chat(ESCALATED, max_tokens=3, headers=forced)).status_code == 200:
            pass
        assert reply.status_code == 429
        assert reply.json()["error"]["code"] == "insufficient_quota"
        assert served.chat(ESCALATED, headers={"x-foretell-route": "off"}).status_code == 429
        assert served.chat(ESCALATED, max_tokens=3).headers["x-foretell-model"] == "small"
        assert sum(record.cost_usd or 0 for record in served.records()) <= budget
        asked = len(large.requests)
    with serving(config) as again:
        assert again.chat(ESCALATED, max_tokens=3, headers=forced).status_code == 429
        assert again.chat(ESCALATED, max_tokens=3).headers["x-foretell-cause"] == "budget"
        assert sum(record.cost_usd or 0 for record in again.records()) <= budget
        assert len(large.requests) == asked


def test_a_daily_budget_that_is_used_up_leaves_the_weak_model_alone(
    toy: Path, large: ScriptedServer
):
    asked = len(large.requests)
    with serving(gateway_config(toy, large.url, goal={"usd_per_day": 1e-5})) as served:
        pinned = served.chat(ESCALATED, max_tokens=3)
        assert pinned.headers["x-foretell-decision"] == "pinned"
        assert pinned.headers["x-foretell-cause"] == "budget"
        assert pinned.headers["x-foretell-model"] == "small"
        # Not even what the weak model cannot take.
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        refused = served.chat(ESCALATED, tools=tools)
        assert refused.status_code == 429
    with serving(gateway_config(toy, large.url, goal={"usd_per_day": 1e-9})) as served:
        assert served.chat(KEPT, max_tokens=3).status_code == 429
    assert len(large.requests) == asked


def test_a_budget_holds_without_the_weak_model_too(toy: Path, large: ScriptedServer):
    models = {"small": {"engine": "llamacpp", "model": "file:/nowhere/at-all.gguf"}}
    asked = len(large.requests)
    config = gateway_config(toy, large.url, goal={"usd_per_day": 1e-5}, models=models)
    with serving(config) as served:
        assert served.chat(ESCALATED, max_tokens=3).status_code == 429
    assert len(large.requests) == asked


def test_a_budget_allows_no_call_whose_cost_nobody_knows(toy: Path, large: ScriptedServer):
    models = {"large": remote(large.url, "who-knows", price=None)}
    with serving(gateway_config(toy, models, goal={"usd_per_day": 5})) as served:
        reply = served.chat(ESCALATED, max_tokens=2)
        assert reply.headers["x-foretell-model"] == "small"
        assert reply.headers["x-foretell-cause"] == "budget"
        assert "set its price" in reply.headers["x-foretell-reason"]


def test_a_fallback_pays_from_the_same_purse(toy: Path, large: ScriptedServer):
    """The weak model fails, and the strong one may not be paid for."""
    with serving(gateway_config(toy, large.url, goal={"usd_per_day": 2e-4})) as served:
        engine: Any = served.engine()
        engine.close()
        asked = len(large.requests)
        statuses = [served.chat(KEPT, max_tokens=3).status_code for _ in range(6)]
        assert statuses[-1] == 429
        assert len(large.requests) - asked < 6
        assert sum(record.cost_usd or 0 for record in served.records()) <= 2e-4


def test_what_explores_goes_the_other_way(toy: Path, large: ScriptedServer):
    with serving(gateway_config(toy, large.url, explore=1.0)) as served:
        for messages, model in ((KEPT, "large"), (ESCALATED, "small")):
            reply = served.chat(messages, max_tokens=2)
            assert reply.headers["x-foretell-decision"] == "explore"
            assert reply.headers["x-foretell-model"] == model
            record = served.last()
            assert (record.explored, record.propensity) == (True, 1.0)


# Pools


def recorded(path: str) -> dict[str, Any]:
    return {"engine": "recorded", "path": path, "price": {"input": 0.5, "output": 2}}


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``small`` knows the north, ``mid`` the east, ``large`` most of everything."""
    folder = tmp_path_factory.mktemp("pooled")
    config = changed(CONFIG, routes__auto__pool=["mid"])
    config["models"]["mid"] = recorded("mid.jsonl.gz")
    queries = write_project(folder, config)
    write_recording(
        folder / "mid.jsonl.gz",
        [
            replace(seen, answer=replace(seen.answer, model="mid-1"))
            for seen in strong_observations(queries)
        ],
    )
    write_config(folder, config)
    write_lines(
        folder / "mid-outcomes.jsonl",
        [
            {"id": f"q{i:03}", "role": "strong", "metric": "right", "value": int(i % 3 == 2)}
            | {"source": "code"}
            for i in range(180)
        ],
    )
    label = "label --domain toy --labeller import --option file="
    for command in (
        "collect --domain toy --input queries.jsonl --with-pool --max-tokens 4",
        f"{label}outcomes.jsonl",
        f"{label}mid-outcomes.jsonl --strong mid",
        "train --domain toy --no-nested --kind linear --json",
    ):
        finished = foretell(folder, command)
        assert finished.code == 0, finished.err
    return folder


def pool_config(pooled: Path, large: ScriptedServer, mid: ScriptedServer, **route: Any) -> Any:
    price = {"input": 0.5, "output": 2}
    return gateway_config(
        pooled,
        large.url,
        models={"mid": remote(mid.url, "mid-1", price=price)},
        pool=["mid"],
        **route,
    )


def test_each_query_goes_to_the_cheapest_model_that_is_good_enough(
    pooled: Path, large: ScriptedServer
):
    with upstream(otherwise=answers) as mid, serving(pool_config(pooled, large, mid)) as served:
        for messages, model in ((KEPT, "small"), (EAST, "mid"), (ESCALATED, "large")):
            reply = served.chat(messages, max_tokens=4)
            assert reply.headers["x-foretell-model"] == model, reply.headers
            assert reply.headers["x-foretell-decision"] == ("keep", "escalate")[model != "small"]
            block = reply.json()["foretell"]
            assert block["p_pool"].keys() == {"mid"}
            streamed = served.chat(messages, max_tokens=4, stream=True)
            assert streamed.headers["x-foretell-model"] == model
        assert mid.requests[-1]["model"] == "mid-1"
        record = next(record for record in served.records() if record.model == "mid")
        assert record.serve == "strong"
        assert record.strong_usd == pytest.approx((7 * 0.5 + 4 * 0.5 + 3 * 2) / 1e6)
        assert record.always_strong_usd == pytest.approx(STRONG_USD)


def test_when_the_picked_model_fails_the_strong_one_answers(pooled: Path, large: ScriptedServer):
    with (
        upstream(otherwise=error(500, "no")) as mid,
        serving(pool_config(pooled, large, mid)) as served,
    ):
        reply = served.chat(EAST)
        assert reply.headers["x-foretell-decision"] == "fallback"
        assert reply.headers["x-foretell-model"] == "large"


def test_a_model_that_cannot_take_a_request_is_not_picked(pooled: Path, large: ScriptedServer):
    with upstream(otherwise=answers) as mid:
        config = pool_config(pooled, large, mid)
        models = {**config.models}
        able = {"context_tokens": 40}
        models["mid"] = models["mid"].model_copy(
            update={"capabilities": models["mid"].capabilities.model_copy(update=able)}
        )
        with serving(config.model_copy(update={"models": models})) as served:
            reply = served.chat(EAST, max_tokens=100)
            assert reply.headers["x-foretell-model"] == "large"


def test_a_share_of_a_pool_is_held_as_well(pooled: Path, large: ScriptedServer):
    with upstream(otherwise=answers) as mid:
        config = pool_config(pooled, large, mid, goal={"strong_share": 0.3})
        with serving(config) as served:
            models = ask_many(served, ["north", "east", "south"] * 50)
        share = 1 - models.count("small") / len(models)
        assert abs(share - 0.3) <= 9.9 * 2 / len(models)
        assert models.count("mid") > 0
