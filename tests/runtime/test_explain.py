"""What an explanation says can be checked: by counting, by brute force, by trying the change."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from foretell.config import (
    CostGoal,
    QualityGoal,
    RiskGoal,
    StrongShareGoal,
    ThresholdGoal,
)
from foretell.errors import StoreError
from foretell.policy import decide
from foretell.probes import FittedAttentionProbe, HeldOut
from foretell.records import Decision, Estimate, ReadPoint, RoutingData
from foretell.runtime import Bar, bar_for, serving_probe, train_probe
from foretell.runtime._changes import GoalLadder, keeps, turning_points
from foretell.runtime._explain import Explainer, nearby_outcomes, top_tokens
from foretell.runtime._neighbours import Neighbours

POINT = ReadPoint(1, "mean")
CHANCE = st.floats(0, 1)


def held_out(n=400, seed=0):
    rng = np.random.default_rng(seed)
    p, p_strong = rng.random(n), np.clip(rng.normal(0.8, 0.15, n), 0, 1)
    return HeldOut(
        p_success=p,
        weak=(rng.random(n) < p).astype(float),
        strong=(rng.random(n) < p_strong).astype(float),
        p_strong=p_strong,
    )


def decided(p, keep_at=0.5, least_gain=None, p_strong=None, **more) -> Decision:
    estimate = Estimate(score=0.0, p_success=p, router="probe toy@1", p_strong=p_strong, **more)
    return decide(estimate, keep_at=keep_at, least_gain=least_gain)


# The estimate, held against outcomes.


def test_the_nearest_fifty_are_counted_with_their_exact_interval():
    p = np.linspace(0, 1, 101)
    evidence = HeldOut(p_success=p, weak=(p > 0.5).astype(float), strong=np.full(101, np.nan))
    seen = nearby_outcomes(0.5, evidence)
    # 0.25 and 0.75 are equally far: both count, or the order of rows would decide.
    assert (seen.n, seen.lowest, seen.highest) == (51, 0.25, 0.75)
    assert (seen.succeeded, seen.rate) == (25, 25 / 51)
    exact = binomtest(25, 51).proportion_ci(0.95, method="exact")
    assert (seen.low, seen.high) == pytest.approx((exact.low, exact.high))


@given(CHANCE, st.integers(1, 120), st.randoms(use_true_random=False))
def test_the_order_of_held_out_queries_does_not_matter(p, n, random):
    evidence = held_out(n, seed=n)
    order = list(range(n))
    random.shuffle(order)
    shuffled = HeldOut(
        p_success=evidence.p_success[order],
        weak=evidence.weak[order],
        strong=evidence.strong[order],
    )
    seen = nearby_outcomes(p, evidence)
    assert nearby_outcomes(p, shuffled) == seen
    assert seen.n >= min(50, n)
    assert seen.low <= seen.rate <= seen.high


def test_chances_that_are_all_the_same_are_all_near():
    evidence = HeldOut(p_success=np.full(300, 0.4), weak=np.ones(300), strong=np.ones(300))
    assert nearby_outcomes(0.9, evidence).n == 300


# What would turn the decision.


@given(CHANCE, st.floats(0, 1.2))
def test_a_chance_that_reaches_what_is_needed_turns_the_decision(p, keep_at):
    decision = decided(p, keep_at)
    changes = turning_points(decision, Bar(keep_at=keep_at, reason=""), None, false_alarm=None)
    if not changes:
        # No chance whatever does.
        assert {decided(q, keep_at).action for q in (0.0, 1.0)} == {decision.action}
        return
    (change,) = changes
    assert (change.name, change.now) == ("p_success", p)
    reached = change.needed if decision.action == "escalate" else np.nextafter(change.needed, -1)
    assert decided(float(reached), keep_at).action != decision.action


@given(CHANCE, CHANCE, st.floats(-0.5, 0.9))
def test_a_gain_past_what_is_needed_turns_the_decision(p, p_strong, least_gain):
    bar = Bar(keep_at=0.5, reason="", least_gain=least_gain)
    decision = decided(p, 0.5, least_gain, p_strong)
    changes = turning_points(decision, bar, None, false_alarm=None)
    (change,) = (change for change in changes if change.name == "gain")
    assert (change.now, change.needed) == (decision.gain, least_gain)
    kept = decision.action == "keep"
    # p_strong moves so that the gain comes to lie on the other side, where that is a chance at all.
    other = p + least_gain + (1e-6 if kept else -1e-6)
    if 0 <= other <= 1:
        assert decided(p, 0.5, least_gain, other).action != decision.action


GOALS = [
    QualityGoal(quality=0.9, confidence=0.9),
    StrongShareGoal(strong_share=0.35),
    RiskGoal(risk=0.07),
]


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: type(goal).__name__)
def test_the_goal_that_is_named_turns_the_decision_and_the_one_before_does_not(goal):
    evidence = held_out()
    bar = bar_for(goal, evidence)
    ladder = GoalLadder.of(goal, evidence)
    found = 0
    for p, p_strong in np.random.default_rng(1).random((40, 2)):
        decision = decided(p, bar.keep_at, bar.least_gain, p_strong)
        kept = decision.action == "keep"
        changes = turning_points(decision, bar, ladder, false_alarm=None)
        named = [c for c in changes if c.name in ("quality", "strong_share", "risk")]
        if not named:
            continue
        found += 1
        (change,) = named
        one = 0.01 if change.needed > change.now else -0.01

        def kept_by(value, decision=decision, name=change.name):
            nearby = bar_for(goal.model_copy(update={name: value}), evidence)
            return keeps(nearby, decision)

        assert kept_by(change.needed) != kept
        before = round(change.needed - one, 2)
        if (before - change.now) * one > 0:
            assert kept_by(before) == kept
        assert f" of {change.needed:g}" in change.sentence
    assert found > 10


def test_a_goal_without_evidence_behind_it_is_no_ladder():
    evidence = held_out()
    for goal in (ThresholdGoal(threshold=0.5), CostGoal(usd_per_1k=1), None):
        assert GoalLadder.of(goal, evidence) is None
    assert GoalLadder.of(GOALS[0], None) is None


def test_a_bar_that_was_moved_says_nothing_of_the_goal():
    evidence, goal = held_out(), GOALS[1]
    bar = bar_for(goal, evidence)
    moved = decided(0.5, keep_at=0.5 + 1e-6, p_strong=0.5)
    assert keeps(bar, moved)
    changes = turning_points(moved, bar, GoalLadder.of(goal, evidence), false_alarm=None)
    assert "strong_share" not in {change.name for change in changes}


def test_a_strange_query_would_be_decided_if_it_were_familiar():
    strange = decided(0.8, outside=True, familiarity=0.02)
    bar = Bar(keep_at=0.5, reason="")
    (change,) = turning_points(strange, bar, None, false_alarm=0.05)
    assert (change.name, change.now, change.needed) == ("familiarity", 0.02, 0.05)
    assert change.sentence.startswith("kept if")


@pytest.mark.parametrize(
    "decision",
    [
        decide(None, keep_at=0.5),
        decide(None, keep_at=0.5, override="weak"),
        replace(decided(0.8), action="pinned"),
        replace(decided(0.8), action="declined", cause="tools"),
    ],
)
def test_where_chances_had_no_say_none_would_turn_it(decision):
    bar = Bar(keep_at=0.5, reason="")
    ladder = GoalLadder.of(GOALS[1], held_out())
    assert turning_points(decision, bar, ladder, false_alarm=0.05) == ()


# Training queries that look alike.


def rows(vectors, *, weak=(), strong=()):
    n = len(vectors)
    return RoutingData(
        domain=("toy",) * n,
        ids=tuple(f"q{i:03}" for i in range(n)),
        texts=tuple(f"question {i} " * 100 for i in range(n)),
        groups=tuple(map(str, range(n))),
        lengths=np.ones(n, np.int64),
        attributes=({},) * n,
        activations={POINT: np.asarray(vectors, np.float32)},
        weak=np.array(weak, float),
        strong=np.array(strong, float),
    )


def test_the_nearest_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 8)) * [1, 1, 1, 1, 1, 1, 100, 0] + 5
    asked = rng.normal(size=8).astype(np.float32) + 5
    near = Neighbours(lambda: rows(vectors), POINT).nearest(asked, 10)
    # One coordinate is a hundred times the others, one never varies: standardised, neither rules.
    spread = vectors.std(axis=0)
    standard = (vectors - vectors.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    query = ((asked - vectors.mean(axis=0))[spread > 0]) / spread[spread > 0]
    cosines = standard @ query / np.linalg.norm(standard, axis=1) / np.linalg.norm(query)
    order = np.argsort(-cosines)[:10]
    assert [each.id for each in near] == [f"q{i:03}" for i in order]
    assert [each.similarity for each in near] == pytest.approx(cosines[order], abs=1e-4)


def test_a_training_query_is_its_own_nearest():
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    near = Neighbours(lambda: rows(vectors), POINT).nearest(vectors[17], 1)
    assert near[0].id == "q017"
    assert near[0].similarity == pytest.approx(1, abs=1e-5)
    assert near[0].similarity <= 1


def test_outcomes_are_told_and_texts_only_when_asked_for():
    data = rows(np.eye(3), weak=[1, 0, np.nan])
    neighbours = Neighbours(lambda: data, POINT)
    vector = np.eye(3, dtype=np.float32)[0]
    told = {each.id: each for each in neighbours.nearest(vector)}
    assert [told[i].weak for i in data.ids] == [1.0, 0.0, None]
    assert {each.strong for each in told.values()} == {None}
    assert {each.text for each in told.values()} == {None}
    shown = neighbours.nearest(vector, 1, with_text=True)[0].text
    assert shown == data.texts[0][:500]


def test_training_queries_are_loaded_once_however_many_ask():
    loads = []

    def load():
        loads.append(1)
        return rows(np.eye(4))

    neighbours = Neighbours(load, POINT)
    assert not loads
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(neighbours.nearest, [np.ones(4, np.float32)] * 64))
    assert len(loads) == 1
    assert all(each == found[0] for each in found)


def test_what_cannot_be_shown_is_a_reason_and_no_error():
    def broken():
        raise StoreError("the disk is gone")

    vector = np.ones(4, np.float32)
    assert Neighbours(broken, POINT).nearest(vector) == "the disk is gone"
    empty = rows(np.empty((0, 4)))
    assert "holds no training query" in Neighbours(lambda: empty, POINT).nearest(vector)
    assert "another model" in Neighbours(lambda: rows(np.eye(3)), POINT).nearest(vector)


# All of it, for a real probe and store.


@pytest.fixture(scope="module")
def trained(labelled_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    with opened_store(labelled_folder) as store:
        train_probe(
            store,
            "toy",
            folder,
            now=datetime(2030, 1, 2, tzinfo=UTC),
            nested=False,
            kinds=("linear",),
        )
    return serving_probe(folder, "toy")


def opened_store(folder):
    from foretell.store import Store

    return Store.open(f"sqlite:///{folder / 'foretell.db'}", folder / "vectors")


def test_the_newest_training_queries_are_kept_when_there_are_too_many(trained, labelled_folder):
    few = Neighbours.of_probe(trained, lambda: opened_store(labelled_folder), most=20)
    width = trained.card.model.width
    near = few.nearest(np.ones(width, np.float32), 1000)
    with opened_store(labelled_folder) as store:
        stored = [o.query for o in store.observations("toy", "weak")]
    newest = [query.id for query in stored if query.split == "train"][-20:]
    assert sorted(each.id for each in near) == sorted(newest)


def test_an_explanation_of_a_query_holds_all_that_is_known(
    trained, labelled_folder, engine, queries
):
    goal = StrongShareGoal(strong_share=0.4)
    bar = bar_for(goal, trained.held_out)
    neighbours = Neighbours.of_probe(trained, lambda: opened_store(labelled_folder))
    explainer = Explainer(trained, bar, neighbours, goal=goal)
    prompt = engine.render(queries[1].messages)
    with engine.prefill(prompt, [neighbours.read_point]) as prefill:
        vectors = prefill.activations
    decision = replace(decided(0.3, bar.keep_at, bar.least_gain, 0.9), p_pool={"mid": 0.5})
    said = explainer.explain(decision, vectors)
    assert said.estimate == nearby_outcomes(0.3, trained.held_out)
    assert said.threshold.reason == bar.reason
    assert (said.threshold.keep_at, said.threshold.chosen_at) == (decision.keep_at, bar.keep_at)
    assert (said.probe.name, said.probe.n_train) == ("toy@1", 120)
    assert said.probe.auroc == trained.card.metrics["auroc"]
    # The store keeps 11 bits of each number.
    assert said.neighbours[0].id == queries[1].id
    assert said.neighbours[0].similarity > 0.999
    assert len(said.neighbours) == 10
    assert said.pool_gains == {"mid": pytest.approx(0.2)}
    assert set(said.missing) == {"tokens"}
    assert json.loads(json.dumps(said.as_json(), allow_nan=False))["probe"]["name"] == "toy@1"
    shown = explainer.explain(decision, vectors, with_text=True)
    assert shown.neighbours[0].text == queries[1].text


def test_without_an_estimate_or_a_probe_the_reasons_are_told():
    bar = Bar(keep_at=0.5, reason="the configured threshold")
    said = Explainer(None, bar).explain(decide(None, keep_at=0.5), {})
    assert set(said.missing) == {"estimate", "probe", "neighbours", "tokens"}
    assert (said.estimate, said.probe, said.neighbours, said.changes) == (None, None, (), ())
    other = Explainer(None, bar, held_out=held_out()).explain(decided(0.3), {})
    assert other.estimate.n == 50
    assert Explainer(None, bar).explain(decided(0.3), {}).missing["estimate"]


def test_a_prefill_that_was_stopped_early_shows_no_neighbours(trained, labelled_folder):
    neighbours = Neighbours.of_probe(trained, lambda: opened_store(labelled_folder))
    said = Explainer(trained, Bar(keep_at=0.5, reason=""), neighbours).explain(decided(0.3), {})
    assert said.missing["neighbours"] == f"the prefill did not reach {neighbours.read_point}"


def attention_probe() -> FittedAttentionProbe:
    """One head that looks along the first coordinate and sees the second."""
    return FittedAttentionProbe(
        read_point=ReadPoint(1, "tokens"),
        variant="softmax",
        queries=np.array([[[1.0], [0.0]]]),
        values=np.array([[[0.0], [1.0]]]),
        offsets=np.zeros((1, 1)),
        bias=0.0,
    )


def test_tokens_are_shown_by_their_attention_with_the_texts_of_the_prompts_own_end():
    tokens = np.array([[0, 1], [5, -1], [1, 2]], np.float32)
    texts = ["<s>", "system", "In", " which", " town"]
    top = top_tokens(attention_probe(), tokens, texts)
    assert [(each.position, each.text) for each in top] == [(1, " which"), (2, " town"), (0, "In")]
    assert sum(each.weight for each in top) == pytest.approx(1)
    assert top[0].contribution == pytest.approx(-top[0].weight)
    assert [each.text for each in top_tokens(attention_probe(), tokens, None)] == [None] * 3


def test_a_probe_with_attention_explains_itself_by_tokens(trained):
    saved = replace(trained, probe=attention_probe())
    explainer = Explainer(saved, Bar(keep_at=0.5, reason=""))
    tokens = {ReadPoint(1, "tokens"): np.ones((20, 2), np.float32)}
    assert len(explainer.explain(decided(0.3), tokens).tokens) == 10
    assert "did not reach" in explainer.explain(decided(0.3), {}).missing["tokens"]
