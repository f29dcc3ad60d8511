"""Any number of models to choose from, each with a foretold chance and an expected cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from foretell.calibration import KEEP_NOTHING
from foretell.errors import InputError
from foretell.policy._decide import decide
from foretell.policy._exploration import Exploration
from foretell.policy._turns import TurnRule
from foretell.records import Decision, Estimate, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class CheapestGoal:
    """The cheapest model that is good enough, by the bar of ``decide``.

    Its chance is at least ``keep_at``; with ``least_gain``, at most that much below the best
    chance of all models but the weak one.
    """

    keep_at: float
    least_gain: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareGoal:
    """The bar of ``decide`` between the weak model and the best of the others.

    For a bar that holds a strong-call share: what escalates may as well be answered best.
    """

    keep_at: float
    least_gain: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetGoal:
    """The best chance for an expected cost of at most ``usd`` a request."""

    usd: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.usd) and self.usd >= 0):
            raise InputError(f"the budget is {self.usd} USD; wanted a number of at least 0")


PoolGoal = CheapestGoal | ShareGoal | BudgetGoal


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The model picked, its role, and why."""

    model: str
    role: Role
    reason: str


def choose_from_pool(
    chances: Mapping[str, float | None],
    costs: Mapping[str, float | None],
    *,
    order: Sequence[str],
    goal: PoolGoal,
    turn: TurnRule | None = None,
) -> Choice:
    """Which of any number of models answers.

    ``chances`` and ``costs`` (USD that the request is expected to cost there) are by model; what is
    not known is ``None``, or absent. ``order`` begins with the weak model and the strong one of the
    route, and breaks ties.

    With ``CheapestGoal`` and ``ShareGoal`` the weak model, which has read the query already,
    answers iff ``decide`` keeps it, where ``p_strong`` is the best chance of the others. So for two
    models this is ``decide``, whatever they cost. If it does not, ``ShareGoal`` takes the best of
    the others, ``CheapestGoal`` the cheapest of them that meets the bar, and the best when none
    does. A quality that was tested for the bar holds for the two models that it was tested on; the
    others are held to the same bar by their foretold chances.

    With ``BudgetGoal`` the best of those answers whose cost is known and fits, the weak one of
    equals; the weak one, too, when none fits.

    The best has the highest chance, and is the cheapest of equals; a cost that is not known counts
    as the highest. A model without a chance is not picked, but for the strong one: where its chance
    is not foretold, it is taken for the best, as in ``decide``. Of the others none is picked that
    is dearer than another and not better. Without a chance of the weak model the query is
    declined, and the strong one answers.

    A ``turn`` pins, or favours the model that served before by its margin: that one is kept to as
    long as it is good enough.
    """
    _check_order(order)
    p_success = chances.get(order[0])
    estimate = None
    if p_success is not None:
        known = {model: chance for model in order[2:] if (chance := chances.get(model)) is not None}
        estimate = Estimate(
            score=p_success,
            p_success=p_success,
            p_strong=chances.get(order[1]),
            p_pool=known,
            router="the pool",
        )
    decision = decide_in_pool(estimate, costs, order=order, goal=goal, turn=turn)
    return Choice(model=decision.target or order[1], role=decision.serve, reason=decision.reason)


def decide_in_pool(
    estimate: Estimate | None,
    costs: Mapping[str, float | None],
    *,
    order: Sequence[str],
    goal: PoolGoal,
    on_decline: Role = "strong",
    override: Role | None = None,
    explore: float | Exploration = 0.0,
    draw: float | None = None,
    turn: TurnRule | None = None,
) -> Decision:
    """``decide`` for any number of models, by ``choose_from_pool``; ``target`` is who answers.

    Chances are the estimate's: ``p_success`` is that of ``order[0]``, ``p_strong`` of ``order[1]``,
    and ``p_pool`` holds the rest. What is overridden or declined goes to the first of its role; an
    exploration that leaves the weak model, to the one picked among the others. ``p_weak`` is the
    chance of ``order[0]``. With ``BudgetGoal`` nothing is explored unless both sides fit.
    """
    _check_order(order)
    weak, strong = order[0], order[1]
    others = _Others.of(estimate, costs, order, turn)
    if isinstance(goal, BudgetGoal):
        others = others.within(goal.usd)
        weak_fits = _cost(costs, weak) <= goal.usd
        if not (others.models and weak_fits):
            explore = 0.0
        goal = _as_bar(others, weak_fits=weak_fits)
    decision = decide(
        None if estimate is None else replace(estimate, p_strong=others.best_chance),
        keep_at=goal.keep_at,
        least_gain=goal.least_gain,
        on_decline=on_decline,
        override=override,
        explore=explore,
        draw=draw,
        turn=turn,
        rival="the strong model" if len(order) == 2 else "the best other model",
    )
    if decision.target is not None:
        return _with_own_chances(decision, estimate)
    target, reason = (weak if decision.serve == "weak" else strong), decision.reason
    if decision.serve == "strong" and decision.action in ("escalate", "explore"):
        target, why = others.pick(goal)
        if len(order) > 2:
            reason = f"{reason}; of the others {target} is {why}"
    return _with_own_chances(replace(decision, target=target, reason=reason), estimate)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Others:
    """The models but the weak one that may be picked, with what is known of them."""

    models: tuple[str, ...]
    chances: Mapping[str, float]
    costs: Mapping[str, float | None]
    last: str | None
    margin: float

    @classmethod
    def of(
        cls,
        estimate: Estimate | None,
        costs: Mapping[str, float | None],
        order: Sequence[str],
        turn: TurnRule | None,
    ) -> _Others:
        # A strong model whose chance nobody foretells is better than any.
        chances = {order[1]: math.inf}
        if estimate is not None:
            if estimate.p_strong is not None:
                chances[order[1]] = estimate.p_strong
            chances |= {m: estimate.p_pool[m] for m in order[2:] if m in estimate.p_pool}
            _check_chances(chances, estimate.router)
        return cls(
            models=tuple(chances),
            chances=chances,
            costs=costs,
            last=turn.last if turn else None,
            margin=abs(turn.margin) if turn else 0.0,
        )

    def within(self, usd: float) -> _Others:
        return replace(self, models=tuple(m for m in self.models if _cost(self.costs, m) <= usd))

    @property
    def best_chance(self) -> float | None:
        """``None`` where there are none, or the strong one's is not foretold."""
        best = max((self.chances[model] for model in self.models), default=math.inf)
        return best if math.isfinite(best) else None

    def pick(self, goal: CheapestGoal | ShareGoal) -> tuple[str, str]:
        """One of them for a query that the weak model does not keep, and why."""
        if isinstance(goal, CheapestGoal):
            bar, best = goal.keep_at, self.best_chance
            if goal.least_gain is not None and best is not None:
                bar = best - goal.least_gain
            enough = [model for model in self.models if self._favoured(model) >= bar]
            if self.last in enough:
                return self.last, "good enough, and answered before"
            if enough:
                # min and max take the first of equals, which is the order's.
                cheapest = min(enough, key=lambda m: (_cost(self.costs, m), -self.chances[m]))
                return cheapest, "the cheapest that is good enough"
        likeliest = max(self.models, key=lambda m: (self._favoured(m), -_cost(self.costs, m)))
        return likeliest, "the likeliest to succeed"

    def _favoured(self, model: str) -> float:
        return self.chances[model] + (self.margin if model == self.last else 0.0)


def _as_bar(others: _Others, *, weak_fits: bool) -> ShareGoal:
    """What a budget means once only those are left that fit it."""
    if not others.models:
        return ShareGoal(keep_at=0.0)
    if not weak_fits:
        return ShareGoal(keep_at=KEEP_NOTHING)
    # Who has the higher chance: a gain of anything is worth it.
    return ShareGoal(keep_at=KEEP_NOTHING, least_gain=0.0)


def _with_own_chances(decision: Decision, estimate: Estimate | None) -> Decision:
    """The strong model's chance, where the rule was about the best of the others."""
    if estimate is None:
        return decision
    return replace(decision, p_strong=estimate.p_strong, gain=estimate.gain)


def _cost(costs: Mapping[str, float | None], model: str) -> float:
    """A cost that nobody knows is no reason to pick a model: it counts as the highest."""
    cost = costs.get(model)
    return math.inf if cost is None else cost


def _check_chances(chances: Mapping[str, float], router: str) -> None:
    for model, chance in chances.items():
        if not (0 <= chance <= 1 or chance == math.inf):
            raise InputError(
                f"{router} gave {model!r} a chance of {chance}; wanted a number between 0 and 1; "
                "the router or its calibration is broken"
            )


def _check_order(order: Sequence[str]) -> None:
    if len(order) < 2 or len(set(order)) < len(order):
        raise InputError(
            f"the pool is {', '.join(order) or 'empty'}; wanted the weak model, the strong one, "
            "and any others, each once"
        )
