"""How much is left to chance, and where: what is explored teaches, and costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from foretell.config import ExploreConfig
from foretell.errors import InputError

_MOST: Final = 0.5
"""Aiming never makes the other side the likelier one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """A share ``rate`` of decisions goes the other way, part of it near the bar.

    Chance ``(1 - aimed) rate`` is the same for every query. The rest goes by how near a query is to
    its bar: ``max(0, 1 - |p_success - keep_at| / width)``, 1 at the bar and 0 from ``width`` on.
    It is scaled by ``near``, the mean nearness of the queries served, so that the share as a whole
    is ``rate``; where not given it is ``width``, which it is for chances spread evenly from 0 to 1.
    Where nothing is near (0), all are explored alike.

    No query is aimed at with a chance above one half: where few are near, the whole is less than
    ``rate``. What is far from the bar is seen by the part that is not aimed alone. With all of it
    aimed nothing is known of the rest, and no weight can make up for that.
    """

    rate: float
    aimed: float = 0.0
    width: float = 0.1
    near: float | None = None

    def __post_init__(self) -> None:
        for name in ("rate", "aimed"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise InputError(f"explore's {name} is {share}; wanted a share between 0 and 1")
        if not 0 < self.width <= 1:
            raise InputError(f"explore's width is {self.width}; wanted a number above 0, at most 1")
        if self.near is not None and not 0 <= self.near <= 1:
            raise InputError(f"explore's near is {self.near}; wanted a mean nearness from 0 to 1")

    @classmethod
    def of(cls, explore: float | Exploration) -> Exploration:
        """A plain share is one that nothing is aimed of."""
        return explore if isinstance(explore, Exploration) else cls(rate=explore)

    def rate_at(self, p_success: float, keep_at: float) -> float:
        """The chance that the decision on this query is flipped."""
        near = self.width if self.near is None else self.near
        if not self.aimed or not near:
            return self.rate
        nearer = nearness(p_success, keep_at, width=self.width) / near
        rate = self.rate * (1 - self.aimed + self.aimed * nearer)
        return min(rate, max(self.rate, _MOST))


def nearness(p_success: float, keep_at: float, *, width: float) -> float:
    """How near a query is to its bar: 1 at the bar, falling to 0 at ``width`` from it.

    A bar that keeps nothing (above 1) counts as 1.
    """
    return max(0.0, 1 - abs(p_success - min(keep_at, 1.0)) / width)


def exploration_rate(schedule: ExploreConfig | float, decisions: int) -> float:
    """The share explored after that many decisions; see ``ExploreConfig``."""
    if decisions < 0:
        raise InputError(f"{decisions} decisions were made; wanted a count of at least 0")
    if not isinstance(schedule, ExploreConfig):
        return schedule
    falling = schedule.start - schedule.floor
    return schedule.floor + falling * math.exp2(-decisions / schedule.half_life)
