"""What a route may still spend, whoever decides and whichever domain a query belongs to."""

from __future__ import annotations

from collections.abc import Callable

from foretell.config import CostGoal, DailyCostGoal, Goal
from foretell.policy import BudgetPacer, Reservation
from foretell.records import Role


class RoutePurse:
    """The budget of a route whose goal is a sum of money; of one event loop.

    Nothing may be spent before ``open`` told what was spent today already.
    """

    def __init__(self, goal: CostGoal | DailyCostGoal) -> None:
        self.goal = goal
        self._pacer: BudgetPacer | None = None

    @classmethod
    def of(cls, goal: Goal) -> RoutePurse | None:
        """``None`` where the goal is another."""
        return cls(goal) if isinstance(goal, CostGoal | DailyCostGoal) else None

    def open(self, *, clock: Callable[[], float], spent_usd: float) -> None:
        """``clock`` is in seconds since 1970 (UTC)."""
        if isinstance(self.goal, CostGoal):
            self._pacer = BudgetPacer.per_1k(self.goal.usd_per_1k)
        else:
            self._pacer = BudgetPacer.per_day(
                self.goal.usd_per_day, clock=clock, already_spent_usd=spent_usd
            )

    @property
    def is_open(self) -> bool:
        """Whether it is known what may be spent."""
        return self._pacer is not None

    def share(self) -> float | None:
        """The strong-call share to aim at now; ``None`` while it is not known."""
        return None if self._pacer is None else self._pacer.share()

    def allows(self, worst_usd: float | None) -> bool:
        """Whether a call of that worst cost is within the budget; one of no known cost is not."""
        return self._pacer is not None and worst_usd is not None and self._pacer.allows(worst_usd)

    def reserve(self, worst_usd: float | None, *, serve: Role) -> Reservation | None:
        """Set the most that a request may cost aside; ``None`` when that is not left.

        A budget per 1,000 requests stops strong calls alone: the weak model serves in any case.
        """
        if self._pacer is None or worst_usd is None:
            return None
        if serve == "weak" and isinstance(self.goal, CostGoal):
            return self._pacer.charge(worst_usd, serve=serve)
        return self._pacer.reserve(worst_usd, serve=serve)

    def settle(self, reservation: Reservation, usd: float | None, *, serve: Role) -> None:
        """What it cost in truth, and who served it in the end."""
        if self._pacer is not None:
            self._pacer.settle(reservation, usd, serve=serve)
