"""Held-out folds: rows scored by a probe that has not seen their group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import Platt, auroc
from foretell.probes._protocol import Probe
from foretell.records import ReadPoint, RoutingData

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def folds_of(data: RoutingData, folds: int, seed: int) -> tuple[Rows, ...]:
    """Held-out rows by fold: no group in two folds, outcomes balanced, every row once."""
    from foretell.probes._fitting import group_folds

    return group_folds(data.weak >= 0.5, np.asarray(data.groups), folds, seed)


def others(n: int, rows: Rows) -> Rows:
    """The rows of ``n`` that are not in ``rows``."""
    left = np.ones(n, dtype=bool)
    left[rows] = False
    return np.flatnonzero(left)


def reading_only(data: RoutingData, points: Sequence[ReadPoint]) -> RoutingData:
    """The same queries with activations at ``points`` alone, so that taking rows copies no more."""
    return replace(
        data,
        activations={p: rows for p, rows in data.activations.items() if p in points},
        sequences={p: tokens for p, tokens in data.sequences.items() if p in points},
    )


def held_out_scores(
    probe: Probe, data: RoutingData, held_out: Sequence[Rows], *, seed: int
) -> Floats:
    """Every row's score by ``probe`` fitted on the rows of the other folds."""
    scores = np.empty(len(data))
    for test in held_out:
        fitted = probe.fit(data.take(others(len(data), test)), seed=seed)
        scores[test] = fitted.scores(data.take(test))
    return scores


def held_out_chances(scores: Floats, data: RoutingData, held_out: Sequence[Rows]) -> Floats:
    """Every row's chance, its held-out score calibrated (Platt) on the other folds."""
    weights = data.row_weights()
    chances = np.empty(len(data))
    for test in held_out:
        rest = others(len(data), test)
        curve = Platt().fit(scores[rest], data.weak[rest], weights[rest])
        chances[test] = curve.p(scores[test])
    return chances


def auroc_over_folds(
    scores: Floats, data: RoutingData, held_out: Sequence[Rows]
) -> tuple[float | None, float | None]:
    """Mean AUROC over folds and its standard deviation; ``None`` where too few are defined."""
    weights = data.row_weights()
    by_fold = [auroc(scores[test], data.weak[test], weights[test]) for test in held_out]
    defined = [value for value in by_fold if value is not None]
    return (
        float(np.mean(defined)) if defined else None,
        float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
    )
