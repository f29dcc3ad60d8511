"""Routers that score sentence vectors: what they share is how they are chosen and calibrated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import FittedPlatt
from foretell.records import RoutingData
from foretell.routers._embedding import Encode
from foretell.routers._protocol import Sees
from foretell.routers._training import best_calibrated, group_folds, labelled_rows

Floats = NDArray[np.float64]

Scorer = Callable[[Floats], Floats]
"""Vectors (queries, width) to one finite score per query; higher means likelier to succeed."""


class VectorMethod(Protocol):
    """One way to learn a scorer from vectors, with all its settings decided."""

    def fit(
        self, vectors: Floats, outcomes: Floats, weights: Floats, rng: np.random.Generator
    ) -> Scorer:
        """Learns from vectors (queries, width), outcomes in [0, 1] and repetitions of each row."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedVectorRouter:
    """``score`` is what ``method`` learnt to say, ``p_success`` its Platt-calibrated chance."""

    name: str
    encode: Encode
    method: VectorMethod
    scorer: Scorer
    calibration: FittedPlatt

    def score(self, data: RoutingData) -> Floats:
        """The method's own score before calibration, one per query."""
        if not len(data):
            return np.empty(0)
        return self.scorer(_vectors(self.encode, data.texts))

    def p_success(self, data: RoutingData) -> Floats:
        """Calibrated chance of success, one per query."""
        return self.calibration.p(self.score(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorRouter:
    """Fits the one of ``methods`` that foretells held-out folds best once it is calibrated.

    ``outcome`` is what the methods learn from; choice and calibration look at ``weak`` alone.
    """

    name: str
    encode: Encode
    methods: tuple[VectorMethod, ...]
    outcome: Callable[[RoutingData], Floats] = lambda data: data.weak
    sees: Sees = field(default="query", init=False)

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedVectorRouter:
        """Fits on the rows whose ``weak`` is known; see ``Router.fit``."""
        labelled = labelled_rows(data)
        folds = group_folds(labelled, rng)
        vectors, outcomes = _vectors(self.encode, labelled.texts), self.outcome(labelled)
        weights = labelled.row_weights()
        held_out = np.empty((len(self.methods), len(labelled)))
        for row, method in enumerate(self.methods):
            for seen, held in folds:
                scorer = method.fit(vectors[seen], outcomes[seen], weights[seen], rng)
                held_out[row, held] = scorer(vectors[held])
        best, calibration = best_calibrated(held_out, labelled)
        return FittedVectorRouter(
            name=self.name,
            encode=self.encode,
            method=self.methods[best],
            scorer=self.methods[best].fit(vectors, outcomes, weights, rng),
            calibration=calibration,
        )


def _vectors(encode: Encode, texts: Sequence[str]) -> Floats:
    return np.asarray(encode(texts), dtype=np.float64)
