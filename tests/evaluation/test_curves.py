"""The cost-quality curve and what is read off it: by hand, by laws, and against a naive rewrite."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.evaluation import apgr, cost_quality_curve, cpt, pgr

outcome = st.sampled_from([0.0, 0.25, 1.0])
rows = st.lists(st.tuples(st.integers(-3, 3), outcome, outcome), min_size=1, max_size=12)


def columns(rows):
    score, weak, strong = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return score, weak, strong


def naive_curve(score, weak, strong):
    """Quality after each escalation, lowest score first; scores differ."""
    order = np.argsort(score)
    answers = [np.where(np.isin(np.arange(len(score)), order[:k]), strong, weak).mean()
               for k in range(len(score) + 1)]  # fmt: skip
    return np.linspace(0, 1, len(score) + 1), np.array(answers)


# Four queries in order of score, weak 0 0 1 1, strong 1 0 1 0: escalating them one by one gives
# 2/4, 3/4, 3/4, 3/4, 2/4 right. Weak and strong are equally good: there is no gap.
# With strong 1 1 1 0 it gives 2/4, 3/4, 4/4, 4/4, 3/4: the gap is 1/4, so PGR is 0 1 2 2 1,
# APGR (0 + 1)/8 + (1 + 2)/8 + (2 + 2)/8 + (2 + 1)/8 = 11/8, PGR 1/2 is reached halfway to 1/4.
HAND = {"scores": [0.1, 0.2, 0.3, 0.4], "weak": [0, 0, 1, 1], "strong": [1, 1, 1, 0]}


def test_a_curve_made_by_hand():
    curve = cost_quality_curve(**HAND)
    assert curve.share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.quality.tolist() == [0.5, 0.75, 1, 1, 0.75]
    assert curve.quality_at([0.125, 0.9]).tolist() == pytest.approx([0.625, 0.85])
    assert apgr(**HAND) == pytest.approx(11 / 8)
    assert cpt(**HAND, target=0.5) == pytest.approx(1 / 8)
    assert cpt(**HAND, target=0.8) == pytest.approx(0.2)
    assert cpt(**HAND, target=1.0) == pytest.approx(0.25)


def test_without_a_gap_nothing_can_be_recovered():
    equal = {**HAND, "strong": [1, 0, 1, 0]}
    assert cost_quality_curve(**equal).quality.tolist() == [0.5, 0.75, 0.75, 0.75, 0.5]
    assert apgr(**equal) is None
    assert cpt(**equal, target=0.5) is None
    assert pgr(0.5, weak=0.5, strong=0.5) is None
    assert pgr(0.5, weak=0.6, strong=0.5) is None


def test_a_rounding_error_is_not_a_gap():
    weak, strong = [0.1, 0.2, 0.3], [0.3, 0.1, 0.2]
    assert apgr([1, 2, 3], weak, strong) is None
    assert cpt([1, 2, 3], weak, strong, target=0.5) is None


def test_gap_recovered():
    assert pgr(0.6, weak=0.5, strong=0.9) == pytest.approx(0.25)
    assert pgr(0.4, weak=0.5, strong=0.9) == pytest.approx(-0.25)


@given(rows)
def test_both_ends_are_the_weak_and_the_strong_model(rows):
    score, weak, strong = columns(rows)
    curve = cost_quality_curve(score, weak, strong)
    assert (curve.share[0], curve.share[-1]) == (0, 1)
    assert (curve.quality[0], curve.quality[-1]) == (weak.mean(), strong.mean())


@given(st.data())
def test_the_curve_is_the_naive_one_when_scores_differ(data):
    table = data.draw(rows)
    _, weak, strong = columns(table)
    score = np.array(data.draw(st.permutations(range(len(table)))), dtype=float)
    curve = cost_quality_curve(score, weak, strong)
    share, quality = naive_curve(score, weak, strong)
    assert curve.share == pytest.approx(share)
    assert curve.quality == pytest.approx(quality)


@given(st.lists(st.tuples(st.integers(0, 1), outcome, outcome), min_size=1, max_size=5))
def test_ties_are_the_mean_over_every_order(table):
    score, weak, strong = columns(table)
    orders = [
        order
        for order in permutations(range(len(table)))
        if all(score[a] <= score[b] for a, b in pairwise(order))
    ]
    settled = [naive_curve(np.argsort(order), weak, strong)[1] for order in orders]
    share = np.linspace(0, 1, len(table) + 1)
    curve = cost_quality_curve(score, weak, strong)
    assert curve.quality_at(share) == pytest.approx(np.mean(settled, axis=0))


@given(st.data())
def test_row_order_does_not_matter(data):
    table = data.draw(rows)
    shuffled = data.draw(st.permutations(table))
    one, other = cost_quality_curve(*columns(table)), cost_quality_curve(*columns(shuffled))
    assert one.share == pytest.approx(other.share)
    assert one.quality == pytest.approx(other.quality)
    assert apgr(*columns(table)) == pytest.approx(apgr(*columns(shuffled)))


@given(rows)
def test_a_monotone_change_of_scores_changes_nothing(rows):
    score, weak, strong = columns(rows)
    assert apgr(score, weak, strong) == apgr(np.exp(score) - 7, weak, strong)
    assert cpt(score, weak, strong, target=0.8) == cpt(score**3, weak, strong, target=0.8)


@given(rows)
def test_equal_scores_route_at_random(rows):
    _, weak, strong = columns(rows)
    assume(strong.mean() - weak.mean() > 1e-6)
    same = np.zeros(len(weak))
    assert apgr(same, weak, strong) == pytest.approx(0.5)
    assert cpt(same, weak, strong, target=0.8) == pytest.approx(0.8)


@given(rows, st.sampled_from([0.25, 0.5, 0.8, 1.0]))
def test_cpt_is_the_first_share_that_reaches_its_target(rows, target):
    score, weak, strong = columns(rows)
    share = cpt(score, weak, strong, target=target)
    assume(share is not None)
    curve = cost_quality_curve(score, weak, strong)

    def recovered(at):
        return pgr(float(curve.quality_at(at)), weak=weak.mean(), strong=strong.mean())

    assert recovered(share) == pytest.approx(target)
    assert all(recovered(at) < target + 1e-9 for at in np.linspace(0, share, 7))


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"shapes \(2,\), \(1,\) and \(2,\)"):
        cost_quality_curve([1, 2], [1], [0, 1])
    with pytest.raises(InputError, match="wanted one number per query"):
        apgr([], [], [])
    with pytest.raises(InputError, match="not finite"):
        cost_quality_curve([1, np.nan], [1, 0], [0, 1])


@pytest.mark.parametrize("target", [0, -0.5, 1.1])
def test_a_target_outside_its_range_is_refused(target):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        cpt(**HAND, target=target)
