"""How well scores rank outcomes, and how true probabilities are to their word.

Every metric takes outcomes between 0 and 1: a success rate of 0.8 counts as 0.8 of a success and
0.2 of a failure. ``weights`` count as repetitions of a row; row order never matters.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._columns import (
    Column,
    finite_column,
    same_length,
    unit_column,
    weight_column,
)
from foretell.errors import InputError

_SMALLEST_CHANCE = 1e-15
"""Log loss of a chance of exactly 0 is infinite; this bounds it at 34.5 nats."""


def auroc(scores: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Chance that a success scores above a failure, ties counting one half.

    The area under the ROC curve as the Mann-Whitney statistic (Hanley and McNeil, 1982).

    Returns:
        A number from 0 to 1, or ``None`` when there are only successes or only failures.
    """
    score = finite_column(scores, "scores")
    outcome = unit_column(outcomes, "outcomes")
    weight = weight_column(weights, len(score))
    same_length(scores=score, outcomes=outcome, weights=weight)
    levels, level = np.unique(score, return_inverse=True)
    successes = np.bincount(level, weight * outcome, minlength=len(levels))
    failures = np.bincount(level, weight * (1 - outcome), minlength=len(levels))
    pairs = successes.sum() * failures.sum()
    if pairs <= 0:
        return None
    beaten = np.cumsum(failures) - failures / 2
    return min(1.0, float(successes @ beaten / pairs))


def brier(
    p_success: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Mean squared distance of chance and outcome (Brier, 1950); ``None`` without rows.

    For a success rate it is the mean over that query's successes and failures, so that the best
    chance is the rate itself, at a loss above 0.
    """
    p, outcome, weight = _chances(p_success, outcomes, weights)
    return _mean(outcome * (1 - p) ** 2 + (1 - outcome) * p**2, weight)


def log_loss(
    p_success: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Mean negative log-likelihood in nats, chances clipped at 1e-15; ``None`` without rows."""
    p, outcome, weight = _chances(p_success, outcomes, weights)
    success = np.log(np.maximum(p, _SMALLEST_CHANCE))
    failure = np.log(np.maximum(1 - p, _SMALLEST_CHANCE))
    return _mean(-(outcome * success + (1 - outcome) * failure), weight)


def expected_calibration_error(
    p_success: ArrayLike,
    outcomes: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 15,
    binning: Literal["mass", "width"] = "mass",
) -> float | None:
    """Mean distance, over bins, of the mean chance and the share of successes.

    ECE of Naeini et al. (2015); with equal-mass bins it is the adaptive ECE of Nixon et al. (2019).
    It is biased upwards by about the noise of one bin, so compare it at equal sizes only.

    Args:
        p_success: Chances between 0 and 1.
        outcomes: Successes between 0 and 1.
        weights: Repetitions of each row.
        bins: At most this many bins; empty ones count for nothing.
        binning: ``mass`` gives each bin about the same number of rows (equal chances share a bin,
            whatever its size), ``width`` the same range of chances.

    Returns:
        A number from 0 to 1, or ``None`` without rows.
    """
    if bins < 1:
        raise InputError(f"bins must be at least 1, got {bins}")
    p, outcome, weight = _chances(p_success, outcomes, weights)
    total = weight.sum()
    if total <= 0:
        return None
    place = _mid_rank_share(p, weight) if binning == "mass" else p
    bin_of = np.minimum((place * bins).astype(np.int64), bins - 1)
    gap = np.bincount(bin_of, weight * (p - outcome), minlength=bins)
    return float(np.abs(gap).sum() / total)


def _mid_rank_share(values: Column, weight: Column) -> Column:
    """Share of the weight below each value, half of its own included: equal for equal values."""
    levels, level = np.unique(values, return_inverse=True)
    mass = np.bincount(level, weight, minlength=len(levels))
    return ((np.cumsum(mass) - mass / 2) / mass.sum())[level]


def _chances(
    p_success: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None
) -> tuple[Column, Column, Column]:
    p = unit_column(p_success, "chances")
    outcome = unit_column(outcomes, "outcomes")
    weight = weight_column(weights, len(p))
    same_length(chances=p, outcomes=outcome, weights=weight)
    return p, outcome, weight


def _mean(values: Column, weight: Column) -> float | None:
    total = weight.sum()
    return float(values @ weight / total) if total > 0 else None
