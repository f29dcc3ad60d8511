"""RouteLLM's similarity-weighted ranking: a rating of the weak model made anew for each query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.routers._contest import contest
from foretell.routers._embedding import Encode, encode_with_minilm
from foretell.routers._neighbours import in_chunks
from foretell.routers._vector_router import Scorer, VectorRouter

Floats = NDArray[np.float64]

_BASE_RATE_COMPARISONS = 1.0
"""Comparisons at the highest similarity that end as the average one does, added for every query."""


def similarity_ranking_router(encode: Encode | None = None) -> VectorRouter:
    """Similarity-weighted ranking (arXiv 2406.18665, section 4) with the paper's weights.

    ``encode`` defaults to all-MiniLM-L6-v2, whose weights are fetched when first needed; the paper
    used OpenAI's vectors. What counts as a comparison is in ``contest``: wins and losses against
    the strong model where its outcomes are known, and against the bar of success.
    """
    return VectorRouter(
        name="sw_ranking",
        encode=encode or encode_with_minilm,
        methods=(SimilarityRanking(),),
        outcome=contest,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityRanking:
    """Rating of the weak model less its rival's, from comparisons weighted by similarity.

    A comparison on training query ``i`` weighs ``gamma ** (1 + S)``, with ``S`` the cosine of the
    two queries over the largest cosine to any training query. Bradley-Terry ratings of two players
    have a closed form: their difference is the log-odds of weighted wins.
    """

    gamma: float = 10.0

    def fit(
        self, vectors: Floats, outcomes: Floats, weights: Floats, rng: np.random.Generator
    ) -> Scorer:
        """Remembers the comparisons; vectors must have unit length."""
        del rng  # nothing here is random
        base = float(weights @ outcomes / weights.sum())

        def rating(queries: Floats) -> Floats:
            cosine = queries @ vectors.T
            largest = cosine.max(axis=1, keepdims=True)
            # A common factor cancels, so the nearest query may have weight 1 and no power
            # overflows. Where nothing is similar (no positive cosine), the base rate decides.
            likeness = np.where(largest > 0, cosine / np.where(largest > 0, largest, 1), -np.inf)
            weight = self.gamma ** (likeness - 1) * weights
            wins = weight @ outcomes + _BASE_RATE_COMPARISONS * base
            losses = weight @ (1 - outcomes) + _BASE_RATE_COMPARISONS * (1 - base)
            return np.log(wins / losses)

        return in_chunks(rating)
