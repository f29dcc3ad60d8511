import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.policy import (
    BudgetGoal,
    CheapestGoal,
    ShareGoal,
    TurnRule,
    choose_from_pool,
    decide,
    decide_in_pool,
)
from foretell.records import Estimate

ORDER = ("small", "large", "middling", "other")
OTHERS = ORDER[1:]
# Few values, so that ties are many.
chances = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)
prices = st.sampled_from([0.0, 0.001, 0.002]) | st.floats(0, 0.01)
bars = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 1.1]) | st.floats(0, 1)
gains = st.none() | st.sampled_from([0.0, 0.25, -0.25]) | st.floats(-1, 1)
draws = st.floats(0, 1, exclude_max=True)
roles = st.sampled_from(["weak", "strong"])


@st.composite
def pools(draw):
    """Chances (always the weak one's) and costs of two to four models."""
    order = ORDER[: draw(st.integers(2, 4))]
    known = {model: draw(st.none() | chances) for model in order[1:]}
    costs = {model: draw(st.none() | prices) for model in order}
    return order, {order[0]: draw(chances)} | known, costs


def cost(costs, model):
    return math.inf if costs.get(model) is None else costs[model]


def chance(known, order, model):
    if known[model] is None:
        return math.inf if model == order[1] else -math.inf
    return known[model]


def first_best(models, rank):
    """The first of those that no other outranks."""
    return next(m for m in models if all(rank(m) >= rank(n) for n in models))


def by_brute_force(order, known, costs, goal):
    weak, others = order[0], [m for m in order[1:] if chance(known, order, m) >= 0]
    if isinstance(goal, BudgetGoal):
        fits = [m for m in (weak, *others) if cost(costs, m) <= goal.usd]
        if not fits:
            return weak
        likeliest = max(chance(known, order, m) for m in fits)
        if weak in fits and known[weak] == likeliest:
            return weak
        return first_best(fits, lambda m: (chance(known, order, m), -cost(costs, m)))
    best = max(chance(known, order, m) for m in others)
    bar = goal.keep_at
    if goal.least_gain is not None and best < math.inf:
        bar = best - goal.least_gain
    if known[weak] >= max(0.0, bar):
        return weak
    enough = [m for m in others if chance(known, order, m) >= bar]
    if isinstance(goal, CheapestGoal) and enough:
        return first_best(enough, lambda m: (-cost(costs, m), chance(known, order, m)))
    return first_best(others, lambda m: (chance(known, order, m), -cost(costs, m)))


goals = (
    st.builds(CheapestGoal, keep_at=bars, least_gain=gains)
    | st.builds(ShareGoal, keep_at=bars, least_gain=gains)
    | st.builds(BudgetGoal, usd=prices)
)


@given(pools(), goals)
def test_the_choice_is_that_of_brute_force(pool, goal):
    order, known, costs = pool
    choice = choose_from_pool(known, costs, order=order, goal=goal)
    assert choice.model == by_brute_force(order, known, costs, goal)
    assert choice.role == ("weak" if choice.model == order[0] else "strong")


@given(
    p=st.none() | chances,
    p_strong=st.none() | chances,
    outside=st.booleans(),
    prices=st.tuples(st.none() | prices, st.none() | prices),
    bar=bars,
    gain=gains,
    make=st.sampled_from([CheapestGoal, ShareGoal]),
    on_decline=roles,
    override=st.none() | roles,
    explore=st.floats(0, 1),
    draw=draws,
    turn=st.none() | st.builds(TurnRule, margin=st.floats(-1, 1), last=st.sampled_from(ORDER)),
)
def test_two_models_are_decided_exactly_as_by_decide(
    p, p_strong, outside, prices, bar, gain, make, on_decline, override, explore, draw, turn
):
    estimate = None
    if p is not None:
        estimate = Estimate(
            score=0.0, p_success=p, p_strong=p_strong, outside=outside, router="probe"
        )
    rule = {"on_decline": on_decline, "override": override, "explore": explore, "draw": draw}
    decision = decide(estimate, keep_at=bar, least_gain=gain, turn=turn, **rule)
    target = "small" if decision.serve == "weak" else "large"
    in_pool = decide_in_pool(
        estimate,
        dict(zip(ORDER, prices, strict=False)),
        order=ORDER[:2],
        goal=make(keep_at=bar, least_gain=gain),
        turn=turn,
        **rule,
    )
    assert in_pool == replace(decision, target=target)


@given(pools(), goals)
def test_no_model_is_picked_among_the_others_that_is_dearer_than_another_and_not_better(pool, goal):
    order, known, costs = pool
    picked = choose_from_pool(known, costs, order=order, goal=goal).model
    assume(picked != order[0])
    for other in order[1:]:
        cheaper = cost(costs, other) < cost(costs, picked)
        assert not (cheaper and chance(known, order, other) >= chance(known, order, picked))


@given(pools(), bars, bars)
def test_a_higher_bar_never_picks_a_model_less_likely_to_succeed(pool, one, other):
    order, known, costs = pool
    low, high = sorted([one, other])
    before = choose_from_pool(known, costs, order=order, goal=CheapestGoal(keep_at=low)).model
    after = choose_from_pool(known, costs, order=order, goal=CheapestGoal(keep_at=high)).model
    if before == order[0]:
        return
    assert after != order[0]
    assert chance(known, order, after) >= chance(known, order, before)
    assert cost(costs, after) >= cost(costs, before)


@given(pools(), st.floats(-1, 1), st.floats(-1, 1))
def test_asking_for_less_gain_never_picks_a_model_less_likely_to_succeed(pool, one, other):
    order, known, costs = pool
    less, more = sorted([one, other])

    def picked(least_gain):
        goal = CheapestGoal(keep_at=0.5, least_gain=least_gain)
        return choose_from_pool(known, costs, order=order, goal=goal).model

    if picked(more) != order[0]:
        assert chance(known, order, picked(less)) >= chance(known, order, picked(more))


@given(pools(), prices, prices)
def test_a_larger_budget_never_picks_a_model_less_likely_to_succeed(pool, one, other):
    order, known, costs = pool
    less, more = sorted([one, other])
    assume(cost(costs, order[0]) <= less)
    before = choose_from_pool(known, costs, order=order, goal=BudgetGoal(usd=less)).model
    after = choose_from_pool(known, costs, order=order, goal=BudgetGoal(usd=more)).model
    assert chance(known, order, after) >= chance(known, order, before)


@given(pools(), goals)
def test_without_a_chance_of_the_weak_model_the_strong_one_answers(pool, goal):
    order, known, costs = pool
    choice = choose_from_pool(known | {order[0]: None}, costs, order=order, goal=goal)
    assert (choice.model, choice.role) == ("large", "strong")


ESTIMATE = Estimate(
    score=0.0,
    p_success=0.5,
    p_strong=0.9,
    p_pool={"middling": 0.85, "other": 0.95},
    router="probe geo@1",
)
COSTS = {"small": 0.001, "large": 0.02, "middling": 0.005, "other": 0.03}


def in_pool(goal, estimate=ESTIMATE, **rule):
    return decide_in_pool(estimate, COSTS, order=ORDER, goal=goal, **rule)


def test_a_decision_names_its_target_and_why():
    decision = in_pool(CheapestGoal(keep_at=0.8))
    assert (decision.action, decision.serve, decision.target) == ("escalate", "strong", "middling")
    assert decision.reason == (
        "p_success 0.50 is below the bar of 0.80; of the others middling is the cheapest that is "
        "good enough"
    )
    best = in_pool(ShareGoal(keep_at=0.8))
    assert best.target == "other"
    assert best.reason.endswith("of the others other is the likeliest to succeed")


def test_a_decision_carries_the_strong_models_own_chance_and_those_of_the_pool():
    decision = in_pool(CheapestGoal(keep_at=0.8, least_gain=0.1))
    # 0.1 below the best of the others, 0.95.
    assert decision.keep_at == pytest.approx(0.85)
    assert (decision.p_strong, decision.gain) == (0.9, pytest.approx(0.4))
    assert decision.p_pool == {"middling": 0.85, "other": 0.95}
    assert "(the best other model's 0.95, less the 0.10" in decision.reason


@given(draws, st.floats(0, 1))
def test_exploring_goes_from_the_weak_model_to_the_pick_and_back(draw, explore):
    up = in_pool(CheapestGoal(keep_at=0.4), explore=explore, draw=draw)
    down = in_pool(CheapestGoal(keep_at=0.8), explore=explore, draw=draw)
    flipped = draw < explore
    assert up.target == ("middling" if flipped else "small")
    assert down.target == ("small" if flipped else "middling")
    assert (up.p_weak, down.p_weak) == (1 - explore, explore)


def test_within_a_budget_nothing_is_explored_that_does_not_fit():
    rule = {"explore": 1.0, "draw": 0.0}
    assert in_pool(BudgetGoal(usd=0.001), **rule).action == "keep"
    assert in_pool(BudgetGoal(usd=0.0001), **rule).action == "keep"
    assert in_pool(BudgetGoal(usd=0.0001), **rule).p_weak == 1.0
    assert in_pool(BudgetGoal(usd=0.005), **rule).target == "small"
    free = decide_in_pool(
        ESTIMATE, COSTS | {"small": None}, order=ORDER, goal=BudgetGoal(usd=0.01), **rule
    )
    assert (free.action, free.target) == ("escalate", "middling")


@pytest.mark.parametrize("goal", [CheapestGoal(keep_at=0.4), BudgetGoal(usd=0.0)])
def test_what_is_declined_or_asked_for_goes_to_the_first_of_its_role(goal):
    outside = replace(ESTIMATE, outside=True)
    assert in_pool(goal, outside).target == "large"
    assert in_pool(goal, outside, on_decline="weak").target == "small"
    assert in_pool(goal, None).cause == "no_estimate"
    assert in_pool(goal, override="strong").target == "large"


@given(goals)
def test_a_pinned_turn_goes_to_its_model_whatever_the_goal(goal):
    turn = TurnRule(pin="middling", pin_role="strong", reason="its tools were called")
    decision = in_pool(goal, turn=turn)
    assert (decision.action, decision.target) == ("pinned", "middling")
    chosen = choose_from_pool({"small": 0.5}, COSTS, order=ORDER, goal=goal, turn=turn)
    assert (chosen.model, chosen.reason) == ("middling", "its tools were called")


def test_a_member_that_answered_before_is_kept_to_while_it_is_good_enough():
    def after(last, goal):
        return in_pool(goal, turn=TurnRule(last=last, last_role="strong", margin=-0.09)).target

    assert after("large", CheapestGoal(keep_at=0.8)) == "large"
    assert after("large", ShareGoal(keep_at=0.8)) == "large"  # 0.90 + 0.09 beats 0.95
    assert after("middling", CheapestGoal(keep_at=0.93)) == "middling"  # but for the margin
    assert after("middling", CheapestGoal(keep_at=0.96)) == "other"
    assert after("gone", CheapestGoal(keep_at=0.8)) == "middling"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: BudgetGoal(usd=-1), "the budget is -1 USD"),
        (
            lambda: choose_from_pool({}, {}, order=["small"], goal=BudgetGoal(usd=1)),
            "the pool is small; wanted the weak model",
        ),
        (
            lambda: choose_from_pool({}, {}, order=["a", "b", "a"], goal=BudgetGoal(usd=1)),
            "each once",
        ),
        (
            lambda: in_pool(BudgetGoal(usd=1), replace(ESTIMATE, p_pool={"other": math.nan})),
            "probe geo@1 gave 'other' a chance of nan",
        ),
    ],
)
def test_pools_and_chances_that_are_none_are_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()
