"""What every fit starts with: labelled rows of both classes, and folds that keep groups whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import FittedPlatt, Platt, log_loss
from foretell.errors import TrainingDataError
from foretell.records import RoutingData

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows to fit on and rows held out."""


def labelled_rows(data: RoutingData) -> RoutingData:
    """The rows whose ``weak`` is known and that count at all (a weight of 0 does not).

    Raises:
        TrainingDataError: No labels, all of them say the same, or a weight is not one.
    """
    weights = data.row_weights()
    if bad := int(np.count_nonzero(~(np.isfinite(weights) & (weights >= 0)))):
        raise TrainingDataError(
            f"{bad} of {len(data)} weights are negative or not finite; wanted 0 or more, the "
            "number of times a query counts"
        )
    known = np.isfinite(data.weak) & (weights > 0) if len(data.weak) else np.zeros(len(data), bool)
    if not known.any():
        raise TrainingDataError(
            f"none of {len(data)} queries has an outcome of the weak model; label some first"
        )
    labelled = data.take(known)
    for share, word in ((labelled.weak, "succeeds"), (1 - labelled.weak, "fails")):
        if not share.any():
            raise TrainingDataError(
                f"the weak model never {word} on {len(labelled)} labelled queries; "
                "a router needs both outcomes: label more queries, or easier and harder ones"
            )
    return labelled


def group_folds(data: RoutingData, rng: np.random.Generator, *, most: int = 5) -> tuple[Fold, ...]:
    """At most ``most`` folds, about equal in size and success; no group straddles one.

    Every part to fit on holds both outcomes; fewer folds are made when that takes it.

    Raises:
        TrainingDataError: Not even two such folds exist.
    """
    stratified_group_k_fold = _stratified_group_k_fold()
    succeeded = data.weak >= 0.5
    rarer = int(min(succeeded.sum(), (~succeeded).sum()))
    seed = int(rng.integers(2**31))
    for count in range(min(most, len(set(data.groups)), rarer), 1, -1):
        splitter = stratified_group_k_fold(n_splits=count, shuffle=True, random_state=seed)
        folds = tuple(splitter.split(np.empty(len(data)), succeeded, data.groups))
        if all(len(held) and 0 < succeeded[fitted].mean() < 1 for fitted, held in folds):
            return folds
    raise TrainingDataError(
        f"{len(data)} labelled queries, {succeeded.sum()} of them successes, in "
        f"{len(set(data.groups))} groups cannot be cut into two folds with both outcomes each; "
        "label more queries"
    )


def best_calibrated(
    held_out: NDArray[np.float64], labelled: RoutingData
) -> tuple[int, FittedPlatt]:
    """The candidate whose held-out scores, once calibrated, have the least log loss.

    Args:
        held_out: Scores (candidates, queries), each of a fit that did not see the query's group.
        labelled: The queries.

    Returns:
        Its row in ``held_out``, the first of equals, and its calibration.
    """
    weights = labelled.row_weights()
    curves = [Platt().fit(scores, labelled.weak, weights) for scores in held_out]
    losses = [
        log_loss(curve.p(scores), labelled.weak, weights)
        for curve, scores in zip(curves, held_out, strict=True)
    ]
    best = int(np.argmin(np.asarray(losses, dtype=np.float64)))
    return best, curves[best]


def _stratified_group_k_fold():
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise TrainingDataError(
            "fitting a router needs scikit-learn, which is not installed; "
            "pip install 'foretell[train]'"
        ) from error
    return StratifiedGroupKFold
