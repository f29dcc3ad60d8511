"""What another label is worth: quality by the number of labels that a router was fitted on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError, TrainingDataError
from foretell.evaluation._controls import refuse_leaks
from foretell.evaluation._fits import (
    FitCounter,
    labelled,
    require_distinct_names,
    without_outcomes,
)
from foretell.evaluation._intervals import Interval, Resamples
from foretell.evaluation._repeats import mean_over_repeats
from foretell.evaluation._statistics import auroc_of
from foretell.probes import spare_one_core
from foretell.records import RoutingData
from foretell.routers import ProbeRouter, Router

LABEL_COUNTS = (25, 50, 100, 200, 400, 800)
_FITTED_LABELS = 800
_MOST_REPEATS = 8
_WORTH_IT = 0.01
"""Of AUROC: less is not worth labelling for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPoint:
    """A router fitted on ``labels`` labels, ``repeats`` times on different ones.

    ``auroc`` is the mean over the repeats, with its interval over test queries and repeats. A fit
    that so few labels cannot support is counted in ``refused`` and left out of the mean.
    """

    labels: int
    auroc: Interval
    repeats: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterLearning:
    """One router's points, labels rising, and what they say.

    ``enough`` is the smallest number of labels from which on the AUROC stays within 0.01 of that
    with all labels: about there, more labels stop paying. It is ``None`` when only all of them get
    there, that is when more would still pay. ``labels_for_90_percent`` is the smallest number with
    90 % of the AUROC that all labels give, ``labels_for_90_percent_over_chance`` the same of what
    that AUROC is above 0.5. All are ``None`` where the AUROC with all labels is undefined.
    """

    router: str
    points: tuple[LearningPoint, ...]
    enough: int | None
    labels_for_90_percent: int | None
    labels_for_90_percent_over_chance: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """By router, quality on ``test_size`` queries by the number of labels."""

    routers: tuple[RouterLearning, ...]
    train_size: int
    test_size: int

    def router(self, name: str) -> RouterLearning | None:
        """One router's points, ``None`` when it did not take part."""
        return next((found for found in self.routers if found.router == name), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``; routers by name."""
        return {
            "train_size": self.train_size,
            "test_size": self.test_size,
            "routers": {found.router: asdict(found) for found in self.routers},
        }


def repeats_of(labels: int) -> int:
    """How often a number of labels is tried: few labels vary more and cost less, 1 to 8 times."""
    return int(np.clip(_FITTED_LABELS // labels, 1, _MOST_REPEATS))


def learning_curve(
    train: RoutingData,
    test: RoutingData,
    routers: Sequence[Router],
    rng: np.random.Generator,
    *,
    sizes: Sequence[int] = LABEL_COUNTS,
    repeats: Callable[[int], int] = repeats_of,
    resamples: int = 1_000,
    progress: Callable[[int, int], None] | None = None,
) -> LearningCurve:
    """AUROC on the labelled ``test`` queries by the number of labels fitted on.

    A repeat puts the labelled training queries in a random order; each number of labels takes that
    many from its start, so the subsets are nested, and the same for every router. Labels are drawn
    one by one, as labelling at random would, while groups stay whole in the folds of each fit.

    Args:
        train: Queries to draw labels from; unlabelled ones are left out.
        test: Other queries, which share no id and no group with ``train``.
        routers: Each under a name of its own, fitted anew for every point: give cheap ones. A
            probe's search can be narrowed to the read points that lead a sweep over ``train``;
            the first points then know a little more than their labels say.
        rng: Decides the orders, folds and resamples; a router's part does not depend on others.
        sizes: Numbers of labels; those below all there are are tried, and all are always.
        repeats: How many orders to try for a number of labels; all labels are fitted once.
        resamples: Bootstrap draws behind each interval.
        progress: Called with the fits done and the fits in all.

    Raises:
        InputError: Leaks, names that repeat, sizes below 1, no labels, or a probe that is fitted
            already, to which the number of labels would make no difference.
        ProbeMismatchError: The two sets were collected on different models.
    """
    refuse_leaks(train, test)
    _check(routers, sizes)
    known_train, known_test = _labelled(train, "training"), _labelled(test, "test")
    counts = [size for size in sorted(set(sizes)) if size < len(known_train)]
    tries = {size: max(1, repeats(size)) for size in counts} | {len(known_train): 1}
    for_draws, for_orders, *for_routers = rng.spawn(2 + len(routers))
    draws = Resamples.draw(
        known_test.groups, for_draws, resamples, repetitions=known_test.row_weights()
    )
    orders = [
        generator.permutation(len(known_train))
        for generator in for_orders.spawn(max(tries.values()))
    ]
    fits = _Fits(train=known_train, test=known_test, draws=draws, orders=orders, tries=tries)
    done = FitCounter(len(routers) * sum(tries.values()), progress)
    with spare_one_core():
        found = tuple(
            _summary(router.name, fits.points(router, generator, done))
            for router, generator in zip(routers, for_routers, strict=True)
        )
    return LearningCurve(routers=found, train_size=len(known_train), test_size=len(known_test))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fits:
    """All that the points of every router have in common."""

    train: RoutingData
    test: RoutingData
    draws: Resamples
    orders: Sequence[NDArray[np.int64]]
    tries: Mapping[int, int]

    def points(
        self, router: Router, rng: np.random.Generator, done: FitCounter
    ) -> tuple[LearningPoint, ...]:
        return tuple(
            self._point(router, labels, generator, done)
            for labels, generator in zip(self.tries, rng.spawn(len(self.tries)), strict=True)
        )

    def _point(
        self, router: Router, labels: int, rng: np.random.Generator, done: FitCounter
    ) -> LearningPoint:
        unseen = without_outcomes(self.test)
        repeats, refused = self.tries[labels], 0
        scores: list[NDArray[np.float64]] = []
        for_interval, *for_fits = rng.spawn(1 + repeats)
        for order, generator in zip(self.orders, for_fits, strict=False):
            try:
                fitted = router.fit(self.train.take(order[:labels]), generator)
            except TrainingDataError:
                refused += 1
            else:
                scores.append(fitted.score(unseen))
            done.step()
        return LearningPoint(
            labels=labels,
            auroc=mean_over_repeats(
                [auroc_of(score, self.test.weak) for score in scores],
                self.draws,
                np.arange(len(self.test)),
                for_interval,
            ),
            repeats=repeats,
            refused=refused,
        )


def _summary(router: str, points: tuple[LearningPoint, ...]) -> RouterLearning:
    best = points[-1].auroc.value

    def first_with(least: float) -> int | None:
        return next(
            (p.labels for p in points if p.auroc.value is not None and p.auroc.value >= least), None
        )

    enough = None
    if best is not None:
        for point in reversed(points[:-1]):
            if point.auroc.value is None or point.auroc.value < best - _WORTH_IT:
                break
            enough = point.labels
    return RouterLearning(
        router=router,
        points=points,
        enough=enough,
        labels_for_90_percent=None if best is None else first_with(0.9 * best),
        labels_for_90_percent_over_chance=None
        if best is None or best <= 0.5
        else first_with(0.5 + 0.9 * (best - 0.5)),
    )


def _check(routers: Sequence[Router], sizes: Sequence[int]) -> None:
    require_distinct_names(routers)
    if any(size < 1 for size in sizes):
        raise InputError(f"numbers of labels are {list(sizes)}; wanted 1 or more each")
    for router in routers:
        if isinstance(router, ProbeRouter) and router.fitted is not None:
            raise InputError(
                f"router {router.name!r} was fitted before, so it would be the same at every "
                "number of labels; give one that is not fitted yet"
            )


def _labelled(data: RoutingData, which: str) -> RoutingData:
    known = labelled(data)
    if not len(known):
        raise InputError(f"none of {len(data)} {which} queries has an outcome; label some first")
    return known
