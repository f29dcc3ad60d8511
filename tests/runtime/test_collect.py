from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from foretell.config import OpenAIModel, Price, RecordedModel, TinyModel
from foretell.errors import EngineUnavailableError, InputError, UpstreamError
from foretell.prefill.engines.recorded import write_recording
from foretell.prefill.engines.tiny import TinyEngine
from foretell.records import Query, ReadPoint, Sampling
from foretell.runtime import (
    Collected,
    answering_key,
    collect,
    default_read_points,
    engine_key,
    observer_of_engine,
    observer_of_model,
    open_engine,
    open_model,
)
from loopback_api import loopback_api
from toy_project import strong_observations

TWO = Sampling(max_tokens=2)
POINT = ReadPoint(2, "mean")


def weakly(store, engine, queries, **options):
    options = {"observe": observer_of_engine(engine, [POINT])} | options
    observe = options.pop("observe")
    return collect(
        store,
        queries,
        observe,
        domain="toy",
        role="weak",
        key=engine_key(engine),
        sampling=TWO,
        **options,
    )


def test_every_query_is_observed_with_what_its_prefill_showed(store, engine, queries):
    assert weakly(store, engine, queries) == Collected(new=180, skipped=0)
    observation = next(store.observations("toy", "weak"))
    assert observation.model == engine.identity
    assert observation.first_token is not None
    assert observation.own_tokens == engine.render(observation.query.messages).own_tokens
    data = store.load_routing_data("toy")
    assert data.activations[POINT].shape == (180, 32)


def test_stored_activations_are_those_of_the_query_alone(store, engine, queries):
    weakly(store, engine, queries[:20])
    data = store.load_routing_data("toy")
    for query, stored in zip(queries[:20], data.activations[POINT], strict=True):
        with engine.prefill(engine.render(query.messages), [POINT]) as prefill:
            # kept as float16: eleven bits of precision
            np.testing.assert_allclose(stored, prefill.activations[POINT], rtol=2e-3, atol=2e-3)


def test_a_second_run_observes_only_what_is_new(store, engine, queries):
    weakly(store, engine, queries[:50])
    told = []
    again = weakly(store, engine, queries[:60], on_done=told.append)
    assert again == Collected(new=10, skipped=50)
    assert told.count(None) == 50
    assert len([seen for seen in told if seen is not None]) == 10


def test_rollouts_are_sampled_and_carry_no_vectors(store, engine, queries):
    seen = []
    done = weakly(store, engine, queries[:5], rollouts=3, on_done=seen.append)
    assert done == Collected(new=15, skipped=0)
    assert {one.rollout for one in seen} == {0, 1, 2}
    assert {bool(one.activations) for one in seen if one.rollout} == {False}
    assert weakly(store, engine, queries[:5], rollouts=4) == Collected(new=5, skipped=15)


def test_each_rollout_has_a_seed_of_its_own(store, engine, queries):
    asked: list[tuple[int, Sampling]] = []
    plain = observer_of_engine(engine, [POINT])

    def observe(domain, query, sampling, rollout):
        asked.append((rollout, sampling))
        return plain(domain, query, sampling, rollout)

    weakly(store, engine, queries[:1], rollouts=3, observe=observe)
    by_rollout = dict(asked)
    assert by_rollout[0] == TWO
    assert {by_rollout[i].temperature for i in (1, 2)} == {0.7}
    assert by_rollout[1].seed != by_rollout[2].seed


@pytest.mark.parametrize("failure", [UpstreamError("down"), KeyboardInterrupt()])
def test_what_was_done_before_a_failure_is_stored(store, engine, queries, failure):
    plain = observer_of_engine(engine, [POINT])

    def observe(domain, query, sampling, rollout):
        if query.id == "q100":
            raise failure
        return plain(domain, query, sampling, rollout)

    with pytest.raises(type(failure)):
        weakly(store, engine, queries, observe=observe)
    kept = store.observed("toy", "weak", engine_key(engine))
    assert {query.id for query in queries[:80]} <= kept
    assert "q100" not in kept
    assert weakly(store, engine, queries) == Collected(new=180 - len(kept), skipped=len(kept))


def test_an_interruption_of_the_main_thread_stores_what_was_done(store, engine, queries):
    def interrupt(_: object) -> None:
        nonlocal told
        told += 1
        if told == 30:
            raise KeyboardInterrupt

    told = 0
    with pytest.raises(KeyboardInterrupt):
        weakly(store, engine, queries, on_done=interrupt)
    assert 30 <= len(store.observed("toy", "weak", engine_key(engine))) < 180


def test_a_long_collection_is_stored_on_the_way(store, engine, queries):
    stored = []
    weakly(
        store,
        engine,
        queries,
        on_done=lambda _: stored.append(len(store.observed("toy", "weak", engine_key(engine)))),
    )
    assert any(0 < count < 180 for count in stored)


def test_queries_run_side_by_side_up_to_the_limit(store, engine, queries):
    running, most = 0, 0
    lock = threading.Lock()
    plain = observer_of_engine(engine, [POINT])

    def observe(domain, query, sampling, rollout):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        observation = plain(domain, query, sampling, rollout)
        with lock:
            running -= 1
        return observation

    weakly(store, engine, queries[:20], observe=observe, parallel=3)
    assert 2 <= most <= 3


def strongly(store, model, queries):
    return collect(
        store,
        queries,
        observer_of_model(model),
        domain="toy",
        role="strong",
        key=answering_key(model),
        sampling=TWO,
    )


def test_a_recorded_strong_model_is_resumed_under_its_own_name(store, queries, tmp_path):
    path = tmp_path / "strong.jsonl.gz"
    write_recording(path, strong_observations(queries))
    model = open_model("large", RecordedModel(engine="recorded", path=path))
    assert model.description == "recordings of big-1, made earlier"
    assert model.can_answer(queries[0].messages)
    assert not model.can_answer([{"role": "user", "content": "never asked"}])
    assert strongly(store, model, queries) == Collected(new=180, skipped=0)
    assert strongly(store, model, queries) == Collected(new=0, skipped=180)
    assert {one.answer.model for one in store.observations("toy", "strong")} == {"big-1"}
    with pytest.raises(InputError, match="never asked"):
        model.answer([{"role": "user", "content": "never asked"}], TWO)
    model.close()


def test_a_strong_model_behind_an_api_is_resumed_whatever_version_answers(store, queries):
    with loopback_api(lambda messages: f"about {messages[-1]['content']}") as api:
        config = OpenAIModel(engine="openai", model="big-1", base_url=api.url, price=None)
        model = open_model("large", config)
        try:
            assert strongly(store, model, queries[:20]) == Collected(new=20, skipped=0)
            assert strongly(store, model, queries[:20]) == Collected(new=0, skipped=20)
        finally:
            model.close()
        assert len(api.asked) == 20
    observations = list(store.observations("toy", "strong"))
    assert {one.answer.text for one in observations} == {
        f"about {query.text}" for query in queries[:20]
    }
    assert {(one.answer.model, one.model) for one in observations} == {("big-1", None)}


def test_a_strong_model_on_an_engine_is_known_by_its_weights(store, queries):
    price = Price(input=1, output=1)
    model = open_model("large", TinyModel(engine="tiny", price=price))
    assert model.price == price
    assert "running here (tiny)" in model.description
    pieces: list[str] = []
    answer = model.answer(queries[0].messages, TWO, pieces.append)
    assert "".join(pieces) == answer.text
    assert strongly(store, model, queries[:3]) == Collected(new=3, skipped=0)
    assert strongly(store, model, queries[:3]) == Collected(new=0, skipped=3)
    assert next(store.observations("toy", "strong")).model == model.identity
    model.close()


def test_a_model_behind_an_api_cannot_be_read():
    config = OpenAIModel(engine="openai", model="big-1", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(EngineUnavailableError, match="exposes no activations"):
        open_engine(config)


@pytest.mark.parametrize("layers", [1, 2, 4, 13, 30])
def test_default_read_points_reach_the_last_layer_and_leave_out_its_mean(layers):
    engine = TinyEngine(layers=layers, width=8)
    points = default_read_points(engine.identity)
    assert ReadPoint(layers - 1, "last") in points
    assert ReadPoint(layers - 1, "mean") not in points
    assert len(points) == len({*points}) <= 30
    assert min(points).layer >= round(0.3 * (layers - 1))
    with engine.prefill(engine.render([{"role": "user", "content": "a"}]), points) as prefill:
        assert set(prefill.activations) == set(points)


def test_nothing_to_do_is_done_at_once(store, engine):
    assert weakly(store, engine, []) == Collected(new=0, skipped=0)


def test_a_query_that_fails_does_not_hide_behind_one_that_succeeds(store, engine):
    fine = Query(id="fine", messages=({"role": "user", "content": "a"},))
    long = Query(id="long", messages=({"role": "user", "content": "a" * 600},))
    with pytest.raises(InputError, match="the context holds 512"):
        weakly(store, engine, [fine, long])
    assert store.observed("toy", "weak", engine_key(engine)) == {"fine"}
