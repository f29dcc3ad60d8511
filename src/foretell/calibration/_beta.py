"""Beta calibration: two slopes, one for each side of a chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.calibration._columns import Column
from foretell.calibration._logistic import (
    calibration_rows,
    chance,
    likeliest_curve,
    platt_targets,
)
from foretell.errors import InputError

_FLAT: Final = 1e-6
"""A logarithm that varies by less over the data says nothing: all its chances are near 0 or 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBeta:
    """``logit p = a * log q - b * log(1 - q) + c``, where ``q = 1 / (1 + exp(-score))``.

    ``a`` is the slope on the log-odds far below 0, ``b`` far above; ``a = b = 1, c = 0`` changes
    nothing and ``a = b`` is Platt scaling.
    """

    a: float
    b: float
    c: float
    kind: Literal["beta"] = "beta"

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.a, self.b, self.c)))
        if not (finite and self.a >= 0 and self.b >= 0):
            raise InputError(
                f"a calibration with a = {self.a}, b = {self.b} and c = {self.c} is not one; "
                "wanted finite numbers, a and b 0 or more"
            )

    @overload
    def p(self, scores: float) -> float: ...

    @overload
    def p(self, scores: Column) -> Column: ...

    def p(self, scores: float | Column) -> float | Column:
        """Chances of success: a float for a float, an array of the same shape for an array."""
        if isinstance(scores, np.ndarray):
            success, failure = _log_chances(scores)
            return chance(self.a * success - self.b * failure + self.c)
        rest = math.log1p(math.exp(-abs(scores)))
        success, failure = min(scores, 0.0) - rest, min(-scores, 0.0) - rest
        return chance(self.a * success - self.b * failure + self.c)


@dataclass(frozen=True, slots=True)
class Beta:
    """Beta calibration (Kull, Silva Filho and Flach, 2017, AISTATS, "Beta calibration")."""

    def fit(
        self, scores: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None
    ) -> FittedBeta:
        """The likeliest curve with ``a`` and ``b`` 0 or more, for held-out log-odds.

        Where a logarithm hardly varies over the data (scores all far on one side of 0), its slope
        is 0. Platt's targets stand in for 1 and 0 (see ``Platt``), which the paper does not do:
        the curve is finite where the scores separate the outcomes.

        Args:
            scores: Log-odds, higher means likelier to succeed.
            outcomes: Successes between 0 and 1.
            weights: Repetitions of each row.

        Raises:
            TrainingDataError: No rows, or none with weight.
        """
        score, outcome, weight = calibration_rows(scores, outcomes, weights)
        success, failure = _log_chances(score)
        features: NDArray[np.float64] = np.stack([success, -failure])
        features[np.ptp(features, axis=1) < _FLAT] = 0.0
        (a, b), c = likeliest_curve(features, platt_targets(outcome, weight), weight)
        return FittedBeta(a=a, b=b, c=c)


def _log_chances(scores: Column) -> tuple[Column, Column]:
    """Logarithms of ``q`` and of ``1 - q``, precise at both ends."""
    return -np.logaddexp(0.0, -scores), -np.logaddexp(0.0, scores)
