"""A linear probe on one read point: how it is asked for, and how it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.calibration import Calibration
from foretell.errors import InputError
from foretell.probes._inputs import LOGISTIC, Floats, activations_at, dot_rows, number_of
from foretell.probes._tensors import frozen, setting_named, tensor_named
from foretell.records import ReadPoint, RoutingData


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
    calibration: Calibration = LOGISTIC

    def __post_init__(self) -> None:
        for name in ("weight", "projection", "offset"):
            object.__setattr__(self, name, frozen(getattr(self, name), name))
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
    def kind(self) -> Literal["linear"]:
        """``linear``."""
        return "linear"

    @property
    def read_points(self) -> tuple[ReadPoint]:
        """Its one read point."""
        return (self.read_point,)

    @property
    def reads_first_token(self) -> bool:
        """It does not."""
        return False

    @property
    def width(self) -> int:
        """Length of the activations it reads."""
        return len(self.weight)

    @property
    def components(self) -> int:
        """Number of principal components behind the weight vector."""
        return self.offset.size

    def calibrated(self, calibration: Calibration) -> Self:
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
        return dot_rows(rows, self.weight, self.read_point) + self.bias

    def p_success(self, activations: ArrayLike, /) -> float | NDArray[np.float64]:
        """Calibrated chance that the model succeeds; shapes and errors as in ``score``."""
        return self.calibration.p(self.score(activations))

    def scores(self, data: RoutingData) -> Floats:
        """Log-odds before calibration, one per query.

        Raises:
            InputError: The queries hold no activations at the read point, or as in ``score``.
        """
        activations = activations_at(data, self.read_point)
        return dot_rows(activations, self.weight, self.read_point) + self.bias

    def chances(self, data: RoutingData) -> Floats:
        """Calibrated chance of success, one per query; errors as in ``scores``."""
        return self.calibration.p(self.scores(data))

    def coordinates(self, activations: ArrayLike, /) -> NDArray[np.float32]:
        """Activations (n, width) or (width,) in the probe's subspace: (n, components) or so."""
        return np.asarray(activations, dtype=np.float32).dot(self.projection) + self.offset

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Its arrays by name, as they are saved."""
        return {
            "weight": self.weight,
            "bias": np.array([self.bias]),
            "projection": self.projection,
            "offset": self.offset,
        }

    def settings(self) -> Mapping[str, Any]:
        """The name of its read point."""
        return {"read_point": self.read_point.name}

    @classmethod
    def from_tensors(
        cls,
        settings: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        calibration: Calibration,
    ) -> Self:
        """The probe of which these are ``settings()`` and ``tensors()``.

        Raises:
            InputError: One is missing, or they do not fit together.
        """
        return cls(
            read_point=ReadPoint.parse(setting_named(settings, "read_point")),
            weight=tensor_named(tensors, "weight"),
            bias=number_of(tensors, "bias"),
            projection=tensor_named(tensors, "projection"),
            offset=tensor_named(tensors, "offset"),
            calibration=calibration,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbe:
    """Standardise, project on principal components, fit an L2-regularised logistic regression.

    ``components`` is an upper bound: there are never more than the rank of the data. ``l2`` is
    the penalty ``l2 / 2 * |coefficients - shrink * centre|^2`` against the summed log loss, on
    components in units of standardised activations (scikit-learn's ``C`` is ``1 / l2``). The
    centre is the difference-of-means probe: with few labels (or much ``l2``) a ``shrink`` of 1
    gives that probe, with many the logistic regression; at 0 the penalty is the usual one.
    """

    read_point: ReadPoint
    components: int = 64
    l2: float = 1.0
    shrink: float = 0.0

    def __post_init__(self) -> None:
        if self.components < 1:
            raise InputError(f"components must be at least 1, got {self.components}")
        if not (self.l2 > 0 and math.isfinite(self.l2)):
            raise InputError(f"l2 must be a number above 0, got {self.l2}")
        if not 0 <= self.shrink <= 1:
            raise InputError(f"shrink must be between 0 and 1, got {self.shrink}")

    @property
    def kind(self) -> Literal["linear"]:
        """``linear``."""
        return "linear"

    def fit(self, data: RoutingData, *, seed: int) -> FittedLinearProbe:  # noqa: ARG002
        """Fitted on ``data.weak`` with ``data.row_weights()``; nothing is drawn, so no seed counts.

        Raises:
            TrainingDataError: The rows cannot support the fit; the message says why.
        """
        from foretell.probes._training_rows import require_read_points

        require_read_points(data, [self.read_point])
        return self.fit_rows(data.activations[self.read_point], data.weak, data.row_weights())

    def fit_rows(
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
