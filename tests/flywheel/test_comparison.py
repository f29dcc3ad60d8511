from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from foretell.flywheel import Paired, compare
from foretell.flywheel._comparison import check_calibration, gain_of

LIMIT = 0.1


def rows(candidate, rival, outcomes, *, weights=None, groups=None) -> Paired:
    n = len(outcomes)
    return Paired(
        candidate=np.asarray(candidate, dtype=np.float64),
        rival=np.asarray(rival, dtype=np.float64),
        outcomes=np.asarray(outcomes, dtype=np.float64),
        weights=np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64),
        groups=tuple(map(str, range(n) if groups is None else groups)),
    )


def drawn(n: int, rng: np.random.Generator, noise: float = 0.0) -> Paired:
    """A candidate that knows the true chances against a rival that errs about them."""
    true = rng.random(n)
    outcomes = rng.random(n) < true
    rival = np.clip(true + noise * rng.standard_normal(n), 0, 1)
    return rows(true, rival, outcomes)


def test_the_gain_is_by_how_much_the_squared_error_falls():
    # Squared errors 0.04 and 0.16 against 0.25 and 0.25: 0.21 and 0.09, on average 0.15.
    gain = gain_of(rows([0.8, 0.4], [0.5, 0.5], [1, 0]), level=0.05)
    assert gain.value == pytest.approx(0.15)
    assert (gain.n, gain.groups) == (2, 2)


def test_of_independent_queries_the_interval_is_students():
    paired = drawn(40, np.random.default_rng(0), noise=0.3)
    squares = (paired.rival - paired.outcomes) ** 2 - (paired.candidate - paired.outcomes) ** 2
    wanted = ttest_1samp(squares, 0).confidence_interval(0.9)
    gain = gain_of(paired, level=0.05)
    assert (gain.low, gain.high) == pytest.approx((wanted.low, wanted.high))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_the_gain_of_one_is_the_loss_of_the_other(seed, n):
    paired = drawn(n, np.random.default_rng(seed), noise=0.2)
    turned = Paired(
        candidate=paired.rival,
        rival=paired.candidate,
        outcomes=paired.outcomes,
        weights=paired.weights,
        groups=paired.groups,
    )
    there, back = gain_of(paired, level=0.01), gain_of(turned, level=0.01)
    assert there.value == pytest.approx(-back.value)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_copies_of_a_query_tell_no_more_than_the_query(seed, copies):
    paired = drawn(12, np.random.default_rng(seed), noise=0.2)
    copied = rows(
        np.repeat(paired.candidate, copies),
        np.repeat(paired.rival, copies),
        np.repeat(paired.outcomes, copies),
        groups=np.repeat(np.arange(12), copies),
    )
    once, often = gain_of(paired, level=0.05), gain_of(copied, level=0.05)
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_a_weight_counts_as_repetitions_within_its_group(seed):
    paired = drawn(12, np.random.default_rng(seed), noise=0.2)
    weights = np.arange(12) % 3 + 1
    weighted = rows(paired.candidate, paired.rival, paired.outcomes, weights=weights)
    repeated = rows(
        np.repeat(paired.candidate, weights),
        np.repeat(paired.rival, weights),
        np.repeat(paired.outcomes, weights),
        groups=np.repeat(np.arange(12), weights),
    )
    once, often = gain_of(weighted, level=0.05), gain_of(repeated, level=0.05)
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))


def test_two_that_foretell_the_same_show_no_gain():
    paired = drawn(100, np.random.default_rng(0))
    gain = gain_of(paired, level=0.05)
    assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)
    assert not gain.shown
    assert not gain.loss_shown


def test_one_group_gives_no_interval_and_so_no_gain():
    gain = gain_of(rows([0.9, 0.9], [0.1, 0.1], [1, 1], groups=["a", "a"]), level=0.05)
    assert (gain.low, gain.high) == (None, None)
    assert not gain.shown


def test_without_rows_there_is_nothing_to_compare():
    nothing = rows([], [], [])
    assert compare(nothing, level=0.05, limit=LIMIT, rng=np.random.default_rng(0)) is None


def test_a_probe_that_is_no_better_is_rarely_taken_for_a_better_one():
    """At a level of 5 %, in groups of three copies; 400 trials, so at most 5 % ± 2.2 %."""
    rng = np.random.default_rng(0)
    shown = 0
    for _ in range(400):
        true = rng.random(60)
        outcomes = rng.random(60) < true
        one, other = (np.clip(true + 0.2 * rng.standard_normal(60), 0, 1) for _ in range(2))
        paired = rows(
            *(np.repeat(column, 3) for column in (one, other, outcomes)),
            groups=np.repeat(np.arange(60), 3),
        )
        shown += gain_of(paired, level=0.05).shown
    assert shown <= 400 * 0.072


def test_chances_that_are_true_are_rarely_doubted_and_others_are():
    rng = np.random.default_rng(0)
    doubted = missed = 0
    for _ in range(25):
        true = rng.beta(0.6, 0.6, 150)
        outcomes = (rng.random(150) < true).astype(np.float64)
        overconfident = np.where(true > 0.5, 0.98, 0.02)
        shared = (outcomes, np.ones(150), tuple(map(str, range(150))))
        doubted += not check_calibration(true, *shared, limit=0.05, rng=rng).holds
        missed += check_calibration(overconfident, *shared, limit=0.05, rng=rng).holds
    assert doubted <= 2
    assert missed <= 3


def test_a_small_error_that_many_queries_show_is_no_reason_to_refuse():
    """The limit is about what matters; a million queries would make any error significant."""
    rng = np.random.default_rng(0)
    true = rng.random(20_000)
    outcomes = (rng.random(20_000) < true).astype(np.float64)
    off = np.clip(true + 0.04, 0, 1)
    groups = tuple(map(str, range(20_000)))
    found = check_calibration(off, outcomes, np.ones(20_000), groups, limit=LIMIT, rng=rng)
    assert found.low > 0.02
    assert found.excess == pytest.approx(0.035, abs=0.01)
    assert found.holds
    strict = check_calibration(off, outcomes, np.ones(20_000), groups, limit=0.01, rng=rng)
    assert not strict.holds


def test_copies_that_fail_together_do_not_look_like_untrue_chances():
    """Twenty queries, fifty times each: as uneven as twenty outcomes are, not as a thousand."""
    rng = np.random.default_rng(1)
    doubted = 0
    for _ in range(15):
        true = np.full(20, 0.5)
        outcomes = np.repeat((rng.random(20) < true).astype(np.float64), 50)
        groups = tuple(map(str, np.repeat(np.arange(20), 50)))
        found = check_calibration(
            np.repeat(true, 50), outcomes, np.ones(1000), groups, limit=0.02, rng=rng
        )
        doubted += not found.holds
    assert doubted <= 2


def test_a_comparison_tells_both_scores():
    found = compare(
        drawn(200, np.random.default_rng(0), noise=0.3),
        level=0.01,
        limit=LIMIT,
        rng=np.random.default_rng(0),
    )
    assert found is not None
    assert found.gain.value == pytest.approx(found.rivals_brier - found.brier)
    assert found.auroc is not None
    assert found.rivals_auroc is not None
    assert found.auroc > found.rivals_auroc
    assert found.calibrated
