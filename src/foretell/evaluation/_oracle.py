"""The curve that no router can be above."""

from __future__ import annotations

import numpy as np

from foretell.evaluation._curves import Curve, cost_quality_curve
from foretell.records import RoutingData


def oracle_curve(test: RoutingData) -> Curve | None:
    """Cost-quality curve of escalating first what gains most, knowing both models' outcomes.

    Over the queries that have both, and weight; ``None`` without any.
    """
    strong = test.strong if test.strong.size else np.full(len(test), np.nan)
    weights = test.row_weights()
    known = np.isfinite(test.weak) & np.isfinite(strong) & (weights > 0)
    if not known.any():
        return None
    weak, strong = test.weak[known], strong[known]
    return cost_quality_curve(weak - strong, weak, strong, weights[known])
