"""Diagram, error and decomposition against scikit-learn, netcal and their laws."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score

from foretell.calibration import (
    auprc,
    brier,
    brier_decomposition,
    clopper_pearson,
    expected_calibration_error,
    reliability_diagram,
)
from foretell.errors import InputError

rows = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 3)), max_size=40)
binnings = pytest.mark.parametrize("binning", ["mass", "width"])


def columns(rows):
    return (np.array(column, dtype=float) for column in zip(*rows, strict=True))


def drawn(n=400, seed=0):
    generator = np.random.default_rng(seed)
    p = generator.random(n)
    return p, (generator.random(n) < p**2).astype(float)


@binnings
@given(rows=rows, bins=st.integers(1, 20))
def test_the_parts_add_up_to_the_brier_score(binning, rows, bins):
    p, outcomes, weights = columns(rows) if rows else ([], [], [])
    parts = brier_decomposition(p, outcomes, weights, bins=bins, binning=binning)
    whole = brier(p, outcomes, weights)
    if whole is None:
        assert parts is None
    else:
        assert parts.brier == pytest.approx(whole, abs=1e-9)
        assert min(parts.reliability, parts.resolution, parts.uncertainty) >= -1e-12


def test_bins_of_a_single_chance_hide_nothing():
    p = np.repeat([0.1, 0.5, 0.9], 20)
    parts = brier_decomposition(p, drawn(60)[1])
    assert parts.within_bin == pytest.approx(0, abs=1e-12)


def test_a_decomposition_by_hand():
    # Bins {0.2, 0.2} with one success in two, {0.8, 0.8} with two. Reliability
    # (0.3^2 + 0.2^2) / 2, resolution 0.25^2, uncertainty 3/4 * 1/4.
    parts = brier_decomposition([0.2, 0.2, 0.8, 0.8], [0, 1, 1, 1], bins=2)
    assert parts.reliability == pytest.approx(0.065)
    assert parts.resolution == pytest.approx(0.0625)
    assert parts.uncertainty == pytest.approx(0.1875)
    assert parts.within_bin == pytest.approx(0)


def test_the_diagram_is_scikit_learns():
    p, outcomes = drawn()
    for binning, strategy in (("width", "uniform"), ("mass", "quantile")):
        shares, means = calibration_curve(outcomes, p, n_bins=10, strategy=strategy)
        diagram = reliability_diagram(p, outcomes, bins=10, binning=binning)
        assert [row.success_share for row in diagram] == pytest.approx(shares)
        assert [row.mean_p for row in diagram] == pytest.approx(means)


@binnings
def test_the_error_is_the_mean_distance_in_the_diagram(binning):
    p, outcomes = drawn()
    diagram = reliability_diagram(p, outcomes, bins=7, binning=binning)
    assert sum(row.n for row in diagram) == len(p)
    by_hand = sum(row.n * abs(row.mean_p - row.success_share) for row in diagram) / len(p)
    found = expected_calibration_error(p, outcomes, bins=7, binning=binning)
    assert found == pytest.approx(by_hand)


def test_the_error_is_netcals():
    # netcal 1.4.0: ECE(bins).measure(p, y), on rows that any program can make the same.
    index = np.arange(101)
    scores = np.round(-3 + 6 * (37 * index % 101) / 100, 2)
    outcomes = (53 * index % 101) / 101 < 1 / (1 + np.exp(-(0.6 * scores + 0.4)))
    p = 1 / (1 + np.exp(-scores))
    for bins, wanted in ((5, 0.12712007994), (10, 0.12712007994), (15, 0.13242850553)):
        found = expected_calibration_error(p, outcomes, bins=bins, binning="width")
        assert found == pytest.approx(wanted, abs=1e-10)


def test_rows_of_the_diagram_rise_and_bound_their_share():
    p, outcomes = drawn()
    diagram = reliability_diagram(p, outcomes, confidence=0.9)
    assert all(row.low <= row.mean_p <= row.high for row in diagram)
    assert all(a.high <= b.low for a, b in pairwise(diagram))
    for row in diagram:
        wanted = binomtest(round(row.success_share * row.n), row.n).proportion_ci(0.9, "exact")
        assert (row.share_low, row.share_high) == pytest.approx((wanted.low, wanted.high))


def test_rates_and_unequal_weights_have_no_exact_interval():
    for row in reliability_diagram([0.1, 0.9], [0.5, 1.0]):
        assert (row.share_low, row.share_high) == (None, None)
    (row,) = reliability_diagram([0.1, 0.9, 0.5], [0, 1, 1], [1, 2, 0], bins=1)
    assert (row.share_low, row.share_high, row.n) == (None, None, 2)
    assert row.success_share == pytest.approx(2 / 3)


def test_no_rows_have_no_diagram_and_no_parts():
    assert reliability_diagram([], []) == ()
    assert brier_decomposition([0.5], [1], [0]) is None


@given(st.integers(1, 200), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95]))
def test_the_exact_interval_is_scipys(n, share, confidence):
    successes = round(share * n)
    wanted = binomtest(successes, n).proportion_ci(confidence, "exact")
    assert clopper_pearson(successes, n, confidence) == pytest.approx((wanted.low, wanted.high))


def test_an_interval_without_trials_is_everything_and_nonsense_is_refused():
    assert clopper_pearson(0, 0) == (0, 1)
    with pytest.raises(InputError, match="from 0 to the 3 trials, got 4"):
        clopper_pearson(4, 3)
    with pytest.raises(InputError, match="confidence must be above 0"):
        clopper_pearson(1, 3, 1.0)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.booleans(), st.integers(1, 4)),
        min_size=1,
        max_size=30,
    ).filter(lambda rows: any(success for _, success, _ in rows))
)
def test_average_precision_is_scikit_learns(rows):
    scores, outcomes, weights = columns(rows)
    wanted = average_precision_score(outcomes, scores, sample_weight=weights)
    assert auprc(scores, outcomes, weights) == pytest.approx(wanted)


def test_average_precision_counts_rates_and_is_none_without_successes():
    assert auprc([0.2, 0.6], [0.5, 1.0]) == pytest.approx(
        auprc([0.2] * 2 + [0.6] * 2, [1, 0, 1, 1])
    )
    assert auprc([0.2, 0.6], [0, 0]) is None
    assert auprc([], []) is None
    assert auprc(np.exp([0.3, 0.1, 0.2]), [1, 0, 1]) == 1
    assert math.isclose(auprc([0.5] * 4, [1, 0, 0, 0]), 0.25)
