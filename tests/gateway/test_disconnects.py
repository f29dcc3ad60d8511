"""Callers who leave: what was begun for them ends at once, and nothing of it stays behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from serving import (
    ESCALATED,
    KEPT,
    Paced,
    Served,
    busy,
    gateway_config,
    remote,
    serving,
    until,
    upstream,
)

from foretell.prefill import Weights
from foretell.prefill.engines.tiny._handles import TinyPrefill
from upstreams.scripted_server import WHOLE, ScriptedServer, answers, error, never_answers

LONG = 400  # tokens of an answer


@pytest.fixture(scope="module")
def large() -> Generator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture(scope="module")
def served(shared_toy: Path, large: ScriptedServer) -> Generator[Served]:
    with serving(gateway_config(shared_toy, large.url)) as gateway:
        yield gateway


class HeldDecode:
    """The tiny engine's decoding, held up after some tokens, which gives up when it is told to."""

    def __init__(self, step: Callable[..., Any], after: int) -> None:
        self._step = step
        self._left = after
        self.holding = threading.Event()
        self.ended = threading.Event()
        self.steps = 0

    def __call__(self, token: int, cache: Any, given_up: Callable[[], bool]) -> Any:
        self.steps += 1
        if self._left == 0:
            self.holding.set()
            until(given_up)
            self.ended.set()
        self._left -= 1
        return self._step(token, cache, given_up)


@pytest.fixture
def held(served: Served, monkeypatch: pytest.MonkeyPatch) -> HeldDecode:
    engine: Any = served.engine()
    decode = HeldDecode(engine.step, after=3)
    monkeypatch.setattr(engine, "step", decode)
    return decode


def nothing_is_left(served: Served) -> None:
    served.at_rest()
    assert not any(type(x) is TinyPrefill and x._cache is not None for x in gc.get_objects())
    assert served.metric("foretell_in_flight") == 0
    assert served.chat(KEPT, max_tokens=2).headers["x-foretell-decision"] == "keep"


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_who_leaves_a_kept_stream_ends_its_decoding(served: Served, held: HeldDecode):
    with served.streaming(KEPT, max_tokens=LONG) as (_, events):
        next(events)
        assert held.holding.wait(10)
        assert not held.ended.is_set()
    assert held.ended.wait(10)
    assert held.steps == 4
    assert served.last().status == 499
    nothing_is_left(served)


def test_who_leaves_a_kept_answer_before_it_came_ends_its_decoding(
    served: Served, held: HeldDecode
):
    with served.hanging(KEPT, max_tokens=LONG):
        assert held.holding.wait(10)
    assert held.ended.wait(10)
    assert served.last().status == 499
    nothing_is_left(served)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_who_leaves_while_the_engine_is_busy_frees_their_place_in_the_queue(
    served: Served, stream: bool
):
    def left() -> float:
        return served.metric("foretell_requests_total", route="auto", status_class="4xx")

    before = left()
    with busy(served.engine()):
        with served.hanging(KEPT, stream=stream):
            until(lambda: served.gateway.admission.in_flight == 1)
        served.at_rest()
        assert left() == before + 1
    nothing_is_left(served)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_who_leaves_before_an_upstream_answers_is_missed_there(
    served: Served, large: ScriptedServer, stream: bool
):
    given_up = large.given_up
    large.script(never_answers)
    with served.hanging(ESCALATED, stream=stream):
        until(lambda: not large.scripts)
    until(lambda: large.given_up == given_up + 1)
    assert served.last().status == 499
    nothing_is_left(served)


def test_who_leaves_a_stream_of_an_upstream_is_missed_there(served: Served, large: ScriptedServer):
    given_up = large.given_up
    large.script(Paced(*WHOLE))
    with served.streaming(ESCALATED) as (_, events):
        next(events)
    until(lambda: large.given_up == given_up + 1)
    record = served.last()
    assert (record.status, record.model, record.cost_usd) == (499, "large", None)
    nothing_is_left(served)
    assert served.gateway.snapshot.targets["large"].breaker.state == "closed"


def test_who_leaves_while_another_attempt_is_waited_for_costs_no_attempt(
    served: Served, large: ScriptedServer
):
    asked = len(large.requests)
    large.script(error(429, "slow down", Retry_After="1"))
    with served.hanging(ESCALATED):
        until(lambda: len(large.requests) == asked + 1)
    nothing_is_left(served)
    assert len(large.requests) == asked + 1


def test_who_leaves_a_decision_unread_leaves_nothing(served: Served):
    with busy(served.engine()):
        connection = served.hanging(KEPT, path="/v1/route")
        until(lambda: served.gateway.admission.in_flight == 1)
        connection.close()
        served.at_rest()
    nothing_is_left(served)


def test_who_leaves_an_outer_foretell_is_missed_by_the_inner_one(
    shared_toy: Path, served: Served, large: ScriptedServer
):
    inner = {"inner": remote(f"{served.url}/v1", model="auto")}
    with serving(gateway_config(shared_toy, inner, server={"record": False})) as outer:
        given_up = large.given_up
        for stream in (False, True):
            large.script(never_answers)
            with outer.hanging(ESCALATED, stream=stream):
                until(lambda: not large.scripts)
            outer.at_rest()
        until(lambda: large.given_up == given_up + 2)
    nothing_is_left(served)


def test_a_crowd_that_leaves_at_any_time_leaves_nothing(served: Served, large: ScriptedServer):
    for _ in range(4):
        served.chat(KEPT, max_tokens=2)
    nothing_is_left(served)
    files = open_files()
    for n in range(60):
        if n % 3 == 0:
            large.script(Paced(*WHOLE))
        with served.hanging((KEPT, ESCALATED)[n % 2], stream=n % 4 < 2, max_tokens=LONG) as one:
            # Until some bytes came, or none: wherever it is by then.
            if n % 5:
                one.settimeout(0.001 * (n % 7))
                with suppress(TimeoutError, BlockingIOError):
                    one.recv(100)
    until(lambda: served.gateway.admission.in_flight == 0)
    large.scripts.clear()
    nothing_is_left(served)
    until(lambda: open_files() <= files + 4)


@pytest.fixture(scope="module")
def real(shared_toy: Path, large: ScriptedServer, smollm2_weights: Weights) -> Generator[Served]:
    """A real model, with room for one request at a time; without a probe it serves them all."""
    small = {"engine": "llamacpp", "model": f"file:{smollm2_weights.path}", "threads": 1}
    small |= {"parallel": 1, "requantise": False, "context_tokens": 1024}
    config = gateway_config(
        shared_toy,
        large.url,
        models={"small": small},
        on_decline="weak",
        server={"record": False},
    )
    with serving(config) as gateway:
        yield gateway


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_who_leaves_a_real_model_frees_its_only_place(real: Served, stream: bool):
    asked = [{"role": "user", "content": "Write a long story about the sea."}]
    for _ in range(3):
        if stream:
            with real.streaming(asked, max_tokens=800) as (reply, events):
                assert reply.headers["x-foretell-model"] == "small"
                next(events)
                next(events)
        else:
            with real.hanging(asked, max_tokens=800):
                until(lambda: not real.threads_are_idle())
        real.at_rest()
    reply = real.chat(asked, max_tokens=2)
    assert reply.status_code == 200
    assert reply.headers["x-foretell-model"] == "small"
    # 800 tokens would have taken far longer than all of this may.
    assert real.metric("foretell_in_flight") == 0
