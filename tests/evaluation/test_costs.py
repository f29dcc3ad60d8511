"""What routing costs and saves: by hand, by laws, and against naive rewrites."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.config import Price
from foretell.evaluation import DEFAULT_PRICES, Prices
from foretell.evaluation._cost_statistics import (
    Routed,
    aiq_of,
    audc_of,
    cost_at_quality_of,
    qnc_of,
)
from foretell.evaluation._costs import (
    QueryCosts,
    best_first,
    cost_curve,
    counted_calls,
    missing_tokens,
)

outcome = st.sampled_from([0.0, 0.25, 1.0])
cost = st.sampled_from([0.125, 0.5, 1.0, 2.0])
rows = st.lists(
    st.tuples(st.integers(-3, 3), outcome, outcome, cost, cost, cost, st.integers(0, 3)),
    min_size=1,
    max_size=12,
)
sees = st.sampled_from(["nothing", "query", "prefill", "answer"])
STATISTICS = (aiq_of, audc_of, qnc_of)


def value(statistic, weights):
    found = float(statistic(np.asarray(weights, dtype=float)[None, :])[0])
    return found if np.isfinite(found) else None


def router_of(rows, sees="query", overhead=0.0):
    """Escalating costs more than keeping on every query."""
    score, weak, strong, prefill, answer, extra, _ = (
        np.array(column, dtype=float) for column in zip(*rows, strict=True)
    )
    costs = QueryCosts(
        weak_prefill=prefill, weak_answer=answer, strong=prefill + answer + extra, assumed={}
    )
    return costs.routed(score, weak, strong, sees, overhead)


def points_of(routed):
    """Cost, with always-weak at 0 and always-strong at 1, and success, all thresholds and both."""
    cost, quality = (of[0] for of in routed.path(np.ones((1, len(routed.weak)))))
    low, high = routed.weak_alone.mean(), routed.strong_alone.mean()
    cost = np.concatenate([[0.0], (cost - low) / (high - low), [1.0]])
    return cost, np.concatenate([[routed.weak.mean()], quality, [routed.strong.mean()]])


def naive_hull(cost, quality, at):
    """Best mixture of two points, or of one that is cheaper."""
    cheaper = [q for c, q in zip(cost, quality, strict=True) if c <= at + 1e-12]
    mixed = [
        q0 + (at - c0) / (c1 - c0) * (q1 - q0)
        for c0, q0 in zip(cost, quality, strict=True)
        for c1, q1 in zip(cost, quality, strict=True)
        if c0 < at < c1
    ]
    return max([*cheaper, *mixed])


# Four queries in order of score, weak 0 0 1 1, strong 1 1 1 0: escalated one by one, 2/4, 3/4, 4/4,
# 4/4, 3/4 are right. The strong model's own 3/4 is reached with one call of four.
# Under the curve: 1/4 (5/8 + 7/8 + 8/8 + 7/8); under its hull, which rises to 1 at 1/2:
# 1/2 (3/4 + 1).
HAND = counted_calls(np.arange(4.0), np.array([0, 0, 1.0, 1]), np.array([1.0, 1, 1, 0]))

# The same where the weak model costs 1, of it 1/2 for its prefill, and the strong one 5: after k
# calls the probe has paid 1 + 9/8 k, which is -1 + (1 + 9/8 k) over 4 on the way from weak to
# strong, 9/32 k. It passes the strong model's cost 5/9 of the way to the last threshold, where
# 1 - 5/36 are right.
DEAR = replace(
    HAND,
    kept=np.ones(4),
    escalated=np.full(4, 5.5),
    weak_alone=np.ones(4),
    strong_alone=np.full(4, 5.0),
)


def test_counted_in_calls_by_hand():
    ones = np.ones(4)
    assert value(qnc_of(HAND), ones) == pytest.approx(1 / 4)
    assert value(audc_of(HAND), ones) == pytest.approx(27 / 32)
    assert value(aiq_of(HAND), ones) == pytest.approx(7 / 8)


def test_counted_in_money_by_hand():
    ones = np.ones(4)
    assert value(cost_at_quality_of(DEAR, 1.0), ones) == pytest.approx(17 / 8)
    assert value(qnc_of(DEAR), ones) == pytest.approx(17 / 40)
    to_last = 9 / 32 * (5 / 8 + 7 / 8 + 1)
    assert value(audc_of(DEAR), ones) == pytest.approx(to_last + 5 / 32 * (1 + 31 / 36) / 2)
    assert value(aiq_of(DEAR), ones) == pytest.approx(9 / 16 * 3 / 4 + 7 / 16)


def test_between_two_thresholds_chance_decides():
    # 0.8 of 3/4 is 6/10, two fifths of the way from 2/4 to 3/4.
    assert value(cost_at_quality_of(HAND, 0.8), np.ones(4)) == pytest.approx(0.4 / 4)


def test_where_the_weak_model_suffices_nothing_is_saved_by_routing():
    equal = replace(HAND, strong=np.array([1.0, 0, 1, 0]))
    assert value(qnc_of(equal), np.ones(4)) is None
    assert value(cost_at_quality_of(equal, 0.95), np.ones(4)) is None


def test_a_strong_model_that_costs_no_more_leaves_no_range_of_costs():
    cheap = replace(DEAR, strong_alone=np.ones(4))
    assert value(audc_of(cheap), np.ones(4)) is None
    assert value(aiq_of(cheap), np.ones(4)) is None
    free = replace(DEAR, strong_alone=np.zeros(4))
    assert value(qnc_of(free), np.ones(4)) is None


@given(rows, sees, st.sampled_from([0.0, 0.25]))
def test_aiq_is_the_naive_hull(rows, sees, overhead):
    routed = router_of(rows, sees, overhead)
    cost, quality = points_of(routed)
    kinks = np.unique([0.0, 1.0, *cost[(cost > 0) & (cost < 1)]])
    expected = np.trapezoid([naive_hull(cost, quality, at) for at in kinks], kinks)
    assert value(aiq_of(routed), np.ones(len(rows))) == pytest.approx(expected)


@given(rows, sees, st.sampled_from([0.0, 0.25]))
def test_audc_is_the_area_under_the_path(rows, sees, overhead):
    routed = router_of(rows, sees, overhead)
    cost, quality = (column[:-1] for column in points_of(routed))
    fine = np.unique([*np.linspace(0, 1, 1_001), *cost[(cost > 0) & (cost < 1)]])
    expected = np.trapezoid(np.interp(fine, cost, quality), fine)
    found = value(audc_of(routed), np.ones(len(rows)))
    assert found == pytest.approx(expected, abs=1e-9)
    assert found <= value(aiq_of(routed), np.ones(len(rows))) + 1e-9


@given(rows, sees, st.sampled_from([0.5, 0.95, 1.0]))
def test_the_least_cost_is_the_first_on_the_path_that_suffices(rows, sees, share):
    routed = router_of(rows, sees)
    cost, quality = (of[0] for of in routed.path(np.ones((1, len(rows)))))
    target = share * routed.strong.mean()
    found = value(cost_at_quality_of(routed, share), np.ones(len(rows)))
    if routed.weak.mean() >= target - 1e-9:
        assert found is None
    else:
        assert np.interp(found, cost, quality) == pytest.approx(target)
        before = np.linspace(cost[0], found, 50)[:-1]
        assert (np.interp(before, cost, quality) <= target + 1e-9).all()


@given(rows, sees, st.sampled_from([0.0, 0.25]))
def test_no_router_has_the_success_of_the_strong_model_for_less_than_the_oracle(
    rows, sees, overhead
):
    routed = router_of(rows, sees, overhead)
    without = router_of(rows)
    oracle = replace(without, scores=best_first(without))
    ones = np.ones(len(rows))
    for make in (qnc_of, lambda of: cost_at_quality_of(of, 0.95)):
        mine, oracles = value(make(routed), ones), value(make(oracle), ones)
        assert (mine is None) == (oracles is None)
        assert mine is None or oracles <= mine + 1e-9
    assert value(aiq_of(routed), ones) <= value(aiq_of(oracle), ones) + 1e-9


@given(rows, sees)
def test_a_weight_is_that_many_rows(rows, sees):
    rows = [*rows, (0, 0.0, 1.0, 1.0, 1.0, 1.0, 1)]
    weights = [row[-1] for row in rows]
    repeated = [row for row in rows for _ in range(row[-1])]
    for make in STATISTICS:
        expected = value(make(router_of(repeated, sees)), np.ones(len(repeated)))
        assert value(make(router_of(rows, sees)), weights) == pytest.approx(expected)


@given(rows, sees, st.randoms())
def test_neither_row_order_nor_a_monotone_change_of_scores_nor_the_currency_matters(
    rows, sees, random
):
    routed = router_of(rows, sees)
    other = router_of(random.sample(rows, len(rows)), sees)
    other = replace(
        other,
        scores=other.scores**3,
        kept=9 * other.kept,
        escalated=9 * other.escalated,
        weak_alone=9 * other.weak_alone,
        strong_alone=9 * other.strong_alone,
    )
    for make in STATISTICS:
        expected = value(make(routed), np.ones(len(rows)))
        assert value(make(other), np.ones(len(rows))) == pytest.approx(expected)


@given(rows, sees)
def test_many_resamples_at_once_are_one_after_the_other(rows, sees):
    routed = router_of([*rows, (0, 0.0, 1.0, 1.0, 1.0, 1.0, 1)], sees)
    n = len(routed.weak)
    weights = np.stack([np.ones(n), np.arange(1.0, n + 1), np.arange(float(n)) % 3 + 1])
    for make in STATISTICS:
        statistic = make(routed)
        alone = np.concatenate([statistic(one[None, :]) for one in weights])
        assert np.allclose(statistic(weights), alone, equal_nan=True)


@given(rows)
def test_both_ends_of_a_query_routers_path_are_the_models_alone(rows):
    routed = router_of(rows)
    path = routed.path(np.ones((1, len(rows))))
    weak = (routed.weak_alone.mean(), routed.weak.mean())
    strong = (routed.strong_alone.mean(), routed.strong.mean())
    assert [of[0, 0] for of in path] == pytest.approx(weak)
    assert [of[0, -1] for of in path] == pytest.approx(strong)


def with_tokens(data, **tokens):
    columns = {name: np.asarray(column, dtype=float) for name, column in tokens.items()}
    return replace(data, **columns)


@pytest.fixture
def counted(make_data):
    """Two queries of 1,000 tokens read and 100 written, by the strong model 800 and 200."""
    return with_tokens(
        make_data(2),
        prompt_tokens=[1000, 1000],
        weak_tokens=[100, 100],
        strong_prompt_tokens=[800, 800],
        strong_tokens=[200, 200],
    )


def test_costs_of_a_query_by_hand(counted):
    # USD for 1,000 queries: 1,000 tokens at 0.02 a million, 100 at 0.08; 800 at 2.5, 200 at 10.
    costs = QueryCosts.of(counted, DEFAULT_PRICES)
    assert costs.weak_prefill.tolist() == pytest.approx([0.02] * 2)
    assert costs.weak_answer.tolist() == pytest.approx([0.008] * 2)
    assert costs.strong.tolist() == pytest.approx([4.0] * 2)
    assert costs.assumed == {}


@pytest.mark.parametrize(
    ("sees", "escalated"), [("nothing", 4.0), ("query", 4.0), ("prefill", 4.02), ("answer", 4.028)]
)
def test_an_escalated_query_costs_what_the_router_had_to_see(counted, sees, escalated):
    costs = QueryCosts.of(counted, DEFAULT_PRICES)
    routed = costs.routed(np.arange(2.0), counted.weak, counted.strong, sees, 0.5)
    assert routed.kept.tolist() == pytest.approx([0.528] * 2)
    assert routed.escalated.tolist() == pytest.approx([escalated + 0.5] * 2)
    curve = cost_curve(routed, np.array([0, 0.5, 1]), np.ones(2))
    assert curve.usd_per_1k_at([0, 1]) == pytest.approx([0.528, escalated + 0.5])
    assert curve.usd_per_1k_at(0.25) == pytest.approx((3 * 0.528 + escalated + 0.5) / 4)


def test_unknown_tokens_are_taken_for_the_mean_and_counted(make_data):
    data = with_tokens(
        make_data(3),
        prompt_tokens=[10, 10, 10],
        weak_tokens=[np.nan, 20, 40],
        strong_prompt_tokens=[np.nan, np.nan, 100],
        strong_tokens=[1, 1, 1],
    )
    prices = Prices(weak=Price(input=0, output=1000), strong=Price(input=1000, output=0))
    costs = QueryCosts.of(data, prices)
    assert costs.weak_answer.tolist() == [30, 20, 40]
    assert costs.strong.tolist() == [100] * 3
    assert costs.assumed == {"weak_tokens": 1, "strong_prompt_tokens": 2}
    assert prices.ratio == 0


def test_columns_without_any_value_are_named(counted):
    assert missing_tokens(counted) == ()
    assert missing_tokens(replace(counted, weak_tokens=np.empty(0))) == ("weak_tokens",)
    unknown = replace(counted, strong_tokens=np.full(2, np.nan))
    assert missing_tokens(unknown) == ("strong_tokens",)


def test_the_default_prices_are_one_to_125():
    assert DEFAULT_PRICES.ratio == pytest.approx(125)
    free = Prices(weak=Price(input=0, output=0), strong=Price(input=1, output=1))
    assert free.ratio is None


def test_queries_that_cost_nothing_more_to_escalate_come_first():
    routed = Routed(
        scores=np.zeros(4),
        weak=np.array([0.0, 0, 0, 1]),
        strong=np.array([1.0, 1, 1, 0]),
        kept=np.ones(4),
        escalated=np.array([3.0, 1, 2, 2]),
        weak_alone=np.ones(4),
        strong_alone=np.array([3.0, 1, 2, 2]),
    )
    assert np.argsort(best_first(routed)).tolist() == [1, 2, 0, 3]
