"""Isotonic, beta and temperature calibration against other people's code."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from foretell.calibration import Beta, FittedBeta, FittedIsotonic, Isotonic, Temperature

many = 1e6
"""So many repetitions of each row that the targets of Platt are 0 and 1."""


def log_odds(p):
    return np.log(p) - np.log1p(-p)


def pseudo_random_rows():
    """101 rows made by modular arithmetic, so that any program can make the same."""
    index = np.arange(101)
    scores = np.round(-3 + 6 * (37 * index % 101) / 100, 2)
    successes = (53 * index % 101) / 101 < 1 / (1 + np.exp(-(0.6 * scores + 0.4)))
    return scores, successes.astype(float)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(-5, 5), st.floats(0, 1), st.floats(0.1, 3)), min_size=1, max_size=40
    )
)
def test_isotonic_is_scikit_learns_with_a_made_up_success_below_and_failure_above(rows):
    scores, outcomes, weights = np.array(rows, dtype=float).T
    fitted = Isotonic().fit(scores, outcomes, weights)
    reference = IsotonicRegression(out_of_bounds="clip").fit(
        [*scores, scores.min(), scores.max()], [*outcomes, 1, 0], [*weights, 1, 1]
    )
    anywhere = np.linspace(-6, 6, 97)
    assert fitted.p(anywhere) == pytest.approx(reference.predict(anywhere), abs=1e-9)


def test_isotonic_by_hand():
    # A made-up success joins the failure at 1 and a made-up failure the success at 3, so 1 stands
    # at 1/2 and 3 at 1/2; between them 2 stands at 1, and pooled with 3 at 2/3.
    fitted = Isotonic().fit([1.0, 2.0, 3.0], [0, 1, 1])
    assert fitted == FittedIsotonic(scores=(1.0, 2.0, 3.0), chances=(0.5, 2 / 3, 2 / 3))
    assert [fitted.p(score) for score in (0.0, 1.5, 9.0)] == pytest.approx([1 / 2, 7 / 12, 2 / 3])


def test_isotonic_of_one_class_is_laplaces_rule():
    assert Isotonic().fit([1.0, 2.0, 3.0], [1, 1, 1]).p(2.0) == pytest.approx(4 / 5)


def test_isotonic_does_not_look_at_rows_without_weight():
    weighted = Isotonic().fit([0.0, 1.0, 2.0], [1, 0, 1], [0, 1, 1])
    assert weighted == Isotonic().fit([1.0, 2.0], [0, 1])


def test_beta_is_the_unpenalised_regression_on_both_logarithms():
    scores, outcomes = pseudo_random_rows()
    features = np.stack([-np.logaddexp(0, -scores), np.logaddexp(0, scores)], axis=1)
    reference = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(
        features, outcomes
    )
    assert (reference.coef_ > 0).all()
    fitted = Beta().fit(scores, outcomes, np.full(len(scores), many))
    assert [fitted.a, fitted.b] == pytest.approx(reference.coef_[0], abs=1e-4)
    assert fitted.c == pytest.approx(reference.intercept_[0], abs=1e-4)


def test_beta_agrees_with_its_authors_package():
    # betacal 1.1.0 (scikit-learn 1.9.1): BetaCalibration("abm").fit(p, y).predict([.1, .5, .9]);
    # its solver stops at a tolerance of 1e-4.
    scores, outcomes = pseudo_random_rows()
    fitted = Beta().fit(scores, outcomes, np.full(len(scores), many))
    chances = fitted.p(log_odds(np.array([0.1, 0.5, 0.9])))
    assert chances == pytest.approx([0.2774872, 0.48170987, 0.76128398], abs=2e-4)


def test_beta_with_slopes_of_one_changes_nothing():
    p = np.array([0.001, 0.3, 0.5, 0.99])
    assert FittedBeta(a=1.0, b=1.0, c=0.0).p(log_odds(p)) == pytest.approx(p)


def test_beta_bends_one_side_only_when_told_to():
    # q = 1/2: log q = log(1 - q) = -log 2, so logit p = (b - a) log 2 + c.
    assert FittedBeta(a=2.0, b=0.5, c=0.1).p(0.0) == pytest.approx(
        1 / (1 + math.exp(1.5 * math.log(2) - 0.1))
    )


def test_temperature_is_the_minimum_over_one_slope():
    scores, outcomes = pseudo_random_rows()

    def loss(slope):
        return np.mean(np.logaddexp(0, slope * scores) - outcomes * slope * scores)

    best = minimize_scalar(loss, bounds=(0, 10), method="bounded", options={"xatol": 1e-9})
    fitted = Temperature().fit(scores, outcomes, np.full(len(scores), many))
    assert fitted.slope == pytest.approx(best.x, abs=1e-5)
    assert fitted.p(0.0) == 0.5


def test_temperature_undoes_a_factor():
    scores, outcomes = pseudo_random_rows()
    assert Temperature().fit(7 * scores, outcomes).slope == pytest.approx(
        Temperature().fit(scores, outcomes).slope / 7, rel=1e-5
    )
