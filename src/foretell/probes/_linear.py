"""A linear probe on one read point: how it is asked for, and how it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.calibration import FittedPlatt
from foretell.errors import InputError
from foretell.records import ReadPoint

_LOGISTIC = FittedPlatt(slope=1.0, intercept=0.0)
"""The logistic regression's own chance, until the probe is calibrated on held-out scores."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedLinearProbe:
    """One weight vector and a bias; predicts with NumPy alone.

    ``weight`` is (width,) float32: standardiser, principal components and logistic regression
    folded into one. ``projection`` (width, components) and ``offset`` (components,) map an
    activation to the coordinates the regression saw, ``x @ projection + offset``: the probe's
    subspace, in which distance from the training data is measured. Arrays are made contiguous and
    read-only.
    """

    read_point: ReadPoint
    weight: NDArray[np.float32]
    bias: float
    projection: NDArray[np.float32]
    offset: NDArray[np.float32]
    calibration: FittedPlatt = _LOGISTIC

    def __post_init__(self) -> None:
        for name in ("weight", "projection", "offset"):
            array = np.array(getattr(self, name), dtype=np.float32, order="C")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
            if not np.isfinite(array).all():
                raise InputError(f"the probe's {name} holds numbers that are not finite")
        if not math.isfinite(self.bias):
            raise InputError(f"the probe's bias is {self.bias}; wanted a finite number")
        if self.weight.ndim != 1 or self.projection.shape != (
            len(self.weight),
            self.offset.size,
        ):
            raise InputError(
                f"the probe's weight {self.weight.shape}, projection {self.projection.shape} and "
                f"offset {self.offset.shape} do not fit together; wanted (width,), "
                "(width, components) and (components,)"
            )

    @property
    def width(self) -> int:
        """Length of the activations it reads."""
        return len(self.weight)

    @property
    def components(self) -> int:
        """Number of principal components behind the weight vector."""
        return self.offset.size

    def calibrated(self, calibration: FittedPlatt) -> FittedLinearProbe:
        """The same probe with ``calibration`` between its score and its chance."""
        return replace(self, calibration=calibration)

    def score(self, activations: ArrayLike, /) -> float | NDArray[np.float64]:
        """Log-odds before calibration, higher means likelier to succeed.

        Returns:
            A float for one activation (width,), an array (n,) for (n, width).

        Raises:
            InputError: Another width, or an activation that is not finite.
        """
        rows = np.asarray(activations, dtype=np.float32)
        if rows.shape == self.weight.shape:
            score = float(rows.dot(self.weight)) + self.bias
            if not math.isfinite(score):
                raise InputError(f"the activation at {self.read_point} is not finite")
            return score
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise InputError(
                f"activations of shape {rows.shape} do not fit a probe of width {self.width} at "
                f"{self.read_point}; wanted ({self.width},) or (n, {self.width})"
            )
        scores = rows.dot(self.weight).astype(np.float64) + self.bias
        if bad := int(np.count_nonzero(~np.isfinite(scores))):
            raise InputError(f"{bad} of {len(rows)} activations at {self.read_point} not finite")
        return scores

    def p_success(self, activations: ArrayLike, /) -> float | NDArray[np.float64]:
        """Calibrated chance that the model succeeds; shapes and errors as in ``score``."""
        return self.calibration.p(self.score(activations))

    def coordinates(self, activations: ArrayLike, /) -> NDArray[np.float32]:
        """Activations (n, width) or (width,) in the probe's subspace: (n, components) or so."""
        return np.asarray(activations, dtype=np.float32).dot(self.projection) + self.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbe:
    """Standardise, project on principal components, fit an L2-regularised logistic regression.

    ``components`` is an upper bound: there are never more than the rank of the data. ``l2`` is
    the penalty ``l2 / 2 * |coefficients|^2`` against the summed log loss, on components in units
    of standardised activations (scikit-learn's ``C`` is ``1 / l2``).
    """

    read_point: ReadPoint
    components: int = 64
    l2: float = 1.0

    def __post_init__(self) -> None:
        if self.components < 1:
            raise InputError(f"components must be at least 1, got {self.components}")
        if not (self.l2 > 0 and math.isfinite(self.l2)):
            raise InputError(f"l2 must be a number above 0, got {self.l2}")

    def fit(
        self,
        activations: NDArray[np.float32],
        succeeded: ArrayLike,
        weights: ArrayLike | None = None,
    ) -> FittedLinearProbe:
        """The fitted probe, whose chance is the regression's own until it is ``calibrated``.

        Deterministic: the same rows give the same probe.

        Args:
            activations: (n, width), finite.
            succeeded: Successes between 0 and 1, (n,). A rate counts as that share of a success and
                the rest of a failure.
            weights: Repetitions of each row, (n,).

        Raises:
            TrainingDataError: The rows cannot support the fit; the message says why.
        """
        from foretell.probes._fitting import fit_linear_probe

        return fit_linear_probe(self, activations, succeeded, weights)
