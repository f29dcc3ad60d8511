"""The metrics as functions of row weights, so that a bootstrap of one is a few array operations.

A success rate between 0 and 1 counts in part as a success and in part as a failure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foretell.evaluation._intervals import Floats, Statistic


def mean_of(values: Floats) -> Statistic:
    """Weighted mean; undefined without weight."""

    def statistic(weights: Floats) -> Floats:
        return _ratio(weights @ values, weights.sum(axis=1))

    return statistic


def auroc_of(scores: Floats, outcomes: Floats) -> Statistic:
    """Chance that a success scores above a failure, ties one half; undefined with one class."""
    order, starts = _tied_blocks(scores)
    succeeded = outcomes[order]

    def statistic(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        successes = np.add.reduceat(sorted_weights * succeeded, starts, axis=1)
        failures = np.add.reduceat(sorted_weights * (1 - succeeded), starts, axis=1)
        beaten = np.cumsum(failures, axis=1) - failures / 2
        pairs = successes.sum(axis=1) * failures.sum(axis=1)
        return _ratio((successes * beaten).sum(axis=1), pairs)

    return statistic


def apgr_of(scores: Floats, weak: Floats, strong: Floats) -> Statistic:
    """Average gap recovered over strong-call shares; undefined when the strong model gains none."""

    def statistic(weights: Floats) -> Floats:
        share, recovered = _recovered(scores, weak, strong, weights)
        return np.asarray(np.trapezoid(recovered, share, axis=1))

    return statistic


def cpt_of(scores: Floats, weak: Floats, strong: Floats, target: float) -> Statistic:
    """Smallest share that recovers ``target`` of the gap; undefined as for APGR."""

    def statistic(weights: Floats) -> Floats:
        share, recovered = _recovered(scores, weak, strong, weights)
        reached = recovered >= target
        after = np.maximum(reached.argmax(axis=1), 1)[:, None]
        share_before = np.take_along_axis(share, after - 1, axis=1)
        share_after = np.take_along_axis(share, after, axis=1)
        before = np.take_along_axis(recovered, after - 1, axis=1)
        step = np.take_along_axis(recovered, after, axis=1) - before
        with np.errstate(invalid="ignore"):
            found = share_before + (target - before) / step * (share_after - share_before)
        return np.where(reached.any(axis=1), found[:, 0], np.nan)

    return statistic


def curve_knots(
    scores: Floats, weak: Floats, strong: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """Strong-call shares and gains over the weak model, (resamples, knots), from share 0 to 1.

    Queries of one score are escalated in a random order; what that gives on average is the
    straight line between the knots before and after them.
    """
    order, starts = _tied_blocks(scores)
    sorted_weights = weights[:, order]
    mass = np.add.reduceat(sorted_weights, starts, axis=1)
    gains = np.add.reduceat(sorted_weights * (strong - weak)[order], starts, axis=1)
    total = mass.sum(axis=1, keepdims=True)
    from_nothing = ((0, 0), (1, 0))
    share = np.pad(np.cumsum(mass, axis=1) / total, from_nothing)
    share[:, -1] = 1.0
    return share, np.pad(np.cumsum(gains, axis=1) / total, from_nothing)


def _recovered(
    scores: Floats, weak: Floats, strong: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    share, gain = curve_knots(scores, weak, strong, weights)
    return share, _ratio(gain, gain[:, -1:])


def _tied_blocks(scores: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows by rising score, and where in that order each new score starts."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    return order, starts


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """NaN unless the denominator is above 0, by more than rounding can make it."""
    above = denominator > 1e-12
    return np.where(above, numerator / np.where(above, denominator, 1.0), np.nan)
