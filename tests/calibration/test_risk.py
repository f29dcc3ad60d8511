"""Conformal risk control: its bound in expectation, its laws, values by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.calibration import KEEP_NOTHING, keep_at_for_risk
from foretell.errors import InputError

labelled = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60)


def rising(generator, n):
    """Chances that are true, and the loss of keeping a failure: from t up, (1 - t)^2 / 2."""
    p = generator.random(n)
    return p, (generator.random(n) >= p).astype(float)


def true_risk(found):
    return np.array([(1 - min(threshold.keep_at, 1.0)) ** 2 / 2 for threshold in found])


@pytest.mark.parametrize("n", [20, 100, 500])
@pytest.mark.parametrize("risk", [0.05, 0.1])
def test_the_expected_risk_is_what_was_asked_and_not_far_below(n, risk):
    generator = np.random.default_rng(n)
    found = [keep_at_for_risk(*rising(generator, n), risk) for _ in range(1000)]
    risks = true_risk(found)
    noise = 3 * risks.std() / math.sqrt(len(risks))
    assert risks.mean() <= risk + noise
    # Theorem 2 of the paper: the bound is tight to 2 * bound / (n + 1).
    assert risks.mean() >= risk - 2 / (n + 1) - noise


def test_groups_keep_the_expected_risk_of_new_groups():
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 10)
    found = []
    for _ in range(1000):
        p, loss = (column[group] for column in rising(generator, 20))
        found.append(keep_at_for_risk(p, loss, 0.1, groups=group))
    risks = true_risk(found)
    assert risks.mean() <= 0.1 + 3 * risks.std() / math.sqrt(1000)


@given(labelled, st.floats(0.01, 1))
def test_no_lower_threshold_would_satisfy_the_bound(rows, risk):
    scores, loss = np.array(rows).T
    found = keep_at_for_risk(scores, loss, risk)

    def bound(keep_at):
        return (loss[scores >= keep_at].sum() + 1) / (len(loss) + 1)

    if found.guaranteed:
        assert bound(found.keep_at) <= risk + 1e-9
    else:
        assert (found.keep_at, found.strong_share, found.risk) == (KEEP_NOTHING, 1, 0)
    for lower in scores[scores < found.keep_at]:
        assert bound(lower) > risk - 1e-9


@given(labelled, st.floats(0.01, 1), st.floats(0.01, 1))
def test_raising_the_risk_never_raises_the_threshold(rows, one, other):
    scores, loss = np.array(rows).T
    low, high = sorted([one, other])
    assert (
        keep_at_for_risk(scores, loss, high).keep_at <= keep_at_for_risk(scores, loss, low).keep_at
    )


@given(labelled, st.floats(0.01, 1), st.floats(0.1, 10))
def test_the_unit_of_loss_does_not_matter(rows, risk, unit):
    scores, loss = np.array(rows).T
    loss = np.round(loss, 2)
    one = keep_at_for_risk(scores, loss, risk)
    other = keep_at_for_risk(scores, np.minimum(loss * unit, unit), risk * unit, bound=unit)
    assert (one.keep_at, one.guaranteed) == (other.keep_at, other.guaranteed)


def test_groups_of_one_are_queries_and_a_group_counts_once():
    scores, loss = rising(np.random.default_rng(0), 200)
    alone = keep_at_for_risk(scores, loss, 0.1)
    assert keep_at_for_risk(scores, loss, 0.1, groups=np.arange(200)) == alone
    copies = np.repeat(np.arange(200), 1 + np.arange(200) % 3)
    copied = keep_at_for_risk(scores[copies], loss[copies], 0.1, groups=copies)
    assert (copied.keep_at, copied.risk) == (alone.keep_at, pytest.approx(alone.risk))


def test_risk_control_by_hand():
    # Nine queries and a risk of 0.3: the losses kept may sum to 0.3 * 10 - 1 = 2.
    scores, loss = np.arange(1, 10) / 10, [1, 0, 1, 0, 0, 1, 0, 1, 0]
    found = keep_at_for_risk(scores, loss, 0.3)
    assert (found.keep_at, found.guaranteed, found.n) == (0.4, True, 9)
    assert found.strong_share == pytest.approx(3 / 9)
    assert found.risk == pytest.approx(2 / 9)
    assert found.reason == "the expected loss of a new query is at most 0.3"


def test_too_few_labels_say_how_many_would_do():
    # Without any loss, n / risk: 1 / (n + 1) <= 0.05 asks for 19.
    scores = np.arange(18) / 18
    found = keep_at_for_risk(scores, np.zeros(18), 0.05)
    assert (found.keep_at, found.labels_needed) == (KEEP_NOTHING, 19)
    assert "18 labels cannot support a risk of 0.05" in found.reason
    assert "about 19 would" in found.reason
    assert keep_at_for_risk(np.arange(19) / 19, np.zeros(19), 0.05).keep_at == 0
    grouped = keep_at_for_risk(scores, np.zeros(18), 0.05, groups=np.arange(18) // 2)
    assert grouped.labels_needed == 38


def test_no_number_of_labels_helps_where_keeping_always_costs():
    found = keep_at_for_risk([0.5] * 40, [1] * 40, 0.05)
    assert (found.keep_at, found.labels_needed) == (KEEP_NOTHING, None)
    assert "would not help" in found.reason


def test_scores_of_any_range_are_welcome():
    found = keep_at_for_risk([-3.0, 5.0] * 20, [1, 0] * 20, 0.1, score_range=(-math.inf, math.inf))
    assert found.keep_at == 5


@pytest.mark.parametrize(
    ("arguments", "how", "complaint"),
    [
        (([], [], 0.1), {}, "no queries"),
        (([0.5], [0.5, 1], 0.1), {}, "differ in length"),
        (([0.5], [2.0], 0.1), {}, "1 of 1 losses lie outside 0 to the bound 1"),
        (([0.5], [-0.1], 0.1), {"bound": 2}, "outside 0 to the bound 2"),
        (([0.5], [0.5], 0.0), {}, "risk must be above 0"),
        (([5.0], [0.5], 0.1), {}, "1 of 1 scores lie outside 0 to 1"),
        (([0.5], [0.5], 0.1), {"groups": [1, 2]}, "2 groups for 1 queries"),
    ],
)
def test_what_cannot_be_controlled_is_refused(arguments, how, complaint):
    with pytest.raises(InputError, match=complaint):
        keep_at_for_risk(*arguments, **how)
