"""What a router is: something that learns from labelled queries whom to ask."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from foretell.records import RoutingData

Sees = Literal["nothing", "query", "prefill", "answer"]
"""What must have happened before a router can score.

``query``: the text, its length and its attributes are enough. ``prefill``: the weak model has read
the query. ``answer``: the weak model has answered, so it is a reference and not a router.
"""


@runtime_checkable
class FittedRouter(Protocol):
    """Scores queries: any text gets a finite score, each row's the same whatever its company."""

    @property
    def name(self) -> str: ...

    def score(self, data: RoutingData) -> NDArray[np.float64]:
        """One number per query, any range; higher means the weak model is likelier to succeed."""
        ...

    def p_success(self, data: RoutingData) -> NDArray[np.float64]:
        """Calibrated chance, per query, that the weak model succeeds."""
        ...


@runtime_checkable
class Router(Protocol):
    """A way to foretell success, not yet fitted."""

    @property
    def name(self) -> str: ...

    @property
    def sees(self) -> Sees: ...

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedRouter:
        """Learns from the rows whose ``weak`` is known.

        Raises:
            TrainingDataError: Too few labels, one class only, or a column it needs is missing.
        """
        ...
