"""How the weak model fared on each query, against every rival it has met there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foretell.records import RoutingData


def contest(data: RoutingData) -> NDArray[np.float64]:
    """Share of its comparisons that the weak model won, per query; a tie is half a win.

    RouteLLM learns from wins, losses and ties of the weak model against the strong one. Those alone
    cannot tell a query that both models answer from one that both fail, so the bar of success is
    a rival too, and the only one where the strong outcome is unknown. With outcomes of 0 and 1 the
    share is 1 where only the weak model succeeds, 3/4 where both do, 1/4 where neither does, and 0
    where only the strong one does.
    """
    if not len(data.strong):
        return data.weak
    against_strong = (1 + data.weak - data.strong) / 2
    return np.where(np.isfinite(data.strong), (data.weak + against_strong) / 2, data.weak)
