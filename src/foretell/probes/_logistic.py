"""Logistic regression by Newton's method: weights, soft labels, and a penalty with a centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError

try:
    from scipy.linalg import LinAlgError, cho_factor, cho_solve
except ImportError as error:
    raise TrainingDataError(
        "fitting a probe needs SciPy, which is not installed; pip install 'foretell[train]'"
    ) from error

Floats = NDArray[np.float64]

_MOST_STEPS = 100
_GOOD_ENOUGH = 1e-10
"""Loss left to win per unit of weight, as the last step foretold it; Newton's method squares it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Logistic:
    """A logistic regression on the first ``len(coefficients)`` coordinates."""

    coefficients: Floats
    intercept: float

    def score(self, coordinates: Floats) -> Floats:
        """Log-odds (n,) of coordinates (n, at least as many components)."""
        return coordinates[:, : len(self.coefficients)] @ self.coefficients + self.intercept


def fit_logistic(
    coordinates: Floats,
    outcomes: Floats,
    weights: Floats,
    l2: float,
    *,
    centre: Floats | None = None,
    start: Logistic | None = None,
) -> Logistic:
    """The minimum of weighted log loss plus ``l2 / 2 * |coefficients - centre|^2``.

    The intercept is free. The problem is strictly convex, so the minimum does not depend on
    ``start``; a neighbour's solution only gets there sooner.

    Args:
        coordinates: (n, k), finite.
        outcomes: Successes between 0 and 1, (n,); a rate counts as that share of a success.
        weights: Repetitions of each row, (n,).
        l2: Above 0.
        centre: Where the penalty is 0, (k,); the origin when not given.
        start: Where to begin; the centre when not given.

    Raises:
        TrainingDataError: The rows with weight are all of one class.
    """
    total, successes = float(weights.sum()), float(weights @ outcomes)
    if not 0 < successes < total:
        raise TrainingDataError(
            f"the {len(outcomes)} queries of one fit are all of one class; use fewer folds, or "
            "groups that mix successes and failures"
        )
    k = coordinates.shape[1]
    penalty = np.append(np.full(k, l2), 0.0)
    middle = np.zeros(k + 1) if centre is None else np.append(centre, 0.0)
    design = np.column_stack([coordinates, np.ones(len(coordinates))])

    def loss(at: Floats) -> float:
        log_odds = design @ at
        fit = weights @ (np.logaddexp(0.0, log_odds) - outcomes * log_odds)
        return float(fit + penalty @ (at - middle) ** 2 / 2)

    if start is None:
        # The centre with the intercept of its mean log-odds: saturated chances start flat.
        offset = float(weights @ (coordinates @ middle[:-1])) / total
        at = np.append(middle[:-1], np.log(successes / (total - successes)) - offset)
    else:
        at = np.append(start.coefficients, start.intercept)
    for _ in range(_MOST_STEPS):
        chance = _sigmoid(design @ at)
        gradient = design.T @ (weights * (chance - outcomes)) + penalty * (at - middle)
        curvature = design * np.sqrt(weights * chance * (1 - chance))[:, None]
        hessian = curvature.T @ curvature
        hessian[np.diag_indices(k + 1)] += penalty
        step = _solve(hessian, gradient, total)
        promised = float(gradient @ step)
        if promised <= _GOOD_ENOUGH * total:
            at = at - step
            break
        value, length = loss(at), 1.0
        while loss(at - length * step) > value - length * promised / 10:
            length /= 2
        at = at - length * step
    return Logistic(coefficients=at[:-1], intercept=float(at[-1]))


def difference_of_means(coordinates: Floats, outcomes: Floats, weights: Floats) -> Floats:
    """The difference-of-means probe's coefficients (k,): a direction, times its likeliest scale.

    The direction is the mean of the successes less the mean of the failures ("No Answer Needed",
    arXiv 2509.10625). Its scale is the slope of a logistic regression on each row's projection on
    the direction *without that row*: with few rows in many dimensions, a row pulls the mean of its
    class so far towards itself that the rows themselves would seem well separated. Where that
    slope is below 0, the direction says nothing and the scale is 0.
    """
    of_success, of_failure = weights * outcomes, weights * (1 - outcomes)
    successes, failures = of_success.sum(), of_failure.sum()
    success_sum, failure_sum = of_success @ coordinates, of_failure @ coordinates
    direction = success_sum / successes - failure_sum / failures
    own = np.einsum("ij,ij->i", coordinates, coordinates)
    with np.errstate(divide="ignore", invalid="ignore"):
        without = (coordinates @ success_sum - of_success * own) / (successes - of_success) - (
            coordinates @ failure_sum - of_failure * own
        ) / (failures - of_failure)
    seen = np.isfinite(without)  # the only row of its class has no mean without it
    spread = float(np.std(without[seen])) if seen.any() else 0.0
    if spread == 0:
        return np.zeros_like(direction)
    try:
        line = fit_logistic(without[seen, None] / spread, outcomes[seen], weights[seen], l2=1e-3)
    except TrainingDataError:  # a class of one row
        return np.zeros_like(direction)
    return direction * (max(0.0, float(line.coefficients[0])) / spread)


def _sigmoid(log_odds: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -log_odds))


def _solve(hessian: Floats, gradient: Floats, total: float) -> Floats:
    """Newton's step; where all chances are saturated, that of a slightly steeper bowl."""
    solve: Any = cho_solve
    try:
        return solve(cho_factor(hessian, check_finite=False), gradient, check_finite=False)
    except LinAlgError:
        hessian[np.diag_indices(len(hessian))] += 1e-8 * total
        return solve(cho_factor(hessian, check_finite=False), gradient, check_finite=False)
