"""How often a promised quality is missed, and the laws of the tests behind the promise."""

import math
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from foretell.calibration import KEEP_NOTHING, keep_at_for_quality
from foretell.errors import InputError

DRAWS = 1000
SIZES = (100, 250, 500, 1000)
WAYS = list(product(("betting", "binomial"), ("fixed", "bonferroni")))
every_way = pytest.mark.parametrize(("test", "sequence"), WAYS, ids=["-".join(w) for w in WAYS])
coarse = np.arange(0, 1, 0.1)

unhurried = settings(deadline=None, max_examples=20)


def flat(generator, n):
    """Every threshold that keeps anything sits on the goal of 0.9 (and counts as breaking it).

    The top tenth always fails and the rest is as good as the strong model, which is right in 8 of
    10: (0.9 * 0.8) / 0.8 = 0.9, whatever else is kept.
    """
    level = generator.integers(0, 10, n) / 10
    strong = (generator.random(n) < 0.8).astype(float)
    weak = (generator.random(n) < np.where(level == 0.9, 0.0, 0.8)).astype(float)
    return level, weak, strong


def rising(generator, n):
    """Chances that are true. Escalating below t gives (1 - t^2) / 2 + 0.8 t."""
    p = generator.random(n)
    strong = (generator.random(n) < 0.8).astype(float)
    return p, (generator.random(n) < p).astype(float), strong


LEAST_RISING = 0.8 - math.sqrt(0.12)
"""Where ``rising`` meets 0.95 * 0.8 = 0.76; lower thresholds break a quality of 0.95."""


def rare(generator, n):
    """The strong model is always right, the weak one fails on 8 of 100 of the top quarter only.

    So 98 of 100 are right whatever is kept, and the goal is 0.98. A sample of 100 without any
    failure is not unlikely, and says nothing.
    """
    level = generator.integers(0, 4, n) / 4
    fails = (level == 0.75) & (generator.random(n) < 0.08)
    return level, 1.0 - fails, np.ones(n)


def promises(draw, quality, miss, n, seed=0, draws=DRAWS, **how):
    generator = np.random.default_rng(seed + n)
    samples = (draw(generator, n) for _ in range(draws))
    return [keep_at_for_quality(*sample, quality, 1 - miss, **how) for sample in samples]


def share_kept_falsely(found, least):
    return np.mean([threshold.keep_at < least for threshold in found])


@every_way
@pytest.mark.parametrize("n", SIZES)
def test_a_promise_is_broken_no_more_often_than_it_may_be_where_every_threshold_is_in_doubt(
    test, sequence, n
):
    found = promises(flat, 0.9, 0.1, n, test=test, sequence=sequence)
    assert share_kept_falsely(found, 0.95) <= 0.11


@every_way
@pytest.mark.parametrize("n", [250, 1000])
def test_the_same_at_another_confidence_and_with_thresholds_given(test, sequence, n):
    how = {"test": test, "sequence": sequence, "candidates": coarse}
    assert share_kept_falsely(promises(flat, 0.9, 0.3, n, **how), 0.95) <= 0.31


@every_way
@pytest.mark.parametrize("n", [100, 250])
def test_the_same_where_failures_are_rare(test, sequence, n):
    found = promises(rare, 0.98, 0.1, n, test=test, sequence=sequence)
    assert share_kept_falsely(found, 1.0) <= 0.11


@pytest.mark.parametrize("n", SIZES)
def test_the_betting_test_in_order_escalates_least(n):
    """Mean strong shares at quality 0.95, confidence 0.9; the truth allows 0.454.

    ``benchmarks/guarantees.py`` over 1,000 draws each, broken promises in brackets:

    |        n | betting, fixed | betting, Bonferroni | binomial, fixed | binomial, Bonferroni |
    |---------:|---------------:|--------------------:|----------------:|---------------------:|
    |      100 |  0.844 (0.000) |       0.969 (0.000) |   1.000 (0.000) |        1.000 (0.000) |
    |      250 |  0.715 (0.004) |       0.814 (0.000) |   1.000 (0.000) |        1.000 (0.000) |
    |      500 |  0.605 (0.003) |       0.722 (0.000) |   1.000 (0.000) |        0.981 (0.000) |
    |    1,000 |  0.564 (0.004) |       0.628 (0.001) |   0.942 (0.000) |        0.770 (0.000) |
    """
    shares = {}
    for test, sequence in WAYS:
        draws = DRAWS if (test, sequence) == ("betting", "fixed") else 200
        found = promises(rising, 0.95, 0.1, n, draws=draws, test=test, sequence=sequence)
        assert share_kept_falsely(found, LEAST_RISING) <= 0.11
        shares[test, sequence] = np.mean([threshold.strong_share for threshold in found])
    assert min(shares, key=shares.get) == ("betting", "fixed")


def test_exact_bounds_escalate_less_where_the_strong_model_never_fails():
    def reliable(generator, n):
        p = generator.random(n)
        return p, (generator.random(n) < 0.97 + 0.03 * p).astype(float), np.ones(n)

    bets, bounds = (
        promises(reliable, 0.95, 0.1, 250, draws=100, test=test) for test in ("betting", "binomial")
    )
    assert np.mean([found.strong_share for found in bounds]) < np.mean(
        [found.strong_share for found in bets]
    )


@pytest.mark.parametrize("n", [100, 500])
def test_groups_keep_the_promise_where_single_queries_break_it(n):
    def clustered(generator, n):
        return tuple(np.repeat(column, 10) for column in flat(generator, n // 10))

    groups = np.arange(n) // 10
    told = promises(clustered, 0.9, 0.1, n, groups=groups)
    assert share_kept_falsely(told, 0.95) <= 0.11
    not_told = promises(clustered, 0.9, 0.1, n, draws=300)
    assert share_kept_falsely(not_told, 0.95) > 0.15


def test_groups_of_unequal_size_keep_the_promise_of_queries():
    # All is right but the large groups among the highest scores: 10 of 11 queries in the top
    # tenth, so 10 / 11 of the queries are right whatever is kept, but 19 in 20 of the groups.
    sizes = np.tile([1, 10], 80)
    group = np.repeat(np.arange(160), sizes)

    def unequal(generator, n):
        level = generator.integers(0, 10, 160) / 10
        weak = ((level < 0.9) | (sizes == 1)).astype(float)
        return level[group], weak[group], np.ones(n)

    found = promises(unequal, 10 / 11, 0.1, len(group), groups=group)
    assert share_kept_falsely(found, 0.95) <= 0.11


@unhurried
@given(seed=st.integers(0, 1000), n=st.integers(1, 80))
def test_groups_of_one_are_queries(seed, n):
    sample = rising(np.random.default_rng(seed), n)
    alone = keep_at_for_quality(*sample, 0.9, 0.8)
    assert keep_at_for_quality(*sample, 0.9, 0.8, groups=np.arange(n)) == alone


def test_a_group_counts_as_much_as_the_largest_allows():
    # Two copies of every query in one group, sums over 2: exactly the copies' own evidence.
    p, weak, strong = rising(np.random.default_rng(0), 300)
    alone = keep_at_for_quality(p, weak, strong, 0.9, 0.9)
    paired = [np.repeat(column, 2) for column in (p, weak, strong)]
    together = keep_at_for_quality(*paired, 0.9, 0.9, groups=np.repeat(np.arange(300), 2))
    assert replace(together, n=300) == alone
    # One group of ten among the single ones divides all evidence by ten.
    lumped = np.concatenate([np.zeros(10, dtype=int), np.arange(1, 291)])
    assert keep_at_for_quality(p, weak, strong, 0.9, 0.9, groups=lumped).keep_at > alone.keep_at


@every_way
@unhurried
@given(seed=st.integers(0, 1000), qualities=st.lists(st.floats(0.5, 1), min_size=2, max_size=2))
def test_raising_quality_never_lowers_the_threshold(test, sequence, seed, qualities):
    sample = rising(np.random.default_rng(seed), 200)
    low, high = (
        keep_at_for_quality(*sample, quality, 0.8, test=test, sequence=sequence).keep_at
        for quality in sorted(qualities)
    )
    assert low <= high


@every_way
@unhurried
@given(seed=st.integers(0, 1000), order=st.integers(0, 1000))
def test_row_order_does_not_matter(test, sequence, seed, order):
    sample = rising(np.random.default_rng(seed), 60)
    shuffled = np.random.default_rng(order).permutation(60)
    one = keep_at_for_quality(*sample, 0.8, 0.7, test=test, sequence=sequence)
    other = keep_at_for_quality(
        *(column[shuffled] for column in sample), 0.8, 0.7, test=test, sequence=sequence
    )
    assert one.keep_at == other.keep_at


@given(seed=st.integers(0, 200))
@unhurried
def test_any_score_that_ranks_the_same_gives_the_same_decisions(seed):
    p, weak, strong = rising(np.random.default_rng(seed), 150)
    chance = keep_at_for_quality(p, weak, strong, 0.8, 0.8)
    anything = keep_at_for_quality(
        50 * p**3 - 20, weak, strong, 0.8, 0.8, score_range=(-math.inf, math.inf)
    )
    assert anything.strong_share == chance.strong_share
    if chance.guaranteed:
        assert anything.keep_at == pytest.approx(50 * chance.keep_at**3 - 20)
    else:
        assert anything.keep_at == sys.float_info.max


def test_gain_may_be_the_score():
    p, weak, strong = rising(np.random.default_rng(0), 2000)
    found = keep_at_for_quality(p - 0.8, weak, strong, 0.95, 0.9, score_range=(-1, 1))
    assert found.guaranteed
    assert found.keep_at == pytest.approx(
        keep_at_for_quality(p, weak, strong, 0.95, 0.9).keep_at - 0.8
    )


def test_the_binomial_test_is_clopper_and_pearsons_bounds_by_hand():
    # The weak model is right on 95 of 100, the strong one on 90; keeping everything is tested.
    weak, strong = np.repeat([1.0, 0.0], [95, 5]), np.repeat([1.0, 0.0], [90, 10])
    low = binomtest(95, 100).proportion_ci(0.9, "exact").low
    high = binomtest(90, 100).proportion_ci(0.9, "exact").high
    how = {"test": "binomial", "candidates": [0.0]}
    assert keep_at_for_quality([0.5] * 100, weak, strong, low / high - 1e-9, 0.9, **how).guaranteed
    refused = keep_at_for_quality([0.5] * 100, weak, strong, low / high + 1e-9, 0.9, **how)
    assert not refused.guaranteed


def test_the_betting_test_by_hand():
    # Both always right, one threshold: every stake wins 1 + stake * (1 - quality) each time.
    n, quality = 60, 0.95
    wealth = np.mean([(1 + stake * 0.05) ** n for stake in (0.1, 0.3, 0.9)])
    for confidence, holds in ((1 - 1.001 / wealth, True), (1 - 0.999 / wealth, False)):
        found = keep_at_for_quality(
            [0.5] * n, [1] * n, [1] * n, quality, confidence, candidates=[0.5]
        )
        assert found.guaranteed == holds


def test_bonferroni_passes_over_a_stretch_where_a_fixed_sequence_ends():
    # The highest scores always fail; below them the weak model is right and the strong one not.
    p = np.arange(2000) / 2000
    weak, strong = (p < 0.8).astype(float), (np.arange(2000) % 4 > 0).astype(float)
    in_order = keep_at_for_quality(p, weak, strong, 0.95, 0.9)
    shared = keep_at_for_quality(p, weak, strong, 0.95, 0.9, sequence="bonferroni")
    assert in_order.keep_at > 0.9
    assert shared.keep_at == 0.0
    assert in_order.guaranteed
    assert shared.guaranteed


def test_only_thresholds_given_are_chosen():
    sample = rising(np.random.default_rng(0), 2000)
    for sequence in ("fixed", "bonferroni"):
        found = keep_at_for_quality(*sample, 0.9, 0.9, sequence=sequence, candidates=[0.7, 0.2])
        assert (found.keep_at, found.guaranteed) == (0.7, True)


@every_way
def test_the_number_of_labels_that_would_do_does(test, sequence):
    few = keep_at_for_quality(
        *rising(np.random.default_rng(0), 60), 0.95, 0.9, test=test, sequence=sequence
    )
    assert not few.guaranteed
    assert few.keep_at == KEEP_NOTHING
    assert f"about {few.labels_needed} would" in few.reason

    def kept_some(n):
        found = promises(rising, 0.95, 0.1, n, draws=60, test=test, sequence=sequence)
        return np.mean([threshold.guaranteed for threshold in found])

    assert few.labels_needed > 60
    assert kept_some(2 * few.labels_needed) >= 0.8
    assert kept_some(few.labels_needed // 4) <= 0.5


@every_way
def test_no_number_of_labels_helps_a_weak_model_that_is_always_wrong(test, sequence):
    found = keep_at_for_quality(
        [0.5] * 50, [0] * 50, [1] * 50, 0.95, 0.9, test=test, sequence=sequence
    )
    assert (found.keep_at, found.labels_needed) == (KEEP_NOTHING, None)
    assert "would not help" in found.reason


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"test": "bootstrap"}, "unknown test 'bootstrap'; use one of betting, binomial"),
        ({"sequence": "holm"}, "unknown sequence 'holm'; use one of fixed, bonferroni"),
        ({"test": "binomial", "groups": [0, 0, 1]}, "not independent.*use test='betting'"),
        ({"groups": [0, 1]}, "2 groups for 3 queries"),
        ({"candidates": [0.95]}, "none of the 1 candidates keeps any of these 3 queries"),
        ({"candidates": []}, "none of the 0 candidates"),
        ({"score_range": (1, 0)}, "score_range must rise, got 1 to 0"),
        ({"score_range": (0, 0.5)}, "1 of 3 scores lie outside 0 to 0.5"),
        ({"sequence": "bonferroni", "score_range": (0, math.inf)}, "pass candidates"),
    ],
)
def test_what_cannot_be_promised_is_refused(how, complaint):
    with pytest.raises(InputError, match=complaint):
        keep_at_for_quality([0.1, 0.5, 0.9], [0, 1, 1], [1, 1, 1], 0.9, 0.9, **how)


def test_rates_are_for_the_betting_test_only():
    sample = [0.5] * 3, [0.5, 1, 1], [1, 1, 1]
    with pytest.raises(InputError, match=r"a rate between 0 and 1.*use test='betting'"):
        keep_at_for_quality(*sample, 0.9, 0.9, test="binomial")
    rates = [0.5] * 200, [0.9] * 200, [0.9] * 200
    assert keep_at_for_quality(*rates, 0.9, 0.9).guaranteed
