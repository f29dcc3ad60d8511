"""A calibration for each domain that has labels enough, and a common one for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._calibrations import (
    SIMPLEST_FIRST,
    CalibrationKind,
    FittedCalibration,
)
from foretell.calibration._choice import choose_calibration
from foretell.calibration._columns import Column, group_column
from foretell.calibration._logistic import calibration_rows
from foretell.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPerDomain:
    """A calibration by domain; ``common`` serves the domains that have none of their own."""

    common: FittedCalibration
    by_domain: Mapping[str, FittedCalibration]

    @overload
    def p(self, scores: float, domains: str) -> float: ...

    @overload
    def p(self, scores: Column, domains: Sequence[str]) -> Column: ...

    def p(self, scores: float | Column, domains: str | Sequence[str]) -> float | Column:
        """Chances of success: one score of one domain, or a row of each."""
        if isinstance(domains, str):
            return self.by_domain.get(domains, self.common).p(scores)
        score, domain = np.asarray(scores, dtype=np.float64), np.asarray(domains, dtype=np.str_)
        if score.shape != domain.shape:
            raise InputError(
                f"{score.size} scores but {domain.size} domains; wanted one for each score"
            )
        chances = np.empty(len(score))
        for name in set(domains):
            rows = domain == name
            chances[rows] = self.by_domain.get(name, self.common).p(score[rows])
        return chances


def calibrate_by_domain(
    scores: ArrayLike,
    outcomes: ArrayLike,
    domains: Sequence[str],
    weights: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    at_least: int = 100,
    folds: int = 5,
    seed: int = 0,
    kinds: Sequence[CalibrationKind] = SIMPLEST_FIRST,
) -> FittedPerDomain:
    """A calibration chosen for each domain by itself, and a common one over all rows.

    A domain gets its own from ``at_least`` outcomes in at least ``folds`` groups on. Below, what
    it would gain is less than the noise of its own slope and intercept costs, so the common one
    serves it.

    Args:
        scores: Log-odds of queries that the scores were not fitted on, higher means likelier.
        outcomes: Successes between 0 and 1.
        domains: Of each row.
        weights: Repetitions of each row; a row without weight is not an outcome.
        groups: What must not straddle two folds; each row is its own group when not given.
        at_least: Outcomes that a domain needs for its own calibration.
        folds: See ``choose_calibration``, like ``seed`` and ``kinds``.
        seed: Decides which group falls into which fold.
        kinds: What to choose from.

    Raises:
        TrainingDataError: No rows with weight, or fewer than 3 groups.
    """
    score, outcome, weight = calibration_rows(scores, outcomes, weights)
    group = group_column(groups, len(score))
    if len(domains) != len(score):
        raise InputError(f"{len(domains)} domains for {len(score)} scores; wanted one for each")
    domain = np.asarray(domains, dtype=np.str_)

    def choose(rows: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> FittedCalibration:
        return choose_calibration(
            score[rows],
            outcome[rows],
            weight[rows],
            groups=group[rows],
            folds=folds,
            seed=seed,
            kinds=kinds,
        ).fitted

    by_domain: dict[str, FittedCalibration] = {}
    for name in sorted(set(domains)):
        rows = (domain == name) & (weight > 0)
        if np.count_nonzero(rows) >= at_least and len(np.unique(group[rows])) >= folds:
            by_domain[name] = choose(rows)
    return FittedPerDomain(common=choose(weight > 0), by_domain=by_domain)
