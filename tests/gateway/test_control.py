"""The bar that moves, and the purse behind it."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import gateway_config

from foretell.config import CostGoal, DailyCostGoal, StrongShareGoal, ThresholdGoal
from foretell.gateway._control import GoalControl
from foretell.gateway._purse import RoutePurse
from foretell.policy import CheapestGoal, ShareGoal
from foretell.records import Estimate
from foretell.runtime import EngineShelf, Foretell

DAY = 86_400.0
scores = st.floats(0, 1)


@pytest.fixture(scope="module")
def shelf() -> EngineShelf:
    return EngineShelf()


@pytest.fixture(scope="module")
def control_for(trained_toy: Path, shelf: EngineShelf) -> Generator[Any]:
    opened: list[Foretell] = []

    def make(purse: RoutePurse | None = None, **route: Any) -> GoalControl:
        config = gateway_config(trained_toy, "http://127.0.0.1:1/v1", **route)
        opened.append(Foretell(config, engines=shelf))
        side = opened[-1].open_weak_side("auto", "toy", now=datetime.now(UTC))
        rng = np.random.default_rng(0)
        return GoalControl(config.routes["auto"], side, purse=purse, rng=rng)

    yield make
    for one in opened:
        one.close()


def foretold(p_success: float, p_strong: float | None = None) -> Estimate:
    return Estimate(score=p_success, p_success=p_success, p_strong=p_strong, router="probe toy@1")


def serve(control: GoalControl, estimate: Estimate) -> bool:
    """Decide one query and count it; whether the strong model serves it."""
    escalated = control.rule().decide(estimate).serve == "strong"
    control.observe(estimate, escalated=escalated)
    return escalated


def test_a_threshold_stands_still(control_for: Any):
    control = control_for(goal={"threshold": 0.7})
    for p in np.linspace(0, 1, 50):
        serve(control, foretold(float(p)))
    assert control.keep_at == control.rule().keep_at == 0.7
    assert isinstance(control.pool_goal(), CheapestGoal)
    assert control.strong_share == pytest.approx(0.7, abs=0.02)


def test_nothing_was_shared_before_the_first_request(control_for: Any):
    assert control_for(goal={"strong_share": 0.4}).strong_share is None


@pytest.mark.parametrize("target", [0.1, 0.4, 0.85])
@pytest.mark.parametrize("traffic", ["drift", "constant", "jump"])
def test_a_share_is_held_within_two_points(control_for: Any, target: float, traffic: str):
    control = control_for(goal={"strong_share": target})
    rng = np.random.default_rng(1)
    chances = {
        "drift": np.clip(np.linspace(0, 1, 1000) + rng.normal(0, 0.1, 1000), 0, 1),
        "constant": np.full(1000, 0.5),
        "jump": np.where(np.arange(1000) < 500, 0.9, 0.1) + rng.uniform(0, 0.1, 1000),
    }[traffic]
    escalated = [serve(control, foretold(float(p), 0.9)) for p in chances]
    assert abs(np.mean(escalated) - target) <= 0.02
    assert control.strong_share == pytest.approx(np.mean(escalated))
    assert f"{target:.0%}" in control.bar_reason
    assert isinstance(control.pool_goal(), ShareGoal)


def test_what_others_decide_counts_to_the_share(control_for: Any):
    control = control_for(goal={"strong_share": 0.5})
    rng = np.random.default_rng(2)
    escalated = 0
    for n in range(1000):
        if n % 5 == 0:
            control.observe(None, escalated=True)
            escalated += 1
        else:
            escalated += serve(control, foretold(float(rng.random()), 0.9))
    assert abs(escalated / 1000 - 0.5) <= 0.02


def test_a_share_that_others_alone_exceed_says_so(control_for: Any):
    control = control_for(goal={"strong_share": 0.1})
    for _ in range(100):
        control.observe(None, escalated=True)
    assert "exceed" in control.bar_reason
    assert not serve(control, foretold(0.0, 1.0))


@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_is_shown_of_a_bar_is_what_decides(control_for: Any, queries: Any):
    """Also where the bar is about the gain of a strong call."""
    control = control_for(goal={"strong_share": 0.4})
    for p_success, p_strong in queries:
        rule = control.rule()
        decision = rule.decide(foretold(p_success, p_strong))
        assert (decision.serve == "weak") == (p_success >= decision.keep_at)
        assert control.keep_at == rule.keep_at
        assert control.pool_goal() == ShareGoal(keep_at=rule.keep_at, least_gain=rule.least_gain)
        control.observe(foretold(p_success, p_strong), escalated=decision.serve == "strong")


def test_what_was_learnt_goes_on_for_the_same_route_alone(
    control_for: Any, trained_toy: Path, shelf: EngineShelf
):
    control = control_for(goal={"strong_share": 0.4})

    def goes_on(**route: Any) -> bool:
        config = gateway_config(trained_toy, "http://127.0.0.1:2/v1", **route)
        with Foretell(config, engines=shelf) as ft:
            side = ft.open_weak_side("auto", "toy", now=datetime.now(UTC))
            return control.serves(config.routes["auto"], side)

    assert goes_on(goal={"strong_share": 0.4})
    assert not goes_on(goal={"strong_share": 0.4}, explore=0.5)
    assert not goes_on(goal={"strong_share": 0.5})
    assert not goes_on(goal={"strong_share": 0.4}, router="length")


def test_what_explores_falls_with_the_decisions_and_goes_on_after_a_restart(control_for: Any):
    schedule = {"start": 0.4, "floor": 0.1, "half_life": 10}
    control = control_for(goal={"threshold": 0.5}, explore=schedule)
    assert control.rule().decide(foretold(0.9)).p_weak == pytest.approx(0.6)
    for _ in range(10):
        serve(control, foretold(0.9))
    control.observe(None, escalated=True)  # nobody's decision here
    assert control.rule().decide(foretold(0.9)).p_weak == pytest.approx(0.75)
    later = GoalControl(
        control._config,
        control._route,
        purse=None,
        rng=np.random.default_rng(0),
        decisions=control.decisions,
    )
    assert later.rule().decide(foretold(0.9)).p_weak == pytest.approx(0.75)


@pytest.mark.parametrize("goal", [{"threshold": 0.5}, {"strong_share": 0.5}])
def test_what_is_aimed_at_the_bar_costs_no_more_than_the_share(control_for: Any, goal: Any):
    """Whatever the scores are like: their nearness to the bar is learnt."""
    schedule = {"start": 0.04, "floor": 0.04, "aimed": 0.5}
    control = control_for(goal=goal, explore=schedule)
    rng = np.random.default_rng(5)
    rates, near = [], []
    for p in rng.beta(12, 12, 3000):  # most of them near the bar
        estimate = foretold(float(p), 0.9)
        decision = control.rule().decide(estimate)
        rates.append(min(decision.p_weak, 1 - decision.p_weak))
        near.append(abs(p - decision.keep_at) < 0.03)
        control.observe(estimate, escalated=decision.serve == "strong")
    rates, near = np.array(rates[500:]), np.array(near[500:])
    assert rates.mean() == pytest.approx(0.04, abs=0.004)
    assert rates[near].mean() > rates[~near].mean() + 0.01


def test_a_budget_moves_the_bar_by_the_share_that_it_pays_for(control_for: Any):
    purse = RoutePurse(CostGoal(usd_per_1k=3.0))
    purse.open(clock=lambda: 0.0, spent_usd=0.0)
    control = control_for(purse=purse, goal={"usd_per_1k": 3.0})
    rng = np.random.default_rng(3)
    spent, escalations = 0.0, 0
    for _ in range(1000):
        estimate = foretold(float(rng.random()), 0.9)
        escalated = control.rule().decide(estimate).serve == "strong"
        if escalated:
            reservation = purse.reserve(0.012, serve="strong")
            escalated = reservation is not None
        if not escalated:
            reservation = purse.reserve(0.0002, serve="weak")
        control.observe(estimate, escalated=escalated)
        usd = 0.01 if escalated else 0.0001
        purse.settle(reservation, usd, serve="strong" if escalated else "weak")
        spent, escalations = spent + usd, escalations + escalated
    assert spent <= 3.0
    assert spent >= 0.85 * 3.0
    assert control.strong_share == pytest.approx(escalations / 1000)
    assert "3 USD per 1,000 requests" in control.bar_reason


# The purse


def test_another_goal_has_no_purse():
    assert RoutePurse.of(StrongShareGoal(strong_share=0.5)) is None
    assert RoutePurse.of(ThresholdGoal(threshold=0.5)) is None
    assert RoutePurse.of(CostGoal(usd_per_1k=1)) is not None


def test_nothing_is_spent_before_it_is_known_what_was():
    purse = RoutePurse(DailyCostGoal(usd_per_day=5))
    assert not purse.is_open
    assert not purse.allows(0.0)
    assert purse.reserve(0.0, serve="weak") is None
    assert purse.share() is None
    purse.open(clock=lambda: 10.0, spent_usd=4.5)
    assert purse.is_open
    assert purse.allows(0.5)
    assert not purse.allows(0.51)


def test_what_has_no_known_cost_cannot_be_paid():
    purse = RoutePurse(DailyCostGoal(usd_per_day=5))
    purse.open(clock=lambda: 0.0, spent_usd=0.0)
    assert not purse.allows(None)
    assert purse.reserve(None, serve="strong") is None


def test_a_budget_per_1000_requests_does_not_stop_the_weak_model():
    purse = RoutePurse(CostGoal(usd_per_1k=0.0))
    purse.open(clock=lambda: 0.0, spent_usd=0.0)
    assert purse.reserve(0.1, serve="strong") is None
    assert purse.reserve(0.1, serve="weak") is not None


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1), st.sampled_from(["weak", "strong"]))))
def test_a_day_never_costs_more_than_its_budget(calls: Any):
    now = [0.0]
    purse = RoutePurse(DailyCostGoal(usd_per_day=5.0))
    purse.open(clock=lambda: now[0], spent_usd=1.0)
    spent = 1.0
    for worst, share, serve_by in calls:
        reservation = purse.reserve(worst, serve=serve_by)
        if reservation is not None:
            purse.settle(reservation, worst * share, serve=serve_by)
            spent += worst * share
    assert spent <= 5.0 + 1e-6
    now[0] = DAY
    assert purse.allows(5.0)
