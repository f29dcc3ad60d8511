"""Two tests that a threshold holds the goal: by betting, and by exact binomial bounds.

A threshold comes as its split: how many queries, in rising order of score, it escalates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foretell.calibration._binomial import chance_of_at_least, lower_bound, upper_bound
from foretell.calibration._columns import Column, Index
from foretell.calibration._curve import MOST_LABELS, Curve, split_sums
from foretell.errors import InputError

_STAKES = np.array([0.1, 0.3, 0.9])
"""Bets on "the routed accuracy is high enough". Below 1, so that no loss can ruin them."""


class QualityTest(Protocol):
    """Whether routed accuracy is at least ``quality`` times the strong model's."""

    def passes(self, split: Index, miss: float, among: int) -> NDArray[np.bool_]:
        """By split: whether the goal is shown to hold.

        With ``among`` thresholds tested, all of them together are wrong with a probability of at
        most ``miss``; with 1, each alone is.
        """
        ...

    def labels_needed(self, split: Index, miss: float, among: int) -> float:
        """About how many labels like these would pass at one of the splits; may be infinite."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class BettingTest:
    """The betting test for bounded losses (Waudby-Smith and Ramdas, 2024).

    A query's margin is ``d = routed - quality * strong``, at least -1. Where the goal fails, the
    mean of ``d`` is below 0, so the product of ``1 + stake * d`` over independent queries has an
    expected value of at most 1 for every stake in (0, 1); so has the average over the stakes. By
    Markov's inequality it exceeds ``1 / miss`` with probability at most ``miss``: its inverse
    is a valid p-value. Bates et al. (2021) recommend it for bounded losses; this form ignores
    the order of rows. Bounds that look at the mean alone (Hoeffding-Bentkus) need many times the
    labels here, since the margin of an escalated query hardly varies.

    Queries of one group are not independent. There the margin is the group's sum over the size of
    the largest group, at least -1 again, and groups take the place of queries. Their margins
    need not have one distribution: for independent ones whose means average to below 0 the
    product is expected to be at most 1, since a geometric mean is at most the arithmetic one. So
    the sizes of groups count as given, and the accuracy is that of a query, not of a group.

    ``log_wealth`` has axes stakes and number of escalated queries.
    """

    log_wealth: NDArray[np.float64]

    @classmethod
    def of(cls, curve: Curve, quality: float) -> BettingTest:
        wealth = _wealth_of_groups if curve.is_grouped else _wealth_of_queries
        return cls(wealth(curve, quality))

    def passes(self, split: Index, miss: float, among: int) -> NDArray[np.bool_]:
        wealth = self.log_wealth[:, split]
        top = wealth.max(axis=0)
        mean = top + np.log(np.exp(wealth - top).mean(axis=0))
        return mean >= math.log(among / miss)

    def labels_needed(self, split: Index, miss: float, among: int) -> float:
        n = self.log_wealth.shape[1] - 1
        growth = float(self.log_wealth[:, split].max()) / n
        return (
            (math.log(among / miss) + math.log(len(_STAKES))) / growth if growth > 0 else math.inf
        )


def _wealth_of_queries(curve: Curve, quality: float) -> NDArray[np.float64]:
    stakes = _STAKES[:, None]
    kept = np.log1p(stakes * (curve.weak - quality * curve.strong))
    escalated = np.log1p(stakes * (1 - quality) * curve.strong)
    return split_sums(escalated, kept)


def _wealth_of_groups(curve: Curve, quality: float) -> NDArray[np.float64]:
    """Escalating one more query changes one group's margin, and so one factor of the product."""
    sizes = np.bincount(curve.group)
    all_kept = np.bincount(curve.group, curve.weak - quality * curve.strong)
    change = curve.strong - curve.weak
    by_group = np.argsort(curve.group, kind="stable")
    running = np.cumsum(change[by_group])
    at_start = np.concatenate([[0.0], running])[np.cumsum(sizes) - sizes]
    changed = np.empty(len(curve))
    changed[by_group] = running - at_start[curve.group[by_group]]
    after = all_kept[curve.group] + changed
    stakes = _STAKES[:, None] / sizes.max()
    factor = np.log1p(stakes * after) - np.log1p(stakes * (after - change))
    start = np.log1p(stakes * all_kept).sum(axis=1, keepdims=True)
    return start + np.concatenate([np.zeros_like(start), np.cumsum(factor, axis=1)], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class BinomialTest:
    """Exact bounds for outcomes of 0 and 1 (Clopper and Pearson, 1934).

    The goal is shown where the lower bound of the routed accuracy reaches ``quality`` times the
    upper bound of the strong model's. Half of what may go wrong is the second bound's, once for
    all thresholds; the other half is the first's. Both bounds are of the same queries and add up
    their errors, which the betting test avoids.

    ``routed`` are successes by number of escalated queries.
    """

    routed: Column
    strong: float
    n: int
    quality: float

    @classmethod
    def of(cls, curve: Curve, quality: float) -> BinomialTest:
        if curve.is_grouped:
            raise InputError(
                "queries of one group are not independent, so their successes are not binomial; "
                "use test='betting'"
            )
        if any(((column > 0) & (column < 1)).any() for column in (curve.weak, curve.strong)):
            raise InputError(
                "an outcome is a rate between 0 and 1, which exact binomial bounds cannot use; "
                "use test='betting'"
            )
        return cls(curve.routed(), float(curve.strong.sum()), len(curve), quality)

    def passes(self, split: Index, miss: float, among: int) -> NDArray[np.bool_]:
        wanted = self.quality * upper_bound(self.strong, self.n, miss / 2)
        return chance_of_at_least(self.routed[split], self.n, wanted) <= miss / 2 / among

    def labels_needed(self, split: Index, miss: float, among: int) -> float:
        routed = float(self.routed[split].max())
        if routed <= self.quality * self.strong:
            return math.inf

        def would_do(labels: float) -> bool:
            times = labels / self.n
            wanted = self.quality * upper_bound(self.strong * times, labels, miss / 2)
            return lower_bound(routed * times, labels, miss / 2 / among) >= wanted

        few, many = 1.0, float(self.n)
        while not would_do(many) and many < MOST_LABELS:
            few, many = many, 2 * many
        while many - few > 0.01 * many:
            middle = (few + many) / 2
            few, many = (few, middle) if would_do(middle) else (middle, many)
        return many
