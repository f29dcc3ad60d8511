"""Fitting a gate: the one place where it needs scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError, TrainingDataError
from foretell.probes._gate import FittedGate, GateSettings
from foretell.probes._honest import Metric, with_interval
from foretell.probes._threads import spare_one_core
from foretell.probes._training_rows import require_activations
from foretell.records import ReadPoint

try:
    from sklearn.covariance import LedoitWolf
except ImportError as error:
    raise TrainingDataError(
        "fitting a gate needs scikit-learn, which is not installed; pip install 'foretell[train]'"
    ) from error

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]

_MOST_QUERIES: Final = 6_000
"""More add time and memory but hardly move a covariance of some dozens of axes."""

_MOST_REFERENCES: Final = 2_000
"""Training queries searched for neighbours; a search reads them all."""

_NEIGHBOUR_SHARE: Final = 0.25
"""The part outside of the subspace, in the Mahalanobis distance, is the sharper signal."""

_FOLDS: Final = 3
"""In which false alarms are measured: like the gate itself, each is fitted on two thirds."""

_NEGLIGIBLE: Final = 1e-6
"""Relative size under which a spread or a variance is float32 noise."""

_UNKNOWN: Final = Metric(value=None, low=None, high=None, n=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    read_point: ReadPoint
    components: int
    neighbours: int
    false_alarm: float

    @property
    def fewest_to_calibrate(self) -> int:
        """So many that a p-value can be as small as ``false_alarm``."""
        return int(np.ceil(1 / self.false_alarm)) - 1


def fit(
    activations: NDArray[np.float32],
    read_point: ReadPoint,
    *,
    seed: int,
    groups: NDArray[np.str_] | None,
    components: int,
    neighbours: int,
    false_alarm: float,
) -> FittedGate:
    """``fit_gate``, behind the import of scikit-learn."""
    if not 0 < false_alarm < 1:
        raise InputError(f"false_alarm must be above 0 and below 1, got {false_alarm}")
    if components < 1 or neighbours < 1:
        raise InputError(
            f"components and neighbours must be at least 1, got {components} and {neighbours}"
        )
    rows = require_activations(activations, read_point, len(activations))
    names = np.arange(len(rows)).astype(np.str_) if groups is None else np.asarray(groups)
    if names.shape != (len(rows),):
        raise TrainingDataError(f"{len(names)} groups do not fit {len(rows)} queries")
    plan = _Plan(
        read_point=read_point,
        components=components,
        neighbours=neighbours,
        false_alarm=false_alarm,
    )
    generator = np.random.default_rng(seed)
    if len(rows) > _MOST_QUERIES:
        some = np.sort(generator.choice(len(rows), _MOST_QUERIES, replace=False))
        rows, names = rows[some], names[some]
    with spare_one_core():
        false_alarms = _measured(rows, names, plan, generator, seed)
        return _fit(rows, names, plan, generator, false_alarms)


def _fit(
    rows: Vectors,
    names: NDArray[np.str_],
    plan: _Plan,
    generator: np.random.Generator,
    false_alarms: Metric,
) -> FittedGate:
    third = _dealt(names, _FOLDS, generator) == 0
    seen, calibration = rows[~third], rows[third]
    fewest = plan.fewest_to_calibrate
    if len(calibration) < fewest or len(seen) <= plan.neighbours:
        raise TrainingDataError(
            f"{len(rows)} queries in {len(np.unique(names))} groups leave {len(calibration)} to "
            f"calibrate a gate on, and {len(seen)} to fit it to; false alarms of "
            f"{plan.false_alarm:g} need {fewest} and more than {plan.neighbours}, so collect more "
            "queries"
        )
    gate = _around(seen, plan, generator)
    mahalanobis, neighbour = gate.distances(calibration)
    share = _NEIGHBOUR_SHARE
    settings = GateSettings(
        read_point=plan.read_point,
        false_alarm=plan.false_alarm,
        false_alarms=false_alarms,
        outside_variance=gate.settings.outside_variance,
        neighbours=plan.neighbours,
        # A part of the false alarms which no p-value can be small enough for is better not spent.
        neighbour_share=share if 1 / (1 + len(calibration)) <= share * plan.false_alarm else 0.0,
        n_fit=len(seen),
        n_calibration=len(calibration),
    )
    return FittedGate(
        settings=settings,
        mean=gate.mean,
        scale=gate.scale,
        axes=gate.axes,
        whitening=gate.whitening,
        references=gate.references,
        calibration_mahalanobis=np.sort(mahalanobis),
        calibration_neighbour=np.sort(neighbour),
    )


def _around(seen: Vectors, plan: _Plan, generator: np.random.Generator) -> FittedGate:
    """The space and its distances, not yet calibrated."""
    from foretell.probes._fitting import fit_reduction

    mean = seen.mean(axis=0, dtype=np.float64)
    spread = seen.std(axis=0, dtype=np.float64)
    varies = spread > _NEGLIGIBLE * np.abs(mean)
    scale = np.where(varies, 1 / np.where(varies, spread, 1), 0).astype(np.float32)
    mean = mean.astype(np.float32)
    standard = (seen - mean) * scale
    # More axes than half the queries would leave nothing to see outside of them.
    axes = fit_reduction(standard, min(plan.components, len(seen) // 2)).projection
    coordinates = standard @ axes
    precision = LedoitWolf(assume_centered=True).fit(coordinates.astype(np.float64)).precision_
    whitening = np.linalg.cholesky(np.asarray(precision)).astype(np.float32)
    references = coordinates @ whitening
    if len(references) > _MOST_REFERENCES:
        references = references[generator.choice(len(seen), _MOST_REFERENCES, replace=False)]
    uncalibrated = np.zeros(1, dtype=np.float32)
    return FittedGate(
        settings=GateSettings(
            read_point=plan.read_point,
            false_alarm=plan.false_alarm,
            false_alarms=_UNKNOWN,
            outside_variance=_outside_variance(standard, coordinates, int(varies.sum())),
            neighbours=plan.neighbours,
            neighbour_share=0.0,
            n_fit=len(seen),
            n_calibration=1,
        ),
        mean=mean,
        scale=scale,
        axes=axes,
        whitening=whitening,
        references=references,
        calibration_mahalanobis=uncalibrated,
        calibration_neighbour=uncalibrated,
    )


def _outside_variance(standard: Vectors, coordinates: Vectors, varying: int) -> float:
    """Mean variance of a direction outside of the subspace (Tipping and Bishop, 1999, eq. 8)."""
    directions = varying - coordinates.shape[1]
    if directions <= 0:
        return 1.0
    outside = np.sum(standard**2, dtype=np.float64) - np.sum(coordinates**2, dtype=np.float64)
    return max(float(outside) / (len(standard) * directions), _NEGLIGIBLE)


def _measured(
    rows: Vectors,
    names: NDArray[np.str_],
    plan: _Plan,
    generator: np.random.Generator,
    seed: int,
) -> Metric:
    """Share called outside by gates fitted without their fold; unknown where queries are few."""
    fold_of = _dealt(names, _FOLDS, generator)
    flagged = np.empty(len(rows))
    for fold in range(_FOLDS):
        test = fold_of == fold
        try:
            gate = _fit(rows[~test], names[~test], plan, generator, _UNKNOWN)
        except TrainingDataError:
            return _UNKNOWN
        flagged[test] = gate.outside(rows[test])
    return with_interval(
        lambda weights: float(weights @ flagged / weights.sum()), names.tolist(), seed
    )


def _dealt(names: NDArray[np.str_], folds: int, generator: np.random.Generator) -> Rows:
    """A fold for every row, about as many rows in each, no group in two."""
    _, group, sizes = np.unique(names, return_inverse=True, return_counts=True)
    fold_of_group = np.empty(len(sizes), dtype=np.int64)
    filled = np.zeros(folds, dtype=np.int64)
    order = generator.permutation(len(sizes))
    # Largest first, so that the small ones even out what the large ones leave uneven.
    for each in order[np.argsort(-sizes[order], kind="stable")]:
        emptiest = int(filled.argmin())
        fold_of_group[each] = emptiest
        filled[emptiest] += sizes[each]
    return fold_of_group[group]
