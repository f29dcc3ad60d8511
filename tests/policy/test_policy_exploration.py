from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.config import ExploreConfig
from foretell.errors import InputError
from foretell.policy import Exploration, TurnRule, decide, exploration_rate, nearness
from foretell.records import Estimate

chances = st.floats(0, 1)
draws = st.floats(0, 1, exclude_max=True)
explorations = st.builds(
    Exploration,
    rate=chances,
    aimed=chances,
    width=st.floats(0.01, 1),
    near=st.none() | chances,
)


def estimate(p_success: float) -> Estimate:
    return Estimate(score=0.0, p_success=p_success, router="probe geo@1")


@given(explorations, chances, st.floats(0, 2), draws)
def test_p_weak_is_the_share_of_draws_by_which_the_weak_model_serves(explore, p, bar, draw):
    decision = decide(estimate(p), keep_at=bar, explore=explore, draw=draw)
    # One draw decides, and all below the rate do the same: the rest follows from p_weak.
    rate = explore.rate_at(p, decision.keep_at)
    kept = p >= decision.keep_at
    assert (decision.action == "explore") == (draw < rate)
    assert decision.p_weak == (1 - rate if kept else rate)
    assert (decision.serve == "weak") == (kept != (draw < rate))


@given(explorations, chances, chances, draws, draws)
def test_p_weak_does_not_depend_on_the_draw(explore, p, bar, draw, other):
    one, two = (decide(estimate(p), keep_at=bar, explore=explore, draw=d) for d in (draw, other))
    assert one.p_weak == two.p_weak
    if one.serve != two.serve and one.propensity is not None:
        assert one.propensity + two.propensity == pytest.approx(1)


@given(explorations, chances, chances)
def test_nothing_is_explored_where_the_turn_does_not(explore, p, bar):
    turn = TurnRule(explores=False)
    decision = decide(estimate(p), keep_at=bar, explore=explore, draw=0.0, turn=turn)
    assert (decision.p_weak, decision.propensity) == (float(p >= bar), None)


def test_what_is_pinned_has_no_chance():
    turn = TurnRule(pin="large", pin_role="strong")
    for pinned in ({"override": "weak"}, {"turn": turn}):
        decision = decide(estimate(0.5), keep_at=0.5, explore=0.5, draw=0.0, **pinned)
        assert (decision.action, decision.p_weak) == ("pinned", None)


@given(explorations, chances, chances)
def test_a_rate_is_a_chance_and_aiming_makes_no_side_the_likelier(explore, p, bar):
    rate = explore.rate_at(p, bar)
    assert 0 <= rate <= max(explore.rate, 0.5)
    assert rate >= explore.rate * (1 - explore.aimed) - 1e-12


@given(explorations, chances, chances, chances)
def test_a_query_nearer_to_its_bar_is_explored_no_less(explore, p, other, bar):
    near, far = sorted((p, other), key=lambda chance: abs(chance - bar))
    assert explore.rate_at(near, bar) >= explore.rate_at(far, bar)


@pytest.mark.parametrize("aimed", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 5), (8, 2)])
def test_the_whole_share_is_the_rate_once_the_mean_nearness_is_known(aimed, a, b):
    chances = np.random.default_rng(0).beta(a, b, 20_000)
    near = float(np.mean([nearness(p, 0.5, width=0.1) for p in chances]))
    explore = Exploration(rate=0.01, aimed=aimed, near=near)
    share = np.mean([explore.rate_at(p, 0.5) for p in chances])
    assert share == pytest.approx(0.01, rel=1e-9)
    if (a, b) == (1, 1):  # spread evenly: what is taken for granted where nobody has looked
        share = np.mean([replace(explore, near=None).rate_at(p, 0.5) for p in chances])
        assert share == pytest.approx(0.01, rel=0.05)


def test_where_nothing_is_near_all_are_explored_alike():
    explore = Exploration(rate=0.1, aimed=1.0, near=0.0)
    assert [explore.rate_at(p, 1.5) for p in (0.0, 0.5, 1.0)] == [0.1, 0.1, 0.1]


def test_a_bar_that_keeps_nothing_is_near_to_certain_success():
    assert nearness(1.0, 1.2, width=0.1) == 1.0
    assert nearness(0.95, 7.0, width=0.1) == pytest.approx(0.5)
    assert nearness(0.0, 0.5, width=0.1) == 0.0


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_schedule_falls_from_its_start_to_its_floor(some, more):
    schedule = ExploreConfig(start=0.2, floor=0.02, half_life=500)
    early, late = (exploration_rate(schedule, n) for n in sorted((some, more)))
    assert 0.02 <= late <= early <= 0.2


def test_a_schedule_is_half_way_down_after_its_half_life():
    schedule = ExploreConfig(start=0.2, floor=0.1, half_life=500)
    assert exploration_rate(schedule, 0) == 0.2
    assert exploration_rate(schedule, 500) == pytest.approx(0.15)
    assert exploration_rate(0.07, 500) == 0.07


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rate": 1.1}, "explore's rate is 1.1"),
        ({"rate": 0.1, "aimed": -1}, "explore's aimed is -1"),
        ({"rate": 0.1, "width": 0}, "explore's width is 0"),
        ({"rate": 0.1, "near": 2}, "explore's near is 2"),
    ],
)
def test_shares_that_are_none_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        Exploration(**settings)


def test_fewer_than_no_decisions_are_refused():
    with pytest.raises(InputError, match="-1 decisions"):
        exploration_rate(0.1, -1)
