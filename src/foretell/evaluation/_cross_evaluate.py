"""The same comparison where one split is too small: every query is a test query once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError, TrainingDataError
from foretell.evaluation._answered import Judged
from foretell.evaluation._bench import Bench
from foretell.evaluation._controls import Controls, length_residualised, within_domain
from foretell.evaluation._costs import DEFAULT_PRICES, Prices
from foretell.evaluation._evaluate import (
    Progress,
    Steps,
    judgeable,
    measure,
    require_known_names,
)
from foretell.evaluation._evaluation import Evaluation
from foretell.evaluation._fits import require_distinct_names, without_outcomes
from foretell.evaluation._intervals import Floats, Interval, Resamples
from foretell.evaluation._near_duplicates import find_near_duplicates
from foretell.probes import spare_one_core
from foretell.records import RoutingData
from foretell.routers import ProbeRouter, Router

_Rows = NDArray[np.int64]

_SHOWN_PAIRS = 10


def cross_evaluate(
    data: RoutingData,
    routers: Sequence[Router],
    rng: np.random.Generator,
    *,
    folds: int = 5,
    resamples: int = 1_000,
    prices: Prices = DEFAULT_PRICES,
    overheads: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Routers compared on all of ``data``, each query judged by fits that did not see its group.

    For some hundreds of queries, where the chance of one split would drown what is to be seen. The
    queries fall into folds that share no group and are about equally hard; each router is fitted
    on all folds but one and judges that one.

    Scores of different fits are on different scales, and their base rates lean the wrong way: a
    fold with few successes leaves many to fit on, so that pooled as they are even a constant would
    rank below chance (Parker, Günter and Bedo, 2007). Scores are therefore ranked within their
    fold, as shares from 0 to 1, and then pooled: a threshold keeps the same share of each fold.
    Chances are pooled as they are. Intervals take the fits as given.

    No fit is the router: ``fitted`` and ``sweep`` are empty, outcomes are not shuffled, and
    ``train_size`` is that of the smallest part fitted on. Near-duplicates are counted between
    folds.

    Args:
        data: Queries, those without a weak outcome or weight left out and counted.
        routers: As for ``evaluate_routers``; a probe fitted beforehand is refused.
        rng: Decides folds and everything that routers leave to chance.
        folds: At least 2.
        resamples: As for ``evaluate_routers``.
        prices: As there.
        overheads: As there.
        progress: Called before the fits of each router in each fold, and each later step.

    Raises:
        InputError: Repeated ids or names, a router fitted beforehand, or an overhead of no router.
        TrainingDataError: Too few groups or outcomes for the folds, or a router cannot be fitted
            on one of them.
    """
    require_distinct_names(routers)
    require_known_names(overheads or {}, routers)
    for router in routers:
        if isinstance(router, ProbeRouter) and router.fitted is not None:
            raise InputError(
                f"router {router.name!r} was fitted beforehand, on queries it would be judged by; "
                "give one that is not fitted"
            )
    known = judgeable(data)
    if repeated := len(known) - len(set(known.ids)):
        raise InputError(f"{repeated} ids come more than once; keep one row for each query")
    # In order of ids, so that the order of rows decides nothing.
    known = known.take(np.argsort(np.asarray(known.ids, dtype=np.str_)))
    for_folds, for_draws, for_fits = rng.spawn(3)
    with spare_one_core():
        parts = _group_folds(known, folds, for_folds)
        tell = Steps(total=len(parts) * len(routers) + 2, progress=progress)
        judged = _judged_in_folds(known, routers, parts, for_fits, overheads or {}, tell)

        tell("checking controls")
        draws = Resamples.draw(known.groups, for_draws, resamples, repetitions=known.row_weights())
        controls = _controls(known, parts, judged, draws)

        tell("measuring")
        evaluation = measure(Bench.of(known, draws, prices), judged, controls)
    return replace(
        evaluation,
        domains=tuple(sorted(set(known.domain))),
        model=data.model,
        train_size=min(len(rows) for rows, _ in parts),
        unlabelled=len(data) - len(known),
        folds=folds,
    )


def _judged_in_folds(
    known: RoutingData,
    routers: Sequence[Router],
    parts: Sequence[tuple[_Rows, _Rows]],
    rng: np.random.Generator,
    overheads: Mapping[str, float],
    tell: Steps,
) -> list[Judged]:
    scores = {router.name: np.empty(len(known)) for router in routers}
    chances = {router.name: np.empty(len(known)) for router in routers}
    for number, ((fitted_on, held), for_fold) in enumerate(
        zip(parts, rng.spawn(len(parts)), strict=True), start=1
    ):
        train, unseen = known.take(fitted_on), without_outcomes(known.take(held))
        weights = known.row_weights()[held]
        for router, generator in zip(routers, for_fold.spawn(len(routers)), strict=True):
            tell(f"fitting {router.name}, fold {number} of {len(parts)}")
            fitted = router.fit(train, generator)
            scores[router.name][held] = _rank_shares(fitted.score(unseen), weights)
            chances[router.name][held] = fitted.p_success(unseen)
    return [
        Judged(
            name=router.name,
            sees=router.sees,
            scores=scores[router.name],
            chances=chances[router.name],
            overhead=1_000 * overheads.get(router.name, 0.0),
        )
        for router in routers
    ]


def _controls(
    known: RoutingData,
    parts: Sequence[tuple[_Rows, _Rows]],
    judged: Sequence[Judged],
    draws: Resamples,
) -> Controls:
    texts = replace(known, activations={}, sequences={})
    duplicates = sorted(
        (
            pair
            for fitted_on, held in parts
            for pair in find_near_duplicates(texts.take(fitted_on), texts.take(held))
        ),
        key=lambda pair: (-pair.similarity, pair.test_id),
    )
    scores = {one.name: one.scores for one in judged}
    return Controls(
        near_duplicates=len(duplicates),
        near_duplicate_pairs=tuple(duplicates[:_SHOWN_PAIRS]),
        shuffled=Interval(value=None, n=0),
        shuffles=0,
        length_residualised=length_residualised(scores, known, draws),
        within_domain=within_domain(scores, known, draws),
    )


def _rank_shares(scores: Floats, weights: Floats) -> Floats:
    """The share of the weight below each score, half of its own included: equal scores stay so."""
    levels, level = np.unique(scores, return_inverse=True)
    mass = np.bincount(level, weights, minlength=len(levels))
    return ((np.cumsum(mass) - mass / 2) / mass.sum())[level]


def _group_folds(
    data: RoutingData, folds: int, rng: np.random.Generator
) -> list[tuple[_Rows, _Rows]]:
    """Rows to fit on and rows to judge, for each fold."""
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise TrainingDataError(
            "folds need scikit-learn, which is not installed; pip install 'foretell[train]'"
        ) from error
    if folds < 2:
        raise InputError(f"folds must be at least 2, got {folds}")
    # Rates are cut at their mean; outcomes of 0 and 1 are what they are.
    easier = data.weak >= data.weak.mean() if len(data) else np.zeros(0, bool)
    fewest = min(len(set(data.groups)), int(easier.sum()), int((~easier).sum()))
    if fewest < folds:
        raise TrainingDataError(
            f"{len(data)} labelled queries hold {int(easier.sum())} successes in "
            f"{len(set(data.groups))} groups; {folds} folds take {folds} or more of groups, "
            "successes and failures: label more queries, or use fewer folds"
        )
    splitter = StratifiedGroupKFold(
        n_splits=folds, shuffle=True, random_state=int(rng.integers(2**31))
    )
    return list(splitter.split(np.empty(len(data)), easier, data.groups))
