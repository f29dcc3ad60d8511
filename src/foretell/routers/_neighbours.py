"""Nearest neighbours in sentence space: like queries fare alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.routers._embedding import Encode, encode_with_minilm
from foretell.routers._vector_router import Scorer, VectorRouter

Floats = NDArray[np.float64]

_COUNTS = (5, 10, 20, 40, 80, 160)
_BASE_RATE_NEIGHBOURS = 1.0
"""Neighbours of full weight whose outcome is the base rate, added to every neighbourhood."""

_ALIKE = 1e-6
"""Cosine distance below which texts count as the same, whatever rounding makes of it."""

_CHUNK = 256
"""Queries compared at once: bounds memory at 20 MiB for 10,000 training queries."""


def knn_router(encode: Encode | None = None) -> VectorRouter:
    """Weighted nearest neighbours by cosine, their number chosen on folds.

    Among the strongest query-side routers where many were compared (arXiv 2606.07587).
    ``encode`` defaults to all-MiniLM-L6-v2, whose weights are fetched when first needed.
    """
    return VectorRouter(
        name="knn",
        encode=encode or encode_with_minilm,
        methods=tuple(Neighbours(count=count) for count in _COUNTS),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Log-odds of the weighted success rate among the ``count`` nearest training queries.

    A neighbour at cosine distance ``d`` weighs ``1 - d / h``, where ``h`` is the distance of the
    first one left out (triangular kernel: Hechenbichler and Schliep, 2004, "Weighted
    k-nearest-neighbor techniques"). So a neighbour's weight fades to 0 as it leaves, and rounding
    cannot swap one for another. The rate is shrunk to the base rate by one neighbour.
    """

    count: int

    def fit(
        self, vectors: Floats, outcomes: Floats, weights: Floats, rng: np.random.Generator
    ) -> Scorer:
        """Remembers the training queries; vectors must have unit length."""
        del rng  # nothing here is random
        base = float(weights @ outcomes / weights.sum())
        first_left_out = min(self.count, len(vectors) - 1)

        def log_odds(queries: Floats) -> Floats:
            distance = np.maximum(1 - queries @ vectors.T, 0)
            reach = np.partition(distance, first_left_out, axis=1)[:, first_left_out]
            near = np.maximum(1 - distance / np.maximum(reach, _ALIKE)[:, None], 0) * weights
            successes = near @ outcomes + _BASE_RATE_NEIGHBOURS * base
            failures = near @ (1 - outcomes) + _BASE_RATE_NEIGHBOURS * (1 - base)
            return np.log(successes / failures)

        return in_chunks(log_odds)


def in_chunks(scorer: Scorer) -> Scorer:
    """The same scorer, asked about so many queries at once that their distances fit in memory."""

    def scores(queries: Floats) -> Floats:
        starts = range(0, len(queries), _CHUNK)
        return np.concatenate([scorer(queries[start : start + _CHUNK]) for start in starts])

    return scores
