from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.config import ServerConfig
from foretell.errors import ConfigError, StoreError
from foretell.gateway._callers import ANYBODY, Caller, KeySource
from foretell.gateway._errors import ApiError
from foretell.records import ApiKey, KeyLimits


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def stored_key(key: str, *, revoked_at: float | None = None, **limits: Any) -> ApiKey:
    return ApiKey(
        id=f"id of {key}",
        name="tests",
        sha256=sha256(key),
        limits=KeyLimits(**limits),
        created_at=0.0,
        revoked_at=revoked_at,
    )


class Clock:
    def __init__(self, at: float = 1_000_000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


class Shelf:
    """A store of keys that counts who asks, and can be made to fail or to hang."""

    def __init__(self, *keys: ApiKey) -> None:
        self.keys = {key.sha256: key for key in keys}
        self.asked: list[str] = []
        self.fails = False
        self.goes_on = threading.Event()
        self.goes_on.set()

    def __call__(self, asked: str) -> ApiKey | None:
        self.asked.append(asked)
        assert self.goes_on.wait(10)
        if self.fails:
            raise StoreError("the database is down")
        return self.keys.get(asked)


def run(
    work: Callable[[KeySource], Coroutine[Any, Any, None]],
    *,
    clock: Clock | None = None,
    **options: Any,
) -> None:
    keys = KeySource(clock=clock or Clock(), **options)
    try:
        asyncio.run(work(keys))
    finally:
        keys.close()
        keys.close()


async def refused(keys: KeySource, authorization: str | None, x_api_key: str | None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await keys.authenticate(authorization, x_api_key)
    return caught.value


@pytest.mark.parametrize("authorization", [None, "", "Bearer x", "nonsense"])
def test_without_keys_everybody_is_let_in_by_no_name(authorization: str | None) -> None:
    async def work(keys: KeySource) -> None:
        assert not keys.asks
        assert await keys.authenticate(authorization, "x") == ANYBODY == Caller(key_id="")

    run(work)


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        ("Bearer one-key", None),
        ("bearer   one-key ", None),
        (None, "one-key"),
        (None, " one-key "),
        ("Bearer one-key", "something else"),
    ],
)
def test_a_configured_key_is_known_by_the_beginning_of_its_hash(
    authorization: str | None, x_api_key: str | None
) -> None:
    async def work(keys: KeySource) -> None:
        caller = await keys.authenticate(authorization, x_api_key)
        assert caller == Caller(key_id=f"env-{sha256('one-key')[:8]}")

    run(work, configured=["one-key", "another"])


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (None, None),
        ("", None),
        (None, ""),
        ("Bearer", None),
        ("Bearer ", "one-key"),
        ("Basic one-key", None),
        ("one-key", None),
        ("Bearer wrong", None),
        ("Bearer one-key, one-key", None),
        ("Bearer ONE-KEY", None),
        (None, "wrong"),
        ("Bearer wrong", "one-key"),
        ("Bearer " + "x" * 100_000, None),
        ("Bearer \udcff\x00é", None),
    ],
)
def test_anything_else_is_a_401_that_repeats_nothing(
    authorization: str | None, x_api_key: str | None
) -> None:
    async def work(keys: KeySource) -> None:
        error = await refused(keys, authorization, x_api_key)
        assert (error.status, error.code) == (401, "invalid_api_key")
        assert error.headers == {"WWW-Authenticate": "Bearer"}
        assert "one-key" not in error.message
        assert "wrong" not in error.message
        assert len(error.message) < 200

    run(work, configured=["one-key"])


@given(st.text(), st.none() | st.text())
def test_no_header_raises_anything_but_a_401(authorization: str, x_api_key: str | None) -> None:
    async def work(keys: KeySource) -> None:
        assert (await refused(keys, authorization, x_api_key)).status == 401

    run(work, configured=["k" * 40], stored=Shelf())


def test_a_stored_key_brings_its_limits_along() -> None:
    async def work(keys: KeySource) -> None:
        caller = await keys.authenticate("Bearer fk-1", None)
        assert caller == Caller(key_id="id of fk-1", limits=KeyLimits(concurrent=2))

    run(work, stored=Shelf(stored_key("fk-1", concurrent=2)))


def test_a_revoked_key_is_refused() -> None:
    async def work(keys: KeySource) -> None:
        assert (await refused(keys, "Bearer fk-1", None)).status == 401

    run(work, stored=Shelf(stored_key("fk-1", revoked_at=5.0)))


def test_a_store_that_answers_with_another_key_lets_nobody_in() -> None:
    async def work(keys: KeySource) -> None:
        assert (await refused(keys, "Bearer fk-1", None)).status == 401

    run(work, stored=lambda _: stored_key("fk-2"))


def test_what_the_store_says_is_believed_for_some_seconds_and_no_longer() -> None:
    shelf, clock = Shelf(stored_key("fk-1")), Clock()

    async def work(keys: KeySource) -> None:
        for at in (0.0, 1.0, 4.9):
            clock.at = 1000 + at
            await keys.authenticate("Bearer fk-1", None)
        assert len(shelf.asked) == 1
        shelf.keys.clear()
        clock.at = 1000 + 5.0
        assert (await refused(keys, "Bearer fk-1", None)).status == 401
        assert len(shelf.asked) == 2

    run(work, stored=shelf, clock=clock, ttl_s=5.0)


def test_unknown_keys_are_remembered_as_well_and_a_new_key_works_soon() -> None:
    shelf, clock = Shelf(), Clock()

    async def work(keys: KeySource) -> None:
        for _ in range(3):
            await refused(keys, "Bearer fk-1", None)
        assert len(shelf.asked) == 1
        shelf.keys[sha256("fk-1")] = stored_key("fk-1")
        clock.at += 5
        assert (await keys.authenticate("Bearer fk-1", None)).key_id == "id of fk-1"

    run(work, stored=shelf, clock=clock)


def test_keys_that_begin_alike_are_told_apart() -> None:
    shared = "fk-" + "a" * 60

    async def work(keys: KeySource) -> None:
        await keys.authenticate(f"Bearer {shared}1", None)
        assert (await refused(keys, f"Bearer {shared}2", None)).status == 401

    run(work, stored=Shelf(stored_key(f"{shared}1")))


def test_a_flood_of_unknown_keys_fills_no_memory() -> None:
    shelf = Shelf(stored_key("fk-1"))

    async def work(keys: KeySource) -> None:
        for number in range(50):
            await refused(keys, f"Bearer fk-made-up-{number}", None)
        assert len(keys._told) == 8
        assert not keys._lookups

    run(work, stored=shelf, remembered=8)


def test_the_key_that_was_looked_up_longest_ago_is_forgotten_first() -> None:
    shelf, clock = Shelf(stored_key("fk-1"), stored_key("fk-2"), stored_key("fk-3")), Clock()

    async def work(keys: KeySource) -> None:
        for number in (1, 2):
            await keys.authenticate(f"Bearer fk-{number}", None)
        clock.at += 5
        for number in (1, 3, 1):
            await keys.authenticate(f"Bearer fk-{number}", None)
        assert [sha256(f"fk-{number}") for number in (1, 2, 1, 3)] == shelf.asked

    run(work, stored=shelf, clock=clock, remembered=2)


def test_many_requests_at_once_look_a_key_up_once() -> None:
    shelf = Shelf(stored_key("fk-1"))
    shelf.goes_on.clear()

    async def work(keys: KeySource) -> None:
        tasks = [asyncio.ensure_future(keys.authenticate("Bearer fk-1", None)) for _ in range(20)]
        await asyncio.sleep(0.02)
        tasks[0].cancel()  # one caller goes away, and takes nobody along
        shelf.goes_on.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert {caller.key_id for caller in done[1:] if isinstance(caller, Caller)} == {
            "id of fk-1"
        }
        assert len(done[1:]) == 19
        assert len(shelf.asked) == 1

    run(work, stored=shelf)


def test_a_store_that_is_down_takes_no_access_away_for_a_while() -> None:
    shelf, clock = Shelf(stored_key("fk-1"), stored_key("fk-2", revoked_at=1.0)), Clock()

    async def work(keys: KeySource) -> None:
        await keys.authenticate("Bearer fk-1", None)
        await refused(keys, "Bearer fk-2", None)
        shelf.fails = True
        clock.at += 60
        assert (await keys.authenticate("Bearer fk-1", None)).key_id == "id of fk-1"
        assert (await refused(keys, "Bearer fk-2", None)).status == 401
        unknown = await refused(keys, "Bearer fk-3", None)
        assert (unknown.status, unknown.code) == (503, "keys_unavailable")
        assert unknown.headers == {"Retry-After": "1"}
        assert "database" not in unknown.message
        clock.at += 240
        assert (await refused(keys, "Bearer fk-1", None)).status == 503
        shelf.fails = False
        assert (await keys.authenticate("Bearer fk-1", None)).key_id == "id of fk-1"

    run(work, stored=shelf, clock=clock, stale_s=300.0)


def test_a_store_that_hangs_keeps_known_callers_waiting_for_a_moment_only() -> None:
    shelf, clock = Shelf(stored_key("fk-1")), Clock()

    async def work(keys: KeySource) -> None:
        await keys.authenticate("Bearer fk-1", None)
        shelf.goes_on.clear()
        clock.at += 60
        began = time.monotonic()
        assert (await keys.authenticate("Bearer fk-1", None)).key_id == "id of fk-1"
        assert (await refused(keys, "Bearer fk-9", None)).status == 503
        assert time.monotonic() - began < 2
        shelf.goes_on.set()

    run(work, stored=shelf, clock=clock, patience_s=0.05)


def test_a_flood_that_the_store_cannot_follow_is_turned_away() -> None:
    shelf = Shelf()
    shelf.goes_on.clear()

    async def work(keys: KeySource) -> None:
        errors = await asyncio.gather(
            *(keys.authenticate(f"Bearer fk-{n}", None) for n in range(300)),
            return_exceptions=True,
        )
        assert {e.status for e in errors if isinstance(e, ApiError)} == {503}
        assert len(errors) == 300
        assert len(keys._lookups) == 256
        shelf.goes_on.set()
        while keys._lookups:
            await asyncio.sleep(0.01)

    run(work, stored=shelf, patience_s=0.05)


def test_a_clock_that_is_set_back_makes_nothing_younger() -> None:
    shelf, clock = Shelf(stored_key("fk-1")), Clock()

    async def work(keys: KeySource) -> None:
        await keys.authenticate("Bearer fk-1", None)
        clock.at -= 3600
        await keys.authenticate("Bearer fk-1", None)
        assert len(shelf.asked) == 2

    run(work, stored=shelf, clock=clock)


def test_the_configuration_says_which_keys_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLERS", " one-key ,two-key,")
    shelf = Shelf(stored_key("fk-1"))

    def asks(**server: Any) -> KeySource:
        return KeySource.from_config(ServerConfig(**server), stored=shelf, clock=Clock())

    assert not asks().asks

    async def work() -> None:
        for key in ("one-key", "two-key"):
            assert (await asks(api_keys_env="CALLERS").authenticate(None, key)).key_id
        await refused(asks(api_keys_env="CALLERS"), None, "fk-1")
        assert (await asks(stored_keys=True).authenticate(None, "fk-1")).key_id == "id of fk-1"

    asyncio.run(work())


@pytest.mark.parametrize("value", [None, "", " , ,", "with space", "schlüssel", "x" * 513])
def test_a_variable_without_usable_keys_is_an_error_that_repeats_nothing(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("CALLERS", raising=False)
    if value is not None:
        monkeypatch.setenv("CALLERS", value)
    with pytest.raises(ConfigError) as caught:
        KeySource.from_config(ServerConfig(api_keys_env="CALLERS"), stored=Shelf(), clock=Clock())
    for secret in ("with space", "schlüssel", "x" * 20):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "localhost"])
def test_without_keys_a_gateway_may_listen_on_loopback(host: str) -> None:
    KeySource(clock=Clock()).require_keys_off_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "10.0.0.1", "localhost.example.com", "example.com"],  # noqa: S104
)
def test_without_keys_a_gateway_may_listen_nowhere_else(host: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.api_keys_env"):
        KeySource(clock=Clock()).require_keys_off_loopback(host)
    KeySource(clock=Clock(), configured=["one-key"]).require_keys_off_loopback(host)
    KeySource(clock=Clock(), stored=Shelf()).require_keys_off_loopback(host)


@pytest.mark.parametrize(
    ("host", "origin", "ours"),
    [
        (None, None, True),
        ("127.0.0.1:8400", None, True),
        ("localhost", "http://localhost:3000", True),
        ("[::1]:8400", "https://[::1]", True),
        ("app.localhost:8400", None, True),
        ("127.9.9.9", None, True),
        ("gateway.example:8400", None, False),
        ("127.0.0.1.evil.example", None, False),
        ("192.168.0.7:8400", None, False),
        ("[", None, False),
        ("localhost@evil.example", None, False),
        ("127.0.0.1:8400", "https://evil.example", False),
        ("127.0.0.1:8400", "null", False),
        ("127.0.0.1:8400", "", False),
    ],
)
def test_without_keys_only_who_asks_for_this_machine_is_answered(
    host: str | None, origin: str | None, ours: bool
) -> None:
    KeySource(clock=Clock(), configured=["one-key"]).require_own_machine(host, origin)
    keys = KeySource(clock=Clock())
    if ours:
        keys.require_own_machine(host, origin)
        return
    with pytest.raises(ApiError) as caught:
        keys.require_own_machine(host, origin)
    assert (caught.value.status, caught.value.code) == (403, "host_not_allowed")
