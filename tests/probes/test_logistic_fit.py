"""The logistic regression against scikit-learn, and the difference of means by its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from foretell.errors import TrainingDataError
from foretell.probes._logistic import difference_of_means, fit_logistic


def rows(n=120, k=6, seed=0, signal=1.0):
    generator = np.random.default_rng(seed)
    coordinates = generator.normal(size=(n, k)) * np.linspace(3, 0.3, k)
    outcomes = (signal * coordinates[:, 1] + generator.normal(size=n) > 0.3).astype(float)
    return coordinates, outcomes


def scikit_learns(coordinates, outcomes, weights, l2):
    """Soft labels as two rows each, one for the success and one for the failure."""
    fitted = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-10).fit(
        np.concatenate([coordinates, coordinates]),
        np.repeat([1, 0], len(outcomes)),
        np.concatenate([weights * outcomes, weights * (1 - outcomes)]),
    )
    return fitted.coef_[0], fitted.intercept_[0]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    l2=st.floats(1e-2, 1e4),
    soft=st.booleans(),
    weighted=st.booleans(),
)
def test_it_finds_what_scikit_learn_finds(seed, l2, soft, weighted):
    coordinates, outcomes = rows(seed=seed)
    generator = np.random.default_rng(seed)
    if soft:
        outcomes = 0.2 + 0.6 * outcomes * generator.random(len(outcomes))
    weights = generator.integers(1, 4, len(outcomes)) * 1.0 if weighted else np.ones(len(outcomes))
    fitted = fit_logistic(coordinates, outcomes, weights, l2)
    coefficients, intercept = scikit_learns(coordinates, outcomes, weights, l2)
    assert fitted.coefficients == pytest.approx(coefficients, abs=1e-5)
    assert fitted.intercept == pytest.approx(intercept, abs=1e-5)


def test_more_components_than_rows_are_no_obstacle():
    coordinates, outcomes = rows(n=30, k=64)
    fitted = fit_logistic(coordinates, outcomes, np.ones(30), 1.0)
    coefficients, _ = scikit_learns(coordinates, outcomes, np.ones(30), 1.0)
    assert fitted.coefficients == pytest.approx(coefficients, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_separated_rows_in_any_units_still_end_at_the_minimum(scale):
    coordinates = scale * np.linspace(-1, 1, 40)[:, None]
    outcomes = (coordinates[:, 0] > 0).astype(float)
    fitted = fit_logistic(coordinates, outcomes, np.ones(40), 1e-3)
    residual = 1 / (1 + np.exp(-fitted.score(coordinates))) - outcomes
    slope = residual @ coordinates + 1e-3 * fitted.coefficients
    assert slope == pytest.approx([0], abs=1e-5 * scale)
    assert residual.sum() == pytest.approx(0, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), l2=st.floats(0.1, 100), far=st.floats(-20, 20))
def test_where_it_starts_does_not_matter(seed, l2, far):
    coordinates, outcomes = rows(seed=seed)
    weights = np.ones(len(outcomes))
    centre = np.full(6, far / 10)
    plain = fit_logistic(coordinates, outcomes, weights, l2, centre=centre)
    elsewhere = fit_logistic(coordinates, outcomes, weights, 1.0)
    again = fit_logistic(coordinates, outcomes, weights, l2, centre=centre, start=elsewhere)
    assert again.coefficients == pytest.approx(plain.coefficients, abs=1e-5)


def test_a_centre_is_where_much_penalty_leads_and_little_does_not():
    coordinates, outcomes = rows()
    weights, centre = np.ones(len(outcomes)), np.arange(6) / 5
    held = fit_logistic(coordinates, outcomes, weights, 1e9, centre=centre)
    assert held.coefficients == pytest.approx(centre, abs=1e-4)
    free = fit_logistic(coordinates, outcomes, weights, 1e-6, centre=centre)
    plain = fit_logistic(coordinates, outcomes, weights, 1e-6)
    assert free.coefficients == pytest.approx(plain.coefficients, abs=1e-3)


def test_a_weight_is_a_number_of_repetitions():
    coordinates, outcomes = rows()
    repeats = np.random.default_rng(1).integers(0, 4, len(outcomes))
    weighted = fit_logistic(coordinates, outcomes, repeats.astype(float), 1.0)
    repeated = fit_logistic(
        np.repeat(coordinates, repeats, axis=0),
        np.repeat(outcomes, repeats),
        np.ones(repeats.sum()),
        1.0,
    )
    assert weighted.coefficients == pytest.approx(repeated.coefficients, abs=1e-6)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_one_class_is_refused(outcome):
    coordinates, _ = rows(n=20)
    with pytest.raises(TrainingDataError, match="20 queries of one fit are all of one class"):
        fit_logistic(coordinates, np.full(20, outcome), np.ones(20), 1.0)


def test_the_difference_of_means_points_from_failures_to_successes():
    coordinates, outcomes = rows(n=2000, signal=2.0)
    found = difference_of_means(coordinates, outcomes, np.ones(2000))
    by_hand = coordinates[outcomes == 1].mean(axis=0) - coordinates[outcomes == 0].mean(axis=0)
    assert found / np.linalg.norm(found) == pytest.approx(
        by_hand / np.linalg.norm(by_hand), abs=1e-9
    )


def test_the_scale_of_the_difference_of_means_is_the_likeliest_one():
    coordinates, outcomes = rows(n=4000, signal=2.0)
    weights = np.ones(4000)
    found = difference_of_means(coordinates, outcomes, weights)
    line = LogisticRegression(C=1e6).fit((coordinates @ found)[:, None], outcomes)
    # With thousands of rows, leaving one out changes next to nothing.
    assert line.coef_[0, 0] == pytest.approx(1, abs=0.02)


def test_outcomes_at_random_leave_the_difference_of_means_no_confidence():
    """Its own rows it would separate well: 30 of them in 200 dimensions always can be."""
    generator = np.random.default_rng(0)
    coordinates = generator.normal(size=(30, 200))
    outcomes = np.tile([0.0, 1.0], 15)
    direction = coordinates[outcomes == 1].mean(axis=0) - coordinates[outcomes == 0].mean(axis=0)
    projected = coordinates @ direction
    assert projected[outcomes == 1].min() > projected[outcomes == 0].max()
    found = difference_of_means(coordinates, outcomes, np.ones(30))
    assert np.abs(coordinates @ found).max() < 0.5  # log-odds: between 0.38 and 0.62


@pytest.mark.parametrize("outcomes", [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]])
def test_a_class_of_one_row_has_no_mean_without_it(outcomes):
    coordinates = np.arange(8.0).reshape(4, 2)
    assert not difference_of_means(coordinates, np.array(outcomes), np.ones(4)).any()


def test_rows_that_are_all_the_same_have_no_direction():
    outcomes = np.tile([0.0, 1.0], 10)
    assert not difference_of_means(np.ones((20, 3)), outcomes, np.ones(20)).any()
