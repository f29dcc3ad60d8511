"""Whether a query looks like anything in training: distances, and what they mean as p-values.

Two distances from the training queries, both in the space of the standardised activation:

- *Mahalanobis*, of the whole activation: in the principal subspace by the covariance shrunk as
  Ledoit and Wolf (2004), and outside of it by one variance for all directions (the probabilistic
  PCA of Tipping and Bishop, 1999). The part outside is what gives another domain away: its queries
  point where the training queries do not vary at all.
- *neighbour*, to the k-th nearest training query in the whitened subspace (Sun et al., 2022): it
  sees the empty space between clusters, where the Mahalanobis distance is small.

Each becomes a conformal p-value on queries that took no part in fitting (Bates et al., 2023):
``(1 + calibration queries at least as far) / (1 + calibration queries)``. The two are combined by
a Bonferroni correction with unequal shares, ``min(p_mahalanobis / (1 - s), p_neighbour / s)``.
So for a query exchangeable with the calibration queries the combined p-value is at most ``a`` with
probability at most ``a``, for every ``a``, whatever the distribution of the activations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError
from foretell.probes._honest import STRICT_JSON, Metric
from foretell.probes._tensors import frozen, tensor_named
from foretell.records import ReadPoint

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]

_ROWS_AT_ONCE: Final = 1024
"""Queries whose distances to all references are in memory together: 8 MiB for 2,000 of them."""

_ARRAYS: Final = (
    "mean",
    "scale",
    "axes",
    "whitening",
    "references",
    "calibration_mahalanobis",
    "calibration_neighbour",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """What a gate is made of besides its arrays, as its card tells it.

    ``false_alarm`` is the share of training-like queries that may be called outside;
    ``false_alarms`` is what came out when training queries were judged by gates fitted without
    them. ``outside_variance`` is that of one direction outside of the subspace, in units of the
    standardised activation. ``neighbour_share`` is the part of the false alarms set aside for the
    distance to the ``neighbours``-th nearest training query; 0 where the calibration queries are
    too few to ever grant it one.
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    read_point: ReadPoint
    false_alarm: float
    false_alarms: Metric
    outside_variance: float
    neighbours: int
    neighbour_share: float
    n_fit: int
    n_calibration: int

    def __post_init__(self) -> None:
        for name, value in (("false_alarm", self.false_alarm), ("share", self.neighbour_share)):
            if not 0 <= value < 1:
                raise InputError(f"the gate's {name} is {value}; wanted at least 0 and below 1")
        if not (self.outside_variance > 0 and math.isfinite(self.outside_variance)):
            raise InputError(
                f"the gate's variance outside its subspace is {self.outside_variance}; wanted a "
                "number above 0"
            )
        if self.neighbours < 1:
            raise InputError(f"the gate's neighbours are {self.neighbours}; wanted at least 1")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedGate:
    """Tells queries like those in training from others; applies with NumPy alone.

    An activation is standardised, ``(x - mean) * scale``, both (width,), then projected on
    ``axes`` (width, components), orthonormal, and whitened by ``whitening`` (components,
    components). ``references`` (at most 2,000, components) are training queries in the whitened
    subspace. The two calibration columns hold the distances of the calibration queries, rising.
    Arrays are made contiguous, float32 and read-only.
    """

    settings: GateSettings
    mean: Vectors
    scale: Vectors
    axes: Vectors
    whitening: Vectors
    references: Vectors
    calibration_mahalanobis: Vectors
    calibration_neighbour: Vectors
    _reference_size: Vectors = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            object.__setattr__(self, name, frozen(getattr(self, name), f"gate {name}"))
        width, components = self.axes.shape if self.axes.ndim == 2 else (0, 0)
        wanted = {
            "mean": (width,),
            "scale": (width,),
            "whitening": (components, components),
            "references": (len(self.references), components),
            "calibration_mahalanobis": (self.settings.n_calibration,),
            "calibration_neighbour": (self.settings.n_calibration,),
        }
        for name, shape in wanted.items():
            found = getattr(self, name).shape
            if found != shape or not all(shape):
                raise InputError(
                    f"the gate's {name} has shape {found} beside axes {self.axes.shape} and "
                    f"{self.settings.n_calibration} calibration queries; wanted {shape}"
                )
        if len(self.references) < self.settings.neighbours:
            raise InputError(
                f"the gate holds {len(self.references)} training queries; wanted at least the "
                f"{self.settings.neighbours} neighbours that it looks for"
            )
        references = self.references
        size = np.einsum("ij,ij->i", references, references)
        object.__setattr__(self, "_reference_size", size)

    @property
    def read_point(self) -> ReadPoint:
        """Where its activations are read."""
        return self.settings.read_point

    @property
    def width(self) -> int:
        """Length of the activations it reads."""
        return len(self.mean)

    def p_value(self, activations: NDArray[np.float32], /) -> float | Floats:
        """Share of training-like queries that look at least as strange: near 0 is foreign.

        Returns:
            A float from 0 to 1 for one activation (width,), an array (n,) for (n, width).

        Raises:
            InputError: Another width, or an activation that is not finite.
        """
        rows = np.asarray(activations, dtype=np.float32)
        if rows.ndim not in (1, 2) or rows.shape[-1] != self.width:
            raise InputError(
                f"activations of shape {rows.shape} do not fit a gate of width {self.width} at "
                f"{self.read_point}; wanted ({self.width},) or (n, {self.width})"
            )
        matrix = rows[None] if rows.ndim == 1 else rows
        parts = [
            self._p_values(matrix[start : start + _ROWS_AT_ONCE])
            for start in range(0, len(matrix), _ROWS_AT_ONCE)
        ]
        if rows.ndim == 1:
            return float(parts[0][0])
        return np.concatenate(parts) if parts else np.empty(0)

    def outside(self, activations: NDArray[np.float32], /) -> bool | NDArray[np.bool_]:
        """Whether each is called foreign: ``p_value <= false_alarm``; shapes as in ``p_value``."""
        p = self.p_value(activations)
        return p <= self.settings.false_alarm

    def _p_values(self, rows: Vectors) -> Floats:
        mahalanobis, neighbour = self.distances(rows)
        share = self.settings.neighbour_share
        p = conformal_p_values(mahalanobis, self.calibration_mahalanobis) / (1 - share)
        if share > 0:
            near = conformal_p_values(neighbour, self.calibration_neighbour) / share
            p = np.minimum(p, near)
        return np.minimum(p, 1.0)

    def distances(self, rows: Vectors, /) -> tuple[Vectors, Vectors]:
        """Mahalanobis and neighbour distance, (n,) each, of activations (n, width)."""
        # An activation that is not finite, or overflows here, has no distance.
        with np.errstate(over="ignore", invalid="ignore"):
            standard = (rows - self.mean) * self.scale
            coordinates = standard @ self.axes
            white = np.matmul(coordinates, self.whitening, dtype=np.float32)
            size = np.einsum("ij,ij->i", standard, standard)
            inside = np.einsum("ij,ij->i", coordinates, coordinates)
            white_size = np.einsum("ij,ij->i", white, white)
            finite = np.isfinite(size + white_size)
        if bad := int(np.count_nonzero(~finite)):
            raise InputError(f"{bad} of {len(rows)} activations at {self.read_point} not finite")
        outside = np.maximum(size - inside, 0) / np.float32(self.settings.outside_variance)
        return np.sqrt(white_size + outside), self._neighbour(white, white_size)

    def _neighbour(self, white: Vectors, white_size: Vectors) -> Vectors:
        squared = white @ self.references.T
        squared *= -2
        squared += self._reference_size
        k = self.settings.neighbours - 1
        nearest = np.partition(squared, k, axis=1)[:, k]
        return np.sqrt(np.maximum(nearest + white_size, 0))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All its arrays by name, as they are saved."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_tensors(cls, settings: GateSettings, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The gate whose ``settings`` and ``tensors()`` these are.

        Raises:
            InputError: An array is missing, has another shape, or is not finite.
        """
        return cls(settings=settings, **{name: tensor_named(tensors, name) for name in _ARRAYS})


def conformal_p_values(distances: Vectors, calibration: Vectors) -> Floats:
    """``(1 + calibration distances at least as large) / (1 + all of them)``; those rise."""
    n = len(calibration)
    return (1 + n - np.searchsorted(calibration, distances, side="left")) / (1 + n)


def fit_gate(
    activations: NDArray[np.float32],
    read_point: ReadPoint,
    *,
    seed: int,
    groups: NDArray[np.str_] | None = None,
    components: int = 64,
    neighbours: int = 10,
    false_alarm: float = 0.05,
) -> FittedGate:
    """A gate around training queries, whose labels it does not need.

    Two thirds of the queries are fitted to, one third calibrates; no group is in both, and of very
    many only a random part is used. The false alarms are measured by gates fitted without a fold.

    Args:
        activations: (n, width), finite.
        read_point: Where they were read.
        seed: Decides which query does what.
        groups: Group of each query, (n,); each is its own when not given.
        components: Principal axes of the subspace, fewer when the queries are few.
        neighbours: Which nearest training query the second distance goes to.
        false_alarm: Share of training-like queries that may be called outside.

    Raises:
        TrainingDataError: Too few queries or groups for so small a ``false_alarm``, or activations
            that are not finite, with the count.
    """
    from foretell.probes._gate_fitting import fit

    return fit(
        activations,
        read_point,
        seed=seed,
        groups=groups,
        components=components,
        neighbours=neighbours,
        false_alarm=false_alarm,
    )
