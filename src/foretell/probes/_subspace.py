"""The few directions of activations that a saved probe reads, so that no others need be kept.

Activations can be turned back into the text they were read from (arXiv 2510.15511). What is left
of them here is enough to apply the probe again, and to fit another one like it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError
from foretell.probes._attention import FittedAttentionProbe
from foretell.probes._files import SavedProbe
from foretell.probes._fusion import FittedFusionProbe
from foretell.probes._gate import FittedGate
from foretell.probes._linear import FittedLinearProbe
from foretell.probes._mlp import FittedMlpProbe
from foretell.probes._protocol import FittedProbe
from foretell.probes._several import FittedSeveralProbe
from foretell.records import Basis, ReadPoint, Subspace

Vectors = NDArray[np.float32]
_Doubles = NDArray[np.float64]

_NEGLIGIBLE: Final = 1e-5
"""Of a direction: what is left of it once those before it are taken away. Weights that lie in the
span of others do so up to the rounding of float32, about a tenth of this."""

_ID_LENGTH: Final = 16


def subspace_of(saved: SavedProbe, early: Sequence[SavedProbe] = ()) -> Subspace:
    """The directions that a probe, its gate, its heads and the ``early`` probes below it read.

    The gate's principal axes are among them, and the probe's own where there is no gate, so that a
    later probe has something to choose from. A probe that was fitted on activations of a subspace
    keeps to that one.

    Raises:
        InputError: A probe that reads every token: there is nothing to reduce to.
    """
    if saved.subspace is not None:
        return saved.subspace
    read: defaultdict[ReadPoint, list[_Doubles]] = defaultdict(list)
    centres: dict[ReadPoint, Vectors] = {}
    gates: dict[ReadPoint, FittedGate] = {}
    for one in (saved, *early):
        if one.gate is not None:
            gates.setdefault(one.gate.read_point, one.gate)
            read[one.gate.read_point] += []
    for one in (saved, *early):
        for point, directions in _read_by(one.probe).items():
            read[point].append(directions)
        probe = one.probe.base if isinstance(one.probe, FittedFusionProbe) else one.probe
        if isinstance(probe, FittedLinearProbe) and probe.read_point not in gates:
            read[probe.read_point].append(probe.projection.astype(np.float64))
            centres.setdefault(probe.read_point, _centre_of(probe))
        for point, directions in _read_by_heads(one):
            read[point].append(directions)
    return Subspace(
        id=_id_of([saved, *early]),
        bases={
            point: _basis(directions, gates.get(point), centres.get(point))
            for point, directions in sorted(read.items())
        },
    )


def _id_of(probes: Sequence[SavedProbe]) -> str:
    # By the weights, not by the axes: those are rounded in their own way on another machine.
    digest = hashlib.sha256("".join(one.card.weights_sha256 for one in probes).encode())
    return digest.hexdigest()[:_ID_LENGTH]


def _read_by(probe: FittedProbe) -> dict[ReadPoint, _Doubles]:
    """By read point, the directions (width, n) whose products with an activation are used."""
    match probe:
        case FittedFusionProbe():
            return _read_by(probe.base)
        case FittedLinearProbe():
            return {probe.read_point: _column(probe.weight)}
        case FittedSeveralProbe():
            columns = map(_column, probe.weights)
            return dict(zip(probe.read_points, columns, strict=True))
        case FittedMlpProbe():
            columns = (projection.astype(np.float64) for projection in probe.projections)
            return dict(zip(probe.read_points, columns, strict=True))
        case FittedAttentionProbe():
            raise InputError(
                f"a probe of kind {probe.kind!r} reads every token of a prompt, of which no "
                "subspace is kept; keep full vectors (store.traffic.vectors: full), or none"
            )
        case _:
            raise InputError(
                f"which directions a probe of kind {probe.kind!r} reads is not known; keep full "
                "vectors (store.traffic.vectors: full), or none"
            )


def _read_by_heads(saved: SavedProbe) -> list[tuple[ReadPoint, _Doubles]]:
    heads = saved.heads
    others = [head for head in (heads.strong, *heads.pool.values()) if head is not None]
    read = [(head.read_point, _column(head.probe.weight)) for head in others]
    if heads.tokens is not None:
        read.append((heads.tokens.read_point, _column(heads.tokens.weight)))
    return read


def _basis(
    directions: Sequence[_Doubles], gate: FittedGate | None, centre: Vectors | None
) -> Basis:
    """Around a gate in its own standardised space, where the length of what is left counts too."""
    if gate is None:
        width = len(directions[0])
        axes = _orthonormal(np.concatenate(directions, axis=1))
        return Basis(
            centre=np.zeros(width, dtype=np.float32) if centre is None else centre,
            scale=np.ones(width, dtype=np.float32),
            axes=axes.astype(np.float32),
            rest=np.empty(0, dtype=np.float32),
        )
    # What a weight gives to x, weight / scale gives to (x - mean) * scale, but for a constant. A
    # dimension of scale 0 did not vary in training; the weights read nothing there either.
    scale = gate.scale.astype(np.float64)
    spread = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)[:, None]
    axes = _orthonormal(
        np.concatenate(
            [gate.axes.astype(np.float64), *(column * spread for column in directions)], axis=1
        )
    )
    return Basis(
        centre=gate.mean,
        scale=gate.scale,
        axes=axes.astype(np.float32),
        rest=_apart_from(axes, scale > 0).astype(np.float32),
    )


def _orthonormal(columns: _Doubles) -> _Doubles:
    """Orthonormal columns (width, k) with the same span; what is negligible of it is left out.

    By Gram and Schmidt, one after the other: any machine gets the same but for rounding, which is
    what makes the reductions of several compare.
    """
    axes = np.empty_like(columns)
    k = 0
    for column in columns.T:
        rest = _without(axes[:, :k], column)
        length = float(np.linalg.norm(rest))
        if length > _NEGLIGIBLE * float(np.linalg.norm(column)):
            axes[:, k] = rest / length
            k += 1
    return axes[:, :k]


def _apart_from(axes: _Doubles, varies: NDArray[np.bool_]) -> _Doubles:
    """A unit vector at right angles to all axes, among the dimensions that vary; else empty."""
    if np.count_nonzero(varies) <= axes.shape[1]:
        return np.empty(0)
    # Of the single dimensions, that one is least within the axes.
    within = np.where(varies, np.sum(axes**2, axis=1), np.inf)
    rest = np.zeros(len(axes))
    rest[within.argmin()] = 1
    rest = _without(axes, rest)
    return rest / np.linalg.norm(rest)


def _without(axes: _Doubles, column: _Doubles) -> _Doubles:
    """What is left of a column outside of orthonormal axes."""
    for _ in range(2):  # the second time for what rounding left of the first
        column = column - axes @ (axes.T @ column)
    return column


def _centre_of(probe: FittedLinearProbe) -> Vectors:
    """An activation in the middle of the training ones, as far as the probe can tell.

    Coordinates around it are small, so that rounding them costs little.
    """
    middle, *_ = np.linalg.lstsq(
        probe.projection.astype(np.float64).T, -probe.offset.astype(np.float64), rcond=None
    )
    return middle.astype(np.float32)


def _column(weight: NDArray[Any]) -> _Doubles:
    return weight.astype(np.float64)[:, None]
