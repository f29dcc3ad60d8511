"""Columns of numbers, checked once where they enter."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import InputError

Column = NDArray[np.float64]
Index = NDArray[np.int64]


def finite_column(values: ArrayLike, name: str) -> Column:
    """``values`` as one axis of float64; refuses anything that is not finite."""
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise InputError(f"{name} has {column.ndim} axes; wanted one number per query")
    if bad := int(np.count_nonzero(~np.isfinite(column))):
        raise InputError(
            f"{bad} of {len(column)} {name} are not finite numbers; leave those queries out"
        )
    return column


def unit_column(values: ArrayLike, name: str) -> Column:
    """A finite column whose values lie between 0 and 1."""
    column = finite_column(values, name)
    if bad := int(np.count_nonzero((column < 0) | (column > 1))):
        raise InputError(f"{bad} of {len(column)} {name} lie outside 0 to 1")
    return column


def weight_column(weights: ArrayLike | None, n: int) -> Column:
    """One weight per query, none negative; all 1 when not given."""
    if weights is None:
        return np.ones(n)
    column = finite_column(weights, "weights")
    if np.any(column < 0):
        raise InputError("a weight is negative; wanted zero or more")
    return column


def group_column(groups: ArrayLike | None, n: int) -> Index:
    """Groups numbered from 0, row by row; each row its own group when not given."""
    if groups is None:
        return np.arange(n)
    names = np.asarray(groups)
    if names.shape != (n,):
        raise InputError(f"{names.size} groups for {n} queries; wanted one for each")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def same_length(**columns: Column) -> None:
    """Refuses columns of different lengths."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"columns differ in length ({found}); wanted one row per query in each")


def chance_columns(
    p_success: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None
) -> tuple[Column, Column, Column]:
    """Chances, outcomes and weights, one of each per query."""
    p = unit_column(p_success, "chances")
    outcome = unit_column(outcomes, "outcomes")
    weight = weight_column(weights, len(p))
    same_length(chances=p, outcomes=outcome, weights=weight)
    return p, outcome, weight
