"""What a pooled probe reads from the columns of queries, checked where it enters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import FittedPlatt
from foretell.errors import InputError
from foretell.probes._tensors import tensor_named
from foretell.records import ReadPoint, RoutingData

Floats = NDArray[np.float64]

LOGISTIC: Final = FittedPlatt(slope=1.0, intercept=0.0)
"""A logistic regression's own chance, until a probe is calibrated on held-out scores."""


def activations_at(data: RoutingData, point: ReadPoint) -> NDArray[np.float32]:
    """The activations (n, width) at a read point.

    Raises:
        InputError: The queries hold none there.
    """
    if point not in data.activations:
        held = ", ".join(held.name for held in sorted(data.activations)) or "none"
        raise InputError(
            f"the probe reads {point.name}, but the queries hold activations at {held}; collect "
            "them at that read point"
        )
    return data.activations[point]


def dot_rows(
    activations: NDArray[np.float32], weight: NDArray[np.float32], point: ReadPoint
) -> Floats:
    """``activations @ weight``, one number per row.

    Raises:
        InputError: Another width, or rows that are not finite.
    """
    if activations.ndim != 2 or activations.shape[1] != len(weight):
        raise InputError(
            f"activations of shape {activations.shape} do not fit a probe of width {len(weight)} "
            f"at {point}; wanted (n, {len(weight)})"
        )
    products = activations.dot(weight).astype(np.float64)
    if bad := int(np.count_nonzero(~np.isfinite(products))):
        raise InputError(f"{bad} of {len(activations)} activations at {point} not finite")
    return products


def number_of(tensors: Mapping[str, NDArray[Any]], name: str) -> float:
    """The one number in a tensor of shape (1,).

    Raises:
        InputError: There is no such tensor, or it holds another count of numbers.
    """
    tensor = tensor_named(tensors, name)
    if tensor.shape != (1,):
        raise InputError(
            f"tensor {name!r} has shape {tensor.shape}; wanted one number, so save the probe again"
        )
    return float(tensor[0])
