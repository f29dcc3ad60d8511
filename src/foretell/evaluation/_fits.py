"""What every comparison that fits routers starts with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from foretell.errors import InputError
from foretell.records import RoutingData
from foretell.routers import Router


@dataclass(slots=True)
class FitCounter:
    """Counts fits; ``progress`` is told those done and those in all."""

    total: int
    progress: Callable[[int, int], None] | None
    done: int = 0

    def step(self) -> None:
        """One more fit was made, or refused."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def require_distinct_names(routers: Sequence[Router]) -> None:
    """Refuses no routers at all, and two of one name."""
    names = [router.name for router in routers]
    if len(set(names)) < len(names) or not names:
        raise InputError(f"routers are named {names}; wanted at least one, each with its own name")


def labelled(data: RoutingData) -> RoutingData:
    """The rows whose weak outcome is known."""
    return data.take(np.isfinite(data.weak) if data.weak.size else np.zeros(len(data), bool))


def without_outcomes(data: RoutingData) -> RoutingData:
    """The same queries as a router gets to see them when it is judged on them."""
    return replace(data, weak=np.empty(0), strong=np.empty(0))
