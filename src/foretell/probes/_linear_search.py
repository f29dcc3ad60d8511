"""Which read point, how many components, how much regularisation: chosen on held-out folds.

The search has two stages. *Coarse*: every read point at one setting, its axes found once over
all rows at hand (they see no labels, so they favour no read point) and the regression fitted in
folds. *Fine*: the best few read points over the whole grid, everything fitted in folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from foretell.probes._folds import Floats, Rows, auroc_over_folds, others
from foretell.probes._honest import STRICT_JSON
from foretell.probes._linear import LinearProbe
from foretell.records import ReadPoint, RoutingData


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
    shrink: float = 0.0
    auroc: float | None
    auroc_sd: float | None
    fine: bool

    @property
    def probe(self) -> LinearProbe:
        """The setting as a probe."""
        return LinearProbe(
            read_point=self.read_point,
            components=self.components,
            l2=self.l2,
            shrink=self.shrink,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The settings tried at each read point, each axis without repetition."""

    components: tuple[int, ...]
    l2: tuple[float, ...]
    shrink: tuple[float, ...]

    def middle(self, point: ReadPoint) -> LinearProbe:
        """The setting of the first look."""
        return LinearProbe(
            read_point=point,
            components=sorted(self.components)[len(self.components) // 2],
            l2=sorted(self.l2)[len(self.l2) // 2],
        )

    def settings(self, point: ReadPoint) -> tuple[LinearProbe, ...]:
        """All of them, in order of preference among equals; neighbours differ in ``l2`` only."""
        return tuple(
            LinearProbe(read_point=point, components=k, l2=l2, shrink=shrink)
            for k in sorted(self.components)
            for shrink in sorted(self.shrink)
            for l2 in sorted(self.l2, reverse=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fold:
    """One fold of one read point: coordinates of the rows fitted on, and of those held out."""

    train: Rows
    test: Rows
    seen: Floats
    unseen: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """Labelled rows, checked, and the folds that hold them out in turn."""

    data: RoutingData
    held_out: tuple[Rows, ...]
    _reduced: dict[ReadPoint, tuple[Fold, ...]] = field(
        default_factory=dict[ReadPoint, tuple[Fold, ...]], init=False
    )

    def folds(self, point: ReadPoint, components: int) -> tuple[Fold, ...]:
        """The folds at a read point, its axes found in each without the rows held out.

        Kept for the next call, which may ask for no more components.
        """
        from foretell.probes._fitting import fit_reduction

        if point not in self._reduced:
            activations = self.data.activations[point]
            found: list[Fold] = []
            for test in self.held_out:
                train = others(len(activations), test)
                rows = activations[train]
                reduction = fit_reduction(rows, components)
                found.append(
                    Fold(
                        train=train,
                        test=test,
                        seen=reduction(rows),
                        unseen=reduction(activations[test]),
                    )
                )
            self._reduced[point] = tuple(found)
        return self._reduced[point]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearSearch:
    """The best linear setting over some rows, its held-out scores, and all that was tried."""

    chosen: SweepRow
    scores: Floats
    sweep: tuple[SweepRow, ...]

    @property
    def best_points(self) -> tuple[ReadPoint, ...]:
        """Read points by their first look, the chosen one in front."""
        coarse = sorted(
            (row for row in self.sweep if not row.fine), key=lambda row: -rank(row.auroc)
        )
        return tuple(dict.fromkeys((self.chosen.read_point, *(row.read_point for row in coarse))))


def search_linear(
    sample: Sample,
    points: Sequence[ReadPoint],
    grid: Grid,
    *,
    shortlist: int,
    step: Callable[[], None],
) -> LinearSearch:
    """Both stages over ``points`` (layers rising); ``step`` is called once per read point."""
    coarse: list[SweepRow] = []
    for point in points:
        coarse.append(_glance(sample, grid.middle(point)))
        step()
    best_first = sorted(coarse, key=lambda row: -rank(row.auroc))
    fine: list[tuple[SweepRow, Floats]] = []
    for row in sorted(best_first[:shortlist], key=lambda row: row.read_point):
        fine += _try_settings(sample, grid.settings(row.read_point))
        step()
    chosen, scores = max(fine, key=lambda tried: rank(tried[0].auroc))
    return LinearSearch(chosen=chosen, scores=scores, sweep=(*coarse, *(row for row, _ in fine)))


def linear_scores(sample: Sample, probe: LinearProbe) -> Floats:
    """Every row's held-out score by one setting."""
    return _scores_of(sample, (probe,))[0]


def rank(value: float | None) -> float:
    """``value``, below everything where it is undefined."""
    return -1.0 if value is None else value


def _glance(sample: Sample, probe: LinearProbe) -> SweepRow:
    """One read point at one setting, its axes found once over all rows."""
    from foretell.probes._fitting import fit_reduction

    activations = sample.data.activations[probe.read_point]
    coordinates = fit_reduction(activations, probe.components)(activations)
    scores = np.empty(len(activations))
    for test in sample.held_out:
        train = others(len(activations), test)
        fold = Fold(train=train, test=test, seen=coordinates[train], unseen=coordinates[test])
        scores[test] = _fold_scores(sample.data, fold, (probe,))[0]
    return _sweep_row(sample, probe, scores, fine=False)


def _try_settings(sample: Sample, settings: Sequence[LinearProbe]) -> list[tuple[SweepRow, Floats]]:
    scores = _scores_of(sample, settings)
    return [
        (_sweep_row(sample, probe, column, fine=True), column)
        for probe, column in zip(settings, scores, strict=True)
    ]


def _scores_of(sample: Sample, settings: Sequence[LinearProbe]) -> NDArray[np.float64]:
    """Held-out scores (settings, rows) of settings at one read point."""
    scores = np.empty((len(settings), len(sample.data)))
    most = max(probe.components for probe in settings)
    for fold in sample.folds(settings[0].read_point, most):
        scores[:, fold.test] = _fold_scores(sample.data, fold, settings)
    return scores


def _fold_scores(
    data: RoutingData, fold: Fold, settings: Sequence[LinearProbe]
) -> NDArray[np.float64]:
    from foretell.probes._fitting import shrinkage_centre
    from foretell.probes._logistic import Logistic, fit_logistic

    outcomes, weights = data.weak[fold.train], data.row_weights()[fold.train]
    scores = np.empty((len(settings), len(fold.test)))
    centres: dict[tuple[int, float], Floats | None] = {}
    before: Logistic | None = None
    for i, probe in enumerate(settings):
        seen = fold.seen[:, : probe.components]
        key = (probe.components, probe.shrink)
        if key not in centres:
            centres[key] = shrinkage_centre(seen, outcomes, weights, probe.shrink)
            before = None
        # The neighbour in the grid, a little more or less regularised, is a good start.
        before = fit_logistic(seen, outcomes, weights, probe.l2, centre=centres[key], start=before)
        scores[i] = before.score(fold.unseen)
    return scores


def _sweep_row(sample: Sample, probe: LinearProbe, scores: Floats, *, fine: bool) -> SweepRow:
    auroc, spread = auroc_over_folds(scores, sample.data, sample.held_out)
    return SweepRow(
        read_point=probe.read_point,
        components=probe.components,
        l2=probe.l2,
        shrink=probe.shrink,
        auroc=auroc,
        auroc_sd=spread,
        fine=fine,
    )
