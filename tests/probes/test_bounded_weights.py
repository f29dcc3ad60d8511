"""What a row may count for having been seen by a small chance."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.calibration import choose_calibration
from foretell.errors import InputError
from foretell.probes import bound_weights, select_probe
from foretell.records import ReadPoint, RoutingData

POINT = ReadPoint(3, "last")
rows = st.lists(st.just(1.0) | st.floats(0.001, 1), min_size=1, max_size=30).map(np.array)


@given(rows, st.none() | st.floats(1, 50))
def test_no_row_counts_more_than_the_bound_allows(chances, most):
    bounded = bound_weights(1 / chances, chances, most=most)
    weights = bounded.weights[chances < 1]
    if len(weights):
        assert weights.max() <= weights.min() * bounded.most * (1 + 1e-9)
        assert weights.sum() == pytest.approx((1 / chances)[chances < 1].sum())
    assert bounded.cut == np.mean(1 / chances > bounded.most)
    assert bounded.effective <= len(chances) * (1 + 1e-9)


@given(rows, st.floats(0.1, 10))
def test_rows_that_were_certain_to_be_seen_and_an_infinite_bound_change_nothing(chances, scale):
    certain = chances == 1
    bounded = bound_weights(scale / chances, chances)
    assert (bounded.weights[certain] == scale).all()
    whole = bound_weights(scale / chances, chances, most=math.inf)
    assert whole.weights == pytest.approx(scale / chances)
    assert whole.cut == 0


@given(rows)
def test_by_a_bound_of_one_all_that_was_seen_by_chance_counts_the_same(chances):
    weights = bound_weights(1 / chances, chances, most=1.0).weights[chances < 1]
    assert weights == pytest.approx(np.full(len(weights), weights.mean() if len(weights) else 0))


def test_the_bound_grows_with_the_root_of_what_was_seen_by_chance():
    def bound(seen: int, collected: int = 0) -> float:
        chances = np.r_[np.full(seen, 0.001), np.ones(collected)]
        return bound_weights(1 / chances, chances).most

    assert (bound(5_000), bound(20_000), bound(10)) == (10.0, 20.0, 1.0)
    assert bound(5_000, collected=9_000) == 10.0


def test_weights_before_are_kept_in_proportion():
    chances = np.array([0.9, 0.9, 0.1])
    once = bound_weights(1 / chances, chances, most=2.0).weights
    twice = bound_weights(np.array([3.0, 1.0, 1.0]) / chances, chances, most=2.0).weights
    assert twice / once == pytest.approx(twice[1] / once[1] * np.array([3, 1, 1]))


@pytest.mark.parametrize(
    ("chance", "most", "says"),
    [(0.5, 0.5, "largest weight is 0.5"), (0.5, math.nan, "is nan"), (0.0, 2.0, "had no chance")],
)
def test_what_bounds_nothing_is_refused(chance, most, says):
    with pytest.raises(InputError, match=says):
        bound_weights(np.ones(1), np.array([chance]), most=most)


def some_rows() -> RoutingData:
    rng = np.random.default_rng(0)
    n = 400
    x = rng.normal(size=(n, 6)).astype(np.float32)
    names = tuple(map(str, range(n)))
    return RoutingData(
        domain=("toy",) * n,
        ids=names,
        texts=names,
        groups=names,
        lengths=np.ones(n, dtype=np.int64),
        attributes=({},) * n,
        activations={POINT: x},
        weak=(rng.random(n) < 1 / (1 + np.exp(-x[:, 0] - x[:, 1]))).astype(float),
    )


def selected(data: RoutingData):
    return select_probe(
        data,
        kinds=("linear",),
        components=(4,),
        l2=(1.0,),
        shrink=(0.0,),
        nested=False,
        seed=0,
    )


def test_a_probe_is_fitted_by_bounded_weights_and_calibrated_by_the_whole_ones():
    data = some_rows()
    chances = np.where(data.activations[POINT][:, 0] > 0, 0.98, 0.02)
    whole = replace(data, weights=1 / chances, weak_chance=chances)
    ours = selected(whole)
    fitted = selected(replace(data, weights=bound_weights(1 / chances, chances).weights))
    assert ours.scores == pytest.approx(fitted.scores)
    assert (ours.weights == whole.weights).all()
    choice = choose_calibration(
        ours.scores, data.weak, 1 / chances, groups=data.groups, folds=5, seed=0
    )
    assert ours.p_success == pytest.approx(choice.p_held_out)
    assert np.abs(ours.p_success - fitted.p_success).max() > 0.01


def test_chances_alone_and_a_caller_that_chose_bound_nothing():
    data = some_rows()
    chances = np.where(data.activations[POINT][:, 0] > 0, 0.98, 0.02)
    plain = selected(data)
    assert selected(replace(data, weak_chance=chances)).scores == pytest.approx(plain.scores)
    chosen = replace(data, weak_chance=np.full(len(data), np.nan), weights=np.ones(len(data)))
    assert selected(chosen).scores == pytest.approx(plain.scores)
