"""Two bars for two looks, against trying every pair."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.calibration import KEEP_NOTHING
from foretell.errors import InputError
from foretell.routers import StageCosts, two_stage_rule

COSTS = StageCosts(prefill=0.1, weak_answer=0.3, strong_answer=5.0)

chance = st.integers(0, 5).map(lambda fifths: fifths / 5)
outcome = st.integers(0, 1).map(float)
queries = st.lists(st.tuples(chance, chance, outcome, outcome), min_size=1, max_size=12)


def columns(rows):
    first, combined, weak, strong = np.array(rows, dtype=float).T
    return {"first": first, "combined": combined, "weak": weak, "strong": strong}


def plainly(rows, answer_at, keep_at):
    """Strong share, quality and cost of one pair of bars, query by query."""
    served, cost, escalated = 0.0, 0.0, 0
    for first, combined, weak, strong in rows:
        cost += COSTS.prefill
        kept = False
        if first >= answer_at:
            cost += COSTS.weak_answer
            kept = combined >= keep_at
        served += weak if kept else strong
        cost += 0 if kept else COSTS.strong_answer
        escalated += not kept
    return escalated / len(rows), served / len(rows), cost / len(rows)


def every_pair(rows):
    bars = [fifths / 5 for fifths in range(6)] + [KEEP_NOTHING]
    return [plainly(rows, *pair) for pair in product(bars, bars)]


@given(queries, st.sampled_from([0.3, 0.8, 1.0]))
def test_no_other_pair_of_bars_holds_the_quality_for_less(rows, quality):
    rule = two_stage_rule(**columns(rows), costs=COSTS, quality=quality)
    needed = quality * np.mean([strong for *_, strong in rows])
    assert rule.quality >= needed - 1e-6
    least = min(cost for _, held, cost in every_pair(rows) if held >= needed - 1e-9)
    assert rule.cost_usd == pytest.approx(least, abs=1e-6)


@given(queries, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_no_other_pair_of_bars_does_better_within_the_share(rows, share):
    rule = two_stage_rule(**columns(rows), costs=COSTS, strong_share=share)
    assert rule.strong_share <= share + 1e-6
    best = max(held for escalated, held, _ in every_pair(rows) if escalated <= share + 1e-9)
    assert rule.quality == pytest.approx(best, abs=1e-6)


@given(queries, st.sampled_from([0.5, 1.0]))
def test_the_numbers_of_a_rule_are_what_it_does(rows, quality):
    table = columns(rows)
    rule = two_stage_rule(**table, costs=COSTS, quality=quality)
    kept = rule.keeps(table["first"], table["combined"])
    answered = rule.answers(table["first"])
    share, held, cost = plainly(rows, rule.answer_at, rule.keep_at)
    assert not (kept & ~answered).any()
    assert rule.n == len(rows)
    assert rule.strong_share == pytest.approx(share, abs=1e-9)
    assert rule.strong_share == pytest.approx(1 - kept.mean(), abs=1e-9)
    assert rule.in_vain_share == pytest.approx((answered & ~kept).mean(), abs=1e-9)
    assert rule.quality == pytest.approx(held, abs=1e-9)
    assert rule.strong_quality == pytest.approx(table["strong"].mean())
    assert rule.cost_usd == pytest.approx(cost, abs=1e-9)


def test_the_first_look_saves_answers_that_would_be_in_vain():
    # Two hopeless queries that the first look knows, one that only the answer gives away.
    rows = [(0.1, 0.1, 0, 1), (0.2, 0.1, 0, 1), (0.95, 0.1, 0, 1), (0.9, 0.9, 1, 1)]
    rule = two_stage_rule(**columns(rows), costs=COSTS, quality=1.0)
    assert (rule.answer_at, rule.keep_at) == (0.9, 0.9)
    assert (rule.strong_share, rule.in_vain_share) == (0.75, 0.25)
    # 0.1 for each, 0.3 for the last two, 5 for all but the last.
    assert rule.cost_usd == pytest.approx((0.4 + 0.6 + 15) / 4)


def test_a_strong_model_that_is_never_right_is_never_paid_for():
    rows = [(0.1, 0.1, 0, 0), (0.9, 0.9, 1, 0)]
    rule = two_stage_rule(**columns(rows), costs=COSTS, quality=1.0)
    assert rule.strong_share == 0
    assert rule.cost_usd == pytest.approx(0.4)


def test_many_queries_are_cut_at_evenly_ranked_bars():
    generator = np.random.default_rng(0)
    first, combined = generator.random((2, 3_000))
    weak = (generator.random(3_000) < combined).astype(float)
    rule = two_stage_rule(
        first, combined, weak=weak, strong=np.ones(3_000), costs=COSTS, strong_share=0.3
    )
    # Only the combined chance tells, so the best 70 % by it are kept: bars are 1/400 apart.
    assert rule.strong_share == pytest.approx(0.3, abs=0.01)
    assert rule.quality == pytest.approx(0.3 + weak[combined > 0.3].mean() * 0.7, abs=0.01)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quality": None}, "needs one goal, got quality None and strong share None"),
        ({"strong_share": 0.5}, "needs one goal, got quality 0.9 and strong share 0.5"),
        ({"quality": 0.0}, "quality must be above 0"),
        ({"quality": None, "strong_share": 1.5}, "strong share must be between 0 and 1"),
        ({"weak": [1.0]}, "wanted one number per query in each"),
        ({"combined": [0.1, 1.2]}, "1 of 2 combined numbers lie outside 0 to 1"),
        ({"strong": [np.nan, 1.0]}, "1 of 2 strong numbers lie outside 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(change, said):
    table = columns([(0.1, 0.2, 0, 1), (0.8, 0.9, 1, 1)])
    with pytest.raises(InputError, match=said):
        two_stage_rule(**{**table, "costs": COSTS, "quality": 0.9, **change})


def test_no_queries_and_no_costs_are_refused():
    with pytest.raises(InputError, match="wanted one number per query"):
        two_stage_rule([], [], weak=[], strong=[], costs=COSTS, quality=0.9)
    with pytest.raises(InputError, match="costs must be finite and 0 or more"):
        StageCosts(prefill=0.1, weak_answer=-0.3, strong_answer=5.0)
