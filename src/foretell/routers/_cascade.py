"""Two looks at a query: before the weak model answers, and after, put into one chance."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import FittedPlatt, Platt
from foretell.records import RoutingData
from foretell.routers._logistic import fit_logistic, log_odds
from foretell.routers._protocol import FittedRouter, Router, Sees
from foretell.routers._training import Fold, group_folds, labelled_rows

Floats = NDArray[np.float64]

_CERTAIN = 1e-6
"""Chances nearer to 0 or 1 than this count as this, so that their log-odds are finite."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOutStages:
    """Chances of the training queries, each by a fit that did not see the query's group.

    What the bars of ``two_stage_rule`` are chosen on; row i of every column is the query
    ``ids[i]``.
    """

    ids: tuple[str, ...]
    first: Floats
    combined: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedCascadeRouter:
    """``score`` is the log-odds of both looks together before calibration.

    ``first.p_success`` is the chance before answering, ``p_success`` the one after.
    """

    name: str
    first: FittedRouter
    second: FittedRouter
    coefficients: Floats
    intercept: float
    calibration: FittedPlatt
    held_out: HeldOutStages

    def score(self, data: RoutingData) -> Floats:
        """Log-odds of success from both looks, one per query."""
        looks = np.column_stack([_looked(self.first, data), _looked(self.second, data)])
        return log_odds(looks, self.coefficients, self.intercept)

    def p_success(self, data: RoutingData) -> Floats:
        """Calibrated chance of success once the weak model has answered, one per query."""
        return self.calibration.p(self.score(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeRouter:
    """A logistic combination of what ``first`` and ``second`` say of queries they did not see.

    ``first`` looks before the weak model answers, ``second`` at its answer. Two stages beat either
    part alone where the first is cheap (McKenzie et al., 2025, arXiv 2506.10805); deferring on the
    answer's own signals is AutoMix (arXiv 2310.12963) and FrugalGPT (arXiv 2305.05176).
    ``two_stage_rule`` turns the two chances into bars. Both routers are fitted once per fold, and
    once more on everything.
    """

    first: Router
    second: Router
    name: str = "cascade"
    sees: Sees = field(default="answer", init=False)

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedCascadeRouter:
        """Fits on the rows whose ``weak`` is known; see ``Router.fit``."""
        labelled = labelled_rows(data)
        folds = group_folds(labelled, rng)
        looks = _held_out_looks((self.first, self.second), labelled, folds, rng)
        weak, weights = labelled.weak, labelled.row_weights()
        scores = np.empty(len(labelled))
        for seen, held in folds:
            scores[held] = log_odds(
                looks[held], *fit_logistic(looks[seen], weak[seen], weights[seen], 1.0)
            )
        coefficients, intercept = fit_logistic(looks, weak, weights, 1.0)
        calibration = Platt().fit(scores, weak, weights)
        return FittedCascadeRouter(
            name=self.name,
            first=self.first.fit(labelled, rng),
            second=self.second.fit(labelled, rng),
            coefficients=coefficients,
            intercept=intercept,
            calibration=calibration,
            held_out=HeldOutStages(
                ids=labelled.ids,
                first=1 / (1 + np.exp(-looks[:, 0])),
                combined=calibration.p(scores),
            ),
        )


def _held_out_looks(
    routers: tuple[Router, Router],
    labelled: RoutingData,
    folds: tuple[Fold, ...],
    rng: np.random.Generator,
) -> Floats:
    looks = np.empty((len(labelled), len(routers)))
    for seen, held in folds:
        train, rest = labelled.take(seen), labelled.take(held)
        for column, router in enumerate(routers):
            looks[held, column] = _looked(router.fit(train, rng), rest)
    return looks


def _looked(router: FittedRouter, data: RoutingData) -> Floats:
    """Log-odds of the router's chance: unlike raw scores, the same scale from every fold's fit."""
    chance = np.clip(router.p_success(data), _CERTAIN, 1 - _CERTAIN)
    return np.log(chance / (1 - chance))
