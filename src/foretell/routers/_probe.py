"""The activation router: a linear probe on the weak model's own prefill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError
from foretell.probes import FittedLinearProbe, Selection, select_linear_probe
from foretell.records import ReadPoint, RoutingData
from foretell.routers._protocol import Sees
from foretell.routers._training import labelled_rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedProbeRouter:
    """A fitted probe as a router; ``selection`` is how it was chosen, when that is known."""

    probe: FittedLinearProbe
    selection: Selection | None = None
    name: str = "probe"

    def score(self, data: RoutingData) -> NDArray[np.float64]:
        """The probe's log-odds before calibration, one per query.

        Raises:
            InputError: ``data`` does not hold the probe's read point.
        """
        return np.asarray(self.probe.score(self._activations(data)), dtype=np.float64)

    def p_success(self, data: RoutingData) -> NDArray[np.float64]:
        """The probe's calibrated chance, one per query."""
        return np.asarray(self.probe.p_success(self._activations(data)), dtype=np.float64)

    def _activations(self, data: RoutingData) -> NDArray[np.float32]:
        if self.probe.read_point not in data.activations:
            held = ", ".join(point.name for point in sorted(data.activations)) or "none"
            raise InputError(
                f"the probe reads {self.probe.read_point.name}, but the queries hold activations "
                f"at {held}; collect them at that read point"
            )
        return data.activations[self.probe.read_point]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRouter:
    """Chooses among ``read_points`` (all in the data when ``None``) inside the training set.

    ``fitted`` is a probe that was fitted on that training set before; it is taken as it is.
    ``progress`` is told (done, total) as read points are searched.
    """

    read_points: tuple[ReadPoint, ...] | None = None
    fitted: FittedProbeRouter | None = None
    progress: Callable[[int, int], None] | None = None
    name: str = "probe"
    sees: Sees = field(default="prefill", init=False)

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedProbeRouter:
        """Fits on the rows whose ``weak`` is known; see ``select_linear_probe``."""
        labelled = labelled_rows(data)
        if self.fitted is not None:
            return self.fitted
        selection = select_linear_probe(
            labelled,
            read_points=self.read_points,
            # Held-out queries judge this router, so the estimate from outer folds is not needed.
            nested=False,
            seed=int(rng.integers(2**31)),
            progress=self.progress,
        )
        return FittedProbeRouter(probe=selection.probe, selection=selection, name=self.name)
