"""AUROC among alike queries equals counting the pairs one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.evaluation._intervals import Resamples
from foretell.evaluation._repeats import mean_over_repeats
from foretell.evaluation._statistics import auroc_of
from foretell.evaluation._strata import auroc_within_of, length_strata

ROWS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from([0, 0.25, 1]),
        st.sampled_from("abc"),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=25,
)


def by_pairs(scores, outcomes, strata, weights):
    won = pairs = 0.0
    for i in range(len(scores)):
        for j in range(len(scores)):
            if strata[i] == strata[j]:
                pair = weights[i] * weights[j] * outcomes[i] * (1 - outcomes[j])
                pairs += pair
                won += pair * (scores[i] > scores[j]) + pair * (scores[i] == scores[j]) / 2
    return won / pairs if pairs > 1e-12 else None


@given(ROWS)
def test_it_equals_counting_every_pair_of_one_stratum(rows):
    scores, outcomes, strata, weights = map(np.array, zip(*rows, strict=True))
    found = auroc_within_of(scores.astype(float), outcomes.astype(float), strata)(
        weights[None, :].astype(float)
    )[0]
    expected = by_pairs(scores, outcomes, strata, weights)
    assert np.isnan(found) if expected is None else found == pytest.approx(expected)


@given(ROWS)
def test_in_a_single_stratum_it_is_the_plain_auroc(rows):
    scores, outcomes, _, weights = map(np.array, zip(*rows, strict=True))
    columns = scores.astype(float), outcomes.astype(float)
    weight = weights[None, :].astype(float)
    within, plain = (
        auroc_within_of(*columns, ["a"] * len(scores))(weight),
        auroc_of(*columns)(weight),
    )
    assert within == pytest.approx(plain, nan_ok=True)


@given(ROWS, st.permutations("abc"))
def test_moving_whole_strata_changes_nothing(rows, order):
    scores, outcomes, strata, _ = map(np.array, zip(*rows, strict=True))
    moved = scores + 100.0 * np.array([order.index(stratum) for stratum in strata])
    once = np.ones((1, len(scores)))
    one = auroc_within_of(scores.astype(float), outcomes.astype(float), strata)(once)
    other = auroc_within_of(moved, outcomes.astype(float), strata)(once)
    assert one == pytest.approx(other, nan_ok=True)


def test_a_few_lengths_are_a_bin_each():
    lengths = np.array([5, 9, 5, 7, 9])
    assert length_strata(lengths).tolist() == [0, 2, 0, 1, 2]


@given(st.lists(st.integers(1, 2_000), min_size=1, max_size=400))
def test_a_length_is_never_cut_in_two_and_bins_rise_with_it(values):
    lengths = np.array(values)
    bins = length_strata(lengths)
    assert len(set(bins.tolist())) <= 20
    order = np.argsort(lengths, kind="stable")
    assert (np.diff(bins[order]) >= 0).all()
    assert len({(a, b) for a, b in zip(lengths.tolist(), bins.tolist(), strict=True)}) == len(
        set(values)
    )


def of_shape(values):
    """A statistic that is the weighted mean of ``values``, undefined where that is NaN."""
    return lambda weights: (weights @ values) / weights.sum(axis=1)


def resamples_over(n):
    return Resamples.draw([str(i) for i in range(n)], np.random.default_rng(0), 2_000)


def test_the_mean_over_repeats_is_theirs_and_the_interval_holds_both_kinds_of_chance():
    n = 50
    draws, rows = resamples_over(n), np.arange(n)
    values = np.random.default_rng(1).normal(size=n)
    shifts = [-1.0, 0.0, 1.0, 2.0]

    def width(repeats):
        found = mean_over_repeats(repeats, draws, rows, np.random.default_rng(2))
        return found.value, found.high - found.low

    value, both = width([of_shape(values + shift) for shift in shifts])
    assert value == pytest.approx(values.mean() + 0.5)
    # Independent chances add their variances: of a mean of 50 values, and of four shifts.
    expected = np.sqrt(values.var() / n + np.var(shifts) / 4)
    assert both / (2 * 1.96) == pytest.approx(expected, rel=0.1)
    _, queries_alone = width([of_shape(values)])
    assert queries_alone / (2 * 1.96) == pytest.approx(values.std() / np.sqrt(n), rel=0.1)


def test_undefined_repeats_are_left_out_and_none_at_all_is_undefined():
    draws, rows, rng = resamples_over(5), np.arange(5), np.random.default_rng(0)
    nothing = of_shape(np.full(5, np.nan))
    found = mean_over_repeats([nothing, of_shape(np.ones(5))], draws, rows, rng)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))
    for repeats in ([], [nothing]):
        undefined = mean_over_repeats(repeats, draws, rows, rng)
        assert (undefined.value, undefined.low, undefined.n) == (None, None, 5)


def test_a_single_group_has_a_value_without_interval():
    draws = Resamples.draw(["a", "a"], np.random.default_rng(0), 10)
    found = mean_over_repeats(
        [of_shape(np.array([1.0, 2.0]))], draws, np.arange(2), np.random.default_rng(0)
    )
    assert (found.value, found.low, found.high) == (1.5, None, None)
