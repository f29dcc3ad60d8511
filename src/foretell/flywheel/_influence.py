"""An interval from what each row moves an estimate by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError, TrainingDataError
from foretell.evaluation import Interval

Floats = NDArray[np.float64]


def interval_of(
    value: float,
    influence: Floats,
    *,
    groups: Sequence[str] | None,
    confidence: float,
    n: int,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """``value`` with the interval that its rows' ``influence`` (they sum to 0) gives it.

    Influence is what an estimate changes by when a row counts once more: the sum of squares over
    groups is its variance (Huber, 1967; Liang and Zeger, 1986). Where a few rows of large weight
    make up most of it, that variance is itself a guess from a few: Student's t has as many degrees
    of freedom as squares of equal size would tell as much (Satterthwaite, 1946). No interval from
    a single group. The ends are cut to ``limits``.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; wanted a chance between 0 and 1")
    sums = influence
    if groups is not None:
        _, group = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
        sums = np.bincount(group, influence)
    squares = sums**2
    count, variance = len(sums), float(squares.sum())
    if count < 2:
        return Interval(value=value, n=n)
    if not variance:
        return Interval(value=value, low=value, high=value, n=n)
    freedom = max(1.0, variance**2 / float(squares @ squares) - 1)
    half = _student(confidence, freedom) * math.sqrt(variance * count / (count - 1))
    low, high = limits
    return Interval(
        value=value,
        low=min(value, max(low, value - half)),
        high=max(value, min(high, value + half)),
        n=n,
    )


def _student(confidence: float, freedom: float) -> float:
    """The two-sided quantile of Student's t."""
    try:
        from scipy.special import stdtrit
    except ImportError as error:
        raise TrainingDataError(
            "an interval needs SciPy, which is not installed; pip install 'foretell[train]'"
        ) from error
    return float(stdtrit(freedom, (1 + confidence) / 2))
