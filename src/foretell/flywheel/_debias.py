"""Rows that stand for those that were not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError
from foretell.records import RoutingData

Floats = NDArray[np.float64]

_ROWS_A_COEFFICIENT: Final = 50
"""About as many coefficients as a probe has share the rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighing:
    """What rows count once the choice of who is seen is undone.

    ``weights`` are (n,), 0 for a row that is left out since nobody knows its chance, or it had
    none: ``left_out`` counts them. ``clip`` is the largest weight there may be, ``clipped`` the
    share of the rows whose weight was cut to it, and ``effective`` how many rows of equal weight
    tell as much as these (Kish, 1965).
    """

    weights: Floats
    left_out: int
    clip: float
    clipped: float
    effective: float


def weigh(chances: Floats, *, clip: float | None = None) -> Weighing:
    """``1 / chance`` for each row, at most ``clip``.

    Rows that were certain to be seen count 1. The weights of the others have a mean of 1, so that a
    labelled row remains a row to what is regularised.

    A weight without bound is right on average and useless in the single case: at 2 % exploration,
    one explored query outvotes fifty others. Cutting it trades a bias that is known in its
    direction (towards what the rule keeps) for most of the variance. For a mean of n rows the bound
    grows like ``sqrt(n)`` (Ionides, 2008), so that the bias vanishes; a probe's coefficients share
    the rows, so ``clip`` is ``sqrt(n / 50)`` where not given, with n the rows seen by chance. The
    benchmark of selective labels compares it with others. ``inf`` cuts nothing.
    """
    known = np.nan_to_num(chances) > 0
    by_chance = known & (chances < 1)
    if clip is None:
        clip = max(1.0, math.sqrt(np.count_nonzero(by_chance) / _ROWS_A_COEFFICIENT))
    if not clip >= 1:
        raise InputError(f"clip is {clip}; wanted the largest weight, at least 1")
    raw = np.zeros(len(chances))
    raw[known] = 1 / chances[known]
    weights = np.minimum(raw, clip)
    if by_chance.any():
        weights[by_chance] /= weights[by_chance].mean()
    squares = float(weights @ weights)
    return Weighing(
        weights=weights,
        left_out=int(np.count_nonzero(~known)),
        clip=clip,
        clipped=float(np.mean(raw[known] > clip)) if known.any() else 0.0,
        effective=float(weights.sum()) ** 2 / squares if squares else 0.0,
    )


def debiased(data: RoutingData, *, clip: float | None = None) -> RoutingData:
    """The labelled rows, weighted as if no rule had chosen which of them are seen.

    Rows whose caller or conversation chose the model are left out, and so are those that nobody
    labelled: they would only blur the mean that the weights are held to. Weights there were before
    are multiplied. Without ``weak_chance`` all rows were certain to be seen. ``weigh`` says how the
    weights come about, and what they cost.
    """
    labelled = np.isfinite(data.weak) if len(data.weak) else np.zeros(len(data), dtype=np.bool_)
    data = data.take(labelled)
    if not len(data.weak_chance):
        return data
    weighing = weigh(data.weak_chance, clip=clip)
    weighted = replace(data, weights=weighing.weights * data.row_weights())
    return weighted.take(weighing.weights > 0)
