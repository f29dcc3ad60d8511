"""An ensemble of small MLPs over the reduced activations of some read points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import Calibration
from foretell.errors import InputError
from foretell.probes._descent import require_descent
from foretell.probes._inputs import LOGISTIC, Floats, activations_at
from foretell.probes._tensors import frozen, setting_named, tensor_named
from foretell.records import ReadPoint, RoutingData

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedMlpProbe:
    """The mean log-odds of an ensemble; predicts with NumPy alone.

    For the i-th read point, in order of layer, ``projections[i]`` (width, components) and
    ``offsets[i]`` (components,) map an activation to ``x @ projection + offset``; the coordinates
    of all read points enter the networks side by side. ``weights[k]`` (members, in, out) and
    ``biases[k]`` (members, out) are layer k of all members; all layers but the last, of one
    output, are rectified. Arrays are made contiguous, float32 and read-only.
    """

    read_points: tuple[ReadPoint, ...]
    projections: tuple[Weights, ...]
    offsets: tuple[Weights, ...]
    weights: tuple[Weights, ...]
    biases: tuple[Weights, ...]
    calibration: Calibration = LOGISTIC

    def __post_init__(self) -> None:
        for name in ("projections", "offsets", "weights", "biases"):
            arrays = tuple(frozen(array, name) for array in getattr(self, name))
            object.__setattr__(self, name, arrays)
        if not self._fits():
            raise InputError(
                f"the probe's read points {_names(self.read_points)}, projections "
                f"{_shapes(self.projections)}, offsets {_shapes(self.offsets)}, weights "
                f"{_shapes(self.weights)} and biases {_shapes(self.biases)} do not fit together; "
                "wanted read points in order of layer, each with (width, components) and "
                "(components,), then (members, in, out) and (members, out) for each layer of the "
                "networks, down to one output"
            )

    def _fits(self) -> bool:
        if list(self.read_points) != sorted(set(self.read_points)):
            return False
        if not (len(self.read_points) == len(self.projections) == len(self.offsets) > 0):
            return False
        if not (len(self.weights) == len(self.biases) > 0):
            return False
        if {array.ndim for array in self.projections} | {array.ndim for array in self.biases} != {
            2
        }:
            return False
        if any(array.ndim != 3 for array in self.weights):
            return False
        components = [projection.shape[1] for projection in self.projections]
        if [offset.shape for offset in self.offsets] != [(size,) for size in components]:
            return False
        members, inputs = len(self.weights[0]), sum(components)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            outputs = weight.shape[-1]
            if weight.shape != (members, inputs, outputs) or bias.shape != (members, outputs):
                return False
            inputs = outputs
        return members > 0 and inputs == 1

    @property
    def kind(self) -> str:
        """``mlp``."""
        return "mlp"

    @property
    def reads_first_token(self) -> bool:
        """It does not."""
        return False

    @property
    def members(self) -> int:
        """Networks in the ensemble."""
        return len(self.weights[0])

    def calibrated(self, calibration: Calibration) -> Self:
        """The same probe with ``calibration`` between its score and its chance."""
        return replace(self, calibration=calibration)

    def scores(self, data: RoutingData) -> Floats:
        """Log-odds before calibration, one per query; higher means likelier to succeed.

        Raises:
            InputError: Activations at a read point are missing, of another width, or not finite.
        """
        return self._forward(np.concatenate(self._coordinates(data), axis=1))

    def _coordinates(self, data: RoutingData) -> list[Weights]:
        """What enters the networks from each read point, (n, components)."""
        parts = zip(self.read_points, self.projections, self.offsets, strict=True)
        all_coordinates: list[Weights] = []
        for point, projection, offset in parts:
            rows = activations_at(data, point)
            if rows.ndim != 2 or rows.shape[1] != len(projection):
                raise InputError(
                    f"activations of shape {rows.shape} do not fit a probe of width "
                    f"{len(projection)} at {point}; wanted (n, {len(projection)})"
                )
            with np.errstate(invalid="ignore", over="ignore"):
                coordinates: Weights = rows @ projection + offset
            # Asked here because a rectifier makes a finite 0 of what is infinitely far below.
            if bad := int(np.count_nonzero(~np.isfinite(coordinates).all(axis=1))):
                raise InputError(
                    f"activations at {point} are not finite in {bad} of {len(rows)} queries"
                )
            all_coordinates.append(coordinates)
        return all_coordinates

    def _forward(self, coordinates: Weights) -> Floats:
        x = coordinates[None]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.maximum(x @ weight + bias[:, None], 0)
        logits = (x @ self.weights[-1] + self.biases[-1][:, None])[..., 0]
        return logits.mean(axis=0, dtype=np.float64)

    def chances(self, data: RoutingData) -> Floats:
        """Calibrated chance of success, one per query; errors as in ``scores``."""
        return self.calibration.p(self.scores(data))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All its arrays by name, as they are saved."""
        tensors: dict[str, NDArray[Any]] = {}
        for i, point in enumerate(self.read_points):
            tensors[f"projection_{point.name}"] = self.projections[i]
            tensors[f"offset_{point.name}"] = self.offsets[i]
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            tensors[f"weight_{k}"] = weight
            tensors[f"bias_{k}"] = bias
        return tensors

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
        # The first is asked for even where there is none, so that the error can name it.
        layers = [0, *takewhile(lambda k: f"weight_{k}" in tensors, count(1))]
        return cls(
            read_points=points,
            projections=tuple(tensor_named(tensors, f"projection_{p.name}") for p in points),
            offsets=tuple(tensor_named(tensors, f"offset_{p.name}") for p in points),
            weights=tuple(tensor_named(tensors, f"weight_{k}") for k in layers),
            biases=tuple(tensor_named(tensors, f"bias_{k}") for k in layers),
            calibration=calibration,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpProbe:
    """Standardise and project each read point, then an ensemble of small MLPs on all of them.

    ``components`` bounds the principal components of each read point. ``hidden`` are the sizes of
    the hidden layers, ``dropout`` the share of a layer's inputs that training leaves out.
    Each of the ``members`` stops early by another fifth of the groups and learns from the rest.
    """

    read_points: tuple[ReadPoint, ...]
    components: int = 64
    hidden: tuple[int, ...] = (64,)
    dropout: float = 0.4
    weight_decay: float = 0.1
    members: int = 5

    def __post_init__(self) -> None:
        points = tuple(sorted(set(self.read_points)))
        object.__setattr__(self, "read_points", points)
        if not points or any(point.pooling == "tokens" for point in points):
            raise InputError(
                f"an MLP probe reads pooled activations, got read points {_names(points)}; name at "
                "least one of pooling last or mean, and none of tokens"
            )
        if any(size < 1 for size in self.hidden):
            raise InputError(f"hidden layers must have at least 1 unit each, got {self.hidden}")
        require_descent(
            components=self.components,
            members=self.members,
            dropout=self.dropout,
            weight_decay=self.weight_decay,
        )

    @property
    def kind(self) -> str:
        """``mlp``."""
        return "mlp"

    def fit(self, data: RoutingData, *, seed: int) -> FittedMlpProbe:
        """Fitted on ``data.weak`` with ``data.row_weights()``; not calibrated.

        Deterministic: the same rows, seed and number of threads give the same probe. Queries of
        weight 0 are left out.

        Raises:
            TrainingDataError: The rows cannot support the fit; the message says why.
        """
        from foretell.probes._torch_fitting import fit_mlp_probe

        return fit_mlp_probe(self, data, seed=seed)


def _names(points: tuple[ReadPoint, ...]) -> str:
    return ", ".join(point.name for point in points) or "(none)"


def _shapes(arrays: tuple[NDArray[Any], ...]) -> str:
    return ", ".join(str(array.shape) for array in arrays)
