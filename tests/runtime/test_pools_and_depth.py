"""Training for more than two models, and under a limit of the depth."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from foretell.errors import InputError, TrainingDataError
from foretell.records import Outcome, ReadPoint
from foretell.runtime import EarlyLook, ProbeEstimator, early_probes, serving_probe, train_probe
from foretell.runtime._training import within_depth
from foretell.store import Store
from toy_project import strong_observations, toy_outcomes

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def train(store, folder, **options):
    return train_probe(store, "toy", folder, now=NOW, nested=False, kinds=("linear",), **options)


def add_model(store: Store, queries, key: str, succeeds) -> None:
    """One more model in the role of a strong one, labelled where ``succeeds`` is not None."""
    store.append(
        [replace(o, answer=replace(o.answer, model=key)) for o in strong_observations(queries)]
    )
    outcomes = [
        Outcome(domain="toy", query_id=q.id, role="strong", metric="right", value=v, source="code")
        for q in queries
        if (v := succeeds(q)) is not None
    ]
    store.put_outcomes(outcomes, model_key=key)


@pytest.fixture
def pooled_store(labelled_store, queries):
    """Mid is right where the weak model is, and nobody labelled what the mute one said."""
    add_model(labelled_store, queries, "mid-1", lambda query: float(toy_outcomes(query)["weak"]))
    add_model(labelled_store, queries, "mute-1", lambda _: None)
    return labelled_store


POOL = {"mid": "mid-1", "mute": "mute-1"}


def test_models_that_answered_are_counted_by_key(pooled_store):
    assert pooled_store.answered_by("toy", "strong") == dict.fromkeys(
        ("big-1", "mid-1", "mute-1"), 180
    )


def test_several_strong_models_are_a_choice_that_training_takes(pooled_store, tmp_path):
    with pytest.raises(TrainingDataError, match="several models have answered"):
        train(pooled_store, tmp_path / "probes")
    card = train(pooled_store, tmp_path / "probes", strong_model="big-1").card
    assert card.heads.strong.base_rate == pytest.approx(0.8)


def test_each_member_of_a_pool_is_foretold_from_the_same_prefill(
    pooled_store, tmp_path, engine, queries
):
    folder = tmp_path / "probes"
    train(pooled_store, folder, strong_model="big-1", pool=POOL)
    saved = serving_probe(folder, "toy")
    estimator = ProbeEstimator.of(saved)
    assert set(estimator.own_points) == {*saved.probe.read_points, *saved.heads.read_points}
    prompt = engine.render(queries[1].messages)
    with engine.prefill(prompt, estimator.own_points) as prefill:
        seen = prefill.activations
        estimate = estimator.estimate(seen, own_tokens=prompt.own_tokens)
    # Mid has the weak model's own outcomes; the mute one has none.
    head = saved.heads.pool["mid"]
    assert estimate.p_pool == {"mid": head.p_strong(seen[head.read_point])}
    assert "known for 0 of 120" in saved.card.heads.reasons["pool.mute"]


def test_goals_find_the_chances_and_outcomes_of_the_pool(pooled_store, tmp_path):
    folder = tmp_path / "probes"
    train(pooled_store, folder, strong_model="big-1", pool=POOL)
    held_out = serving_probe(folder, "toy").held_out
    assert set(held_out.p_pool) == set(held_out.pool) == {"mid"}
    np.testing.assert_array_equal(held_out.pool["mid"], held_out.weak)
    assert np.isfinite(held_out.p_pool["mid"]).all()


def test_a_pool_of_the_strong_model_itself_is_foretold_as_it_is(pooled_store, tmp_path):
    folder = tmp_path / "probes"
    train(pooled_store, folder, strong_model="big-1", pool={"again": "big-1"})
    held_out = serving_probe(folder, "toy").held_out
    np.testing.assert_array_equal(held_out.p_pool["again"], held_out.p_strong)
    np.testing.assert_array_equal(held_out.pool["again"], held_out.strong)


def test_early_probes_foretell_the_strong_model_too(labelled_store, tmp_path, engine, queries):
    folder = tmp_path / "probes"
    train(labelled_store, folder)
    saved = serving_probe(folder, "toy")
    (early, *_) = early_probes(folder, saved)
    strong = early.heads.strong
    assert strong.read_point == early.card.read_point
    assert early.heads.tokens is None
    assert len(early.held_out.p_strong) == len(saved.held_out.p_strong)
    look = EarlyLook(probe=early.probe, bar=0.1, strong=strong)
    looks = ProbeEstimator.of(saved, (look,))
    prompt = engine.render(queries[1].messages)
    with engine.prefill(prompt, looks.read_points) as prefill:
        vectors = prefill.activations
        estimate = looks.early[0].estimate(vectors)
        assert estimate.p_strong == strong.p_strong(vectors[strong.read_point])
        alone = EarlyLook(probe=early.probe, bar=0.1)
        assert alone.estimate(vectors).p_strong is None


@pytest.mark.parametrize("max_depth", [0.5, 0.75, 1.0])
def test_no_layer_beyond_the_limit_is_read(labelled_store, tmp_path, max_depth, engine):
    folder = tmp_path / "probes"
    card = train(labelled_store, folder, max_depth=max_depth).card
    saved = serving_probe(folder, "toy")
    layers = engine.identity.n_layers
    for point in ProbeEstimator.of(saved).read_points:
        assert (point.layer + 1) / layers <= max_depth
    assert card.depth.share == max_depth
    assert card.depth.auroc == card.chosen.auroc
    assert saved.card == card


def test_the_card_tells_what_the_limit_costs(labelled_store, tmp_path):
    free = train(labelled_store, tmp_path / "free").card
    depth = train(labelled_store, tmp_path / "limited", max_depth=0.5).card.depth
    assert free.depth is None
    assert (depth.unlimited_auroc, depth.unlimited_read_point) == (
        free.chosen.auroc,
        free.chosen.read_point,
    )
    assert depth.auroc <= depth.unlimited_auroc


def test_under_a_limit_nothing_waits_for_the_first_token(labelled_store, tmp_path):
    trained = train_probe(
        labelled_store, "toy", tmp_path / "probes", now=NOW, nested=False, max_depth=0.5
    )
    assert "fusion" not in {row.kind for row in trained.card.kinds_tried}
    assert not trained.selection.probe.reads_first_token


def test_a_share_that_rounding_cuts_short_still_counts_whole_layers(labelled_store):
    data = labelled_store.load_routing_data("toy", split="train")
    deep = replace(data, model=replace(data.model, n_layers=100))
    # 0.29 * 100 is 28.999999999999996.
    twenty_nine = replace(
        deep,
        activations={
            ReadPoint(layer): rows
            for layer, rows in zip((28, 29), deep.activations.values(), strict=False)
        },
    )
    assert set(within_depth(twenty_nine, 0.29).activations) == {ReadPoint(28)}


def test_a_limit_below_all_that_was_collected_says_what_there_is(labelled_store, tmp_path):
    with pytest.raises(TrainingDataError, match=r"first 0.1 of the model's 4 layers; the lowest"):
        train(labelled_store, tmp_path / "probes", max_depth=0.1)
    for nonsense in (0, -1, 1.5, float("nan")):
        with pytest.raises(InputError, match="max_depth"):
            train(labelled_store, tmp_path / "probes", max_depth=nonsense)
