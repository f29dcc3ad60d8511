"""What routing costs, as functions of row weights: deferral curves, their hull and their areas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretell.evaluation._intervals import Floats, Statistic
from foretell.evaluation._statistics import escalated_sums, ratio

_ROUNDING = 1e-9
"""By how much a quality may fall short of its target and still have reached it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Routed:
    """A routing rule on each query, all (queries,): its score, both models' success, and costs.

    ``kept`` and ``escalated`` are what the rule pays for a query it keeps or escalates;
    ``weak_alone`` and ``strong_alone`` what a model costs when asked without any router. All
    costs are in one unit, whichever.
    """

    scores: Floats
    weak: Floats
    strong: Floats
    kept: Floats
    escalated: Floats
    weak_alone: Floats
    strong_alone: Floats

    def path(self, weights: Floats) -> tuple[Floats, Floats]:
        """Mean cost and mean success, (resamples, knots), from keeping all to escalating all."""
        extra, gain = escalated_sums(
            self.scores, weights, self.escalated - self.kept, self.strong - self.weak
        )
        cost, quality = (
            (weights @ of)[:, None] + sums for of, sums in ((self.kept, extra), (self.weak, gain))
        )
        # The end without the rounding of a long sum: a router that only ever escalates saves 0.
        cost[:, -1], quality[:, -1] = weights @ self.escalated, weights @ self.strong
        total = weights.sum(axis=1, keepdims=True)
        return cost / total, quality / total


def cost_at_quality_of(routed: Routed, share: float) -> Statistic:
    """Least mean cost at which the rule has ``share`` of the strong model's success.

    Between two thresholds, chance decides: the path is straight there. Undefined where the weak
    model alone has that success.
    """

    def statistic(weights: Floats) -> Floats:
        cost, quality = routed.path(weights)
        above = quality - share * quality[:, -1:]
        reached = above >= -_ROUNDING
        best = np.where(reached, cost, np.inf).min(axis=1)
        crossed = reached[:, 1:] != reached[:, :-1]
        step = np.where(crossed, np.diff(above, axis=1), 1.0)
        part = np.clip(-above[:, :-1] / step, 0.0, 1.0)
        between = cost[:, :-1] + part * np.diff(cost, axis=1)
        best = np.minimum(best, np.where(crossed, between, np.inf).min(axis=1))
        return np.where(reached[:, 0], np.nan, best)

    return statistic


def qnc_of(routed: Routed) -> Statistic:
    """Quality-neutral cost: the least cost with the strong model's success, in shares of its cost.

    Undefined as for ``cost_at_quality_of``, and where the strong model costs nothing.
    """
    cost = cost_at_quality_of(routed, 1.0)

    def statistic(weights: Floats) -> Floats:
        return ratio(cost(weights), weights @ routed.strong_alone / weights.sum(axis=1))

    return statistic


def audc_of(routed: Routed) -> Statistic:
    """Mean success over costs from always-weak to always-strong, along the deferral curve.

    Below the cost of the rule's own first threshold, the weak model alone answers. Undefined where
    the strong model costs no more than the weak one.
    """

    def statistic(weights: Floats) -> Floats:
        cost, quality = _from_weak_to_strong(routed, weights)
        inside = np.clip(cost, 0.0, 1.0)
        width = np.diff(cost, axis=1)
        flat = np.abs(width) <= 0
        start, end = (
            quality[:, :-1]
            + np.where(flat, 0.0, at / np.where(flat, 1.0, width)) * np.diff(quality, axis=1)
            for at in (inside[:, :-1] - cost[:, :-1], inside[:, 1:] - cost[:, :-1])
        )
        return (np.diff(inside, axis=1) * (start + end) / 2).sum(axis=1)

    return statistic


def aiq_of(routed: Routed) -> Statistic:
    """Mean success over the same costs, along the non-decreasing convex hull.

    The hull holds every mixture by lot of the rule's thresholds, the weak model alone and the
    strong model alone. Undefined as for ``audc_of``.
    """

    def statistic(weights: Floats) -> Floats:
        cost, quality = _from_weak_to_strong(routed, weights)
        strong = weights @ routed.strong / weights.sum(axis=1)
        cost = np.concatenate([cost, np.ones((len(cost), 1))], axis=1)
        quality = np.concatenate([quality, strong[:, None]], axis=1)
        order = np.lexsort((-quality, cost), axis=1)
        cost, quality = (np.take_along_axis(of, order, axis=1) for of in (cost, quality))
        found = [_hull_area(*points) for points in zip(cost, quality, strict=True)]
        return np.array(found, dtype=np.float64)

    return statistic


def _from_weak_to_strong(routed: Routed, weights: Floats) -> tuple[Floats, Floats]:
    """The path, with the weak model alone before it, and costs such that it has 0, the strong 1."""
    total = weights.sum(axis=1)
    weak_cost = weights @ routed.weak_alone / total
    range_of_costs = weights @ routed.strong_alone / total - weak_cost
    cost, quality = routed.path(weights)
    # NaN where there is no range: everything after that is undefined too.
    usable = np.where(range_of_costs > 1e-12 * np.abs(weak_cost), range_of_costs, np.nan)
    scaled = (cost - weak_cost[:, None]) / usable[:, None]
    weak = (weights @ routed.weak / total)[:, None]
    start = np.where(np.isnan(usable), np.nan, 0.0)[:, None]
    return np.concatenate([start, scaled], axis=1), np.concatenate([weak, quality], axis=1)


def _hull_area(cost: Floats, quality: Floats) -> float:
    """Area from cost 0 to 1 under the hull of points in order of cost, best first at equal cost.

    The slopes of the least concave line above the points are the isotonic regression of theirs
    (Barlow et al., "Statistical Inference under Order Restrictions", 1972, theorem 1.1).
    """
    from scipy.optimize import isotonic_regression

    if np.isnan(cost).any():
        return float("nan")
    apart = np.concatenate([[True], np.diff(cost) > 1e-12])
    cost, quality = cost[apart], quality[apart]
    width = np.diff(cost)
    slopes = isotonic_regression(np.diff(quality) / width, weights=width, increasing=False).x
    hull = quality[0] + np.concatenate([[0.0], np.cumsum(np.maximum(slopes, 0.0) * width)])
    knots = np.concatenate([[0.0], cost[(cost > 0) & (cost < 1)], [1.0]])
    return float(np.trapezoid(np.interp(knots, cost, hull), knots))
