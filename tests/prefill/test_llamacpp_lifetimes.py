"""Who comes, waits, leaves early or is thrown out: every place in the engine is given back."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from llamacpp_requests import (
    MIDDLE,
    ask,
    assert_only_prefixes_are_left,
    cosines,
    country,
    held_up,
    padded,
    settle,
    user,
)

from foretell.errors import (
    CancelledError,
    EngineBusyError,
    EngineClosedError,
    RoutingError,
)
from foretell.prefill.engines.llamacpp import _engine
from foretell.records import ReadPoint, Sampling

LONG = Sampling(max_tokens=400, stop=("never said \0",))


# Waiting


def test_a_full_queue_refuses_with_its_limit(open_smollm2):
    engine = open_smollm2(queue_limit=2)
    prompt = engine.render(user("hello"))
    with held_up(engine):
        waiting = [engine.submit(prompt, answer_tokens=1) for _ in range(2)]
        with pytest.raises(EngineBusyError, match="the limit is 2"):
            engine.submit(prompt, answer_tokens=1)
    for future in waiting:
        future.result(60).close()
    engine.prefill(prompt, answer_tokens=1).close()
    assert_only_prefixes_are_left(engine)


def test_a_cancelled_request_leaves_the_queue_at_once(open_smollm2):
    engine = open_smollm2(parallel=1, queue_limit=2)
    prompt = engine.render(user("hello"))
    evaluated = 0
    with engine.prefill(prompt, answer_tokens=1):
        settle(engine)
        evaluated = engine.evaluated_tokens
        for _ in range(3):  # more than the queue holds
            waiting = [engine.submit(prompt, answer_tokens=1) for _ in range(2)]
            assert all(future.cancel() for future in waiting)
            assert wait(waiting, timeout=60).not_done == set()
            settle(engine)
    for future in waiting:
        with pytest.raises(FutureCancelledError):
            future.result()
    assert engine.evaluated_tokens == evaluated
    assert_only_prefixes_are_left(engine)


def test_a_request_given_up_frees_its_place_in_the_queue_while_the_engine_is_busy(open_smollm2):
    engine = open_smollm2(queue_limit=1)
    prompt = engine.render(user("hello"))
    given_up = threading.Event()
    with ThreadPoolExecutor(1) as pool, held_up(engine):
        waiting = pool.submit(engine.prefill, prompt, answer_tokens=1, given_up=given_up.is_set)
        while not engine._queue_length:
            time.sleep(0.001)
        with pytest.raises(EngineBusyError):
            engine.submit(prompt, answer_tokens=1)
        given_up.set()
        with pytest.raises(CancelledError, match="given up by its caller"):
            waiting.result(60)
        another = engine.submit(prompt, answer_tokens=1)
    another.result(60).close()
    assert_only_prefixes_are_left(engine)


# Leaving early


def close_the_generation(engine, prompt):
    generation = engine.prefill(prompt, answer_tokens=400).decode(LONG)
    next(iter(generation))
    generation.close()
    with pytest.raises(CancelledError):
        generation.answer()


def forget_the_generation(engine, prompt):
    generation = engine.prefill(prompt, answer_tokens=400).decode(LONG)
    next(iter(generation))


def forget_a_generation_nobody_began_to_read(engine, prompt):
    engine.prefill(prompt, answer_tokens=400).decode(LONG)


def close_the_prefill(engine, prompt):
    engine.prefill(prompt, [MIDDLE], answer_tokens=400).close()


def forget_the_prefill(engine, prompt):
    engine.prefill(prompt, [MIDDLE], answer_tokens=400)


def forget_the_future(engine, prompt):
    engine.submit(prompt, [MIDDLE], answer_tokens=400)


def fail_inside_the_prefill(engine, prompt):
    with pytest.raises(KeyError), engine.prefill(prompt, answer_tokens=400):
        raise KeyError("the caller's own business")


def raise_in_the_gate(engine, prompt):
    def gate(*_):
        raise KeyError("the caller's own business")

    with pytest.raises(KeyError):
        engine.prefill(prompt, [MIDDLE], gate, answer_tokens=400)


def give_up_at_once(engine, prompt):
    with pytest.raises(CancelledError):
        engine.prefill(prompt, [MIDDLE], answer_tokens=400, given_up=lambda: True)


def give_up_after_a_look(engine, prompt):
    looks = iter([False])
    with pytest.raises(CancelledError):
        engine.prefill(
            padded(prompt, 300), [MIDDLE], answer_tokens=400, given_up=lambda: next(looks, True)
        )


@pytest.mark.parametrize(
    "leave",
    [
        give_up_at_once,
        give_up_after_a_look,
        close_the_generation,
        forget_the_generation,
        forget_a_generation_nobody_began_to_read,
        close_the_prefill,
        forget_the_prefill,
        forget_the_future,
        fail_inside_the_prefill,
        raise_in_the_gate,
    ],
    ids=lambda leave: leave.__name__,
)
def test_a_caller_that_goes_away_gives_its_place_back(make_smollm2, leave):
    with make_smollm2(parallel=2) as engine:
        prompt = engine.render(country("Delhi"))
        for _ in range(10):
            leave(engine, prompt)
        gc.collect()
        assert ask(engine, country("Warsaw"))[1].text == '{"country": "Poland"}'
        assert_only_prefixes_are_left(engine)


def test_what_was_evaluated_before_a_prefill_was_given_up_is_not_evaluated_again(
    make_smollm2, monkeypatch
):
    monkeypatch.setattr(_engine, "_BATCH_TOKENS", 32)
    asked = [{"role": "system", "content": "Answer with JSON. " * 40}, *user("Where is Delhi?")]
    with make_smollm2() as fresh, make_smollm2() as engine:
        wanted, answer = ask(fresh, asked, [MIDDLE])
        prompt = engine.render(asked)
        with pytest.raises(CancelledError):
            engine.prefill(prompt, [MIDDLE], given_up=lambda: engine.evaluated_tokens >= 64)
        settle(engine)
        evaluated = engine.evaluated_tokens
        assert 64 <= evaluated < prompt.own_start
        assert_only_prefixes_are_left(engine)
        activations, again = ask(engine, asked, [MIDDLE])
        assert again.usage.cached_tokens == evaluated
        assert again.text == answer.text
        assert cosines(activations[MIDDLE], wanted[MIDDLE]).min() > 0.997


def test_an_answer_that_nobody_wants_any_more_is_decoded_no_further(open_smollm2):
    engine = open_smollm2()
    prompt = engine.render(user("Tell a long story."))
    generation = engine.prefill(prompt, answer_tokens=400).decode(LONG)
    next(iter(generation))
    decoded = engine.evaluated_tokens
    generation.close()
    settle(engine)
    assert engine.evaluated_tokens - decoded <= 3
    assert_only_prefixes_are_left(engine)


def test_who_reads_an_answer_that_is_closed_need_not_wait_for_a_busy_engine(open_smollm2):
    engine = open_smollm2()
    prompt = engine.render(user("Tell a long story."))
    generation = engine.prefill(prompt, answer_tokens=400).decode(LONG)
    with ThreadPoolExecutor(1) as pool, held_up(engine):
        reading = pool.submit(lambda: list(generation))
        time.sleep(0.05)  # by then it waits for a piece that does not come
        generation.close()
        with pytest.raises(CancelledError, match="given up"):
            reading.result(30)
    assert_only_prefixes_are_left(engine)


# Closing


def test_closing_ends_everything_in_flight(make_smollm2):
    engine = make_smollm2(parallel=3)
    prompt = engine.render(country("Delhi"))
    decoding = engine.prefill(prompt, answer_tokens=400).decode(LONG)
    next(iter(decoding))
    held = engine.prefill(prompt, answer_tokens=400)
    reached, let_go = threading.Event(), threading.Event()

    def gate(*_):
        reached.set()
        return let_go.wait(60)

    prefilling = engine.submit(prompt, [MIDDLE], gate, answer_tokens=400)
    assert reached.wait(60)
    queued = [engine.submit(prompt) for _ in range(5)]
    given_up = engine.submit(prompt)
    given_up.cancel()
    closer = threading.Thread(target=engine.close)
    closer.start()
    let_go.set()
    closer.join(60)
    assert not closer.is_alive()
    for future in queued:
        with pytest.raises(EngineClosedError):
            future.result(0)
    with pytest.raises(EngineClosedError):
        decoding.answer()
    with pytest.raises(EngineClosedError):
        held.decode(LONG).answer()
    # It was complete when the engine stopped, or it was not: an answer it has not in any case.
    with pytest.raises(EngineClosedError):
        prefilling.result(0).decode(LONG).answer()
    for call in (engine.prefill, engine.submit):
        with pytest.raises(EngineClosedError):
            call(prompt)
    with pytest.raises(EngineClosedError):
        engine.render(user("hello"))


def test_many_may_close_and_render_at_once(make_smollm2):
    engine = make_smollm2()

    def render_until_closed(_):
        while True:
            try:
                engine.render(user("word " * 500))
            except EngineClosedError:
                return True

    with ThreadPoolExecutor(4) as pool:
        renderers = [pool.submit(render_until_closed, i) for i in range(2)]
        closers = [pool.submit(engine.close) for _ in range(2)]
        assert all(renderer.result(60) for renderer in renderers)
        assert [closer.result(60) for closer in closers] == [None, None]


def test_an_engine_whose_thread_failed_says_so_to_everyone_and_still_closes(
    make_smollm2, monkeypatch
):
    engine = make_smollm2()
    prompt = engine.render(user("hello"))
    held = engine.prefill(prompt)

    def broken(*_, **__):
        raise MemoryError("out of luck")

    monkeypatch.setattr(engine._rows, "add", broken)
    with pytest.raises(MemoryError, match="out of luck"):
        engine.prefill(prompt)
    with pytest.raises(MemoryError, match="out of luck"):
        held.decode(Sampling(max_tokens=1)).answer()
    with pytest.raises(EngineClosedError):
        engine.prefill(prompt)
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.render(user("hello"))


def test_a_call_that_llama_cpp_refuses_ends_the_requests_in_it_alone(open_smollm2, monkeypatch):
    engine = open_smollm2()
    wanted = ask(engine, country("Delhi"))[1].text
    decode = engine._library.llama_decode
    monkeypatch.setattr(engine._library, "llama_decode", lambda *_: 1)
    with pytest.raises(RoutingError, match="could not evaluate"):
        engine.prefill(engine.render(country("Warsaw")))
    monkeypatch.setattr(engine._library, "llama_decode", decode)
    assert ask(engine, country("Delhi"))[1].text == wanted
    assert_only_prefixes_are_left(engine)


def test_closing_gives_the_memory_back(make_smollm2):
    def resident_mib():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 2**20

    def open_use_close():
        with make_smollm2() as engine:
            ask(engine, user("hello"), [MIDDLE])
        del engine
        gc.collect()

    open_use_close()
    before = resident_mib()
    for _ in range(5):
        open_use_close()
    assert resident_mib() - before < 30


# All of it at once


def test_nothing_is_left_after_two_hundred_requests_of_every_kind(open_smollm2):
    engine = open_smollm2(context_tokens=256, pool_tokens=768, parallel=4)
    wanted = ask(engine, country("Warsaw"))[1].text

    def request(seed):
        rng = np.random.default_rng(seed)
        short = country(rng.choice(["Delhi", "Rome", "Lima"]))
        prompt = engine.render(short if rng.random() < 0.7 else user("word " * rng.integers(12)))
        points = [ReadPoint(int(layer), "mean") for layer in rng.choice(30, 3, replace=False)]
        stop = rng.choice([-1, 7, 20, 99, 99])

        def gate(point, _):
            if stop == -1:
                raise LookupError
            return point.layer < stop

        chosen = gate if rng.random() < 0.7 else None
        looks = iter([False] * int(rng.integers(12)))
        try:
            if rng.random() < 0.3:
                prefill = engine.prefill(
                    prompt, points, chosen, answer_tokens=8, given_up=lambda: next(looks, True)
                )
            else:
                future = engine.submit(prompt, points, chosen, answer_tokens=8)
                if rng.random() < 0.1:
                    future.cancel()
                prefill = future.result(60)
        except (FutureCancelledError, LookupError, CancelledError):
            return
        leaves = rng.choice(["before decoding", "without a word", "while decoding", "", "", ""])
        if prefill.stopped_at is not None or leaves == "before decoding":
            return
        generation = prefill.decode(
            Sampling(max_tokens=int(rng.integers(1, 9)), temperature=float(rng.integers(2)))
        )
        if leaves == "while decoding":
            time.sleep(rng.random() * 0.02)
            generation.close()
        elif leaves != "without a word":
            assert generation.answer().usage.completion_tokens <= 8

    with ThreadPoolExecutor(8) as pool:
        for result in [pool.submit(request, seed) for seed in range(200)]:
            result.result(120)
    gc.collect()
    assert_only_prefixes_are_left(engine)
    assert ask(engine, country("Warsaw"))[1].text == wanted
