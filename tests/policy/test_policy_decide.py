import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.policy import TurnRule, decide
from foretell.records import Estimate

chances = st.floats(0, 1)
draws = st.floats(0, 1, exclude_max=True)
roles = st.sampled_from(["weak", "strong"])


def estimate(p_success: float, p_strong: float | None = None) -> Estimate:
    return Estimate(score=0.0, p_success=p_success, router="probe geo@1", p_strong=p_strong)


@given(chances, chances, chances)
def test_raising_the_bar_never_keeps_more(p, bar, other):
    low, high = sorted([bar, other])
    if decide(estimate(p), keep_at=low).action == "escalate":
        assert decide(estimate(p), keep_at=high).action == "escalate"


@given(chances, chances, chances)
def test_a_likelier_success_is_never_escalated_when_a_less_likely_one_is_kept(p, other, bar):
    low, high = sorted([p, other])
    if decide(estimate(low), keep_at=bar).action == "keep":
        assert decide(estimate(high), keep_at=bar).action == "keep"


@given(chances)
def test_a_tie_is_kept(p):
    assert decide(estimate(p), keep_at=p).action == "keep"


@given(chances, st.floats(1, 10, exclude_min=True))
def test_a_bar_above_one_keeps_nothing(p, bar):
    assert decide(estimate(p), keep_at=bar).serve == "strong"


@given(chances, chances)
def test_keep_is_served_by_the_weak_model_and_escalate_by_the_strong(p, bar):
    decision = decide(estimate(p), keep_at=bar)
    assert (decision.action, decision.serve) in {("keep", "weak"), ("escalate", "strong")}


@given(chances, chances, chances, draws)
def test_exploring_flips_exactly_the_draws_below_its_share(p, bar, explore, draw):
    plain = decide(estimate(p), keep_at=bar)
    decision = decide(estimate(p), keep_at=bar, explore=explore, draw=draw)
    if draw < explore:
        assert decision.action == "explore"
        assert decision.serve != plain.serve
        assert decision.propensity == explore
    else:
        by_chance = {"propensity": 1 - explore if explore else None, "p_weak": decision.p_weak}
        assert decision == replace(plain, **by_chance)


@given(st.none() | chances, chances, roles, roles, draws)
def test_an_override_is_followed_whatever_else_is_said(p, bar, override, on_decline, draw):
    decision = decide(
        None if p is None else estimate(p),
        keep_at=bar,
        on_decline=on_decline,
        override=override,
        explore=1,
        draw=draw,
    )
    assert (decision.action, decision.serve, decision.p_success) == ("pinned", override, p)


@given(chances, roles, draws)
def test_without_an_estimate_the_declared_model_serves_and_nothing_is_explored(bar, role, draw):
    decision = decide(None, keep_at=bar, on_decline=role, explore=1, draw=draw)
    assert (decision.action, decision.serve, decision.p_success) == ("declined", role, None)
    assert (decision.cause, decision.propensity) == ("no_estimate", None)
    assert decision.p_weak == (role == "weak")
    assert decision.reason == (
        f"there is no estimate for this query, so the {role} model serves it"
    )


def test_a_decision_carries_the_numbers_of_its_estimate():
    decision = decide(estimate(0.4, p_strong=0.9), keep_at=0.5)
    assert (decision.p_success, decision.p_strong, decision.gain, decision.keep_at) == (
        0.4,
        0.9,
        0.5,
        0.5,
    )
    assert decision.router == "probe geo@1"
    several = replace(estimate(0.4), p_pool={"middling": 0.7})
    assert decide(several, keep_at=0.5).p_pool == {"middling": 0.7}


@given(chances, chances, st.floats(0, 1), draws)
def test_propensities_of_a_decision_and_its_opposite_sum_to_one(p, bar, explore, draw):
    taken = decide(estimate(p), keep_at=bar, explore=explore, draw=draw)
    flips = taken.action == "explore"
    if explore:
        assert taken.propensity == (explore if flips else 1 - explore)
        assert taken.cause is None
    else:
        assert taken.propensity is None


@given(st.none() | chances, chances, roles, draws)
def test_a_turn_that_is_pinned_goes_to_its_model_unless_the_caller_says_otherwise(p, bar, by, draw):
    turn = TurnRule(pin="large", pin_role="strong", reason="the history is that model's")
    known = None if p is None else estimate(p)
    decision = decide(known, keep_at=bar, explore=1, draw=draw, on_decline="weak", turn=turn)
    assert (decision.action, decision.serve, decision.target) == ("pinned", "strong", "large")
    assert (decision.reason, decision.propensity) == (turn.reason, None)
    overridden = decide(known, keep_at=bar, override=by, turn=turn)
    assert (overridden.serve, overridden.target) == (by, None)


@given(chances, chances, draws)
def test_a_turn_that_does_not_explore_leaves_chance_out(p, bar, draw):
    decision = decide(
        estimate(p), keep_at=bar, explore=0.5, draw=draw, turn=TurnRule(explores=False)
    )
    assert decision == decide(estimate(p), keep_at=bar)


@given(chances, st.none() | chances, chances, st.none() | st.floats(-1, 1))
def test_a_first_turn_changes_nothing(p, p_strong, bar, least_gain):
    known = estimate(p, p_strong)
    plain = decide(known, keep_at=bar, least_gain=least_gain)
    assert decide(known, keep_at=bar, least_gain=least_gain, turn=TurnRule()) == plain


def test_a_moved_bar_is_shown_where_it_is_now_and_why():
    turn = TurnRule(margin=0.25, reason="moved in favour of small, which answered before")
    decision = decide(estimate(0.5), keep_at=0.75, turn=turn)
    assert (decision.action, decision.keep_at) == ("keep", 0.5)
    assert decision.reason == (
        "p_success 0.50 is at least the bar of 0.50, moved in favour of small, which answered "
        "before"
    )


def test_the_reason_calls_the_rival_by_what_it_is_told():
    decision = decide(
        estimate(0.5, p_strong=0.9), keep_at=0.5, least_gain=0.1, rival="the best other model"
    )
    assert "(the best other model's 0.90, less the 0.10 that a call must gain)" in decision.reason


@pytest.mark.parametrize(
    ("p", "bar", "reason"),
    [
        (0.831, 0.6, "p_success 0.83 is at least the bar of 0.60"),
        (0.5, 0.5, "p_success 0.50 is at least the bar of 0.50"),
        (0.5999, 0.6, "p_success 0.5999 is below the bar of 0.6000"),
    ],
)
def test_the_reason_says_the_numbers_so_that_they_can_be_told_apart(p, bar, reason):
    assert decide(estimate(p), keep_at=bar).reason == reason


def test_an_explored_query_says_what_it_would_have_been():
    decision = decide(estimate(0.8), keep_at=0.6, explore=0.02, draw=0.01)
    assert decision.reason == (
        "p_success 0.80 is at least the bar of 0.60, but one query in 50 explores the other side"
    )


@given(chances, chances)
def test_the_reason_never_shows_unequal_numbers_as_equal(p, bar):
    words = decide(estimate(p), keep_at=bar).reason.split()
    assert (words[1] == words[-1]) == (p == bar)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"keep_at": math.nan}, "keep_at is nan"),
        ({"keep_at": -0.1}, "keep_at is -0.1"),
        ({"keep_at": math.inf}, "keep_at is inf"),
        ({"keep_at": 0.5, "explore": 1.5, "draw": 0.5}, "explore's rate is 1.5"),
        ({"keep_at": 0.5, "explore": 0.1}, "pass draw"),
        ({"keep_at": 0.5, "explore": 0.1, "draw": 1.0}, "draw is 1.0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        decide(estimate(0.5), **arguments)


@pytest.mark.parametrize("p", [math.nan, -0.1, 1.1])
def test_an_estimate_that_is_no_chance_is_refused_with_its_maker(p):
    with pytest.raises(InputError, match="probe geo@1 gave p_success"):
        decide(estimate(p), keep_at=0.5)


@given(p=chances, p_strong=chances, least_gain=st.floats(-1, 1))
def test_by_gain_a_query_escalates_iff_the_strong_model_is_enough_better(p, p_strong, least_gain):
    estimate = Estimate(score=0.0, p_success=p, p_strong=p_strong, router="probe geo@1")
    decision = decide(estimate, keep_at=0.5, least_gain=least_gain)
    assert (decision.action == "keep") == (p >= p_strong - least_gain)
    assert decision.keep_at == max(0.0, p_strong - least_gain)
    assert decision.gain == p_strong - p
    assert "that a call must gain" in decision.reason


def test_without_a_chance_of_the_strong_model_the_bar_stays_what_it_was():
    estimate = Estimate(score=0.0, p_success=0.6, router="probe geo@1")
    assert decide(estimate, keep_at=0.5, least_gain=0.0).action == "keep"


@pytest.mark.parametrize("on_decline", ["weak", "strong"])
def test_a_query_outside_of_the_training_data_is_declined_with_its_numbers(on_decline):
    estimate = Estimate(
        score=9.0, p_success=1.0, router="probe geo@1", outside=True, familiarity=0.001
    )
    decision = decide(estimate, keep_at=0.5, on_decline=on_decline)
    assert (decision.action, decision.serve) == ("declined", on_decline)
    assert (decision.p_success, decision.familiarity) == (1.0, 0.001)
    assert decision.cause == "outside"
    assert "looks like nothing in training" in decision.reason
