"""A linear probe on several read points: one weight vector for each, and one bias."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import Calibration
from foretell.errors import InputError
from foretell.probes._inputs import LOGISTIC, Floats, activations_at, dot_rows, number_of
from foretell.probes._linear import LinearProbe
from foretell.probes._tensors import frozen, setting_named, tensor_named
from foretell.records import ReadPoint, RoutingData

Join = Literal["average", "concatenate"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedSeveralProbe:
    """The sum over read points of one dot product each, plus a bias; predicts with NumPy alone.

    ``weights[i]`` (width,) float32 belongs to ``read_points[i]``; layers rise. Arrays are made
    contiguous and read-only.
    """

    read_points: tuple[ReadPoint, ...]
    weights: tuple[NDArray[np.float32], ...]
    bias: float
    calibration: Calibration = LOGISTIC

    def __post_init__(self) -> None:
        points = self.read_points
        if not points or list(points) != sorted(set(points)) or len(points) != len(self.weights):
            raise InputError(
                f"the probe's {len(self.weights)} weights do not fit its read points "
                f"{', '.join(point.name for point in points) or '(none)'}; wanted one weight for "
                "each read point, and every read point once, in order of layer"
            )
        object.__setattr__(self, "weights", tuple(frozen(w, "weight") for w in self.weights))
        if any(weight.ndim != 1 for weight in self.weights):
            raise InputError(
                f"the probe's weights have shapes {[w.shape for w in self.weights]}; wanted "
                "(width,) each"
            )
        if not math.isfinite(self.bias):
            raise InputError(f"the probe's bias is {self.bias}; wanted a finite number")

    @property
    def kind(self) -> str:
        """``several``."""
        return "several"

    @property
    def reads_first_token(self) -> bool:
        """It does not."""
        return False

    def calibrated(self, calibration: Calibration) -> Self:
        """The same probe with ``calibration`` between its score and its chance."""
        return replace(self, calibration=calibration)

    def scores(self, data: RoutingData) -> Floats:
        """Log-odds before calibration, one per query; higher means likelier to succeed.

        Raises:
            InputError: Activations at a read point are missing, of another width, or not finite.
        """
        scores = np.full(len(data), self.bias)
        for point, weight in zip(self.read_points, self.weights, strict=True):
            scores += dot_rows(activations_at(data, point), weight, point)
        return scores

    def chances(self, data: RoutingData) -> Floats:
        """Calibrated chance of success, one per query; errors as in ``scores``."""
        return self.calibration.p(self.scores(data))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Its arrays by name, as they are saved."""
        weights = zip(self.read_points, self.weights, strict=True)
        return {
            "bias": np.array([self.bias]),
            **{f"weight_{point.name}": weight for point, weight in weights},
        }

    def settings(self) -> Mapping[str, Any]:
        """The names of its read points."""
        return {"read_points": [point.name for point in self.read_points]}

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
        points = tuple(ReadPoint.parse(name) for name in setting_named(settings, "read_points"))
        return cls(
            read_points=points,
            weights=tuple(tensor_named(tensors, f"weight_{point.name}") for point in points),
            bias=number_of(tensors, "bias"),
            calibration=calibration,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeveralProbe:
    """Several read points, each with its own standardiser and principal components.

    ``average`` fits a ``LinearProbe`` on each and averages their log-odds: nothing is learnt
    across read points, so few labels are enough. ``concatenate`` fits one regression on the
    components of all; below about 1,000 labels that has more to learn than there is to learn from.
    ``components``, ``l2`` and ``shrink`` are those of ``LinearProbe``, for each read point.
    """

    read_points: tuple[ReadPoint, ...]
    components: int = 64
    l2: float = 1.0
    shrink: float = 0.0
    join: Join = "average"

    def __post_init__(self) -> None:
        object.__setattr__(self, "read_points", tuple(sorted(set(self.read_points))))
        if not self.read_points:
            raise InputError("a probe on several read points got none; name at least one")
        if self.join not in get_args(Join):
            raise InputError(f"unknown join {self.join!r}; use one of {', '.join(get_args(Join))}")
        for point in self.read_points:
            self.at(point)

    @property
    def kind(self) -> Literal["several"]:
        """``several``."""
        return "several"

    def at(self, point: ReadPoint) -> LinearProbe:
        """The probe of one read point alone."""
        return LinearProbe(
            read_point=point, components=self.components, l2=self.l2, shrink=self.shrink
        )

    def fit(self, data: RoutingData, *, seed: int) -> FittedSeveralProbe:
        """Fitted on ``data.weak`` with ``data.row_weights()``; nothing is drawn, so no seed counts.

        Raises:
            TrainingDataError: The rows cannot support the fit; the message says why.
        """
        if self.join == "concatenate":
            from foretell.probes._fitting import fit_concatenated

            return fit_concatenated(self, data)
        fitted = [self.at(point).fit(data, seed=seed) for point in self.read_points]
        return FittedSeveralProbe(
            read_points=self.read_points,
            weights=tuple(probe.weight / np.float32(len(fitted)) for probe in fitted),
            bias=math.fsum(probe.bias for probe in fitted) / len(fitted),
        )
