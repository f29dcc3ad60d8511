"""Which read point, how many components, how much regularisation: chosen on held-out folds.

The search has two stages. *Coarse*: every read point at one setting, its axes found once over
all rows at hand (they see no labels, so they favour no read point) and the regression fitted in
folds. *Fine*: the best few read points over the whole grid, everything fitted in folds. The
honest estimate repeats both stages without the rows it is measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import Platt, auroc
from foretell.errors import TrainingDataError
from foretell.probes._honest import STRICT_JSON, Metric, measure
from foretell.probes._linear import FittedLinearProbe, LinearProbe
from foretell.probes._threads import spare_one_core
from foretell.probes._training_rows import (
    require_activations,
    require_distinct_ids,
    require_groups,
    require_outcomes,
    require_read_points,
)
from foretell.records import ReadPoint, RoutingData

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Told the read points searched so far and in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One setting tried: mean AUROC over folds and its standard deviation.

    ``auroc`` is ``None`` when no fold held both classes, ``auroc_sd`` when fewer than two did.
    ``fine`` tells the grid over the best read points from the first look at all of them.
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    read_point: ReadPoint
    components: int
    l2: float
    auroc: float | None
    auroc_sd: float | None
    fine: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """The chosen probe and the evidence for the choice.

    ``probe`` is fitted on all labelled rows and calibrated on their held-out ``scores``. ``ids``,
    ``outcomes``, ``scores`` and ``p_success`` share their rows: the labelled queries, each scored
    by a probe of the ``chosen`` setting that has not seen its group, each calibrated on the other
    folds. ``metrics`` (``auroc``, ``brier``, ``ece``, ``log_loss``) come from repeating the
    selection inside outer folds when ``nested``; otherwise from ``p_success``, whose setting was
    chosen on the same rows: a little too good.
    """

    probe: FittedLinearProbe
    chosen: SweepRow
    sweep: tuple[SweepRow, ...]
    ids: tuple[str, ...]
    outcomes: Floats
    scores: Floats
    p_success: Floats
    metrics: Mapping[str, Metric]
    nested: bool
    unlabelled: int
    folds: int
    seed: int


def select_linear_probe(
    data: RoutingData,
    *,
    read_points: Sequence[ReadPoint] | None = None,
    components: Sequence[int] = (32, 64, 128),
    l2: Sequence[float] = (1.0, 10.0, 100.0, 1000.0),
    folds: int = 5,
    shortlist: int = 4,
    nested: bool = True,
    seed: int,
    progress: Progress | None = None,
) -> Selection:
    """Choose, fit, calibrate and honestly measure a linear probe of ``data.weak``.

    Folds share no group and balance the outcomes. The best mean AUROC over folds wins; of equals,
    the lower layer (it can stop a prefill sooner), fewer components and more regularisation.

    Args:
        data: Queries with activations and ``weak`` outcomes; unlabelled ones are counted and
            left out.
        read_points: Those to choose from; all in ``data`` when not given.
        components: Numbers of principal components to try.
        l2: Penalties to try, see ``LinearProbe``.
        folds: Folds of every cross-validation, inner and outer.
        shortlist: Read points that reach the fine stage.
        nested: Repeat the selection in outer folds, for ``1 + folds`` times the work.
        seed: Decides the folds and the resamples behind the intervals.
        progress: Called with (done, total) as read points are searched.

    Raises:
        TrainingDataError: The data cannot support the selection; the message says why.
    """
    if not components or not l2 or shortlist < 1:
        raise TrainingDataError(
            "nothing to choose from; give at least one number of components, one l2 and a "
            "shortlist of 1 or more"
        )
    points = require_read_points(data, read_points)
    grid = tuple(
        LinearProbe(read_point=point, components=k, l2=penalty)
        for point in points
        for k in sorted(set(components))
        for penalty in sorted(set(l2), reverse=True)
    )
    require_distinct_ids(data)
    if len(data) and not data.weak.size:
        raise TrainingDataError(f"none of the {len(data)} queries are labelled; label some first")
    labelled = np.flatnonzero(~np.isnan(data.weak))
    table = _Table(
        outcomes=require_outcomes(data.weak[labelled]),
        groups=np.asarray([data.groups[i] for i in labelled]),
        activations={
            point: require_activations(
                _rows_at(labelled, data.activations[point]), point, len(labelled)
            )
            for point in points
        },
    )
    require_groups(table.groups.tolist(), folds)

    searches = 1 + folds if nested else 1
    count = _Counter(searches * (len(points) + min(shortlist, len(points))), progress)
    plan = _Plan(grid=grid, folds=folds, shortlist=shortlist, seed=seed, count=count)
    with spare_one_core():
        everything = np.arange(len(labelled))
        found = _search(table, everything, plan)
        p_success = _cross_calibrated(found.scores, table.outcomes, found.held_out)
        return Selection(
            probe=_fit(table, everything, found),
            chosen=found.chosen,
            sweep=found.sweep,
            ids=tuple(data.ids[i] for i in labelled),
            outcomes=table.outcomes,
            scores=found.scores,
            p_success=p_success,
            metrics=measure(
                _nested_chances(table, plan) if nested else p_success,
                table.outcomes,
                table.groups.tolist(),
                seed,
            ),
            nested=nested,
            unlabelled=len(data) - len(labelled),
            folds=folds,
            seed=seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Table:
    """Labelled rows, checked."""

    outcomes: Floats
    groups: NDArray[np.str_]
    activations: Mapping[ReadPoint, NDArray[np.float32]]


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
    """What to try and how to split; the grid is in order of preference among equals."""

    grid: tuple[LinearProbe, ...]
    folds: int
    shortlist: int
    seed: int
    count: _Counter

    @property
    def points(self) -> tuple[ReadPoint, ...]:
        return tuple(dict.fromkeys(probe.read_point for probe in self.grid))

    def settings(self, point: ReadPoint) -> tuple[LinearProbe, ...]:
        return tuple(probe for probe in self.grid if probe.read_point == point)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """The winner over some rows, with its held-out scores and the folds that held them out."""

    chosen: SweepRow
    sweep: tuple[SweepRow, ...]
    scores: Floats
    held_out: tuple[Rows, ...]


def _search(table: _Table, rows: Rows, plan: _Plan) -> _Found:
    outcomes = table.outcomes[rows]
    held_out = _group_folds(outcomes, table.groups[rows], plan.folds, plan.seed)
    coarse = [_glance(table, rows, held_out, point, plan) for point in plan.points]
    best_first = sorted(coarse, key=lambda row: -_rank(row.auroc))
    fine: list[tuple[SweepRow, Floats]] = []
    for row in sorted(best_first[: plan.shortlist], key=lambda row: row.read_point):
        fine += _try_settings(table, rows, held_out, plan.settings(row.read_point))
        plan.count.step()
    chosen, scores = max(fine, key=lambda tried: _rank(tried[0].auroc))
    return _Found(
        chosen=chosen,
        sweep=(*coarse, *(row for row, _ in fine)),
        scores=scores,
        held_out=held_out,
    )


def _glance(
    table: _Table, rows: Rows, held_out: tuple[Rows, ...], point: ReadPoint, plan: _Plan
) -> SweepRow:
    """One read point at the middle of the grid, its axes found once over all ``rows``."""
    from foretell.probes._fitting import fit_reduction

    settings = plan.settings(point)
    middle = settings[len(settings) // 2]
    activations = table.activations[point][rows]
    coordinates = fit_reduction(activations, middle.components)(activations)
    outcomes = table.outcomes[rows]
    scores = np.empty(len(rows))
    for test in held_out:
        train = _others(len(rows), test)
        scores[test] = _held_out_scores(
            coordinates[train], outcomes[train], coordinates[test], middle
        )
    plan.count.step()
    return _sweep_row(middle, scores, outcomes, held_out, fine=False)


def _try_settings(
    table: _Table, rows: Rows, held_out: tuple[Rows, ...], settings: Sequence[LinearProbe]
) -> list[tuple[SweepRow, Floats]]:
    """Every setting of one read point, everything fitted in folds, axes once per fold."""
    from foretell.probes._fitting import fit_reduction

    activations = table.activations[settings[0].read_point][rows]
    outcomes = table.outcomes[rows]
    most = max(probe.components for probe in settings)
    scores = np.empty((len(settings), len(rows)))
    for test in held_out:
        train = _others(len(rows), test)
        reduction = fit_reduction(activations[train], most)
        seen, unseen = reduction(activations[train]), reduction(activations[test])
        for i, probe in enumerate(settings):
            scores[i, test] = _held_out_scores(seen, outcomes[train], unseen, probe)
    return [
        (_sweep_row(probe, scores[i], outcomes, held_out, fine=True), scores[i])
        for i, probe in enumerate(settings)
    ]


def _held_out_scores(seen: Floats, outcomes: Floats, unseen: Floats, probe: LinearProbe) -> Floats:
    from foretell.probes._fitting import fit_logistic

    logistic = fit_logistic(seen[:, : probe.components], outcomes, np.ones(len(seen)), probe.l2)
    return logistic.score(unseen)


def _sweep_row(
    probe: LinearProbe, scores: Floats, outcomes: Floats, held_out: tuple[Rows, ...], *, fine: bool
) -> SweepRow:
    by_fold = [auroc(scores[test], outcomes[test]) for test in held_out]
    defined = [value for value in by_fold if value is not None]
    return SweepRow(
        read_point=probe.read_point,
        components=probe.components,
        l2=probe.l2,
        auroc=float(np.mean(defined)) if defined else None,
        auroc_sd=float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        fine=fine,
    )


def _fit(table: _Table, rows: Rows, found: _Found) -> FittedLinearProbe:
    """The chosen setting fitted on all ``rows``, calibrated on their held-out scores."""
    chosen, outcomes = found.chosen, table.outcomes[rows]
    probe = LinearProbe(
        read_point=chosen.read_point, components=chosen.components, l2=chosen.l2
    ).fit(table.activations[chosen.read_point][rows], outcomes)
    return probe.calibrated(Platt().fit(found.scores, outcomes))


def _nested_chances(table: _Table, plan: _Plan) -> Floats:
    """Chances of every row by a selection that has not seen the row's group."""
    p_success = np.empty(len(table.outcomes))
    outer = _group_folds(table.outcomes, table.groups, plan.folds, plan.seed + 1)
    for test in outer:
        train = _others(len(table.outcomes), test)
        try:
            require_outcomes(table.outcomes[train])
            require_groups(table.groups[train].tolist(), plan.folds)
        except TrainingDataError as error:
            raise TrainingDataError(
                f"without one outer fold, {error} (or do without the nested estimate)"
            ) from error
        probe = _fit(table, train, _search(table, train, plan))
        p_success[test] = probe.p_success(table.activations[probe.read_point][test])
    return p_success


def _cross_calibrated(scores: Floats, outcomes: Floats, held_out: tuple[Rows, ...]) -> Floats:
    """Each fold's chances by a calibration fitted on the other folds."""
    p_success = np.empty(len(scores))
    for test in held_out:
        train = _others(len(scores), test)
        p_success[test] = Platt().fit(scores[train], outcomes[train]).p(scores[test])
    return p_success


def _group_folds(
    outcomes: Floats, groups: NDArray[np.str_], folds: int, seed: int
) -> tuple[Rows, ...]:
    from foretell.probes._fitting import group_folds

    return group_folds(outcomes >= 0.5, groups, folds, seed)


def _rows_at(rows: Rows, column: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows asked for; the column itself, not a copy of it, when that is all of them."""
    return column if len(rows) == len(column) else column[rows]


def _others(n: int, rows: Rows) -> Rows:
    left = np.ones(n, dtype=bool)
    left[rows] = False
    return np.flatnonzero(left)


def _rank(value: float | None) -> float:
    return -1.0 if value is None else value
