from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.flywheel._findings import effective_size
from foretell.flywheel._stability import population_stability


def names(n, copies=1):
    return [str(i // copies) for i in range(n)]


def stability(reference, recent, *, weights=None, copies=1, seed=0, **options):
    return population_stability(
        reference,
        recent,
        reference_weights=np.ones(len(reference)) if weights is None else weights,
        reference_groups=names(len(reference)),
        recent_groups=names(len(recent), copies),
        confidence=0.95,
        rng=np.random.default_rng(seed),
        **options,
    )


def test_the_index_of_two_bins_by_hand():
    # The lower score is a bin, the upper one the other: 60 and 40 of 100, then 30 and 70.
    reference = np.repeat([0.2, 0.8], [60, 40])
    found = stability(reference, np.repeat([0.2, 0.8], [30, 70]))
    before, after = (60.5 / 101, 40.5 / 101), (30.5 / 101, 70.5 / 101)
    expected = sum((b - a) * log(b / a) for a, b in zip(before, after, strict=True))
    assert found.bins == 2
    assert found.psi == pytest.approx(expected)
    assert found.low < expected < found.high
    assert found.p_value < 1e-3


@given(st.integers(0, 2**32 - 1))
def test_the_same_scores_in_another_order_have_no_index(seed):
    rng = np.random.default_rng(seed)
    scores = rng.random(200)
    found = stability(scores, rng.permutation(scores))
    assert found.psi == pytest.approx(0, abs=1e-12)
    assert found.p_value == 1.0
    assert found.low == 0


@given(st.integers(0, 2**32 - 1))
def test_a_monotone_change_of_both_sides_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    reference, recent = rng.random(200), rng.beta(2, 1, 100)
    plain, bent = stability(reference, recent), stability(reference**3, recent**3)
    assert bent.psi == pytest.approx(plain.psi)


@pytest.mark.parametrize(("n", "m"), [(1400, 500), (100, 60)])
def test_chance_alone_goes_as_far_no_more_often_than_the_p_value_says(n, m):
    # Of 300 looks, 28 or more at 0.05 would be one case in a thousand.
    rng = np.random.default_rng(0)
    p_values = [stability(rng.random(n), rng.random(m)).p_value for _ in range(300)]
    assert sum(p <= 0.05 for p in p_values) < 28


def test_copies_count_once():
    rng = np.random.default_rng(1)
    reference = rng.random(400)
    alarms = [
        stability(reference, np.repeat(rng.random(60), 8), copies=copies, seed=i).p_value <= 0.05
        for copies in (8, 1)
        for i in range(100)
    ]
    assert sum(alarms[:100]) <= 13
    assert sum(alarms[100:]) > 50


def test_weights_stand_for_what_was_not_seen():
    rng = np.random.default_rng(2)
    whole = rng.random(4000)
    seen_with = np.where(whole > 0.5, 1.0, 0.25)
    seen = rng.random(4000) < seen_with
    recent = rng.random(400)
    plain = stability(whole[seen], recent)
    weighted = stability(whole[seen], recent, weights=1 / seen_with[seen])
    assert weighted.psi < 0.06 < plain.psi


def test_scores_below_the_bar_of_an_early_look_are_one_bin():
    reference = np.linspace(0.005, 0.995, 100)
    below = np.nextafter(0.4, 0)
    recent = np.where(reference < 0.4, below, reference)
    assert stability(reference, recent, merged_below=0.4).psi == pytest.approx(0, abs=1e-12)
    assert stability(reference, recent).psi > 1


def test_too_little_says_nothing():
    rng = np.random.default_rng(3)
    assert stability(rng.random(49), rng.random(500)) is None
    assert stability(rng.random(500), rng.random(49)) is None
    assert stability(np.full(100, 0.5), rng.random(100)) is None
    assert stability(rng.random(100), np.full(100, 0.1), merged_below=2.0) is None


def test_the_effective_size_is_that_of_equal_independent_rows():
    assert effective_size(np.ones(12), names(12)) == pytest.approx(12)
    assert effective_size(np.ones(12), names(12, 3)) == pytest.approx(4)
    assert effective_size(np.array([9.0, 1, 1, 1]), names(4)) == pytest.approx(144 / 84)
    assert effective_size(np.empty(0), []) == 0
