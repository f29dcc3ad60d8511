"""Estimates from a prefill: every kind of probe, and what its gate and heads add."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.probes import (
    FittedLinearProbe,
    FusionProbe,
    HeldOut,
    LinearProbe,
    SeveralProbe,
    fit_gate,
    fit_heads,
)
from foretell.records import ReadPoint
from foretell.runtime import Bar, EarlyLook, NearestEstimator, ProbeEstimator, Route

ELSEWHERE = [{"role": "user", "content": "zzz 999 !!! ### qqq ~~~ 000"}]


@pytest.fixture
def data(labelled_store):
    return labelled_store.load_routing_data("toy", split="train")


@pytest.fixture
def test_queries(labelled_store):
    data = labelled_store.load_routing_data("toy", split="test")
    by_id = {query.id: query for query in labelled_store.queries("toy")}
    return data, [by_id[query_id].messages for query_id in data.ids]


def route(engine, estimator, keep_at=0.5, **bar):
    return Route(
        name="auto",
        weak_name="small",
        weak=engine,
        strong=[],
        estimator=estimator,
        bar=Bar(keep_at=keep_at, reason="for the test", **bar),
        rng=np.random.default_rng(0),
    )


def points(data):
    return sorted(data.activations)[-2:]


def probes(data):
    linear = LinearProbe(read_point=points(data)[-1], components=8)
    return {
        "linear": linear,
        "several": SeveralProbe(read_points=tuple(points(data)), components=8),
        "fusion": FusionProbe(base=linear),
    }


@pytest.mark.parametrize("kind", ["linear", "several", "fusion"])
def test_a_served_query_gets_the_chance_that_its_stored_columns_give(
    kind, data, test_queries, engine
):
    probe = probes(data)[kind].fit(data, seed=0)
    stored, queries = test_queries
    served = route(engine, ProbeEstimator(probe=probe, name="toy@1", domain="toy"))
    chances = [served.decide(messages).p_success for messages in queries]
    assert chances == pytest.approx(probe.chances(stored).tolist(), abs=0.03)  # float16 in store


def test_a_probe_of_the_first_token_decides_when_the_prefill_is_whole(data, test_queries, engine):
    probe = probes(data)["fusion"].fit(data, seed=0)
    served = route(engine, ProbeEstimator(probe=probe, name="toy@1", domain="toy"), keep_at=1.1)
    for messages in test_queries[1][:5]:
        decision = served.decide(messages)
        assert (decision.action, decision.stopped_at) == ("escalate", None)
        assert decision.probe_ms > 0


def test_early_probes_still_stop_what_a_fused_one_would_decide_late(data, engine):
    probe = probes(data)["fusion"].fit(data, seed=0)
    hopeless = FittedLinearProbe(
        read_point=ReadPoint(0, "last"),
        weight=np.zeros(engine.identity.width),
        bias=-9.0,
        projection=np.zeros((engine.identity.width, 1)),
        offset=np.zeros(1),
    )
    estimator = ProbeEstimator(
        probe=probe, name="toy@1", domain="toy", early=(EarlyLook(probe=hopeless, bar=0.3),)
    )
    decision = route(engine, estimator).decide(ELSEWHERE)
    assert (decision.action, decision.stopped_at) == ("escalate", 0)


def test_a_query_like_nothing_in_training_is_declined_before_the_prefill_ends(
    data, test_queries, engine
):
    point = points(data)[0]
    probe = LinearProbe(read_point=point, components=8).fit(data, seed=0)
    gate = fit_gate(data.activations[point], point, seed=0)
    served = route(engine, ProbeEstimator(probe=probe, name="toy@1", domain="toy", gate=gate))
    foreign = served.decide(ELSEWHERE)
    assert (foreign.action, foreign.serve) == ("declined", "strong")
    assert foreign.stopped_at == point.layer
    assert foreign.familiarity <= gate.settings.false_alarm
    own = [served.decide(messages).action for messages in test_queries[1]]
    assert own.count("declined") < len(own) / 4


def test_the_heads_tell_the_gain_and_the_length(data, test_queries, engine):
    point = points(data)[-1]
    probe = LinearProbe(read_point=point, components=8).fit(data, seed=0)
    heads = fit_heads(data, [point], seed=0).heads
    assert heads.strong or heads.tokens
    estimator = ProbeEstimator(probe=probe, name="toy@1", domain="toy", heads=heads)
    decision = route(engine, estimator, least_gain=0.1).decide(test_queries[1][0])
    if heads.strong is not None:
        assert decision.gain == pytest.approx(decision.p_strong - decision.p_success)
        assert decision.keep_at == max(0.0, decision.p_strong - 0.1)
    if heads.tokens is not None:
        assert decision.expected_tokens > 0


def test_a_bar_on_the_gain_keeps_the_same_queries_as_the_policy():
    rng = np.random.default_rng(0)
    p_success, p_strong = rng.random((2, 50))
    held_out = HeldOut(
        p_success=p_success, weak=np.zeros(50), strong=np.zeros(50), p_strong=p_strong
    )
    bar = Bar(keep_at=0.5, reason="", least_gain=0.2)
    np.testing.assert_array_equal(bar.keeps(held_out), p_success >= p_strong - 0.2)


def of_domain(data, name, rows, chance):
    """An estimator that is at home among some rows, and always foretells one chance."""
    point = points(data)[-1]
    gate = fit_gate(data.activations[point][rows], point, seed=0, false_alarm=0.1)
    probe = FittedLinearProbe(
        read_point=point,
        weight=np.zeros(data.activations[point].shape[1], dtype=np.float32),
        bias=float(np.log(chance / (1 - chance))),
        projection=np.zeros((data.activations[point].shape[1], 1)),
        offset=np.zeros(1),
    )
    return ProbeEstimator(probe=probe, name=f"{name}@1", domain=name, gate=gate)


def test_of_several_domains_the_one_that_knows_the_query_decides_by_its_own_bar(
    data, test_queries, engine
):
    north = np.array(["north" in text for text in data.texts])
    estimator = NearestEstimator(
        estimators=(
            of_domain(data, "north", north, 0.7),
            of_domain(data, "elsewhere", ~north, 0.7),
        )
    )
    bars = {
        "north": Bar(keep_at=0.6, reason="for the test"),
        "elsewhere": Bar(keep_at=0.8, reason="for the test"),
    }
    served = Route(
        name="auto",
        weak_name="small",
        weak=engine,
        strong=[],
        estimator=estimator,
        bar=Bar(keep_at=1.0, reason="for the test"),
        bars=bars,
        rng=np.random.default_rng(0),
    )
    texts, messages = test_queries[0].texts, test_queries[1]
    right = 0
    for text, asked in zip(texts, messages, strict=True):
        looked = served.look(asked)
        assert looked.estimate is not None
        looked.prefill.close()
        keeps = looked.decision.action == "keep"
        if looked.decision.action != "declined":
            assert keeps == (looked.estimate.domain == "north")
        right += (looked.estimate.domain == "north") == ("north" in text)
    assert right > 0.8 * len(texts)
    assert served.decide(ELSEWHERE).cause == "outside"
