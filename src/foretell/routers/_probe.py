"""The activation router: a probe on the weak model's own prefill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foretell.probes import DEFAULT_KINDS, FittedProbe, Selection, select_probe
from foretell.records import ReadPoint, RoutingData
from foretell.routers._protocol import Sees
from foretell.routers._training import labelled_rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedProbeRouter:
    """A fitted probe as a router; ``selection`` is how it was chosen, when that is known."""

    probe: FittedProbe
    selection: Selection | None = None
    name: str = "probe"

    def score(self, data: RoutingData) -> NDArray[np.float64]:
        """The probe's log-odds before calibration, one per query.

        Raises:
            InputError: ``data`` does not hold what the probe reads.
        """
        return self.probe.scores(data)

    def p_success(self, data: RoutingData) -> NDArray[np.float64]:
        """The probe's calibrated chance, one per query."""
        return self.probe.chances(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRouter:
    """Chooses among ``kinds`` and ``read_points`` (all in the data when ``None``) when fitted.

    ``fitted`` is a probe that was fitted on that training set before; it is taken as it is.
    ``progress`` is told (done, total) as read points are searched and kinds tried.
    """

    read_points: tuple[ReadPoint, ...] | None = None
    kinds: Sequence[str] = DEFAULT_KINDS
    fitted: FittedProbeRouter | None = None
    progress: Callable[[int, int], None] | None = None
    name: str = "probe"
    sees: Sees = field(default="prefill", init=False)

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedProbeRouter:
        """Fits on the rows whose ``weak`` is known; see ``select_probe``."""
        labelled = labelled_rows(data)
        if self.fitted is not None:
            return self.fitted
        selection = select_probe(
            labelled,
            kinds=self.kinds,
            read_points=self.read_points,
            # Held-out queries judge this router, so the estimate from outer folds is not needed.
            nested=False,
            seed=int(rng.integers(2**31)),
            progress=self.progress,
        )
        return FittedProbeRouter(probe=selection.probe, selection=selection, name=self.name)
