"""Precision-recall, risk-coverage and regret: by hand, by laws, against references."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

import foretell.calibration
from foretell.errors import InputError
from foretell.evaluation import aurc, cost_quality_curve, pgr, risk_coverage_curve
from foretell.evaluation._statistics import (
    apgr_of,
    auprc_of,
    aurc_of,
    log_losses,
    pgr_of,
    regret_area_of,
    regret_of,
    squared_errors,
)

rate = st.sampled_from([0.0, 0.25, 1.0])
binary = st.sampled_from([0.0, 1.0])
rows = st.lists(
    st.tuples(st.integers(-3, 3), rate, rate, st.integers(0, 3)), min_size=1, max_size=12
)


def columns(rows):
    return tuple(np.array(column, dtype=float) for column in zip(*rows, strict=True))


def value(statistic, weights):
    found = float(statistic(np.asarray(weights, dtype=float)[None, :])[0])
    return found if np.isfinite(found) else None


@given(st.lists(st.tuples(st.integers(-3, 3), binary, st.integers(1, 3)), min_size=2))
def test_auprc_is_scikit_learns_average_precision(rows):
    score, outcome, weight = columns(rows)
    assume(outcome.any())
    expected = average_precision_score(outcome, score, sample_weight=weight)
    assert value(auprc_of(score, outcome), weight) == pytest.approx(expected)


@given(rows)
def test_auprc_is_the_one_of_the_calibration_room(rows):
    score, outcome, _, weight = columns([*rows, (0, 1.0, 0.0, 1)])
    expected = foretell.calibration.auprc(score, outcome, weight)
    assert value(auprc_of(score, outcome), weight) == pytest.approx(expected)


def test_auprc_without_a_success_is_undefined():
    assert value(auprc_of(np.arange(3.0), np.zeros(3)), np.ones(3)) is None


def test_aurc_by_hand():
    # Kept one by one, the failures among them are 0/1, 1/2, 1/3, 2/4.
    assert aurc([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


@given(st.lists(st.tuples(st.integers(0, 2), rate), min_size=1, max_size=5))
def test_aurc_is_the_mean_over_every_order_of_ties(rows):
    score, outcome = columns(rows)

    def naive(order):
        failed = 1 - outcome[list(order)]
        return (np.cumsum(failed) / np.arange(1, len(failed) + 1)).mean()

    orders = [
        order
        for order in permutations(range(len(score)))
        if all(score[a] >= score[b] for a, b in pairwise(order))
    ]
    assert aurc(score, outcome) == pytest.approx(np.mean([naive(order) for order in orders]))


@given(rows)
def test_a_weight_is_that_many_rows(rows):
    score, weak, strong, weight = columns([*rows, (0, 0.0, 1.0, 1)])
    many = [np.repeat(column, weight.astype(int)) for column in (score, weak, strong)]
    for make in (auprc_of, aurc_of):
        expected = value(make(*many[:2]), np.ones(len(many[0])))
        assert value(make(score, weak), weight) == pytest.approx(expected)
    for make in (regret_of, regret_area_of):
        expected = value(make(*many), np.ones(len(many[0])))
        assert value(make(score, weak, strong), weight) == pytest.approx(expected)


@given(rows, st.randoms())
def test_neither_row_order_nor_a_monotone_change_of_scores_matters(rows, random):
    shuffled = random.sample(rows, len(rows))
    score, weak, strong, _ = columns(rows)
    other, other_weak, other_strong, _ = columns(shuffled)
    ones = np.ones(len(rows))
    for make in (auprc_of, aurc_of):
        expected = value(make(score, weak), ones)
        assert value(make(np.exp(other) - 7, other_weak), ones) == pytest.approx(expected)
    for make in (regret_of, regret_area_of):
        expected = value(make(score, weak, strong), ones)
        found = value(make(np.exp(other) - 7, other_weak, other_strong), ones)
        assert found == pytest.approx(expected)


@given(rows)
def test_scores_that_say_nothing_risk_the_failure_share_everywhere(rows):
    _, outcome, _, _ = columns(rows)
    assert aurc(np.zeros(len(outcome)), outcome) == pytest.approx(1 - outcome.mean())


def test_the_risk_coverage_curve_by_hand():
    curve = risk_coverage_curve([4, 3, 2, 1], [1, 0, 1, 0])
    assert curve.coverage.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.risk_at([0.25, 0.5, 0.75, 1]) == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])


def test_tied_scores_share_their_risk():
    curve = risk_coverage_curve([1, 1, 1, 1], [1, 0, 0, 0])
    assert curve.risk_at([0.1, 1]) == pytest.approx([0.75, 0.75])


def test_weights_count_as_rows_in_both_curves():
    score, weak, strong = [3, 2, 1], [1, 0, 1], [1, 1, 0]
    weighted = risk_coverage_curve(score, weak, [1, 2, 1])
    assert weighted.risk_at(0.75) == pytest.approx(2 / 3)
    assert weighted.risk_at(0.5) == pytest.approx(1 / 2)
    curve = cost_quality_curve(score, weak, strong, [1, 2, 1])
    assert curve.share.tolist() == [0, 0.25, 0.75, 1]
    assert curve.quality.tolist() == [0.5, 0.25, 0.75, 0.75]


@pytest.mark.parametrize("weights", [[1, 1], [0, 0, 0], [1, -1, 1], [1, np.nan, 1]])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(InputError, match="wanted 3 numbers of at least 0, not all 0"):
        risk_coverage_curve([1, 2, 3], [0, 1, 0], weights)


@pytest.mark.parametrize("coverage", [0, 1.1, [0.5, -1]])
def test_the_risk_of_keeping_nothing_is_refused(coverage):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        risk_coverage_curve([1, 2], [0, 1]).risk_at(coverage)


@given(rows, st.sampled_from([0.0, 0.1, 0.5, 0.77, 1.0]))
def test_pgr_at_a_share_is_read_off_the_curve(rows, share):
    score, weak, strong, _ = columns(rows)
    curve = cost_quality_curve(score, weak, strong)
    gap = pgr(float(curve.quality_at(share)), weak=weak.mean(), strong=strong.mean())
    found = value(pgr_of(score, weak, strong, share), np.ones(len(score)))
    assert found == (None if strong.mean() - weak.mean() <= 1e-12 else pytest.approx(gap))


def test_regret_by_hand():
    # Escalated in order of score, 2/4, 3/4, 4/4, 4/4, 3/4 are right; the oracle escalates two of
    # four. Backwards they are 2/4, 1/4, 1/4, 2/4, 3/4, so 3/4 less than the oracle there; areas
    # are 27/32 and 13/32.
    weak, strong, ones = np.array([0, 0, 1, 1.0]), np.array([1, 1, 1, 0.0]), np.ones(4)
    assert value(regret_of(np.arange(4.0), weak, strong), ones) == 0
    assert value(regret_of(-np.arange(4.0), weak, strong), ones) == pytest.approx(3 / 4)
    assert value(regret_area_of(-np.arange(4.0), weak, strong), ones) == pytest.approx(14 / 32)


@given(rows)
def test_the_oracle_is_never_beaten(rows):
    score, weak, strong, _ = columns(rows)
    ones = np.ones(len(score))
    assert value(regret_of(score, weak, strong), ones) >= -1e-12
    assert value(regret_area_of(score, weak, strong), ones) >= -1e-12
    assert value(regret_of(weak - strong, weak, strong), ones) == pytest.approx(0)
    mine, oracles = (value(apgr_of(by, weak, strong), ones) for by in (score, weak - strong))
    assert mine is None or mine <= oracles + 1e-12


@given(st.lists(st.tuples(st.floats(0, 1), rate, st.integers(1, 3)), min_size=1))
def test_losses_are_those_of_the_calibration_room(rows):
    chance, outcome, weight = columns(rows)
    for losses, expected in (
        (log_losses, foretell.calibration.log_loss),
        (squared_errors, foretell.calibration.brier),
    ):
        found = np.average(losses(chance, outcome), weights=weight)
        assert found == pytest.approx(expected(chance, outcome, weight))
