"""Activations reduced to what a probe reads of them, and what can be restored from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError
from foretell.records._read_points import ReadPoint

Vectors = NDArray[np.float32]

_FIELDS = ("centre", "scale", "axes", "rest")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Basis:
    """The few directions of one read point's activations that are kept.

    An activation x (width,) is standardised, ``z = (x - centre) * scale``, and reduced to its
    ``coordinates`` ``z @ axes``, where the columns of ``axes`` (width, k) are orthonormal. With a
    ``rest`` (width,) the length of what lies outside of them is kept as one more coordinate: a
    gate judges by it. ``rest`` is a unit vector at right angles to the axes, in whose direction
    that length is restored; it is empty where no length is kept.

    So whatever is linear in ``z @ axes`` and the length of z is the same of an activation and of
    what is restored from its reduction, and all else about it is lost. A ``scale`` of 0 marks a
    dimension that nobody reads; it is restored as its centre. Arrays are float32 and read-only.
    """

    centre: Vectors
    scale: Vectors
    axes: Vectors
    rest: Vectors

    def __post_init__(self) -> None:
        for name in _FIELDS:
            array = np.array(getattr(self, name), dtype=np.float32, order="C")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
            if not np.isfinite(array).all():
                raise InputError(f"the basis's {name} holds numbers that are not finite")
        width = len(self.centre)
        if (
            self.axes.ndim != 2
            or len(self.axes) != width
            or self.scale.shape != (width,)
            or self.rest.shape not in ((0,), (width,))
        ):
            raise InputError(
                f"a basis with centre {self.centre.shape}, scale {self.scale.shape}, axes "
                f"{self.axes.shape} and rest {self.rest.shape} does not fit together; wanted "
                "(width,), (width,), (width, k), and (width,) or (0,)"
            )

    @property
    def width(self) -> int:
        """Length of an activation."""
        return len(self.centre)

    @property
    def size(self) -> int:
        """Length of a reduced one."""
        return self.axes.shape[1] + bool(self.rest.size)

    def reduce(self, activations: Vectors) -> Vectors:
        """Coordinates (size,) of one activation (width,), or (n, size) of (n, width)."""
        self._require(activations, self.width)
        standard = (activations - self.centre) * self.scale
        coordinates: Vectors = (standard @ self.axes).astype(np.float32, copy=False)
        if not self.rest.size:
            return coordinates
        outside = np.sum(standard**2, axis=-1) - np.sum(coordinates**2, axis=-1)
        length = np.sqrt(np.maximum(outside, 0))
        both = np.concatenate([coordinates, length[..., None]], axis=-1)
        return both.astype(np.float32, copy=False)

    def restore(self, coordinates: Vectors) -> Vectors:
        """Activation (width,) of one reduced (size,), or (n, width) of (n, size)."""
        self._require(coordinates, self.size)
        k = self.axes.shape[1]
        standard = coordinates[..., :k] @ self.axes.T
        if self.rest.size:
            standard = standard + coordinates[..., k:] * self.rest
        spread = np.divide(1, self.scale, out=np.zeros_like(self.scale), where=self.scale > 0)
        return (standard * spread + self.centre).astype(np.float32, copy=False)

    def project(self, activations: Vectors) -> Vectors:
        """Reduced and restored: doing so twice changes nothing more."""
        return self.restore(self.reduce(activations))

    def tensors(self) -> dict[str, Vectors]:
        """Its arrays by name, as they are saved."""
        return {name: getattr(self, name) for name in _FIELDS}

    def _require(self, rows: Vectors, size: int) -> None:
        if rows.ndim not in (1, 2) or rows.shape[-1] != size:
            raise InputError(
                f"vectors of shape {rows.shape} do not fit a basis from {self.width} to "
                f"{self.size} numbers; wanted ({size},) or (n, {size})"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subspace:
    """What activations are reduced to before they are kept: a basis for each read point.

    Those with the same ``id`` are interchangeable, though not equal to the last bit.
    """

    id: str
    bases: Mapping[ReadPoint, Basis]

    def reduce(self, vectors: Mapping[ReadPoint, Vectors]) -> dict[ReadPoint, Vectors]:
        """Coordinates of activations (width,) or (n, width) by read point.

        Raises:
            InputError: A read point that the subspace does not have, or another width.
        """
        return {point: self._basis(point).reduce(rows) for point, rows in vectors.items()}

    def restore(self, vectors: Mapping[ReadPoint, Vectors]) -> dict[ReadPoint, Vectors]:
        """Activations of coordinates by read point; errors as in ``reduce``."""
        return {point: self._basis(point).restore(rows) for point, rows in vectors.items()}

    def project(self, vectors: Mapping[ReadPoint, Vectors]) -> dict[ReadPoint, Vectors]:
        """Activations without what lies outside; where there is no basis, as they are."""
        return {
            point: self.bases[point].project(rows) if point in self.bases else rows
            for point, rows in vectors.items()
        }

    def tensors(self) -> dict[str, Vectors]:
        """All arrays by name, such as ``layer20_mean.axes``."""
        return {
            f"{point.name}.{name}": array
            for point, basis in sorted(self.bases.items())
            for name, array in basis.tensors().items()
        }

    @classmethod
    def from_tensors(cls, subspace_id: str, tensors: Mapping[str, NDArray[np.float32]]) -> Self:
        """The subspace of which these are ``tensors()``.

        Raises:
            InputError: One is missing, or they do not fit together.
        """
        names = sorted({name.partition(".")[0] for name in tensors})
        try:
            bases = {
                ReadPoint.parse(name): Basis(**{of: tensors[f"{name}.{of}"] for of in _FIELDS})
                for name in names
            }
        except KeyError as error:
            raise InputError(
                f"the subspace {subspace_id} has no array {error.args[0]!r}; save it again"
            ) from None
        return cls(id=subspace_id, bases=bases)

    def _basis(self, point: ReadPoint) -> Basis:
        if point not in self.bases:
            raise InputError(
                f"the subspace {self.id} has no basis for {point.name}; it has "
                f"{', '.join(known.name for known in sorted(self.bases)) or 'none'}"
            )
        return self.bases[point]
