"""The rule of one request: what becomes of whichever estimate its prefill brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from foretell.policy import (
    CheapestGoal,
    Exploration,
    PoolGoal,
    TurnRule,
    decide,
    decide_in_pool,
)
from foretell.records import Decision, Estimate, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRule:
    """More than two models to choose from; see ``policy.decide_in_pool``."""

    order: tuple[str, ...]
    costs: Mapping[str, float | None]
    goal: PoolGoal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Decides one query; see ``policy.decide`` for the numbers.

    ``draw`` is drawn before the prefill: what explores must not be stopped early. ``by_domain``
    holds the rules of domains that have their own, told by the estimate's.
    """

    keep_at: float
    least_gain: float | None = None
    on_decline: Role = "strong"
    explore: float | Exploration = 0.0
    draw: float | None = None
    turn: TurnRule | None = None
    pool: PoolRule | None = None
    by_domain: Mapping[str, Rule] = field(default_factory=dict[str, "Rule"])

    @property
    def stops_below(self) -> float:
        """A ``p_success`` below this settles that the rule escalates, but for chance.

        Even where nothing else is foretold yet; 0 where nothing settles it.
        """
        if self.pool is not None and self.pool.order[2:]:
            return 0.0
        return self.keep_at if self.turn is None else self.turn.keep_at(self.keep_at)

    @property
    def stops_below_gain(self) -> float:
        """The same for ``p_success - p_strong``; -1, which nothing is below, where none settles it.

        A query is kept unless a strong call gains more than ``least_gain``.
        """
        many = self.pool is not None and self.pool.order[2:]
        if many or self.least_gain is None:
            return -1.0
        gain = self.least_gain if self.turn is None else self.turn.least_gain(self.least_gain)
        return -gain

    def decide(self, estimate: Estimate) -> Decision:
        """What becomes of a query of which this was foretold."""
        if (own := self.by_domain.get(estimate.domain or "")) is not None:
            goal = CheapestGoal(keep_at=own.keep_at, least_gain=own.least_gain)
            pool = None if self.pool is None else replace(self.pool, goal=goal)
            return replace(own, turn=self.turn, pool=pool).decide(estimate)
        if self.pool is not None:
            return decide_in_pool(
                estimate,
                self.pool.costs,
                order=self.pool.order,
                goal=self.pool.goal,
                on_decline=self.on_decline,
                explore=self.explore,
                draw=self.draw,
                turn=self.turn,
            )
        return decide(
            estimate,
            keep_at=self.keep_at,
            least_gain=self.least_gain,
            on_decline=self.on_decline,
            explore=self.explore,
            draw=self.draw,
            turn=self.turn,
        )

    def declined(self, cause: str, reason: str) -> Decision:
        """No estimate: ``cause`` is a word that counters may use, ``reason`` a sentence."""
        decision = decide(None, keep_at=self.keep_at, on_decline=self.on_decline)
        return replace(decision, reason=reason, cause=cause)
