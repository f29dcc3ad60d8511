"""Isotonic regression: any rising curve, as the data draw it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._columns import Column
from foretell.calibration._logistic import calibration_rows
from foretell.calibration._scipy import needs_scipy
from foretell.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedIsotonic:
    """A rising line through knots: straight between two, constant outside.

    ``scores`` of the knots rise strictly; their ``chances`` never fall and lie strictly between
    0 and 1.
    """

    scores: tuple[float, ...]
    chances: tuple[float, ...]
    kind: Literal["isotonic"] = "isotonic"

    def __post_init__(self) -> None:
        if not self.scores or len(self.scores) != len(self.chances):
            raise InputError(
                f"an isotonic calibration has {len(self.scores)} knots and {len(self.chances)} "
                "chances; wanted as many, at least one"
            )
        rises = all(low < high for low, high in pairwise(self.scores))
        never_falls = all(low <= high for low, high in pairwise(self.chances))
        if not (rises and never_falls and np.isfinite(self.scores).all()):
            raise InputError(
                "the knots of an isotonic calibration are out of order; wanted finite scores that "
                "rise and chances that never fall"
            )
        if not 0 < self.chances[0] <= self.chances[-1] < 1:
            raise InputError(
                f"an isotonic calibration runs from {self.chances[0]} to {self.chances[-1]}; "
                "wanted chances strictly between 0 and 1"
            )

    @overload
    def p(self, scores: float) -> float: ...

    @overload
    def p(self, scores: Column) -> Column: ...

    def p(self, scores: float | Column) -> float | Column:
        """Chances of success: a float for a float, an array of the same shape for an array."""
        if isinstance(scores, np.ndarray):
            return np.interp(scores, self.scores, self.chances)
        after = bisect_right(self.scores, scores)
        if after == 0 or after == len(self.scores):
            return self.chances[0 if after == 0 else -1]
        left, right = self.scores[after - 1], self.scores[after]
        low, high = self.chances[after - 1], self.chances[after]
        return low + (high - low) * ((scores - left) / (right - left))


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Isotonic calibration (Zadrozny and Elkan, 2002), by pooling adjacent violators."""

    def fit(
        self, scores: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None
    ) -> FittedIsotonic:
        """The rising steps of least squared error for held-out ``scores``.

        One made-up success at the lowest score and one made-up failure at the highest keep every
        chance off 0 and 1: a top step of ``k`` successes says ``k / (k + 1)``, and outcomes of a
        single class end at Laplace's ``(k + 1) / (k + 2)``. Being rows like the others, they
        cannot break the order, as smoothing step by step would. Equal scores share a chance.

        Args:
            scores: Any range, higher means likelier to succeed.
            outcomes: Successes between 0 and 1.
            weights: Repetitions of each row.

        Raises:
            TrainingDataError: No rows, or none with weight.
        """
        score, outcome, weight = calibration_rows(scores, outcomes, weights)
        seen = weight > 0
        levels, level = np.unique(score[seen], return_inverse=True)
        total = np.bincount(level, weight[seen]).astype(np.float64)
        successes = np.bincount(level, weight[seen] * outcome[seen])
        total[0] += 1
        successes[0] += 1
        total[-1] += 1
        return _knots(levels, successes / total, total)


def _knots(levels: Column, share: Column, weight: Column) -> FittedIsotonic:
    """Both ends of every step of the regression of ``share`` on rising ``levels``."""
    try:
        from scipy.optimize import isotonic_regression
    except ImportError as error:
        raise needs_scipy("calibrating") from error

    steps = isotonic_regression(share, weights=weight)
    chances: Column = np.asarray(steps.x, dtype=np.float64)
    starts = np.asarray(steps.blocks[:-1], dtype=np.int64)
    ends = np.asarray(steps.blocks[1:], dtype=np.int64) - 1
    corners = np.union1d(starts, ends)
    return FittedIsotonic(
        scores=tuple(levels[corners].tolist()), chances=tuple(chances[corners].tolist())
    )
