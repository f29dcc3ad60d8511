"""The probe for some labelled queries: chosen, fitted, calibrated and honestly measured.

First the linear search finds the read point and its setting, then richer kinds are tried against
it on the same folds. The honest estimate repeats all of that without the rows it is measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from foretell.calibration import FittedCalibration, Platt, choose_calibration
from foretell.errors import TrainingDataError
from foretell.probes._bounded import bound_weights
from foretell.probes._folds import Floats, folds_of, held_out_chances, others
from foretell.probes._honest import Metric, measure
from foretell.probes._linear_search import Grid, LinearSearch, Sample, SweepRow, search_linear
from foretell.probes._protocol import FittedProbe
from foretell.probes._rivals import SIMPLEST_FIRST, Candidate, KindRow, choose_kind
from foretell.probes._threads import spare_one_core
from foretell.probes._training_rows import (
    require_activations,
    require_distinct_ids,
    require_groups,
    require_outcomes,
    require_read_points,
    require_weights,
)
from foretell.records import ReadPoint, RoutingData

Progress = Callable[[int, int], None]
"""Told the steps done (read points searched, kinds tried) and in all."""

DEFAULT_KINDS = ("linear", "several", "mix", "fusion")
"""Those that need no torch."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """The chosen probe and the evidence for the choice.

    ``probe`` is fitted on all labelled rows and calibrated on their held-out ``scores``. ``ids``,
    ``outcomes``, ``weights``, ``scores`` and ``p_success`` share their rows: the labelled queries,
    each scored by a probe of the same setting that has not seen its group, each calibrated on
    other folds. ``chosen`` is the best linear setting, whichever of ``kinds_tried`` won; ``sweep``
    holds all linear settings. ``metrics`` (``auroc``, ``brier``, ``ece``, ``log_loss``) come from
    repeating the whole selection inside outer folds when ``nested``; otherwise from ``p_success``,
    whose setting was chosen on the same rows: a little too good.
    """

    probe: FittedProbe
    chosen: SweepRow
    sweep: tuple[SweepRow, ...]
    kinds_tried: tuple[KindRow, ...]
    ids: tuple[str, ...]
    outcomes: Floats
    weights: Floats
    scores: Floats
    p_success: Floats
    metrics: Mapping[str, Metric]
    nested: bool
    unlabelled: int
    folds: int
    seed: int


def select_probe(
    data: RoutingData,
    *,
    kinds: Sequence[str] = DEFAULT_KINDS,
    read_points: Sequence[ReadPoint] | None = None,
    components: Sequence[int] = (16, 32, 64, 128),
    l2: Sequence[float] = (1.0, 10.0, 100.0, 1000.0),
    shrink: Sequence[float] = (0.0, 1.0),
    folds: int = 5,
    shortlist: int = 4,
    nested: bool = True,
    seed: int,
    progress: Progress | None = None,
) -> Selection:
    """Choose, fit, calibrate and honestly measure a probe of ``data.weak``.

    Where ``data`` has a ``weak_chance`` and weights that undo it, what ranks the queries is fitted
    and chosen by bounded ones, see ``bound_weights``; calibration and metrics go by the whole.

    Folds share no group and balance the outcomes. Of linear settings the best mean AUROC over
    folds wins; of equals, the lower layer (it can stop a prefill sooner), fewer components, less
    shrinkage and more regularisation. A richer kind wins when its held-out log loss is lower than
    the simpler one's by more than one standard error, clustered by group.

    Args:
        data: Queries with activations and ``weak`` outcomes, honouring ``weights``; unlabelled
            ones, and those of weight 0, are counted and left out.
        kinds: Kinds to choose from: ``linear``, ``several``, ``mix``, ``mlp``, ``attention`` (the
            last two need torch to fit) and ``fusion``, which wraps the best of the others.
        read_points: Those to choose from; all in ``data`` when not given.
        components: Numbers of principal components to try; those above the number of labels are
            left out.
        l2: Penalties to try, see ``LinearProbe``.
        shrink: Pulls towards the difference of means to try, see ``LinearProbe``.
        folds: Folds of every cross-validation, inner and outer.
        shortlist: Read points that reach the fine stage of the linear search.
        nested: Repeat the selection in outer folds, for ``1 + folds`` times the work.
        seed: Decides the folds and the resamples behind the intervals.
        progress: Called with (done, total) as read points are searched and kinds tried.

    Raises:
        TrainingDataError: The data cannot support the selection; the message says why.
    """
    _require_choices(kinds, components, l2, shrink, shortlist)
    points = require_read_points(data, read_points)
    require_distinct_ids(data)
    labelled = _labelled(data, points, keep_tokens="attention" in kinds)
    require_groups(labelled.groups, folds)

    searches = 1 + folds if nested else 1
    others_than_linear = len(set(kinds) - {"linear"})
    steps = len(points) + min(shortlist, len(points)) + others_than_linear
    plan = _Plan(
        kinds=tuple(kinds),
        points=points,
        grid=Grid(components=tuple(set(components)), l2=tuple(set(l2)), shrink=tuple(set(shrink))),
        folds=folds,
        shortlist=shortlist,
        seed=seed,
        step=_Counter(searches * steps, progress).step,
    )
    with spare_one_core():
        found = _search(labelled, plan)
        calibration, p_success = _calibrate(found, labelled, plan)
        honest = _nested_chances(labelled, plan) if nested else p_success
        return Selection(
            probe=found.winner.fit().calibrated(calibration),
            chosen=found.search.chosen,
            sweep=found.search.sweep,
            kinds_tried=found.kinds_tried,
            ids=labelled.ids,
            outcomes=labelled.weak,
            weights=labelled.row_weights(),
            scores=found.winner.scores,
            p_success=p_success,
            metrics=measure(
                honest, labelled.weak, labelled.groups, seed, weights=labelled.row_weights()
            ),
            nested=nested,
            unlabelled=len(data) - len(labelled),
            folds=folds,
            seed=seed,
        )


def _require_choices(
    kinds: Sequence[str],
    components: Sequence[int],
    l2: Sequence[float],
    shrink: Sequence[float],
    shortlist: int,
) -> None:
    if unknown := sorted(set(kinds) - set(SIMPLEST_FIRST)):
        raise TrainingDataError(
            f"unknown kinds of probe {', '.join(unknown)}; use some of {', '.join(SIMPLEST_FIRST)}"
        )
    if not (kinds and components and l2 and shrink) or shortlist < 1:
        raise TrainingDataError(
            "nothing to choose from; give at least one kind, one number of components, one l2, one "
            "shrink and a shortlist of 1 or more"
        )


def _labelled(data: RoutingData, points: Sequence[ReadPoint], *, keep_tokens: bool) -> RoutingData:
    """The rows that count, with the columns that will be read, all checked."""
    if len(data) and not data.weak.size:
        raise TrainingDataError(f"none of the {len(data)} queries are labelled; label some first")
    weights = require_weights(data.row_weights(), len(data))
    counts = ~np.isnan(data.weak) & (weights > 0)
    narrow = replace(
        data,
        activations={point: data.activations[point] for point in points},
        sequences=data.sequences if keep_tokens else {},
        strong=np.empty(0),
    )
    # Not a copy of all activations when that is all of them.
    labelled = narrow if counts.all() else narrow.take(counts)
    require_outcomes(labelled.weak)
    checked = {
        point: require_activations(rows, point, len(labelled))
        for point, rows in labelled.activations.items()
    }
    return replace(labelled, activations=checked)


class _Counter:
    """Counts work and reports it."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def step(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """What to try and how to split."""

    kinds: tuple[str, ...]
    points: tuple[ReadPoint, ...]
    grid: Grid
    folds: int
    shortlist: int
    seed: int
    step: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """The winner over some rows, and what it won against."""

    winner: Candidate
    kinds_tried: tuple[KindRow, ...]
    search: LinearSearch
    sample: Sample


def _search(data: RoutingData, plan: _Plan) -> _Found:
    grid = _fitting_grid(plan.grid, len(data))
    sample = Sample(data=_bounded(data), held_out=folds_of(data, plan.folds, plan.seed))
    search = search_linear(sample, plan.points, grid, shortlist=plan.shortlist, step=plan.step)
    winner, kinds_tried = choose_kind(
        sample, search, grid, plan.kinds, seed=plan.seed, step=plan.step
    )
    return _Found(winner=winner, kinds_tried=kinds_tried, search=search, sample=sample)


def _fitting_grid(grid: Grid, labels: int) -> Grid:
    """The grid without numbers of components that ``labels`` rows cannot have."""
    fitting = tuple(k for k in grid.components if k <= labels)
    if not fitting:
        raise TrainingDataError(
            f"{labels} labelled queries have no {min(grid.components)} principal components, the "
            "fewest asked for; label more queries or try fewer components"
        )
    return replace(grid, components=fitting)


def _bounded(data: RoutingData) -> RoutingData:
    """What is fitted by; without weights, or chances, there is nothing to bound."""
    if not (len(data.weights) and len(data.weak_chance)):
        return data
    chances = np.where(data.weak_chance > 0, data.weak_chance, 1.0)
    return replace(data, weights=bound_weights(data.weights, chances).weights)


def _calibrate(found: _Found, data: RoutingData, plan: _Plan) -> tuple[FittedCalibration, Floats]:
    """A calibration of the winner's held-out scores of ``data``, and honest chances of it."""
    scores = found.winner.scores
    if len(set(data.groups)) < 3:  # too few to hold one out while another chooses the kind
        fitted = Platt().fit(scores, data.weak, data.row_weights())
        return fitted, held_out_chances(scores, data, found.sample.held_out)
    choice = choose_calibration(
        scores,
        data.weak,
        data.row_weights(),
        groups=data.groups,
        folds=max(3, plan.folds),
        seed=plan.seed,
    )
    return choice.fitted, choice.p_held_out


def _nested_chances(data: RoutingData, plan: _Plan) -> Floats:
    """Chances of every row by a selection that has not seen the row's group."""
    p_success = np.empty(len(data))
    for test in folds_of(data, plan.folds, plan.seed + 1):
        train = data.take(others(len(data), test))
        try:
            require_outcomes(train.weak)
            require_groups(train.groups, plan.folds)
            _fitting_grid(plan.grid, len(train))
        except TrainingDataError as error:
            raise TrainingDataError(
                f"without one outer fold, {error} (or do without the nested estimate)"
            ) from error
        found = _search(train, plan)
        calibration, _ = _calibrate(found, train, plan)
        p_success[test] = found.winner.fit().calibrated(calibration).chances(data.take(test))
    return p_success
