"""The side of those who run the gateway: roles, configurations that change, books."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from admin_client import ADMIN, VIEWER, admin_of, told
from serving import ESCALATED, KEPT, Served, gateway_config, serving, until, upstream

from foretell.config import AdminConfig
from foretell.errors import ConfigError
from foretell.gateway._admin import AdminTokens
from foretell.gateway._snapshot import Snapshot
from upstreams.scripted_server import ScriptedServer, answers, error


@pytest.fixture(scope="module")
def large() -> Iterator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture(scope="module")
def standing(shared_toy: Path, large: ScriptedServer) -> Iterator[Served]:
    """A gateway whose configuration no test changes."""
    with serving(gateway_config(shared_toy, large.url)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def standing_admin(standing: Served) -> Iterator[httpx2.Client]:
    with admin_of(standing) as client:
        yield client


@pytest.fixture
def served(toy: Path, large: ScriptedServer) -> Iterator[Served]:
    with serving(gateway_config(toy, large.url)) as gateway:
        yield gateway


@pytest.fixture
def admin(served: Served) -> Iterator[httpx2.Client]:
    with admin_of(served) as client:
        yield client


def active(admin: httpx2.Client) -> Any:
    return admin.get("/admin/config").json()


def change(
    admin: httpx2.Client, config: Any, *, expected: str | None = None, dry_run: bool = False
) -> httpx2.Response:
    headers = {} if expected is None else {"if-match": f'"{expected}"'}
    query = {"dry_run": "true"} if dry_run else {}
    return admin.post("/admin/config", json=config, headers=headers, params=query)


def with_goal(admin: httpx2.Client, threshold: float) -> Any:
    config = active(admin)["config"]
    config["routes"]["auto"]["goal"] = {"threshold": threshold}
    return config


# Roles


@pytest.mark.parametrize(
    ("method", "path", "viewer_may"),
    [
        ("GET", "/admin/config", True),
        ("GET", "/admin/config/versions", True),
        ("GET", "/admin/ledger", True),
        ("GET", "/admin/state", True),
        ("POST", "/admin/config", False),
        ("POST", "/admin/reload", False),
        ("POST", "/admin/rollback", False),
    ],
)
def test_viewers_look_and_only_admins_change(
    standing_admin: httpx2.Client, method: str, path: str, viewer_may: bool
) -> None:
    admin = standing_admin
    for token in ("", "Bearer", "Bearer nobody", "Basic admin-token", "admin-token"):
        told(admin.request(method, path, headers={"authorization": token}), 401, "invalid_token")
    seen = admin.request(method, path, headers=VIEWER)
    if viewer_may:
        assert seen.status_code == 200
    else:
        told(seen, 403, "role_not_allowed")


@pytest.mark.parametrize("value", ["token", "root:token", "admin:", "admin:a,viewer", ","])
def test_tokens_without_a_known_role_are_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T_TOKENS", value)
    with pytest.raises(ConfigError, match="role:token"):
        AdminTokens.from_config(AdminConfig(port=0, token_env="T_TOKENS"))


def test_tokens_come_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_TOKENS", "viewer:one, admin:two:three")
    tokens = AdminTokens.from_config(AdminConfig(port=0, token_env="T_TOKENS"))
    assert tokens.role("Bearer one") == "viewer"
    assert tokens.role("bearer two:three") == "admin"
    assert tokens.role("Bearer two") is None
    assert tokens.role(None) is None


def test_callers_find_none_of_it(standing: Served) -> None:
    assert httpx2.get(f"{standing.url}/admin/config", headers=ADMIN).status_code == 404


# Changes


def test_a_configuration_that_was_shown_can_be_sent_back(admin: httpx2.Client) -> None:
    before = active(admin)
    assert change(admin, before["config"]).json() == {"hash": before["hash"]}
    as_yaml = admin.post("/admin/config", content=yaml.safe_dump(before["config"]))
    assert as_yaml.json() == {"hash": before["hash"]}


def test_a_change_takes_over_at_once_and_can_be_rolled_back(
    served: Served, admin: httpx2.Client
) -> None:
    first = active(admin)
    assert served.chat(ESCALATED).headers["x-foretell-decision"] == "escalate"
    for threshold in (0.0, 0.1):
        answer = change(admin, with_goal(admin, threshold))
        assert answer.status_code == 200
        assert answer.headers["etag"] == f'"{answer.json()["hash"]}"'
        assert active(admin)["hash"] == answer.json()["hash"]
    assert change(admin, with_goal(admin, 0.0)).status_code == 200
    assert served.chat(ESCALATED).headers["x-foretell-decision"] == "keep"
    hashes = [one["hash"] for one in admin.get("/admin/config/versions").json()["data"]]
    assert hashes[0] == hashes[2] == active(admin)["hash"]
    assert hashes[3] == first["hash"]
    for earlier in hashes[1:]:
        assert admin.post("/admin/rollback").json() == {"hash": earlier}
        assert active(admin)["hash"] == earlier
    told(admin.post("/admin/rollback"), 409, "no_earlier_config")
    assert served.chat(ESCALATED).headers["x-foretell-decision"] == "escalate"
    versions = admin.get("/admin/config/versions").json()["data"]
    assert [(one["hash"], one["by"]) for one in versions] == [(first["hash"], "admin")]


def test_who_brought_a_configuration_and_when_is_kept(served: Served, admin: httpx2.Client) -> None:
    change(admin, with_goal(admin, 0.2))
    versions = admin.get("/admin/config/versions").json()["data"]
    assert [one["by"] for one in versions] == ["admin", "start"]
    assert served.gateway.store is not None
    stored = served.gateway.store.config_versions()
    assert [(one.hash, one.by) for one in stored] == [(one["hash"], one["by"]) for one in versions]
    assert json.loads(stored[0].text)["routes"]["auto"]["goal"] == {"threshold": 0.2}


def test_a_change_on_top_of_another_one_is_refused(admin: httpx2.Client) -> None:
    seen = active(admin)["hash"]
    first = change(admin, with_goal(admin, 0.2), expected=seen)
    assert first.status_code == 200
    told(change(admin, with_goal(admin, 0.3), expected=seen), 412, "stale_etag")
    for path in ("reload", "rollback"):
        stale = admin.post(f"/admin/{path}", headers={"if-match": f'"{seen}"'})
        assert stale.status_code in (412, 422)
    assert active(admin)["hash"] == first.json()["hash"]
    assert change(admin, with_goal(admin, 0.3), expected=first.json()["hash"]).status_code == 200


def test_of_changes_made_at_once_one_wins(served: Served, admin: httpx2.Client) -> None:
    seen = active(admin)["hash"]
    wanted = [with_goal(admin, i / 10) for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        made = [threads.submit(change, admin, config, expected=seen) for config in wanted]
        statuses = sorted(one.result().status_code for one in made)
    assert statuses == [200, *[412] * 7]
    served.at_rest()


def test_a_dry_run_checks_all_of_it_and_changes_nothing(standing_admin: httpx2.Client) -> None:
    admin = standing_admin
    before = active(admin)
    config = with_goal(admin, 0.3)
    tried = change(admin, config, dry_run=True)
    assert tried.json() == {"valid": True, "hash": tried.json()["hash"]}
    config["server"]["port"] = 1
    told(change(admin, config, dry_run=True), 422, "invalid_config", "server.port cannot change")
    config = with_goal(admin, 0.3)
    config["server"]["api_keys_env"] = "T_NOT_SET"
    told(change(admin, config, dry_run=True), 422, "invalid_config", "T_NOT_SET")
    told(change(admin, {}, dry_run=True), 422, "invalid_config", "models is missing")
    told(admin.post("/admin/config", json=config, params={"dry_run": "yes"}), 400, "invalid_value")
    assert active(admin) == before


BAD: list[tuple[bytes, int, str]] = [
    (b"", 422, "settings by name"),
    (b"- a", 422, "settings by name"),
    (b"1: 2", 422, "settings by name"),
    (b"{", 400, "neither YAML nor JSON"),
    (b"\xff", 400, "neither YAML nor JSON"),
    (b"\0", 400, "neither YAML nor JSON"),
    (b"a: 2026-13-40", 400, "neither YAML nor JSON"),
    (b"a: " + b"9" * 5000, 400, "neither YAML nor JSON"),
    (b"[" * 5000, 400, "neither YAML nor JSON"),
    (b"!!python/object/apply:os.getcwd []", 400, "neither YAML nor JSON"),
    (b"a: &a [*a]", 422, "models is missing"),
    (b"models: {}", 422, "models"),
    (b"schema_version: 2", 422, "schema_version"),
    (b"x" * (1 << 20 | 1), 413, "larger than 1 MiB"),
]


@pytest.mark.parametrize(("body", "status", "words"), BAD, ids=lambda value: str(value)[:24])
def test_what_is_no_configuration_changes_nothing(
    standing_admin: httpx2.Client, body: bytes, status: int, words: str
) -> None:
    before = active(standing_admin)
    response = standing_admin.post("/admin/config", content=body)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]
    assert active(standing_admin) == before


@pytest.mark.parametrize(
    ("section", "changes", "said"),
    [
        ("server", {"host": "localhost"}, "server.host cannot change"),
        ("server", {"record": False}, "server.record cannot change"),
        ("store", {"url": "sqlite:///other.db"}, "store.url cannot change"),
        ("server", {"api_keys_env": "T_NOT_SET"}, "T_NOT_SET"),
        (
            "models",
            {"small": {"engine": "llamacpp", "model": "file:/no/such.gguf"}},
            "routes.auto: the weak model cannot be used: /no/such.gguf does not exist",
        ),
        ("models", {"small": {"engine": "vllm", "model": "m", "base_url": "http://h/v1"}}, "vllm"),
        (
            "models",
            {"large": {"engine": "openai", "model": "m", "base_url": "http://a:b@h/v1"}},
            "base_url of model 'large' cannot be used",
        ),
    ],
)
def test_a_configuration_that_cannot_take_over_changes_nothing(
    standing: Served, standing_admin: httpx2.Client, section: str, changes: Any, said: str
) -> None:
    served, admin = standing, standing_admin
    before = active(admin)
    snapshot, engine = served.gateway.snapshot, served.engine()
    config = active(admin)["config"]
    config[section] |= changes
    told(change(admin, config), 422, "invalid_config", said)
    assert active(admin) == before
    assert served.gateway.snapshot is snapshot
    assert served.engine() is engine
    assert served.chat(max_tokens=2).headers["x-foretell-decision"] == "keep"
    served.at_rest()


def test_without_a_file_there_is_nothing_to_read_again(standing_admin: httpx2.Client) -> None:
    reloaded = standing_admin.post("/admin/reload")
    told(reloaded, 422, "invalid_config", "without a configuration file")
    assert active(standing_admin)["file_hash"] is None


# What outlives a change


def test_an_engine_that_stays_is_not_loaded_again_and_one_that_goes_is_closed(
    served: Served, admin: httpx2.Client
) -> None:
    engine: Any = served.engine()
    change(admin, with_goal(admin, 0.3))
    assert served.engine() is engine
    config = active(admin)["config"]
    config["models"]["small"]["price"]["input"] = 0.03
    assert change(admin, config).status_code == 200
    until(lambda: engine._closed)
    assert served.engine() is not engine
    assert served.chat(max_tokens=2).headers["x-foretell-decision"] == "keep"


def test_an_engine_in_use_is_closed_only_afterwards(
    served: Served, admin: httpx2.Client, large: ScriptedServer
) -> None:
    release = threading.Event()

    async def waits(request: Any) -> Any:
        await asyncio.to_thread(release.wait, 20)
        return await answers(request)

    engine: Any = served.engine()
    before = len(large.requests)
    large.script(waits)
    with ThreadPoolExecutor() as threads:
        try:
            slow = threads.submit(served.chat, ESCALATED)
            until(lambda: len(large.requests) > before)
            config = active(admin)["config"]
            config["models"]["small"]["price"]["input"] = 0.04
            assert change(admin, config).status_code == 200
            assert served.chat(max_tokens=2).headers["x-foretell-decision"] == "keep"
            assert not engine._closed
        finally:
            release.set()
        assert slow.result().status_code == 200
    until(lambda: engine._closed)
    served.chat(ESCALATED)
    first, *_, last = served.records()
    assert first.weak_usd is not None
    assert last.weak_usd == pytest.approx(2 * first.weak_usd)  # by the price that it began with


def test_what_a_route_has_learnt_outlives_only_what_leaves_it_alone(
    toy: Path, large: ScriptedServer
) -> None:
    config = gateway_config(toy, large.url, goal={"strong_share": 0.5})
    with serving(config) as served, admin_of(served) as admin:
        for _ in range(3):
            served.chat(max_tokens=2)

        def control() -> Any:
            return served.gateway.snapshot.routes["auto"].sides["toy"].control

        first, deadlines = control(), served.gateway.snapshot.routes["auto"].deadlines
        settings = active(admin)["config"]
        settings["server"]["max_concurrent"] = 10
        change(admin, settings)
        assert control() is first
        assert served.gateway.snapshot.routes["auto"].deadlines is deadlines
        for name, value in (("explore", 1.0), ("deadline", {"floor_ms": 20_000})):
            settings["routes"]["auto"][name] = value
            change(admin, settings)
            assert control() is not first
        assert served.gateway.snapshot.routes["auto"].deadlines is not deadlines
        assert served.chat(max_tokens=2).headers["x-foretell-decision"] == "explore"


def test_keys_change_with_the_configuration(
    served: Served, admin: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T_NEW_KEYS", "new-key")
    config = active(admin)["config"]
    config["server"]["api_keys_env"] = "T_NEW_KEYS"
    assert served.chat(max_tokens=2).status_code == 200
    assert change(admin, config).status_code == 200
    assert served.chat(max_tokens=2).status_code == 401
    assert served.chat(headers={"authorization": "Bearer new-key"}).status_code == 200


def test_names_change_with_the_configuration(served: Served, admin: httpx2.Client) -> None:
    config = active(admin)["config"]
    config["routes"]["other"] = config["routes"].pop("auto")
    assert change(admin, config).status_code == 200
    assert served.chat(max_tokens=2).status_code == 404
    assert served.chat(model="other").status_code == 200
    assert served.metric("foretell_requests_total", route="other", model="small") == 1
    listed = httpx2.get(f"{served.url}/v1/models").json()["data"]
    assert [one["id"] for one in listed] == ["other", "small", "large"]


@pytest.mark.slow
def test_nothing_is_left_of_fifty_changes(served: Served, admin: httpx2.Client) -> None:
    configs = [with_goal(admin, 0.4), with_goal(admin, 0.6)]
    configs[1]["models"]["small"]["price"]["input"] = 0.03

    def use(config: Any) -> None:
        assert change(admin, config).status_code == 200
        assert served.chat(KEPT, max_tokens=1).status_code == 200
        assert served.chat(ESCALATED, stream=True).status_code == 200

    for config in configs * 3:
        use(config)
    served.at_rest()
    n_files, n_threads = _open_files(), threading.active_count()
    seen: list[weakref.ref[Snapshot]] = []
    for i in range(50):
        use(configs[i % 2])
        seen.append(weakref.ref(served.gateway.snapshot))
    served.at_rest()

    def left() -> int:
        gc.collect()
        return sum(reference() is not None for reference in seen)

    until(lambda: left() == 1)
    assert threading.active_count() <= n_threads + 2
    until(lambda: _open_files() <= n_files + 2)
    assert len(served.gateway.previous) <= 20


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a directory of links that come and go


# Books


def test_the_ledger_adds_a_day_up(toy: Path, large: ScriptedServer) -> None:
    strong = {"input": 2.5, "output": 10, "cached_input": 1.25}
    with serving(gateway_config(toy, large.url)) as served, admin_of(served) as admin:
        kept = [served.chat(max_tokens=4).json() for _ in range(2)]
        escalated = served.chat(ESCALATED, stream=True)
        bypassed = served.chat(headers={"x-foretell-route": "off"})
        direct = served.chat(model="large")
        refused = served.chat(model="nobody")
        assert escalated.status_code == bypassed.status_code == direct.status_code == 200
        assert refused.status_code == 404
        lines = admin.get("/admin/ledger").json()["data"]
        records = served.records()
    # The upstream says 11 tokens in, 4 of them cached, and 3 out.
    asked = (7 * strong["input"] + 4 * strong["cached_input"] + 3 * strong["output"]) / 1e6
    usage = kept[0]["usage"]
    n_in, n_out = usage["prompt_tokens"], usage["completion_tokens"]
    n_cached = usage["prompt_tokens_details"]["cached_tokens"]
    weak = (0.02 * n_in + 0.08 * n_out) / 1e6
    thrown_away = next(r.weak_usd for r in records if r.action == "escalate")
    assert thrown_away is not None
    assert 0 < thrown_away < weak
    routed = next(line for line in lines if line["route"] == "auto")
    assert routed["requests"] == 4
    assert (routed["kept"], routed["escalated"], routed["declined"]) == (2, 1, 0)
    assert routed["cost_usd"] == pytest.approx(2 * weak + thrown_away + 2 * asked)
    assert routed["weak_usd"] == pytest.approx(2 * weak + thrown_away)
    # The same tokens at the strong model's price, had it been asked instead.
    instead = sum(r.always_strong_usd or 0 for r in records if r.action == "keep")
    full = 2 * (strong["input"] * n_in + strong["output"] * n_out) / 1e6
    saved_by_cache = 2 * n_cached * (strong["input"] - strong["cached_input"]) / 1e6
    assert full - saved_by_cache - 1e-12 <= instead <= full + 1e-12
    assert routed["net_saving_usd"] == pytest.approx(instead - 2 * weak - thrown_away)
    named = next(line for line in lines if line["route"] is None)
    assert (named["requests"], named["net_saving_usd"]) == (1, 0.0)
    assert named["cost_usd"] == pytest.approx(asked)


def test_a_prefill_is_charged_though_nobody_answered(toy: Path, large: ScriptedServer) -> None:
    config = gateway_config(toy, large.url, weak_as_last_resort=False)
    with serving(config) as served:
        large.script(error(500, "no"), error(500, "no"))
        assert served.chat(ESCALATED).status_code == 502
        record = served.last()
    assert record.weak_usd == record.cost_usd == pytest.approx(51 * 0.02 / 1e6)
    assert record.strong_usd == 0.0


def test_the_ledger_begins_where_it_is_asked_to(served: Served, admin: httpx2.Client) -> None:
    served.chat(max_tokens=2)
    served.at_rest()
    day = served.records()[0].at // 86_400 * 86_400
    assert len(admin.get("/admin/ledger").json()["data"]) == 1
    assert day > 0
    later = admin.get("/admin/ledger", params={"since_day": "2999-01-01"})
    assert later.json() == {"object": "list", "data": []}
    for bad in ("", "yesterday", "2026-02-30", "\0", "1e9"):
        response = admin.get("/admin/ledger", params={"since_day": bad})
        told(response, 400, "invalid_value")
        assert response.json()["error"]["param"] == "since_day"


def test_the_state_shows_what_is_steered(served: Served, admin: httpx2.Client) -> None:
    served.chat(ESCALATED)
    state = admin.get("/admin/state").json()
    assert state["in_flight"] == 0
    assert state["targets"] == {"large": "closed"}
    domain = state["routes"]["auto"]["domains"]["toy"]
    assert domain["keep_at"] == 0.5
    assert domain["strong_share"] == 1.0


def test_a_gateway_without_a_store_says_so(toy: Path, large: ScriptedServer) -> None:
    config = gateway_config(toy, large.url, server={"record": False})
    with serving(config) as served, admin_of(served) as admin:
        assert served.chat(max_tokens=2).status_code == 200
        told(admin.get("/admin/ledger"), 503, "no_store")
        given = {"request_id": "a", "metric": "m", "value": 1, "source": "code"}
        told(served.post("/v1/feedback", given), 503, "no_store")
