"""How well scores rank outcomes, and how true probabilities are to their word.

Every metric takes outcomes between 0 and 1: a success rate of 0.8 counts as 0.8 of a success and
0.2 of a failure. ``weights`` count as repetitions of a row; row order never matters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._columns import (
    Column,
    chance_columns,
    finite_column,
    same_length,
    unit_column,
    weight_column,
)

_SMALLEST_CHANCE = 1e-15
"""Log loss of a chance of exactly 0 is infinite; this bounds it at 34.5 nats."""


def auroc(scores: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Chance that a success scores above a failure, ties counting one half.

    The area under the ROC curve as the Mann-Whitney statistic (Hanley and McNeil, 1982).

    Returns:
        A number from 0 to 1, or ``None`` when there are only successes or only failures.
    """
    successes, failures = _counts_by_level(scores, outcomes, weights)
    pairs = successes.sum() * failures.sum()
    if pairs <= 0:
        return None
    beaten = np.cumsum(failures) - failures / 2
    return min(1.0, float(successes @ beaten / pairs))


def auprc(scores: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Average precision: precision at each score, weighted by the successes found there.

    The area under the precision-recall curve as a sum of steps, without interpolation; queries of
    equal score are found together. Scores that say nothing end near the share of successes.

    Returns:
        A number from 0 to 1, or ``None`` without successes.
    """
    successes, failures = (counts[::-1] for counts in _counts_by_level(scores, outcomes, weights))
    found = successes > 0
    if not found.any():
        return None
    hits = np.cumsum(successes)
    precision = hits[found] / (hits + np.cumsum(failures))[found]
    return float(precision @ successes[found] / hits[-1])


def brier(
    p_success: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Mean squared distance of chance and outcome (Brier, 1950); ``None`` without rows.

    For a success rate it is the mean over that query's successes and failures, so that the best
    chance is the rate itself, at a loss above 0.
    """
    p, outcome, weight = chance_columns(p_success, outcomes, weights)
    return _mean(outcome * (1 - p) ** 2 + (1 - outcome) * p**2, weight)


def log_loss(
    p_success: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Mean negative log-likelihood in nats, chances clipped at 1e-15; ``None`` without rows."""
    p, outcome, weight = chance_columns(p_success, outcomes, weights)
    return _mean(log_losses(p, outcome), weight)


def log_losses(p: Column, outcome: Column) -> Column:
    """Log loss of each row, for columns checked already."""
    success = np.log(np.maximum(p, _SMALLEST_CHANCE))
    failure = np.log(np.maximum(1 - p, _SMALLEST_CHANCE))
    return -(outcome * success + (1 - outcome) * failure)


def _mean(values: Column, weight: Column) -> float | None:
    total = weight.sum()
    return float(values @ weight / total) if total > 0 else None


def _counts_by_level(
    scores: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None
) -> tuple[Column, Column]:
    """Weight of successes and of failures at each distinct score, in rising order."""
    score = finite_column(scores, "scores")
    outcome = unit_column(outcomes, "outcomes")
    weight = weight_column(weights, len(score))
    same_length(scores=score, outcomes=outcome, weights=weight)
    levels, level = np.unique(score, return_inverse=True)
    successes = np.bincount(level, weight * outcome, minlength=len(levels))
    failures = np.bincount(level, weight * (1 - outcome), minlength=len(levels))
    return successes.astype(np.float64), failures.astype(np.float64)
