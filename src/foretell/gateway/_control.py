"""What keeps a route to its goal while it serves: a bar that moves."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from foretell.config import (
    CostGoal,
    DailyCostGoal,
    ExploreConfig,
    Goal,
    RouteConfig,
    StrongShareGoal,
)
from foretell.gateway._purse import RoutePurse
from foretell.policy import (
    CheapestGoal,
    Exploration,
    PoolGoal,
    ShareController,
    ShareGoal,
    exploration_rate,
    nearness,
)
from foretell.probes import HeldOut
from foretell.records import Estimate
from foretell.runtime import NoEstimator, Route, Rule

_RECENT = 1000
_NEAR_WIDTH = 0.1
_NEWEST_COUNTS = 0.01
"""Weight of the newest request in the mean nearness: the bar moves, and traffic changes."""


class GoalControl:
    """Belongs to one route and domain, and to one event loop.

    For a goal that was tested beforehand (quality, risk, threshold) the bar stands still. A strong
    share is held by feedback on the bar, and a budget by the share that the ``purse`` says it can
    afford; the hard stop behind that is the purse's own.

    ``decisions`` counts those that the rule has made, by which the share that explores falls; it
    starts at the number made before a restart.
    """

    def __init__(
        self,
        config: RouteConfig,
        route: Route,
        *,
        purse: RoutePurse | None,
        rng: np.random.Generator,
        decisions: int = 0,
    ) -> None:
        self._config = config
        self._route = route
        self._rng = rng
        self._by_gain = route.bar.least_gain is not None
        self._purse = purse
        self._share = None if isinstance(route.estimator, NoEstimator) else self._controller()
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        self.keep_at = route.bar.keep_at
        self._least_gain = route.bar.least_gain
        self.decisions = decisions
        self._near = _NEAR_WIDTH  # what it is for chances spread evenly

    def serves(self, config: RouteConfig, route: Route) -> bool:
        """Whether another snapshot's route may go on with what this one has learnt."""
        mine, other = self._route.saved, route.saved
        return (
            config == self._config
            and type(route.estimator) is type(self._route.estimator)
            and (mine and mine.card.name) == (other and other.card.name)
            # Without a probe, the step of a ladder is told by the bar alone; and a bar that stands
            # still may be another one with more evidence.
            and (route.bar == self._route.bar or (mine is not None and self.moves))
        )

    @property
    def moves(self) -> bool:
        """Whether the bar is another one from request to request."""
        return self._share is not None

    @property
    def explore(self) -> float:
        """The share of decisions that is left to chance by now."""
        return exploration_rate(self._config.explore, self.decisions)

    @property
    def strong_share(self) -> float | None:
        """Share of the last 1,000 requests that a strong model served; ``None`` before any."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    @property
    def bar_reason(self) -> str:
        """Where the bar comes from, as it stands."""
        if self._share is None:
            return self._route.bar.reason
        held = f"moved by feedback to hold a strong share of {self._share.target:.0%}"
        saturated = (
            ", which requests decided otherwise alone exceed" if self._share.saturated else ""
        )
        return f"{_goal_words(self._config.goal)}{held}{saturated}"

    def rule(self) -> Rule:
        """The rule for the next request."""
        rule = self._route.rule(self._exploration())
        if self._share is None:
            return rule
        if self._purse is not None and (share := self._purse.share()) is not None:
            self._share.aim_at(share)
        bar = self._share.keep_at(float(self._rng.random()))
        if not self._by_gain:
            self.keep_at = max(0.0, bar)
            return replace(rule, keep_at=self.keep_at, least_gain=None, by_domain={})
        # For an estimate without p_strong: as if the strong model were certain to succeed.
        self.keep_at, self._least_gain = max(0.0, 1.0 + bar), -bar
        return replace(rule, keep_at=self.keep_at, least_gain=-bar)

    def pool_goal(self) -> PoolGoal:
        """What the choice among more than two models goes by, at the bar as it stands."""
        keep_at, least_gain = self.keep_at, self._least_gain
        if self._share is not None:
            return ShareGoal(keep_at=keep_at, least_gain=least_gain)
        return CheapestGoal(keep_at=keep_at, least_gain=least_gain)

    def observe(self, estimate: Estimate | None, *, escalated: bool) -> None:
        """Count a request once it is decided; ``estimate`` only where it was decided by that."""
        self._recent.append(escalated)
        if estimate is not None and not estimate.outside:
            self._count(estimate)
        if self._share is None:
            return
        score = None
        if estimate is not None and not estimate.outside:
            if not self._by_gain:
                score = estimate.p_success
            elif estimate.gain is not None:
                score = -estimate.gain
        self._share.observe(score, escalated=escalated)

    def _exploration(self) -> Exploration:
        """What is left to chance by now."""
        explore = self._config.explore
        return Exploration(
            rate=exploration_rate(explore, self.decisions),
            aimed=explore.aimed if isinstance(explore, ExploreConfig) else 0.0,
            width=_NEAR_WIDTH,
            near=self._near,
        )

    def _count(self, estimate: Estimate) -> None:
        self.decisions += 1
        # Where the nearest domain decides, its bar is another one, and the share a little off.
        keep_at = self.keep_at
        if self._least_gain is not None and estimate.p_strong is not None:
            keep_at = estimate.p_strong - self._least_gain
        here = nearness(estimate.p_success, keep_at, width=_NEAR_WIDTH)
        self._near += _NEWEST_COUNTS * (here - self._near)

    def _controller(self) -> ShareController | None:
        goal, held_out = self._config.goal, self._route.held_out
        if not isinstance(goal, StrongShareGoal | CostGoal | DailyCostGoal):
            return None
        target = goal.strong_share if isinstance(goal, StrongShareGoal) else 0.5
        scores = [] if held_out is None else _scores(held_out, by_gain=self._by_gain)
        return ShareController(
            target, scores, score_range=(-1.0, 1.0) if self._by_gain else (0.0, 1.0)
        )


def _scores(held_out: HeldOut, *, by_gain: bool) -> list[float]:
    """Of the training queries, in an order that no reader of the file chose."""
    scores = held_out.p_success
    if by_gain:
        scores = (scores - held_out.p_strong)[np.isfinite(held_out.p_strong)]
    shuffled = np.random.default_rng(0).permutation(scores)
    return [float(score) for score in shuffled]


def _goal_words(goal: Goal) -> str:
    match goal:
        case CostGoal():
            return f"{goal.usd_per_1k:g} USD per 1,000 requests: "
        case DailyCostGoal():
            return f"{goal.usd_per_day:g} USD a day: "
        case _:
            return ""
