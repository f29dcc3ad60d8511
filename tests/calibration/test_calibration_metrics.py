"""Metrics against scikit-learn, against values derived by hand, and against their laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from foretell.calibration import auroc, brier, expected_calibration_error, log_loss
from foretell.errors import InputError

METRICS = [auroc, brier, log_loss, expected_calibration_error]

# Few distinct scores, so that ties are common.
rows = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), st.booleans(), st.integers(1, 4)),
    min_size=2,
    max_size=40,
).filter(lambda rows: len({outcome for _, outcome, _ in rows}) == 2)


def columns(rows):
    scores, outcomes, weights = zip(*rows, strict=True)
    return np.array(scores), np.array(outcomes, dtype=float), np.array(weights, dtype=float)


@given(rows)
def test_auroc_is_scikit_learns(rows):
    scores, outcomes, weights = columns(rows)
    wanted = roc_auc_score(outcomes, scores, sample_weight=weights)
    assert auroc(scores, outcomes, weights) == pytest.approx(wanted)


@given(rows)
def test_brier_and_log_loss_are_scikit_learns(rows):
    p, outcomes, weights = columns(rows)
    p = np.clip(p, 0.01, 0.99)
    assert brier(p, outcomes, weights) == pytest.approx(
        brier_score_loss(outcomes, p, sample_weight=weights)
    )
    assert log_loss(p, outcomes, weights) == pytest.approx(
        sklearn_log_loss(outcomes, p, sample_weight=weights, labels=[0, 1])
    )


def test_equal_width_ece_is_the_one_by_definition():
    generator = np.random.default_rng(0)
    p = generator.random(500)
    outcomes = (generator.random(500) < p**2).astype(float)
    by_hand = 0.0
    for low in np.arange(10) / 10:
        inside = (p >= low) & (p < low + 0.1)
        by_hand += inside.mean() * abs(p[inside].mean() - outcomes[inside].mean())
    found = expected_calibration_error(p, outcomes, bins=10, binning="width")
    assert found == pytest.approx(by_hand, abs=1e-9)


def test_equal_mass_ece_of_four_queries_by_hand():
    # Two bins of two: |0.15 - 0.5| = 0.35 and |0.85 - 1| = 0.15, so (0.35 + 0.15) / 2.
    found = expected_calibration_error([0.1, 0.2, 0.8, 0.9], [1, 0, 1, 1], bins=2)
    assert found == pytest.approx(0.25)


def test_one_constant_chance_shares_one_bin_and_errs_by_its_distance_to_the_base_rate():
    assert expected_calibration_error([0.7] * 10, [1] * 6 + [0] * 4) == pytest.approx(0.1)


@pytest.mark.parametrize("metric", METRICS)
@given(rows=rows, seed=st.integers(0, 1000))
def test_row_order_does_not_matter(metric, rows, seed):
    order = np.random.default_rng(seed).permutation(len(rows))
    scores, outcomes, weights = columns(rows)
    assert metric(scores, outcomes, weights) == pytest.approx(
        metric(scores[order], outcomes[order], weights[order])
    )


@pytest.mark.parametrize("metric", METRICS)
@given(rows=rows)
def test_a_weight_is_a_number_of_repetitions(metric, rows):
    scores, outcomes, weights = columns(rows)
    times = weights.astype(int)
    assert metric(scores, outcomes, weights) == pytest.approx(
        metric(np.repeat(scores, times), np.repeat(outcomes, times))
    )


@pytest.mark.parametrize("metric", METRICS)
def test_a_rate_of_three_in_four_is_three_successes_and_a_failure(metric):
    rate = metric([0.2, 0.6], [0.75, 1.0])
    counted = metric([0.2] * 4 + [0.6] * 4, [1, 1, 1, 0] + [1] * 4)
    assert rate == pytest.approx(counted)


@given(rows)
def test_a_monotone_change_of_scores_leaves_auroc_alone(rows):
    scores, outcomes, weights = columns(rows)
    assert auroc(np.exp(3 * scores), outcomes, weights) == auroc(scores, outcomes, weights)


@given(rows)
def test_turning_scores_around_turns_auroc_around(rows):
    scores, outcomes, weights = columns(rows)
    assert auroc(-scores, outcomes, weights) == pytest.approx(1 - auroc(scores, outcomes, weights))


def test_what_is_undefined_is_none():
    assert auroc([0.1, 0.9], [1, 1]) is None
    assert auroc([], []) is None
    assert brier([], []) is None
    assert log_loss([], []) is None
    assert expected_calibration_error([], []) is None
    assert brier([0.5], [1], [0]) is None


def test_a_certain_mistake_costs_much_but_not_everything():
    assert log_loss([0.0], [1.0]) == pytest.approx(15 * math.log(10))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (([0.1, math.nan], [0, 1]), "1 of 2 chances are not finite"),
        (([0.1, 1.5], [0, 1]), "1 of 2 chances lie outside 0 to 1"),
        (([0.1, 0.2], [0, 2]), "1 of 2 outcomes lie outside 0 to 1"),
        (([0.1, 0.2], [0]), "differ in length"),
        (([[0.1, 0.2]], [0, 1]), "2 axes"),
        (([0.1, 0.2], [0, 1], [1, -1]), "negative"),
    ],
)
def test_bad_columns_are_named(arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        brier(*arguments)


def test_an_error_needs_at_least_one_bin():
    with pytest.raises(InputError, match="bins must be at least 1"):
        expected_calibration_error([0.5], [1], bins=0)
