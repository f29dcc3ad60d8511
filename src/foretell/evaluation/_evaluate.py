"""Fit every router on the same queries, score them on others, and measure side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from foretell.errors import InputError
from foretell.evaluation._answered import PROBE, Judged
from foretell.evaluation._bench import Bench
from foretell.evaluation._controls import Controls, check_controls, refuse_leaks
from foretell.evaluation._costs import DEFAULT_PRICES, Prices
from foretell.evaluation._evaluation import Evaluation, RouterResult
from foretell.evaluation._fits import labelled, require_distinct_names, without_outcomes
from foretell.evaluation._intervals import Resamples
from foretell.probes import spare_one_core
from foretell.records import RoutingData
from foretell.routers import FittedProbeRouter, FittedRouter, Router

Progress = Callable[[int, int, str], None]
"""Told the steps done, the steps in all, and in a few words what begins now."""


def evaluate_routers(
    train: RoutingData,
    test: RoutingData,
    routers: Sequence[Router],
    rng: np.random.Generator,
    *,
    resamples: int = 1_000,
    prices: Prices = DEFAULT_PRICES,
    overheads: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """All ``routers`` fitted on ``train`` and compared on ``test``.

    Rows without a weak outcome, and test rows of weight 0, are left out and counted. Metrics that
    need the strong model use the test rows that have its outcome; without any they are ``None``.
    The routers do not get to see the outcomes of the test queries.

    Args:
        train: Queries to fit on.
        test: Other queries, which share no id and no group with ``train``.
        routers: Each under a name of its own. The one named ``probe`` is compared with each other
            one, and the test queries are cut into thirds by the score of the one named
            ``embedding``.
        rng: Decides folds, lots, shuffles and resamples. A router's part of it does not depend on
            which others take part after it.
        resamples: Bootstrap draws behind each interval.
        prices: Of the two models; by default one to 125 (``DEFAULT_PRICES``).
        overheads: By router, what asking it costs besides the two models, in USD per query, such
            as the call of a third model.
        progress: Called before each fit and each later step.

    Raises:
        InputError: Leaks, repeated ids or names, an overhead of no router, or no labelled test
            query.
        ProbeMismatchError: The two sets were collected on different models.
        TrainingDataError: A router cannot be fitted on ``train``.
    """
    with spare_one_core():
        return _evaluated(train, test, routers, rng, resamples, prices, overheads or {}, progress)


def _evaluated(
    train: RoutingData,
    test: RoutingData,
    routers: Sequence[Router],
    rng: np.random.Generator,
    resamples: int,
    prices: Prices,
    overheads: Mapping[str, float],
    progress: Progress | None,
) -> Evaluation:
    refuse_leaks(train, test)
    require_distinct_names(routers)
    require_known_names(overheads, routers)
    known_train, known_test = labelled(train), judgeable(test)
    if not len(known_test):
        raise InputError(f"none of {len(test)} test queries has an outcome; label some first")
    for_draws, for_controls, *for_routers = rng.spawn(2 + len(routers))

    tell = Steps(total=len(routers) + 2, progress=progress)
    fitted: dict[str, FittedRouter] = {}
    for router, generator in zip(routers, for_routers, strict=True):
        tell(f"fitting {router.name}")
        fitted[router.name] = router.fit(known_train, generator)

    tell("checking controls")
    draws = Resamples.draw(
        known_test.groups, for_draws, resamples, repetitions=known_test.row_weights()
    )
    unseen = without_outcomes(known_test)
    judged = [
        Judged(
            name=router.name,
            sees=router.sees,
            scores=fitted[router.name].score(unseen),
            chances=fitted[router.name].p_success(unseen),
            # Costs are counted per 1,000 queries.
            overhead=1_000 * overheads.get(router.name, 0.0),
        )
        for router in routers
    ]
    probe = fitted.get(PROBE)
    probe = probe if isinstance(probe, FittedProbeRouter) else None
    controls = check_controls(
        known_train,
        known_test,
        probe,
        for_controls,
        scores={one.name: one.scores for one in judged},
        resamples=draws,
    )

    tell("measuring")
    measured = measure(Bench.of(known_test, draws, prices), judged, controls)
    return replace(
        measured,
        domains=tuple(sorted({*known_train.domain, *known_test.domain})),
        model=test.model or train.model,
        train_size=len(known_train),
        unlabelled=len(train) + len(test) - len(known_train) - len(known_test),
        sweep=probe.selection.sweep if probe and probe.selection else (),
        fitted=fitted,
    )


def measure(bench: Bench, judged: Sequence[Judged], controls: Controls) -> Evaluation:
    """Everything that follows from what the routers say, with nothing yet about their fits."""
    results = tuple(bench.result(one) for one in judged)
    probe = next((one for one in judged if one.name == PROBE), None)
    return Evaluation(
        domains=(),
        model=None,
        train_size=0,
        test_size=len(bench.test),
        unlabelled=0,
        folds=1,
        base_rate=bench.base_rate,
        strong_rate=bench.answered.strong_rate,
        routers=results,
        best_baseline=_best_baseline(results),
        differences=bench.differences(judged),
        slices=bench.slices(judged),
        attribute_slices=bench.attribute_slices(judged),
        cost_basis=bench.answered.cost_basis,
        costs=bench.answered.costs(),
        gap_closed=bench.answered.gap_closed(judged, results),
        controls=controls,
        reliability=bench.reliability(probe),
        sweep=(),
        most_wrong=bench.most_wrong(probe),
        fitted={},
    )


@dataclass(slots=True)
class Steps:
    """Counts steps and tells what begins."""

    total: int
    progress: Progress | None
    done: int = 0

    def __call__(self, what: str) -> None:
        if self.progress is not None:
            self.progress(self.done, self.total, what)
        self.done += 1


def require_known_names(overheads: Mapping[str, float], routers: Sequence[Router]) -> None:
    """Refuses an overhead of a router that does not take part, or of less than nothing."""
    names = [router.name for router in routers]
    for name, overhead in overheads.items():
        if name not in names:
            raise InputError(f"overhead of {name!r}, but the routers are {names}; name one of them")
        if not 0 <= overhead < float("inf"):
            raise InputError(f"overhead of {name!r} is {overhead}; wanted USD per query, 0 or more")


def judgeable(data: RoutingData) -> RoutingData:
    """The rows that have a weak outcome, and weight."""
    known = labelled(data)
    return known.take(known.row_weights() > 0)


def _best_baseline(results: Sequence[RouterResult]) -> str | None:
    rivals = [
        (result.auroc.value, result.name)
        for result in results
        if result.sees == "query" and result.auroc.value is not None
    ]
    return max(rivals)[1] if rivals else None
