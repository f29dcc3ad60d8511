"""A logistic regression on features of the query: what most baselines are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import FittedPlatt, Platt
from foretell.records import RoutingData
from foretell.routers._protocol import Sees
from foretell.routers._training import Fold, group_folds, labelled_rows

Floats = NDArray[np.float64]

Features = Callable[[RoutingData], Any]
"""Queries to a matrix (queries, features), dense float64 or SciPy sparse, row by row."""

Featuriser = Callable[[RoutingData], Features]
"""Learns how to make features (a vocabulary, a scale) from queries alone, never from outcomes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedLogisticRouter:
    """``score`` is the log-odds of the regression, ``p_success`` its Platt-calibrated chance."""

    name: str
    features: Features
    coefficients: NDArray[np.float64]
    intercept: float
    calibration: FittedPlatt

    def score(self, data: RoutingData) -> NDArray[np.float64]:
        """Log-odds of success before calibration, one per query."""
        if not len(data):  # scikit-learn's vectorisers refuse an empty batch
            return np.empty(0)
        return log_odds(self.features(data), self.coefficients, self.intercept)

    def p_success(self, data: RoutingData) -> NDArray[np.float64]:
        """Calibrated chance of success, one per query."""
        return self.calibration.p(self.score(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticRouter:
    """L2-regularised logistic regression on what a featuriser makes of the queries.

    The featuriser is ``featuriser`` or one of its ``alternatives``, the regularisation one of
    ``inverse_l2`` (scikit-learn's ``C``): the two that have the least log loss on held-out folds,
    and those held-out scores fit the calibration. Success rates between 0 and 1 are soft labels: a
    row of 0.8 counts as 0.8 of a success and 0.2 of a failure. ``weights`` of the queries multiply
    that.
    """

    name: str
    sees: Sees
    featuriser: Featuriser
    alternatives: tuple[Featuriser, ...] = ()
    inverse_l2: tuple[float, ...] = (1.0,)

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedLogisticRouter:
        """Fits on the rows whose ``weak`` is known; see ``Router.fit``."""
        labelled = labelled_rows(data)
        candidates = list(product((self.featuriser, *self.alternatives), self.inverse_l2))
        held_out = self._held_out_scores(labelled, group_folds(labelled, rng))
        weights = labelled.row_weights()
        losses = [_log_loss(scores, labelled.weak, weights) for scores in held_out]
        best = int(np.argmin(losses))
        featuriser, inverse_l2 = candidates[best]
        features = featuriser(labelled)
        coefficients, intercept = fit_logistic(
            features(labelled), labelled.weak, weights, inverse_l2
        )
        return FittedLogisticRouter(
            name=self.name,
            features=features,
            coefficients=coefficients,
            intercept=intercept,
            calibration=Platt().fit(held_out[best], labelled.weak, weights),
        )

    def _held_out_scores(self, labelled: RoutingData, folds: tuple[Fold, ...]) -> Floats:
        """Scores (featurisers x regularisations, queries), none by a fit that saw the group."""
        scores: list[Floats] = []
        for featuriser in (self.featuriser, *self.alternatives):
            by_strength = np.empty((len(self.inverse_l2), len(labelled)))
            for fitted, held in folds:
                train = labelled.take(fitted)
                features = featuriser(train)
                seen, unseen = features(train), features(labelled.take(held))
                for row, inverse_l2 in enumerate(self.inverse_l2):
                    fit = fit_logistic(seen, train.weak, train.row_weights(), inverse_l2)
                    by_strength[row, held] = log_odds(unseen, *fit)
            scores.extend(by_strength)
        return np.array(scores)


def fit_logistic(
    features: Any, rates: Floats, weights: Floats, inverse_l2: float
) -> tuple[Floats, float]:
    """Coefficients (features,) and intercept; each row is a success and a failure, in parts."""
    from sklearn.linear_model import LogisticRegression

    row = np.tile(np.arange(len(rates)), 2)
    outcome = np.repeat([1, 0], len(rates))
    weight = np.concatenate([weights * rates, weights * (1 - rates)])
    counts = weight > 0
    model = LogisticRegression(C=inverse_l2, max_iter=5_000)
    model.fit(features[row[counts]], outcome[counts], sample_weight=weight[counts])
    return np.asarray(model.coef_[0], dtype=np.float64), float(np.ravel(model.intercept_)[0])


def log_odds(features: Any, coefficients: Floats, intercept: float) -> Floats:
    """One number per row of ``features``."""
    return np.asarray(features @ coefficients, dtype=np.float64) + intercept


def _log_loss(scores: Floats, rates: Floats, weights: Floats) -> float:
    return float(np.average(np.logaddexp(0, scores) - rates * scores, weights=weights))
