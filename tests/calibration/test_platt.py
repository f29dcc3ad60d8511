"""Platt scaling against a regression without penalty, and against its laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from foretell.calibration import FittedPlatt, Platt
from foretell.errors import InputError, TrainingDataError


def scored(seed=0, n=200):
    generator = np.random.default_rng(seed)
    outcomes = generator.integers(0, 2, n).astype(float)
    return 2 * outcomes + generator.normal(size=n), outcomes


def test_it_is_the_unpenalised_regression_on_platts_targets():
    scores, outcomes = scored()
    weights = np.random.default_rng(1).integers(1, 4, len(scores)).astype(float)
    successes, failures = weights @ outcomes, weights @ (1 - outcomes)
    target = np.where(outcomes == 1, (successes + 1) / (successes + 2), 1 / (failures + 2))
    # A target between 0 and 1 is a success and a failure with fitting weights.
    reference = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky").fit(
        np.concatenate([scores, scores])[:, None],
        np.concatenate([np.ones_like(scores), np.zeros_like(scores)]),
        np.concatenate([weights * target, weights * (1 - target)]),
    )
    fitted = Platt().fit(scores, outcomes, weights)
    assert fitted.slope == pytest.approx(reference.coef_[0, 0], rel=1e-5)
    assert fitted.intercept == pytest.approx(reference.intercept_[0], rel=1e-4)


@given(st.floats(0.001, 1000), st.floats(-1000, 1000))
def test_the_scale_and_origin_of_scores_do_not_matter(scale, shift):
    scores, outcomes = scored()
    moved = scores * scale + shift
    assert Platt().fit(moved, outcomes).p(moved) == pytest.approx(
        Platt().fit(scores, outcomes).p(scores), abs=1e-5
    )


@given(st.integers(0, 50), st.lists(st.floats(-50, 50), min_size=2, max_size=20))
def test_a_higher_score_is_never_less_likely(seed, scores):
    seen, outcomes = scored(seed, n=40)
    chances = Platt().fit(seen, outcomes).p(np.sort(scores))
    assert (np.diff(chances) >= 0).all()


def test_scores_that_rank_backwards_end_at_the_base_rate():
    scores, outcomes = scored()
    fitted = Platt().fit(-scores, outcomes)
    assert fitted.slope == 0
    assert fitted.p(0.0) == pytest.approx(outcomes.mean(), abs=0.01)


def test_scores_that_do_not_vary_end_at_the_base_rate():
    # Three successes in four: targets 4/5 and 1/3, whose mean is (3 * 4/5 + 1/3) / 4.
    fitted = Platt().fit([1.0] * 4, [1, 1, 1, 0])
    assert fitted.slope == 0
    assert fitted.p(1.0) == pytest.approx((3 * 4 / 5 + 1 / 3) / 4)


def test_separated_outcomes_and_a_single_class_stay_short_of_certainty():
    assert 0.5 < Platt().fit([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1]).p(4.0) < 0.9
    assert 0.5 < Platt().fit([1.0, 2.0], [1, 1]).p(2.0) < 1


def test_a_rate_lies_between_the_two_targets():
    chance = Platt().fit([1.0] * 4, [0.5] * 4).p(1.0)
    assert chance == pytest.approx(0.5)


@pytest.mark.parametrize("logit", [-1e4, -3.0, 0.0, 3.0, 1e4])
def test_one_score_and_many_give_the_same_chance(logit):
    fitted = FittedPlatt(slope=2.0, intercept=-1.0)
    assert fitted.p(logit) == pytest.approx(float(fitted.p(np.array([logit]))[0]))


def test_nothing_to_calibrate_on_is_refused():
    with pytest.raises(TrainingDataError, match="no outcomes to calibrate on"):
        Platt().fit([], [])
    with pytest.raises(TrainingDataError, match="no outcomes to calibrate on"):
        Platt().fit([1.0], [1.0], [0.0])


@pytest.mark.parametrize("slope", [-1.0, math.nan, math.inf])
def test_a_curve_that_falls_or_is_not_finite_cannot_be_made(slope):
    with pytest.raises(InputError, match="slope"):
        FittedPlatt(slope=slope, intercept=0.0)
