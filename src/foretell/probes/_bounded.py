"""Weights that stand for rows nobody has seen, kept from drowning the rows that were."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError

Floats = NDArray[np.float64]

_ROWS_A_COEFFICIENT: Final = 50
"""About as many coefficients as a probe has share the rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundedWeights:
    """``weights`` (n,) to fit by.

    No row counts more than ``most`` times what it would had it been certain to be seen. ``cut`` is
    the share of rows whose weight was larger, ``effective`` how many rows of equal weight tell as
    much as these (Kish, 1965).
    """

    weights: Floats
    most: float
    cut: float
    effective: float


def bound_weights(weights: Floats, chances: Floats, *, most: float | None = None) -> BoundedWeights:
    """Cut what rows count for having been seen by a small chance.

    A row that was seen with a chance stands for ``1 / chance`` of its kind. That is right on
    average and useless in the single case: at 2 % exploration, one explored query outvotes fifty
    others. A bound trades a bias that is known in its direction (towards what the rule keeps) for
    most of the variance. For a mean of n rows it grows like ``sqrt(n)`` (Ionides, 2008), so that
    the bias vanishes; a probe's coefficients share the rows, so ``most`` is ``sqrt(n / 50)`` where
    not given, at least 1, with n the rows that were seen by chance. The benchmark of selective
    labels holds it against others.

    What ranks queries is fitted by these. A calibration has few parameters, and is about the very
    level that they falsify: it goes by the whole weights.

    Args:
        weights: What each row counts, ``1 / chance`` included, (n,).
        chances: How likely it was that each row would be seen, above 0, (n,).
        most: The bound, at least 1; ``inf`` cuts nothing.

    Returns:
        Weights of the same sum over the rows that were seen by chance; others are not changed.
    """
    by_chance = chances < 1
    if most is None:
        most = max(1.0, math.sqrt(np.count_nonzero(by_chance) / _ROWS_A_COEFFICIENT))
    if not most >= 1:
        raise InputError(f"the largest weight is {most}; wanted at least 1")
    if not (chances > 0).all():
        raise InputError("a row is weighed that had no chance to be seen; leave it out")
    bounded = weights.copy()
    if by_chance.any():
        bounded[by_chance] *= np.minimum(1.0, most * chances[by_chance])
        if total := bounded[by_chance].sum():
            bounded[by_chance] *= weights[by_chance].sum() / total
    squares = float(bounded @ bounded)
    return BoundedWeights(
        weights=bounded,
        most=most,
        cut=float(np.mean(1 / chances > most)) if len(chances) else 0.0,
        effective=float(bounded.sum()) ** 2 / squares if squares else 0.0,
    )
