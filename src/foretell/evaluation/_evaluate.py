"""Fit every router on the same queries, score them on others, and measure side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import expected_calibration_error
from foretell.errors import InputError
from foretell.evaluation._controls import check_controls, refuse_leaks
from foretell.evaluation._curves import cost_quality_curve
from foretell.evaluation._evaluation import (
    Difference,
    Evaluation,
    ReliabilityBin,
    RouterResult,
    Slice,
    WrongCase,
)
from foretell.evaluation._intervals import Floats, Interval, Resamples, Statistic, interval
from foretell.evaluation._statistics import apgr_of, auroc_of, cpt_of, mean_of
from foretell.probes import spare_one_core
from foretell.records import RoutingData
from foretell.routers import FittedProbeRouter, FittedRouter, Router

Progress = Callable[[int, int, str], None]
"""Told the steps done, the steps in all, and in a few words what begins now."""

Rows = NDArray[np.int64]

_PROBE, _EMBEDDING = "probe", "embedding"
_THIRDS = ("lower third", "middle third", "upper third")
_RELIABILITY_BINS = 10
_MOST_WRONG = 10


def evaluate_routers(
    train: RoutingData,
    test: RoutingData,
    routers: Sequence[Router],
    rng: np.random.Generator,
    *,
    resamples: int = 1_000,
    progress: Progress | None = None,
) -> Evaluation:
    """All ``routers`` fitted on ``train`` and compared on ``test``.

    Rows without a weak outcome are left out and counted. Metrics that need the strong model use
    the test rows that have its outcome; without any they are ``None``. The routers do not get to
    see the outcomes of the test queries.

    Args:
        train: Queries to fit on.
        test: Other queries, which share no id and no group with ``train``.
        routers: Each under a name of its own. The one named ``probe`` is compared with each other
            one, and the test queries are cut into thirds by the score of the one named
            ``embedding``.
        rng: Decides folds, lots, shuffles and resamples. A router's part of it does not depend on
            which others take part after it.
        resamples: Bootstrap draws behind each interval.
        progress: Called before each fit and each later step.

    Raises:
        InputError: Leaks, repeated ids or names, or no labelled test query.
        ProbeMismatchError: The two sets were collected on different models.
        TrainingDataError: A router cannot be fitted on ``train``.
    """
    with spare_one_core():
        return _evaluated(train, test, routers, rng, resamples, progress)


def _evaluated(
    train: RoutingData,
    test: RoutingData,
    routers: Sequence[Router],
    rng: np.random.Generator,
    resamples: int,
    progress: Progress | None,
) -> Evaluation:
    refuse_leaks(train, test)
    names = [router.name for router in routers]
    if len(set(names)) < len(names) or not names:
        raise InputError(f"routers are named {names}; wanted at least one, each with its own name")
    known_train, known_test = _labelled(train), _labelled(test)
    if not len(known_test):
        raise InputError(f"none of {len(test)} test queries has an outcome; label some first")
    for_draws, for_controls, *for_routers = rng.spawn(2 + len(routers))

    tell = _Steps(total=len(routers) + 2, progress=progress)
    fitted: dict[str, FittedRouter] = {}
    for router, generator in zip(routers, for_routers, strict=True):
        tell(f"fitting {router.name}")
        fitted[router.name] = router.fit(known_train, generator)

    tell("measuring")
    bench = _Bench.of(known_test, Resamples.draw(known_test.groups, for_draws, resamples))
    unseen = replace(known_test, weak=np.empty(0), strong=np.empty(0))
    scores = {name: router.score(unseen) for name, router in fitted.items()}
    chances = {name: router.p_success(unseen) for name, router in fitted.items()}
    results = tuple(bench.result(r, scores[r.name], chances[r.name]) for r in routers)

    tell("checking controls")
    probe = fitted.get(_PROBE)
    probe = probe if isinstance(probe, FittedProbeRouter) else None
    return Evaluation(
        domains=tuple(sorted({*known_train.domain, *known_test.domain})),
        model=test.model or train.model,
        train_size=len(known_train),
        test_size=len(known_test),
        unlabelled=len(train) + len(test) - len(known_train) - len(known_test),
        base_rate=float(known_test.weak.mean()),
        strong_rate=bench.strong_rate,
        routers=results,
        best_baseline=_best_baseline(results),
        differences=bench.differences(scores),
        slices=bench.slices(scores),
        controls=check_controls(known_train, known_test, probe, for_controls),
        reliability=bench.reliability(chances[_PROBE]) if _PROBE in chances else (),
        sweep=probe.selection.sweep if probe and probe.selection else (),
        most_wrong=bench.most_wrong(chances[_PROBE]) if _PROBE in chances else (),
        fitted=fitted,
    )


@dataclass(slots=True)
class _Steps:
    """Counts steps and tells what begins."""

    total: int
    progress: Progress | None
    done: int = 0

    def __call__(self, what: str) -> None:
        if self.progress is not None:
            self.progress(self.done, self.total, what)
        self.done += 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Bench:
    """The labelled test queries, which of them both models answered, and the shared resamples."""

    test: RoutingData
    every: Rows
    both: Rows
    resamples: Resamples

    @classmethod
    def of(cls, test: RoutingData, resamples: Resamples) -> _Bench:
        both = np.flatnonzero(np.isfinite(test.strong)) if test.strong.size else np.empty(0, int)
        return cls(test=test, every=np.arange(len(test)), both=both, resamples=resamples)

    @property
    def strong_rate(self) -> float | None:
        return float(self.test.strong[self.both].mean()) if len(self.both) else None

    def result(self, router: Router, scores: Floats, chances: Floats) -> RouterResult:
        columns = self._both_answered(scores)
        squared = np.square(chances - self.test.weak) + self.test.weak * (1 - self.test.weak)
        return RouterResult(
            name=router.name,
            sees=router.sees,
            auroc=self._auroc(scores, self.every),
            apgr=self._over_both(apgr_of(*columns)) if len(self.both) else _NOTHING,
            cpt50=self._over_both(cpt_of(*columns, 0.5)) if len(self.both) else _NOTHING,
            cpt80=self._over_both(cpt_of(*columns, 0.8)) if len(self.both) else _NOTHING,
            brier=interval(mean_of(squared), self.resamples, self.every),
            ece=Interval(
                value=expected_calibration_error(chances, self.test.weak), n=len(self.test)
            ),
            curve=cost_quality_curve(*columns) if len(self.both) else None,
        )

    def differences(self, scores: dict[str, Floats]) -> tuple[Difference, ...]:
        if _PROBE not in scores:
            return ()
        probe, weak = scores[_PROBE], self.test.weak

        def against(name: str, other: Floats) -> Difference:
            ours, theirs = self._both_answered(probe), self._both_answered(other)
            apgr = _less(apgr_of(*ours), apgr_of(*theirs)) if len(self.both) else None
            return Difference(
                against=name,
                auroc=interval(
                    _less(auroc_of(probe, weak), auroc_of(other, weak)), self.resamples, self.every
                ),
                apgr=self._over_both(apgr) if apgr else _NOTHING,
            )

        return tuple(against(name, other) for name, other in scores.items() if name != _PROBE)

    def slices(self, scores: dict[str, Floats]) -> tuple[Slice, ...]:
        if _EMBEDDING not in scores:
            return ()
        order = self._rising(scores[_EMBEDDING])
        return tuple(
            Slice(
                name=name,
                n=len(rows),
                base_rate=float(self.test.weak[rows].mean()),
                auroc={router: self._auroc(score, rows) for router, score in scores.items()},
            )
            for name, rows in zip(_THIRDS, np.array_split(order, 3), strict=True)
            if len(rows)
        )

    def reliability(self, chances: Floats) -> tuple[ReliabilityBin, ...]:
        order = self._rising(chances)
        return tuple(
            ReliabilityBin(
                p_success=float(chances[rows].mean()),
                success=interval(mean_of(self.test.weak[rows]), self.resamples, rows),
            )
            for rows in np.array_split(order, _RELIABILITY_BINS)
            if len(rows)
        )

    def most_wrong(self, chances: Floats) -> tuple[WrongCase, ...]:
        worst = self._rising(-np.abs(chances - self.test.weak))[:_MOST_WRONG]
        both = set(self.both.tolist())
        return tuple(
            WrongCase(
                id=self.test.ids[row],
                text=self.test.texts[row],
                p_success=float(chances[row]),
                weak=float(self.test.weak[row]),
                strong=float(self.test.strong[row]) if row in both else None,
            )
            for row in worst.tolist()
        )

    def _rising(self, values: Floats) -> Rows:
        """Rows by rising value; ids settle ties, so that the order of rows does not."""
        rows = range(len(values))
        return np.array(sorted(rows, key=lambda row: (float(values[row]), self.test.ids[row])))

    def _auroc(self, scores: Floats, rows: Rows) -> Interval:
        return interval(auroc_of(scores[rows], self.test.weak[rows]), self.resamples, rows)

    def _over_both(self, statistic: Statistic) -> Interval:
        return interval(statistic, self.resamples, self.both)

    def _both_answered(self, scores: Floats) -> tuple[Floats, Floats, Floats]:
        strong = self.test.strong[self.both] if len(self.both) else np.empty(0)
        return scores[self.both], self.test.weak[self.both], strong


_NOTHING = Interval(value=None, n=0)


def _labelled(data: RoutingData) -> RoutingData:
    return data.take(np.isfinite(data.weak) if data.weak.size else np.zeros(len(data), bool))


def _less(ours: Statistic, theirs: Statistic) -> Statistic:
    def statistic(weights: Floats) -> Floats:
        return ours(weights) - theirs(weights)

    return statistic


def _best_baseline(results: Sequence[RouterResult]) -> str | None:
    rivals = [
        (result.auroc.value, result.name)
        for result in results
        if result.sees == "query" and result.auroc.value is not None
    ]
    return max(rivals)[1] if rivals else None
