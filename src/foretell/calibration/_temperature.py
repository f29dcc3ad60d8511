"""Temperature scaling: log-odds divided by one number."""

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
class FittedTemperature:
    """``p = 1 / (1 + exp(-slope * score))``; ``slope`` is one over the temperature."""

    slope: float
    kind: Literal["temperature"] = "temperature"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and self.slope >= 0):
            raise InputError(
                f"a calibration with slope {self.slope} is not one; wanted a finite slope of 0 or "
                "more"
            )

    @overload
    def p(self, scores: float) -> float: ...

    @overload
    def p(self, scores: Column) -> Column: ...

    def p(self, scores: float | Column) -> float | Column:
        """Chances of success: a float for a float, an array of the same shape for an array."""
        return chance(self.slope * scores)


@dataclass(frozen=True, slots=True)
class Temperature:
    """Temperature scaling (Guo et al., 2017, "On calibration of modern neural networks")."""

    def fit(
        self, scores: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None
    ) -> FittedTemperature:
        """The likeliest slope, 0 or more, for held-out ``scores`` that are log-odds.

        A score of 0 stays at a chance of one half, so it suits scores that are centred already and
        only too sure, or not sure enough. Platt's targets stand in for 1 and 0 (see ``Platt``),
        so that the slope is finite where the scores separate the outcomes.

        Args:
            scores: Log-odds, higher means likelier to succeed.
            outcomes: Successes between 0 and 1.
            weights: Repetitions of each row.

        Raises:
            TrainingDataError: No rows, or none with weight.
        """
        score, outcome, weight = calibration_rows(scores, outcomes, weights)
        target = platt_targets(outcome, weight)
        (slope,), _ = likeliest_curve(score[None], target, weight, intercept=False)
        return FittedTemperature(slope=slope)
