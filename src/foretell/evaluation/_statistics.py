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
        return ratio(weights @ values, weights.sum(axis=1))

    return statistic


def squared_errors(chances: Floats, outcomes: Floats) -> Floats:
    """Brier score of each row: for a rate, the mean over its successes and failures."""
    return np.square(chances - outcomes) + outcomes * (1 - outcomes)


def log_losses(chances: Floats, outcomes: Floats) -> Floats:
    """Negative log-likelihood of each row in nats, chances clipped at 1e-15."""
    success, failure = (np.log(np.maximum(of, 1e-15)) for of in (chances, 1 - chances))
    return -(outcomes * success + (1 - outcomes) * failure)


def less(ours: Statistic, theirs: Statistic) -> Statistic:
    """The difference on the same rows; undefined where either is."""

    def statistic(weights: Floats) -> Floats:
        return ours(weights) - theirs(weights)

    return statistic


def auroc_of(scores: Floats, outcomes: Floats) -> Statistic:
    """Chance that a success scores above a failure, ties one half; undefined with one class."""
    order, starts = _tied_blocks(scores)
    succeeded = outcomes[order]

    def statistic(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        successes = _block_sums(sorted_weights * succeeded, starts)
        failures = _block_sums(sorted_weights * (1 - succeeded), starts)
        beaten = np.cumsum(failures, axis=1) - failures / 2
        pairs = successes.sum(axis=1) * failures.sum(axis=1)
        return ratio((successes * beaten).sum(axis=1), pairs)

    return statistic


def auprc_of(scores: Floats, outcomes: Floats) -> Statistic:
    """Average precision of foretelling success; undefined without one."""
    order, starts = _tied_blocks(-scores)
    succeeded = outcomes[order]

    def statistic(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        kept = np.cumsum(_block_sums(sorted_weights, starts), axis=1)
        successes = _block_sums(sorted_weights * succeeded, starts)
        right = np.cumsum(successes, axis=1)
        # Nothing is kept before the first block that has weight: its precision counts for nothing.
        precision = right / np.where(kept > 0, kept, 1.0)
        return ratio((successes * precision).sum(axis=1), right[:, -1])

    return statistic


def aurc_of(scores: Floats, outcomes: Floats) -> Statistic:
    """Mean, over how many queries are kept, of the failure share among them.

    Highest scores are kept first. Among equal scores chance decides; with n rows of which m are
    tied after a rows that failed F times, the sum over their m risks is one of harmonic numbers,
    so that the mean over every order costs no more than one order.
    """
    from scipy.special import digamma

    order, starts = _tied_blocks(-scores)
    failed = 1 - outcomes[order]

    def statistic(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        mass = _block_sums(sorted_weights, starts)
        failures = _block_sums(sorted_weights * failed, starts)
        kept = np.cumsum(mass, axis=1)
        kept_before = kept - mass
        failures_before = np.cumsum(failures, axis=1) - failures
        # Risk after k rows, k in (a, a + m]: (F + f (k - a) / m) / k = (F - f a / m) / k + f / m.
        slope = failures / np.where(mass > 0, mass, 1.0)
        harmonic = np.asarray(digamma(kept + 1))
        steps = np.diff(harmonic, axis=1, prepend=float(digamma(1)))
        risks = (failures_before - slope * kept_before) * steps + failures
        return ratio(risks.sum(axis=1), kept[:, -1])

    return statistic


def apgr_of(scores: Floats, weak: Floats, strong: Floats) -> Statistic:
    """Average gap recovered over strong-call shares; undefined when the strong model gains none."""

    def statistic(weights: Floats) -> Floats:
        share, recovered = _recovered(scores, weak, strong, weights)
        return np.asarray(np.trapezoid(recovered, share, axis=1))

    return statistic


def pgr_of(scores: Floats, weak: Floats, strong: Floats, at_share: float) -> Statistic:
    """Gap recovered when ``at_share`` of the queries is escalated; undefined as for APGR."""

    def statistic(weights: Floats) -> Floats:
        share, recovered = _recovered(scores, weak, strong, weights)
        return _at(share, recovered, np.full(len(weights), at_share))

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


def regret_of(scores: Floats, weak: Floats, strong: Floats) -> Statistic:
    """Success that the oracle has and the router has not, both at the oracle's strong-call share.

    The oracle escalates exactly the queries that the strong model answers better.
    """
    better = (strong > weak).astype(np.float64)
    gains = np.maximum(strong - weak, 0.0)

    def statistic(weights: Floats) -> Floats:
        share, gain = curve_knots(scores, weak, strong, weights)
        total = weights.sum(axis=1)
        return weights @ gains / total - _at(share, gain, weights @ better / total)

    return statistic


def regret_area_of(scores: Floats, weak: Floats, strong: Floats) -> Statistic:
    """Area between the curve of escalating what gains most first and the router's."""

    def area(by: Floats, weights: Floats) -> Floats:
        share, gain = curve_knots(by, weak, strong, weights)
        return np.asarray(np.trapezoid(gain, share, axis=1))

    def statistic(weights: Floats) -> Floats:
        return area(weak - strong, weights) - area(scores, weights)

    return statistic


def curve_knots(
    scores: Floats, weak: Floats, strong: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """Strong-call shares and gains over the weak model, (resamples, knots), from share 0 to 1.

    Queries of one score are escalated in a random order; what that gives on average is the
    straight line between the knots before and after them.
    """
    mass, gains = escalated_sums(scores, weights, np.ones(len(scores)), strong - weak)
    total = mass[:, -1:]
    share = mass / total
    share[:, -1] = 1.0
    return share, gains / total


def escalated_sums(scores: Floats, weights: Floats, *columns: Floats) -> list[Floats]:
    """Of each column, its weighted sums over the escalated: (resamples, knots), from none to all.

    Lowest scores are escalated first, those of one score together.
    """
    order, starts = _tied_blocks(scores)
    sorted_weights = weights[:, order]
    found: list[Floats] = []
    for column in columns:
        sums = np.zeros((len(weights), len(starts) + 1))
        np.cumsum(_block_sums(sorted_weights * column[order], starts), axis=1, out=sums[:, 1:])
        found.append(sums)
    return found


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """NaN unless the denominator is above 0, by more than rounding can make it."""
    above = denominator > 1e-12
    return np.where(above, numerator / np.where(above, denominator, 1.0), np.nan)


def _recovered(
    scores: Floats, weak: Floats, strong: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    share, gain = curve_knots(scores, weak, strong, weights)
    return share, ratio(gain, gain[:, -1:])


def _at(share: Floats, values: Floats, at_share: Floats) -> Floats:
    """Each row's ``values`` (resamples, knots) at its own share, straight between the knots."""
    after = np.maximum((share < at_share[:, None]).sum(axis=1), 1)
    # A share of 1 may come out a little above the last knot.
    after = np.minimum(after, share.shape[1] - 1)[:, None]
    share_before, share_after = (np.take_along_axis(share, at, axis=1) for at in (after - 1, after))
    before, then = (np.take_along_axis(values, at, axis=1) for at in (after - 1, after))
    width = share_after - share_before
    part = (at_share[:, None] - share_before) / np.where(width > 0, width, 1.0)
    return (before + part * (then - before))[:, 0]


def _tied_blocks(scores: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows by rising score, and where in that order each new score starts."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    return order, starts


def _block_sums(values: Floats, starts: NDArray[np.int64]) -> Floats:
    """Sums (resamples, blocks) of values in sorted order (resamples, rows)."""
    if len(starts) == values.shape[1]:
        return values
    return np.add.reduceat(values, starts, axis=1)
