"""Reduction, folds and fit of a linear probe: the one file that uses scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import TrainingDataError
from foretell.probes._linear import FittedLinearProbe, LinearProbe
from foretell.probes._logistic import Logistic, difference_of_means, fit_logistic
from foretell.probes._several import FittedSeveralProbe, SeveralProbe
from foretell.probes._training_rows import (
    require_activations,
    require_outcomes,
    require_read_points,
    require_weights,
)
from foretell.records import ReadPoint, RoutingData

try:
    from scipy.linalg import eigh
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
    from sklearn.utils.extmath import randomized_svd
except ImportError as error:
    raise TrainingDataError(
        "fitting a probe needs scikit-learn, which is not installed; pip install 'foretell[train]'"
    ) from error

Floats = NDArray[np.float64]

_LARGEST_EXACT = 1024
"""Beyond this side the exact eigendecomposition (cubic) gives way to a randomised one."""

_NEGLIGIBLE = 1e-6
"""Relative size under which a spread or an eigenvalue is float32 noise."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reduction:
    """Standardiser and principal axes in one: ``(x - mean) @ projection``.

    ``projection`` is (width, components) in order of falling variance, so its first k columns are
    the reduction to k components.
    """

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]

    def __call__(self, activations: NDArray[np.float32]) -> Floats:
        """Coordinates (n, components) of activations (n, width)."""
        return ((activations - self.mean) @ self.projection).astype(np.float64)


def fit_reduction(activations: NDArray[np.float32], components: int) -> Reduction:
    """Standardise and find the leading principal axes of (n, width).

    Exact, by the smaller of the two Gram matrices, up to a side of 1,024; by randomised SVD
    with a fixed seed beyond (Halko et al., 2011). Columns that do not vary, and axes without
    variance, are left out.
    """
    n, width = activations.shape
    mean = activations.mean(axis=0, dtype=np.float64)
    spread = activations.std(axis=0, dtype=np.float64)
    varies = spread > _NEGLIGIBLE * np.abs(mean)
    if not varies.any():
        raise TrainingDataError(
            f"the activations of all {n} queries are the same; a probe can learn nothing from them"
        )
    scale = np.where(varies, 1 / np.where(varies, spread, 1), 0).astype(np.float32)
    mean = mean.astype(np.float32)
    standard = (activations - mean) * scale
    axes = _principal_axes(standard, min(components, n - 1, width))
    return Reduction(mean=mean, projection=scale[:, None] * axes)


def _principal_axes(standard: NDArray[np.float32], components: int) -> NDArray[np.float32]:
    """Orthonormal (width, at most components) axes, leading first, signs fixed."""
    n, width = standard.shape
    if min(n, width) > _LARGEST_EXACT:
        svd: Any = randomized_svd  # its stub takes n_iter for a string
        _, size, rows = svd(standard, components, n_iter=4, random_state=0)
        variance, axes = size**2, rows.T
    else:
        gram = standard.T @ standard if width <= n else standard @ standard.T
        variance, vectors = eigh(gram, check_finite=False, driver="evd")
        variance, vectors = variance[::-1][:components], vectors[:, ::-1][:, :components]
        axes = vectors if width <= n else standard.T @ vectors
    axes = axes[:, variance > _NEGLIGIBLE * variance[0]]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return axes * (np.sign(largest) / np.linalg.norm(axes, axis=0)).astype(np.float32)


def group_folds(
    succeeded: NDArray[np.bool_], groups: NDArray[np.str_], folds: int, seed: int
) -> tuple[NDArray[np.int64], ...]:
    """Held-out rows by fold: no group in two folds, outcomes balanced, every row once."""
    rarer = min(np.count_nonzero(succeeded), np.count_nonzero(~succeeded))
    # Rates may lie all on one side of a half; then there is nothing to balance.
    splitter = StratifiedGroupKFold if rarer >= folds else GroupKFold
    split = splitter(folds, shuffle=True, random_state=seed).split(groups, succeeded, groups)
    return tuple(test for _, test in split if len(test))


def fold_into_probe(
    read_point: ReadPoint, reduction: Reduction, logistic: Logistic
) -> FittedLinearProbe:
    """Reduction and regression as one weight vector and bias."""
    weight, shift = _folded(reduction, logistic.coefficients)
    projection = reduction.projection[:, : len(logistic.coefficients)].astype(np.float64)
    return FittedLinearProbe(
        read_point=read_point,
        weight=weight,
        bias=logistic.intercept + shift,
        projection=projection.astype(np.float32),
        offset=(-(reduction.mean.astype(np.float64) @ projection)).astype(np.float32),
    )


def _folded(reduction: Reduction, coefficients: Floats) -> tuple[NDArray[np.float32], float]:
    """Weight (width,) and bias that do to an activation what ``coefficients`` do to its axes."""
    projection = reduction.projection[:, : len(coefficients)].astype(np.float64)
    weight = (projection @ coefficients).astype(np.float32)
    # The bias answers the rounded weight, not the exact one: large means would magnify the gap.
    return weight, -float(reduction.mean.astype(np.float64) @ weight)


def fit_concatenated(probe: SeveralProbe, data: RoutingData) -> FittedSeveralProbe:
    """``SeveralProbe.fit`` with one regression over the components of all read points."""
    require_read_points(data, probe.read_points)
    outcomes = require_outcomes(data.weak)
    weights = require_weights(data.row_weights(), len(outcomes))
    activations = [
        require_activations(data.activations[point], point, len(outcomes))
        for point in probe.read_points
    ]
    reductions = [fit_reduction(rows, probe.components) for rows in activations]
    coordinates = np.concatenate(
        [reduction(rows) for reduction, rows in zip(reductions, activations, strict=True)], axis=1
    )
    centre = shrinkage_centre(coordinates, outcomes, weights, probe.shrink)
    logistic = fit_logistic(coordinates, outcomes, weights, probe.l2, centre=centre)
    ends = np.cumsum([reduction.projection.shape[1] for reduction in reductions])
    parts = np.split(logistic.coefficients, ends[:-1])
    folded = [_folded(*pair) for pair in zip(reductions, parts, strict=True)]
    return FittedSeveralProbe(
        read_points=probe.read_points,
        weights=tuple(weight for weight, _ in folded),
        bias=logistic.intercept + sum(shift for _, shift in folded),
    )


def fit_linear_probe(
    probe: LinearProbe,
    activations: NDArray[np.float32],
    succeeded: ArrayLike,
    weights: ArrayLike | None,
) -> FittedLinearProbe:
    """``LinearProbe.fit``, behind the import of scikit-learn."""
    outcomes = require_outcomes(succeeded)
    rows = require_activations(activations, probe.read_point, len(outcomes))
    weight = require_weights(weights, len(rows))
    reduction = fit_reduction(rows, probe.components)
    coordinates = reduction(rows)
    return fold_into_probe(
        probe.read_point,
        reduction,
        fit_logistic(
            coordinates,
            outcomes,
            weight,
            probe.l2,
            centre=shrinkage_centre(coordinates, outcomes, weight, probe.shrink),
        ),
    )


def shrinkage_centre(
    coordinates: Floats, outcomes: Floats, weights: Floats, shrink: float
) -> Floats | None:
    """Where ``LinearProbe.l2`` pulls to, (k,); ``None`` for the origin."""
    if shrink == 0:
        return None
    return shrink * difference_of_means(coordinates, outcomes, weights)
