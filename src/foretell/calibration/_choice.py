"""Which kind of calibration, chosen on held-out folds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._calibrations import (
    SIMPLEST_FIRST,
    CalibrationKind,
    FittedCalibration,
    fit_calibration,
)
from foretell.calibration._columns import Column, Index, group_column
from foretell.calibration._logistic import calibration_rows
from foretell.calibration._metrics import log_losses
from foretell.errors import InputError, TrainingDataError

_ISOTONIC_AT_LEAST: Final = 200
"""Outcomes below which steps follow the noise: Niculescu-Mizil and Caruana (2005) put the point
where isotonic regression begins to win between 200 and 1,000."""

_FEWEST_FOLDS: Final = 3
"""One fold judges, one chooses, and one is left to fit on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationChoice:
    """The calibration chosen, and the evidence.

    ``log_loss`` is each candidate's over held-out folds, in nats; kinds that were not tried are
    absent. ``p_held_out`` are honest chances, row by row: fitted on the other folds, by the kind
    that those other folds alone would choose.
    """

    fitted: FittedCalibration
    log_loss: Mapping[CalibrationKind, float]
    p_held_out: Column

    @property
    def kind(self) -> CalibrationKind:
        """Which kind was chosen."""
        return self.fitted.kind


def choose_calibration(
    scores: ArrayLike,
    outcomes: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    folds: int = 5,
    seed: int = 0,
    kinds: Sequence[CalibrationKind] = SIMPLEST_FIRST,
) -> CalibrationChoice:
    """The simplest kind that is as good as the best, by log loss over held-out folds.

    As good means that the mean loss exceeds the least by no more than one standard error of the
    paired difference, over groups (the one-standard-error rule of Breiman et al., 1984). From
    simple to complex: temperature, Platt, beta, isotonic; the last is tried from 200 outcomes on.

    Args:
        scores: Log-odds of queries that the scores were not fitted on, higher means likelier.
        outcomes: Successes between 0 and 1.
        weights: Repetitions of each row.
        groups: What must not straddle two folds; each row is its own group when not given.
        folds: At least 3; fewer are used when there are fewer groups.
        seed: Decides which group falls into which fold.
        kinds: What to choose from, in any order.

    Raises:
        TrainingDataError: No rows with weight, or fewer than 3 groups.
    """
    score, outcome, weight = calibration_rows(scores, outcomes, weights)
    group = group_column(groups, len(score))
    candidates = _candidates(kinds, int(np.count_nonzero(weight)))
    fold_of = _group_folds(group, folds, seed)
    count = int(fold_of.max()) + 1

    @cache
    def without(kind: CalibrationKind, left_out: frozenset[int]) -> FittedCalibration:
        rows = ~np.isin(fold_of, list(left_out))
        return fit_calibration(kind, score[rows], outcome[rows], weight[rows])

    def choose(left_out: frozenset[int]) -> tuple[CalibrationKind, dict[CalibrationKind, float]]:
        """By the rows of the other folds, each judged by a fit without its own fold."""
        rows = np.flatnonzero(~np.isin(fold_of, list(left_out)))
        losses: dict[CalibrationKind, Column] = {}
        for kind in candidates:
            p = np.empty(len(score))
            for fold in set(range(count)) - left_out:
                held_out = fold_of == fold
                p[held_out] = without(kind, left_out | {fold}).p(score[held_out])
            losses[kind] = log_losses(p[rows], outcome[rows])
        return _simplest_of_near_equals(losses, weight[rows], group[rows])

    kind, log_loss = choose(frozenset())
    p_held_out = np.empty(len(score))
    for fold in range(count):
        alone = frozenset({fold})
        held_out = fold_of == fold
        p_held_out[held_out] = without(choose(alone)[0], alone).p(score[held_out])
    return CalibrationChoice(
        fitted=fit_calibration(kind, score, outcome, weight),
        log_loss=log_loss,
        p_held_out=p_held_out,
    )


def _candidates(kinds: Sequence[CalibrationKind], outcomes: int) -> tuple[CalibrationKind, ...]:
    unknown = sorted(set(kinds) - set(SIMPLEST_FIRST))
    if unknown or not kinds:
        raise InputError(
            f"cannot choose a calibration from {list(kinds)}; wanted some of "
            f"{', '.join(SIMPLEST_FIRST)}"
        )
    wanted: tuple[CalibrationKind, ...] = tuple(
        kind
        for kind in SIMPLEST_FIRST
        if kind in kinds and (kind != "isotonic" or outcomes >= _ISOTONIC_AT_LEAST)
    )
    if not wanted:
        raise TrainingDataError(
            f"{outcomes} outcomes are too few for isotonic calibration, the only kind asked for; "
            f"label {_ISOTONIC_AT_LEAST} or allow 'platt'"
        )
    return wanted


def _group_folds(group: Index, folds: int, seed: int) -> Index:
    """A fold for every row: whole groups, dealt out evenly in random order."""
    if folds < _FEWEST_FOLDS:
        raise InputError(f"folds must be at least {_FEWEST_FOLDS}, got {folds}")
    n_groups = int(group.max()) + 1
    if n_groups < _FEWEST_FOLDS:
        raise TrainingDataError(
            f"{n_groups} groups cannot be held out in turn; wanted at least {_FEWEST_FOLDS} to "
            "choose a kind of calibration, or fit Platt() without choosing"
        )
    deal = np.random.default_rng(seed).permutation(n_groups) % min(folds, n_groups)
    return deal[group]


def _simplest_of_near_equals(
    losses: Mapping[CalibrationKind, Column], weight: Column, group: Index
) -> tuple[CalibrationKind, dict[CalibrationKind, float]]:
    """The first kind within one standard error of the best, and the mean loss of each."""
    total = float(weight.sum())
    means: dict[CalibrationKind, float] = {
        kind: float(weight @ loss / total) for kind, loss in losses.items()
    }
    best = min(losses, key=lambda kind: means[kind])

    def is_near(kind: CalibrationKind) -> bool:
        excess = losses[kind] - losses[best]
        mean = means[kind] - means[best]
        by_group = np.bincount(group, weight * (excess - mean))
        n_groups = len(np.unique(group))
        correction = n_groups / (n_groups - 1)
        return mean <= math.sqrt(correction * float(by_group @ by_group)) / total

    return next(kind for kind in losses if is_near(kind)), means
