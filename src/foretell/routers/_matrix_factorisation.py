"""RouteLLM's matrix factorisation: models and queries in one space of few dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.routers._contest import contest
from foretell.routers._embedding import Encode, encode_with_minilm
from foretell.routers._vector_router import Scorer, VectorRouter

Floats = NDArray[np.float64]

_DIMENSIONS = 8
_WEIGHT_DECAYS = (1e-3, 3e-3, 1e-2, 3e-2)


def matrix_factorisation_router(encode: Encode | None = None) -> VectorRouter:
    """Matrix factorisation (arXiv 2406.18665, section 4), weight decay chosen on folds.

    ``encode`` defaults to all-MiniLM-L6-v2, whose weights are fetched when first needed; the paper
    used OpenAI's vectors and preferences between many models. Here are two players: the weak model,
    and its rivals as one (see ``contest``).
    """
    return VectorRouter(
        name="mf",
        encode=encode or encode_with_minilm,
        methods=tuple(
            MatrixFactorisation(dimensions=_DIMENSIONS, weight_decay=weight_decay)
            for weight_decay in _WEIGHT_DECAYS
        ),
        outcome=contest,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixFactorisation:
    """``delta(weak, q) - delta(rival, q)`` with ``delta(m, q) = w2 . (v_m * (W1 q + b))``.

    ``v_m`` is a model's embedding of length ``dimensions``, ``W1 q + b`` the query's, and ``*``
    goes element by element. The difference is the log-odds that the weak model wins; all five
    factors are fitted to the comparisons by least mean cross-entropy, with ``weight_decay`` times
    half the sum of squares of all but ``b``.

    For one pair of models this is linear in ``q``: what tells it from a logistic regression is the
    regularisation alone, which acts on the factors instead of on their product. The least costly
    factors put everything in one dimension, so ``dimensions`` hardly changes what is learnt.
    """

    dimensions: int
    weight_decay: float

    def fit(
        self, vectors: Floats, outcomes: Floats, weights: Floats, rng: np.random.Generator
    ) -> Scorer:
        """Starts from small random factors; what is left of ``rng`` after that is untouched."""
        from scipy.optimize import minimize

        # Vectors of like texts nearly coincide; without their mean the fit acts on what differs.
        centre = weights @ vectors / weights.sum()
        queries, share = vectors - centre, weights / weights.sum()

        def loss(flat: Floats) -> tuple[float, Floats]:
            factors = _Factors.of(flat, self.dimensions)
            return factors.loss_and_gradient(queries, outcomes, share, self.weight_decay)

        # Four vectors (weak, rival, w2, b) and the projection W1 of a query.
        size = self.dimensions * (4 + vectors.shape[1])
        start = rng.normal(0, self.dimensions**-0.5, size)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
        factors = _Factors.of(found.x, self.dimensions)
        coefficients, intercept = factors.as_linear()
        return lambda new: (new - centre) @ coefficients + intercept


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Factors:
    """All that is fitted; ``weak``, ``rival``, ``mix`` (w2) and ``shift`` (b) are (dimensions,)."""

    weak: Floats
    rival: Floats
    mix: Floats
    shift: Floats
    projection: Floats
    """W1, (dimensions, width)."""

    @classmethod
    def of(cls, flat: Floats, dimensions: int) -> _Factors:
        weak, rival, mix, shift = flat[: 4 * dimensions].reshape(4, dimensions)
        projection = flat[4 * dimensions :].reshape(dimensions, -1)
        return cls(weak=weak, rival=rival, mix=mix, shift=shift, projection=projection)

    def as_linear(self) -> tuple[Floats, float]:
        """Coefficients (width,) and intercept of the difference of the two deltas."""
        direction = self.mix * (self.weak - self.rival)
        return direction @ self.projection, float(direction @ self.shift)

    def loss_and_gradient(
        self, queries: Floats, outcomes: Floats, share: Floats, weight_decay: float
    ) -> tuple[float, Floats]:
        """Penalised mean cross-entropy and its slope along the flat factors."""
        coefficients, intercept = self.as_linear()
        logits = queries @ coefficients + intercept
        cross_entropy = share @ (np.logaddexp(0, logits) - outcomes * logits)
        decayed = (self.weak, self.rival, self.mix, self.projection)
        penalty = weight_decay / 2 * sum(float(np.square(factor).sum()) for factor in decayed)

        residual = share * (np.exp(-np.logaddexp(0, -logits)) - outcomes)
        along_queries = residual @ queries
        along_direction = self.projection @ along_queries + residual.sum() * self.shift
        along_models = along_direction * self.mix
        direction = self.mix * (self.weak - self.rival)
        gradient = (
            along_models + weight_decay * self.weak,
            -along_models + weight_decay * self.rival,
            along_direction * (self.weak - self.rival) + weight_decay * self.mix,
            residual.sum() * direction,
            np.outer(direction, along_queries) + weight_decay * self.projection,
        )
        return float(cross_entropy + penalty), np.concatenate([part.ravel() for part in gradient])
