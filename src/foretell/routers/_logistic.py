"""A logistic regression on features of the query: what most baselines are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import FittedPlatt, Platt
from foretell.records import RoutingData
from foretell.routers._protocol import Sees
from foretell.routers._training import Fold, group_folds, labelled_rows

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
        return _log_odds(self.features(data), self.coefficients, self.intercept)

    def p_success(self, data: RoutingData) -> NDArray[np.float64]:
        """Calibrated chance of success, one per query."""
        return self.calibration.p(self.score(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticRouter:
    """L2-regularised logistic regression on what ``featuriser`` makes of the queries.

    The regularisation is the one of ``inverse_l2`` (scikit-learn's ``C``) with the least log loss
    on held-out folds, and those held-out scores fit the calibration. Success rates between 0 and 1
    are soft labels: a row of 0.8 counts as 0.8 of a success and 0.2 of a failure.
    """

    name: str
    sees: Sees
    featuriser: Featuriser
    inverse_l2: tuple[float, ...] = (1.0,)

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedLogisticRouter:
        """Fits on the rows whose ``weak`` is known; see ``Router.fit``."""
        labelled = labelled_rows(data)
        held_out = self._held_out_scores(labelled, group_folds(labelled, rng))
        losses = [_log_loss(scores, labelled.weak) for scores in held_out]
        best = int(np.argmin(losses))
        features = self.featuriser(labelled)
        coefficients, intercept = _fit(features(labelled), labelled.weak, self.inverse_l2[best])
        return FittedLogisticRouter(
            name=self.name,
            features=features,
            coefficients=coefficients,
            intercept=intercept,
            calibration=Platt().fit(held_out[best], labelled.weak),
        )

    def _held_out_scores(
        self, labelled: RoutingData, folds: tuple[Fold, ...]
    ) -> NDArray[np.float64]:
        """Scores by candidate and query, each from a fit that did not see the query's group."""
        scores = np.empty((len(self.inverse_l2), len(labelled)))
        for fitted, held in folds:
            train = labelled.take(fitted)
            features = self.featuriser(train)
            seen, unseen = features(train), features(labelled.take(held))
            for candidate, inverse_l2 in enumerate(self.inverse_l2):
                scores[candidate, held] = _log_odds(unseen, *_fit(seen, train.weak, inverse_l2))
        return scores


def _fit(
    features: Any, rates: NDArray[np.float64], inverse_l2: float
) -> tuple[NDArray[np.float64], float]:
    """Coefficients and intercept; each row enters once as a success and once as a failure."""
    from sklearn.linear_model import LogisticRegression

    row = np.tile(np.arange(len(rates)), 2)
    outcome = np.repeat([1, 0], len(rates))
    weight = np.concatenate([rates, 1 - rates])
    counts = weight > 0
    model = LogisticRegression(C=inverse_l2, max_iter=5_000)
    model.fit(features[row[counts]], outcome[counts], sample_weight=weight[counts])
    return np.asarray(model.coef_[0], dtype=np.float64), float(np.ravel(model.intercept_)[0])


def _log_odds(
    features: Any, coefficients: NDArray[np.float64], intercept: float
) -> NDArray[np.float64]:
    return np.asarray(features @ coefficients, dtype=np.float64) + intercept


def _log_loss(log_odds: NDArray[np.float64], rates: NDArray[np.float64]) -> float:
    return float(np.mean(np.logaddexp(0, log_odds) - rates * log_odds))
