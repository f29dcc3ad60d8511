"""Platt scaling: a logistic curve from scores to chances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, overload

from numpy.typing import ArrayLike

from foretell.calibration._columns import Column
from foretell.calibration._logistic import (
    calibration_rows,
    chance,
    likeliest_curve,
    platt_targets,
)
from foretell.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPlatt:
    """``p = 1 / (1 + exp(-(slope * score + intercept)))``; a higher score is never less likely."""

    slope: float
    intercept: float
    kind: Literal["platt"] = "platt"

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
        return chance(self.slope * scores + self.intercept)


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
        score, outcome, weight = calibration_rows(scores, outcomes, weights)
        (slope,), intercept = likeliest_curve(score[None], platt_targets(outcome, weight), weight)
        return FittedPlatt(slope=slope, intercept=intercept)
