"""Queries that chance has shown, made to stand for those that it has not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.config import Goal, QualityGoal, RiskGoal, StrongShareGoal
from foretell.records import RoutingData
from foretell.runtime import load_ladder_rows, undo_selection
from foretell.runtime._ladder_rows import unselected
from foretell.store import Store

SHARE, QUALITY = StrongShareGoal(strong_share=0.4), QualityGoal(quality=0.9)


def rows(chances, *, weak=None, strong=(), pairs=None) -> RoutingData:
    n = len(chances)
    return RoutingData(
        domain=("toy",) * n,
        ids=tuple(f"q{i}" for i in range(n)),
        texts=("?",) * n,
        groups=tuple(f"q{i}" for i in range(n)),
        lengths=np.ones(n, dtype=np.int64),
        attributes=({},) * n,
        weak=np.ones(n) if weak is None else np.asarray(weak, dtype=np.float64),
        strong=np.asarray(strong, dtype=np.float64),
        weak_chance=np.asarray(chances, dtype=np.float64),
        pair_chance=np.empty(0) if pairs is None else np.asarray(pairs, dtype=np.float64),
    )


def test_weights_by_hand():
    # Collected: 1. By chance: 1/0.5 = 2 and 1/0.1 = 10, of mean 6. A caller chose the last one.
    weighed = undo_selection(rows([1.0, 0.5, 0.1, np.nan]))
    assert weighed.ids == ("q0", "q1", "q2")
    assert weighed.weights == pytest.approx([1.0, 2 / 6, 10 / 6])


def test_no_row_outweighs_a_hundred_others():
    weights = undo_selection(rows([1e-9, 0.5, 0.5])).weights
    assert weights[0] / weights[1] == pytest.approx(50)


@given(st.lists(st.floats(0.02, 0.98), min_size=1, max_size=30))
def test_rows_seen_by_chance_weigh_as_much_in_all_as_they_are(chances):
    assert undo_selection(rows(chances)).weights.sum() == pytest.approx(len(chances))


def seen_by_chance(rng: np.random.Generator) -> RoutingData:
    """Half of the traffic is easy and mostly kept, half is hard and seldom: both are as frequent.

    The weak model's answer is seen where it served, or else in one shadow run of five.
    """
    p_weak = np.where(np.arange(40_000) % 2, 0.9, 0.1)
    served = rng.random(len(p_weak)) < p_weak
    shadowed = ~served & (rng.random(len(p_weak)) < 0.2)
    chances = p_weak + (1 - p_weak) * 0.2
    strong = np.where(served, np.nan, 1.0)
    easy = (p_weak > 0.5).astype(np.float64)
    pairs = (1 - p_weak) * 0.2
    return rows(chances, weak=easy, strong=strong, pairs=pairs).take(served | shadowed)


@pytest.mark.parametrize(
    "goal", [SHARE, QUALITY, RiskGoal(risk=0.1)], ids=["share", "quality", "risk"]
)
def test_what_is_left_is_as_the_traffic_was(goal: Goal):
    seen = seen_by_chance(np.random.default_rng(0))
    assert abs(seen.weak.mean() - 0.5) > 0.1  # as seen, the easy ones are too many
    left = unselected(seen, goal, np.random.default_rng(1))
    assert len(left) > 700
    # Of n fair draws the mean is off by 3 / (2 sqrt(n)) one time in 370.
    assert left.weak.mean() == pytest.approx(0.5, abs=1.5 / np.sqrt(len(left)))
    if goal is not SHARE:
        assert np.isfinite(left.strong).all()


@pytest.mark.parametrize("goal", [SHARE, QUALITY], ids=["share", "quality"])
def test_what_was_certain_to_be_seen_all_stays(goal):
    data = rows([1.0] * 20, strong=[1.0] * 15 + [np.nan] * 5)
    assert len(unselected(data, goal, np.random.default_rng(0))) == (20 if goal is SHARE else 15)


def test_without_strong_outcomes_nothing_can_be_compared():
    assert not len(unselected(rows([1.0, 0.5]), QUALITY, np.random.default_rng(0)))


def test_only_labelled_rows_of_one_side_are_loaded(labelled_store: Store):
    outcomes = [
        outcome
        for outcomes in labelled_store.outcomes("toy").values()
        for outcome in outcomes
        if outcome.role == "weak"
    ]
    labelled_store.delete_outcomes(outcomes[:1])
    (key,) = {key for key, of in labelled_store.outcomes("toy").items() if key.startswith("sha256")}
    loaded = load_ladder_rows(labelled_store, "toy", "train", weak_model=key, metric="right")
    assert len(loaded) == 119
    assert loaded.weights == pytest.approx(np.ones(119))
    assert np.isnan(loaded.strong).all()
    with_strong = load_ladder_rows(
        labelled_store,
        "toy",
        "test",
        weak_model=key,
        metric="right",
        strong_model=None,
        read_points=None,
    )
    assert np.isfinite(with_strong.strong).all()
    assert with_strong.activations
