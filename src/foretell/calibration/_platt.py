"""Platt scaling: a logistic curve from scores to chances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._columns import (
    Column,
    finite_column,
    same_length,
    unit_column,
    weight_column,
)
from foretell.errors import InputError, TrainingDataError


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPlatt:
    """``p = 1 / (1 + exp(-(slope * score + intercept)))``; a higher score is never less likely."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and self.slope >= 0 and math.isfinite(self.intercept)):
            raise InputError(
                f"a calibration with slope {self.slope} and intercept {self.intercept} is not one; "
                "wanted finite numbers and a slope of 0 or more"
            )

    @overload
    def p(self, scores: float) -> float: ...

    @overload
    def p(self, scores: Column) -> Column: ...

    def p(self, scores: float | Column) -> float | Column:
        """Chances of success: a float for a float, an array of the same shape for an array."""
        logits = self.slope * scores + self.intercept
        if isinstance(logits, np.ndarray):
            return np.exp(-np.logaddexp(0.0, -logits))
        # The branch keeps exp below overflow; plain floats cost a tenth of what NumPy does.
        if logits >= 0:
            return 1.0 / (1.0 + math.exp(-logits))
        small = math.exp(logits)
        return small / (1.0 + small)


@dataclass(frozen=True, slots=True)
class Platt:
    """Platt scaling (Platt, 1999, "Probabilistic outputs for support vector machines")."""

    def fit(
        self, scores: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None
    ) -> FittedPlatt:
        """The likeliest curve for held-out ``scores``; never fit it on scores of training rows.

        Platt's targets stand in for 1 and 0: ``(s + 1) / (s + 2)`` for a success and
        ``1 / (f + 2)`` for a failure, with ``s`` successes and ``f`` failures in the data, so that
        no chance reaches 0 or 1 even where the scores separate the outcomes. A success rate lies
        between the two in proportion. The slope is held at 0 or above: the loss is convex, so
        scores that rank backwards end at slope 0 and the base rate.

        Args:
            scores: Any range, higher means likelier to succeed.
            outcomes: Successes between 0 and 1.
            weights: Repetitions of each row.

        Raises:
            TrainingDataError: No rows, or none with weight.
        """
        score = finite_column(scores, "scores")
        outcome = unit_column(outcomes, "outcomes")
        weight = weight_column(weights, len(score))
        same_length(scores=score, outcomes=outcome, weights=weight)
        total = weight.sum()
        if total <= 0:
            raise TrainingDataError("no outcomes to calibrate on; label some queries first")
        successes = float(weight @ outcome)
        high = (successes + 1) / (successes + 2)
        low = 1 / (total - successes + 2)
        target = outcome * high + (1 - outcome) * low

        # In units of its own spread the problem is well conditioned whatever the score's range.
        centre = float(weight @ score / total)
        spread = math.sqrt(float(weight @ (score - centre) ** 2 / total))
        base = float(weight @ target / total)
        flat = math.log(base / (1 - base))
        if spread == 0:
            return FittedPlatt(slope=0.0, intercept=flat)
        slope, intercept = _likeliest((score - centre) / spread, target, weight / total, flat)
        return FittedPlatt(slope=slope / spread, intercept=intercept - slope * centre / spread)


def _likeliest(z: Column, target: Column, weight: Column, flat: float) -> tuple[float, float]:
    """Slope (0 or more) and intercept of least cross-entropy; ``flat`` is where slope 0 starts."""
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise TrainingDataError(
            "calibrating needs SciPy, which is not installed; pip install 'foretell[train]'"
        ) from error

    def loss(parameters: Column) -> tuple[float, Column]:
        logits = parameters[0] * z + parameters[1]
        residual = np.exp(-np.logaddexp(0.0, -logits)) - target
        value = weight @ (np.logaddexp(0.0, logits) - target * logits)
        slope_and_intercept = np.array([weight @ (residual * z), weight @ residual])
        return float(value), slope_and_intercept

    best = minimize(
        loss,
        np.array([0.0, flat]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000},
    )
    return max(0.0, float(best.x[0])), float(best.x[1])
