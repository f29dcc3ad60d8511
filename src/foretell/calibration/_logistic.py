"""The logistic function, and the likeliest curve through it: what the parametric kinds share."""

from __future__ import annotations

import math
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.calibration._columns import (
    Column,
    finite_column,
    same_length,
    unit_column,
    weight_column,
)
from foretell.calibration._scipy import needs_scipy
from foretell.errors import TrainingDataError


@overload
def chance(logits: float) -> float: ...


@overload
def chance(logits: Column) -> Column: ...


def chance(logits: float | Column) -> float | Column:
    """``1 / (1 + exp(-logits))`` without overflow: a float for a float, an array for an array."""
    if isinstance(logits, np.ndarray):
        return np.exp(-np.logaddexp(0.0, -logits))
    # The branch keeps exp below overflow; plain floats cost a tenth of what NumPy does.
    if logits >= 0:
        return 1.0 / (1.0 + math.exp(-logits))
    small = math.exp(logits)
    return small / (1.0 + small)


def calibration_rows(
    scores: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None
) -> tuple[Column, Column, Column]:
    """Scores, outcomes and weights, checked; refuses rows that say nothing."""
    score = finite_column(scores, "scores")
    outcome = unit_column(outcomes, "outcomes")
    weight = weight_column(weights, len(score))
    same_length(scores=score, outcomes=outcome, weights=weight)
    if weight.sum() <= 0:
        raise TrainingDataError("no outcomes to calibrate on; label some queries first")
    return score, outcome, weight


def platt_targets(outcome: Column, weight: Column) -> Column:
    """Platt's stand-ins for 1 and 0, so that no fitted chance reaches either.

    ``(s + 1) / (s + 2)`` for a success and ``1 / (f + 2)`` for a failure, with ``s`` successes and
    ``f`` failures in the data; a success rate lies between the two in proportion.
    """
    successes = float(weight @ outcome)
    high = (successes + 1) / (successes + 2)
    low = 1 / (weight.sum() - successes + 2)
    return outcome * high + (1 - outcome) * low


def likeliest_curve(
    features: NDArray[np.float64], target: Column, weight: Column, *, intercept: bool = True
) -> tuple[tuple[float, ...], float]:
    """Slopes, none negative, and intercept of least cross-entropy with ``target``.

    The loss is convex, so a feature that ranks backwards ends at slope 0, and so does one that
    does not vary.

    Args:
        features: (features, rows).
        target: Chances strictly between 0 and 1, one per row.
        weight: Repetitions of each row.
        intercept: Without one, the intercept is 0.
    """
    share = weight / weight.sum()
    centre = features @ share if intercept else np.zeros(len(features))
    centred = features - centre[:, None]
    spread = np.sqrt(centred**2 @ share)
    # Equal numbers differ from their own mean in the last digit.
    varies = spread > 1e-12 * np.abs(features).max(axis=1)
    base = float(share @ target)
    flat = math.log(base / (1 - base)) if intercept else 0.0
    if not varies.any():
        return (0.0,) * len(features), flat
    # In units of its own spread the problem is well conditioned whatever the feature's range.
    scale = np.where(varies, 1 / np.where(varies, spread, 1.0), 0.0)
    best = _minimise(centred * scale[:, None], target, share, flat, intercept=intercept)
    slopes = np.maximum(best[:-1], 0.0) * scale
    return tuple(slopes.tolist()), float(best[-1] - slopes @ centre)


def _minimise(
    z: NDArray[np.float64], target: Column, share: Column, flat: float, *, intercept: bool
) -> Column:
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise needs_scipy("calibrating") from error

    def loss(parameters: Column) -> tuple[float, Column]:
        logits = parameters[:-1] @ z + parameters[-1]
        residual = share * (chance(logits) - target)
        value = share @ (np.logaddexp(0.0, logits) - target * logits)
        return float(value), np.append(z @ residual, residual.sum())

    best = minimize(
        loss,
        np.append(np.zeros(len(z)), flat),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * len(z) + [(None, None) if intercept else (0.0, 0.0)],
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000},
    )
    return np.asarray(best.x, dtype=np.float64)
