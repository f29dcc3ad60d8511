"""What training data must be, checked before anything is fitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import TrainingDataError
from foretell.records import ReadPoint, RoutingData

FEWEST_OF_EITHER = 10
"""Successes, and failures, below which a fit says more about chance than about the model."""


def require_outcomes(succeeded: ArrayLike) -> NDArray[np.float64]:
    """The outcomes as float64; refuses too few of either class. Rates count as shares."""
    outcomes = np.asarray(succeeded, dtype=np.float64)
    if outcomes.ndim != 1:
        raise TrainingDataError(f"outcomes have {outcomes.ndim} axes; wanted one number per query")
    if len(outcomes) == 0:
        raise TrainingDataError("the training set is empty; collect and label some queries first")
    if bad := int(np.count_nonzero(~((outcomes >= 0) & (outcomes <= 1)))):
        raise TrainingDataError(
            f"{bad} of {len(outcomes)} outcomes are not between 0 and 1; leave those queries out"
        )
    successes = float(outcomes.sum())
    failures = len(outcomes) - successes
    for name, count in (("successes", successes), ("failures", failures)):
        if count == 0:
            raise TrainingDataError(
                f"none of the {len(outcomes)} labelled queries are {name}; a probe needs both, so "
                "label more queries or choose harder or easier ones"
            )
    if min(successes, failures) < FEWEST_OF_EITHER:
        raise TrainingDataError(
            f"{len(outcomes)} labelled queries hold {successes:g} successes and {failures:g} "
            f"failures; wanted at least {FEWEST_OF_EITHER} of each, so label more queries"
        )
    return outcomes


def require_weights(weights: ArrayLike | None, n: int) -> NDArray[np.float64]:
    """The weights as float64, ones when not given; refuses what cannot count a row."""
    if weights is None:
        return np.ones(n)
    weight = np.asarray(weights, dtype=np.float64)
    if weight.shape != (n,) or not (np.isfinite(weight) & (weight >= 0)).all():
        raise TrainingDataError(
            f"weights of shape {weight.shape} do not fit {n} queries; wanted one finite number, "
            "zero or more, for each"
        )
    return weight


def require_activations(
    activations: NDArray[np.float32], read_point: ReadPoint, n: int
) -> NDArray[np.float32]:
    """The activations as (n, width) float32; refuses other shapes and what is not finite."""
    rows = np.asarray(activations, dtype=np.float32)
    if rows.ndim != 2 or len(rows) != n or rows.shape[1] == 0:
        raise TrainingDataError(
            f"activations at {read_point} have shape {rows.shape}; wanted ({n}, width)"
        )
    if not np.isfinite(rows).all():
        bad = int(np.count_nonzero(~np.isfinite(rows).all(axis=1)))
        raise TrainingDataError(
            f"activations at {read_point} are not finite in {bad} of {n} queries; collect those "
            "again or leave them out"
        )
    return rows


def require_distinct_ids(data: RoutingData) -> None:
    """Refuses a query that comes twice: it could land on both sides of a split."""
    repeated = len(data.ids) - len(set(data.ids))
    if repeated:
        seen: set[str] = set()
        first = next(i for i in data.ids if i in seen or seen.add(i))
        raise TrainingDataError(
            f"{repeated} of {len(data.ids)} query ids come more than once, such as {first!r}; "
            "keep one row for each query"
        )


def require_groups(groups: Sequence[str], folds: int) -> None:
    """Refuses fewer groups than folds: a group must not straddle a split."""
    if folds < 2:
        raise TrainingDataError(f"cross-validation needs at least 2 folds, got {folds}")
    count = len(set(groups))
    if count < folds:
        raise TrainingDataError(
            f"{len(groups)} queries fall into {count} groups, too few for {folds} folds that "
            "share no group; add queries of other groups or use fewer folds"
        )


def require_read_points(
    data: RoutingData, asked: Sequence[ReadPoint] | None
) -> tuple[ReadPoint, ...]:
    """The read points to try, in order of layer; refuses one that the data does not hold."""
    held = sorted(data.activations)
    if not held:
        raise TrainingDataError("the training set holds no activations; collect some first")
    if asked is None:
        return tuple(held)
    if not asked:
        raise TrainingDataError("no read points to choose from; name at least one, or leave it out")
    for point in asked:
        if point not in data.activations:
            raise TrainingDataError(
                f"read point {point.name!r} is not in the training set; it holds "
                f"{', '.join(p.name for p in held)}"
            )
    return tuple(sorted(set(asked)))
