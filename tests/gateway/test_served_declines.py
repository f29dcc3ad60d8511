"""What keeps the probe from being asked, or its word from counting: never an error."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import (
    ESCALATED,
    KEPT,
    Served,
    busy,
    foretell_block,
    gateway_config,
    serving,
    sse_data,
    until,
    upstream,
)

from foretell.errors import EngineBusyError, EngineClosedError
from upstreams.scripted_server import ScriptedServer, answers

STRANGE = [{"role": "user", "content": "1 2 3 4 5 6 7 8 9"}]


@pytest.fixture(scope="module")
def large() -> Generator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


def is_declined(served: Served, cause: str, messages: list[Any] | None = None, **body: Any) -> None:
    """The strong model answers instead, and everybody is told why."""
    for stream in (False, True):
        before = served.metric("foretell_declined_total", route="auto", cause=cause)
        reply = served.chat(messages or KEPT, stream=stream, **body)
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-foretell-decision"] == "declined"
        assert reply.headers["x-foretell-cause"] == cause
        assert reply.headers["x-foretell-model"] == "large"
        block = foretell_block(sse_data(reply.text)) if stream else reply.json()["foretell"]
        assert (block["decision"], block["cause"]) == ("declined", cause)
        assert block["reason"]
        served.at_rest()
        assert served.metric("foretell_declined_total", route="auto", cause=cause) == before + 1


def test_a_probe_that_is_slow_is_not_waited_for(toy: Path, large: ScriptedServer):
    config = gateway_config(toy, large.url, deadline={"floor_ms": 60, "times_p95": 1})
    with serving(config) as served:
        with busy(served.engine()):
            is_declined(served, "probe_slow")
            is_declined(served, "probe_slow", ESCALATED)
            # It is timed by what was waited for, or a machine that is slow for good never waits.
            route = served.gateway.snapshot.routes["auto"]
            assert route.deadlines.deadline_s(51) >= 0.06
        assert served.chat(KEPT, max_tokens=2).headers["x-foretell-decision"] == "keep"


def test_where_the_weak_model_serves_what_is_declined_it_is_waited_for(
    toy: Path, large: ScriptedServer
):
    config = gateway_config(toy, large.url, deadline={"floor_ms": 60}, on_decline="weak")
    with serving(config) as served, ThreadPoolExecutor() as pool:
        with busy(served.engine()):
            waiting = pool.submit(served.chat, ESCALATED, max_tokens=2)
            until(lambda: served.gateway.admission.in_flight == 1)
            threading.Event().wait(0.3)  # past the deadline; nothing shows that it has passed
            assert not waiting.done()
        reply = waiting.result()
    assert reply.headers["x-foretell-decision"] == "declined"
    assert reply.headers["x-foretell-cause"] == "probe_slow"
    assert reply.headers["x-foretell-model"] == "small"


def test_without_a_probe_every_query_is_declined(toy: Path, large: ScriptedServer):
    shutil.rmtree(toy / "probes")
    with serving(gateway_config(toy, large.url)) as served:
        assert served.gateway.ready
        is_declined(served, "no_probe")


def test_a_probe_of_another_model_is_not_asked(toy: Path, large: ScriptedServer):
    card = next(toy.glob("probes/toy/1/card.json"))
    said = json.loads(card.read_text())
    said["model"]["weights_sha256"] = "0" * 64
    card.write_text(json.dumps(said))
    with serving(gateway_config(toy, large.url)) as served:
        is_declined(served, "probe_mismatch")


def test_a_probe_that_cannot_be_read_is_not_asked(toy: Path, large: ScriptedServer):
    next(toy.glob("probes/toy/1/weights.safetensors")).write_bytes(b"junk")
    with serving(gateway_config(toy, large.url)) as served:
        is_declined(served, "no_probe")


def test_an_old_probe_is_not_asked(toy: Path, large: ScriptedServer):
    with serving(gateway_config(toy, large.url, probes={"max_age_days": 1e-9})) as served:
        is_declined(served, "probe_stale")


def test_a_goal_that_nothing_is_known_for_declines(toy: Path, large: ScriptedServer):
    goal = {"quality": 1.0, "confidence": 0.999}
    with serving(gateway_config(toy, large.url, goal=goal)) as served:
        reply = served.chat(KEPT)
    assert reply.headers["x-foretell-model"] == "large"


def test_a_weak_model_that_cannot_be_loaded_is_done_without(toy: Path, large: ScriptedServer):
    models = {"small": {"engine": "llamacpp", "model": "file:/nowhere/at-all.gguf"}}
    with serving(gateway_config(toy, large.url, models=models)) as served:
        assert served.gateway.ready
        is_declined(served, "weak_unavailable")
        told = served.chat(KEPT, headers={"x-foretell-route": "weak"})
        assert told.headers["x-foretell-cause"] == "weak_unavailable"


@pytest.fixture(scope="module")
def served(shared_toy: Path, large: ScriptedServer) -> Generator[Served]:
    with serving(gateway_config(shared_toy, large.url)) as gateway:
        yield gateway


def test_a_query_that_looks_like_nothing_in_training_is_declined(served: Served):
    is_declined(served, "outside", STRANGE)


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (EngineBusyError("too many requests wait"), "engine_busy"),
        (EngineClosedError("the engine was closed"), "engine_failed"),
        (MemoryError(), "engine_failed"),
        (ValueError("a defect"), "engine_failed"),
    ],
    ids=["busy", "closed", "memory", "defect"],
)
def test_an_engine_that_fails_is_done_without(
    served: Served, monkeypatch: pytest.MonkeyPatch, failure: Exception, cause: str
):
    monkeypatch.setattr(served.engine(), "prefill", raising(failure))
    is_declined(served, cause)
    is_declined(served, cause, ESCALATED)
    forced = served.chat(KEPT, headers={"x-foretell-route": "weak"})
    assert forced.status_code == 200
    assert forced.headers["x-foretell-decision"] == "fallback"
    assert forced.headers["x-foretell-cause"] == cause
    assert forced.headers["x-foretell-model"] == "large"


def test_a_decoding_that_fails_is_replaced(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(served.engine(), "step", raising(ValueError("a defect")))
    reply = served.chat(KEPT)
    assert reply.headers["x-foretell-decision"] == "fallback"
    assert reply.headers["x-foretell-model"] == "large"
    served.at_rest()


def test_a_decoding_that_fails_after_its_first_words_ends_in_an_error(
    served: Served, monkeypatch: pytest.MonkeyPatch
):
    heard = threading.Event()

    def fail(*_: Any) -> Any:
        assert heard.wait(10)
        raise ValueError("a defect")

    monkeypatch.setattr(served.engine(), "step", fail)
    with served.streaming(KEPT) as (_, events):
        next(events)
        heard.set()
        *_, last = events
    assert json.loads(last)["error"]["message"]
    assert "a defect" not in last
    served.at_rest()


def test_a_message_that_the_weak_model_cannot_render_is_declined(served: Served):
    """Its template knows no such order of roles."""
    messages = [{"role": "developer", "content": "Be brief."}, *KEPT]
    reply = served.chat(messages)
    assert reply.status_code == 200


def raising(failure: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise failure

    return fail
