"""What every kind of probe does, not yet fitted and fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import Calibration
from foretell.records import ReadPoint, RoutingData

Floats = NDArray[np.float64]


@runtime_checkable
class FittedProbe(Protocol):
    """Foretells success from what one prefill shows; applies with NumPy alone.

    ``read_points`` is where the prefill must be read, layers rising. ``reads_first_token`` says
    that the first token's entropy or margin is needed too, so that it can only answer when the
    prefill is whole.
    """

    @property
    def kind(self) -> str: ...

    @property
    def read_points(self) -> tuple[ReadPoint, ...]: ...

    @property
    def reads_first_token(self) -> bool: ...

    @property
    def calibration(self) -> Calibration: ...

    def calibrated(self, calibration: Calibration) -> Self:
        """The same probe with ``calibration`` between its score and its chance."""
        ...

    def scores(self, data: RoutingData) -> Floats:
        """Log-odds before calibration, one per query; higher means likelier to succeed.

        Raises:
            InputError: A column that it reads is missing, of another width, or not finite.
        """
        ...

    def chances(self, data: RoutingData) -> Floats:
        """Calibrated chance of success, one per query."""
        ...

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All its arrays by name, as they are saved."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """All else that it is made of, as JSON values; the calibration is saved apart."""
        ...


@runtime_checkable
class Probe(Protocol):
    """A kind of probe and its settings, not yet fitted."""

    @property
    def kind(self) -> str: ...

    def fit(self, data: RoutingData, *, seed: int) -> FittedProbe:
        """Fitted on ``data.weak`` (all known, in [0, 1]) with ``data.row_weights()``.

        Deterministic: the same rows and seed give the same probe. Not calibrated.

        Raises:
            TrainingDataError: The rows cannot support the fit; the message says why.
        """
        ...
