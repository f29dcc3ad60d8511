"""What must hold before a comparison means anything: no leak, no magic, no plain confound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from foretell.errors import InputError, ProbeMismatchError
from foretell.evaluation._intervals import Floats, Interval, Resamples, interval
from foretell.evaluation._near_duplicates import NearDuplicate, find_near_duplicates
from foretell.evaluation._repeats import mean_over_repeats
from foretell.evaluation._statistics import auroc_of
from foretell.evaluation._strata import auroc_within_of, length_strata
from foretell.probes import LinearProbe
from foretell.records import RoutingData
from foretell.routers import FittedProbeRouter

_SHUFFLES = 10
_SHOWN_PAIRS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What was checked beside the comparison.

    ``near_duplicates`` counts test queries with a text much like one in training;
    ``near_duplicate_pairs`` are the likest of them, ten at most. ``shuffled`` is the mean test
    AUROC of the probe's setting fitted on shuffled outcomes ``shuffles`` times, with its interval
    over queries and shuffles: 0.5 lies in it, or something leaks; undefined without a probe.

    By router: ``length_residualised`` is the AUROC among queries of about the same length, and
    ``within_domain`` among queries of the same domain (empty for a single domain). What a router
    loses there against its plain AUROC, it owed to length, or to knowing the domain.
    """

    near_duplicates: int
    near_duplicate_pairs: tuple[NearDuplicate, ...]
    shuffled: Interval
    shuffles: int
    length_residualised: Mapping[str, Interval]
    within_domain: Mapping[str, Interval]

    @property
    def shuffled_auroc(self) -> float | None:
        """The value of ``shuffled``."""
        return self.shuffled.value


def refuse_leaks(train: RoutingData, test: RoutingData) -> None:
    """Refuses queries or groups that are in both sets, ids that repeat, and mixed models.

    Raises:
        InputError: With the count and an example of what is shared or repeated.
        ProbeMismatchError: The two sets come from different weights or chat templates.
    """
    for name, data in (("training", train), ("test", test)):
        if repeated := len(data) - len(set(data.ids)):
            raise InputError(
                f"{repeated} ids come more than once in the {name} set; keep one row for each query"
            )
    for what, of_train, of_test in (
        ("query ids", train.ids, test.ids),
        ("groups", train.groups, test.groups),
    ):
        if shared := sorted(set(of_train) & set(of_test)):
            raise InputError(
                f"{len(shared)} {what} are in both the training and the test set, such as "
                f"{shared[0]!r}; split the queries so that none is"
            )
    if train.model and test.model and not test.model.serves_probes_of(train.model):
        raise ProbeMismatchError(
            f"the training set was collected on {train.model} but the test set on {test.model}; "
            "collect both on one model"
        )


def shuffled_auroc(
    train: RoutingData,
    test: RoutingData,
    router: FittedProbeRouter,
    resamples: Resamples,
    rng: np.random.Generator,
) -> Interval:
    """Mean test AUROC of ``router``'s setting fitted on outcomes that were shuffled.

    Both sets are labelled. The setting is the best linear one of the probe's search, whatever kind
    of probe came out of it: a leak shows in that as well. One shuffle strays far from 0.5 when few
    components carry most of the variance, so several are averaged. Undefined when the test set
    holds one class, or the probe reads no pooled activations.
    """
    probe = _linear_setting(router, train)
    if probe is None:
        return Interval(value=None, n=len(test))
    for_interval, *for_shuffles = rng.spawn(1 + _SHUFFLES)
    scores = [
        probe.fit(replace(train, weak=generator.permutation(train.weak)), seed=0).scores(test)
        for generator in for_shuffles
    ]
    repeats = [auroc_of(score, test.weak) for score in scores]
    return mean_over_repeats(repeats, resamples, np.arange(len(test)), for_interval)


def _linear_setting(router: FittedProbeRouter, train: RoutingData) -> LinearProbe | None:
    """The best linear setting of the probe's search; a probe without one has its read point."""
    if router.selection is not None:
        return router.selection.chosen.probe
    pooled = [point for point in router.probe.read_points if point in train.activations]
    return LinearProbe(read_point=pooled[0]) if pooled else None


def length_residualised(
    scores: Mapping[str, Floats], test: RoutingData, resamples: Resamples
) -> dict[str, Interval]:
    """By router, the chance that a success scores above a failure of about the same length.

    Length alone often foretells success, and activations encode it, so a probe may owe its AUROC
    to length: with length regressed out of the activations, 0.881 became 0.842 in
    arXiv 2606.14530. Comparing within bins of length, as here, takes out any relation to length and
    not only a straight one, and no monotone change of the scores matters. The length router's own
    value, 0.5 but for lengths within a bin, says how well it worked.
    """
    return _within(scores, test, length_strata(test.lengths), resamples)


def within_domain(
    scores: Mapping[str, Floats], test: RoutingData, resamples: Resamples
) -> dict[str, Interval]:
    """By router, the chance that a success scores above a failure of the same domain.

    Empty when there is only one domain.
    """
    if len(set(test.domain)) < 2:
        return {}
    return _within(scores, test, test.domain, resamples)


def check_controls(
    train: RoutingData,
    test: RoutingData,
    router: FittedProbeRouter | None,
    rng: np.random.Generator,
    *,
    scores: Mapping[str, Floats] | None = None,
    resamples: Resamples | None = None,
) -> Controls:
    """All controls over labelled sets that passed ``refuse_leaks``.

    Args:
        train: What the routers were fitted on.
        test: What they are judged on.
        router: The probe, whose setting is fitted again on shuffled outcomes.
        rng: Decides the shuffles, and the resamples when none are given.
        scores: By router, its scores of the test queries; none, no controls of them.
        resamples: Those of the comparison, over the groups of ``test``.
    """
    for_shuffles, for_draws = rng.spawn(2)
    draws = resamples or Resamples.draw(test.groups, for_draws, repetitions=test.row_weights())
    duplicates = find_near_duplicates(train, test)
    return Controls(
        near_duplicates=len(duplicates),
        near_duplicate_pairs=duplicates[:_SHOWN_PAIRS],
        shuffled=shuffled_auroc(train, test, router, draws, for_shuffles)
        if router
        else Interval(value=None, n=0),
        shuffles=_SHUFFLES,
        length_residualised=length_residualised(scores or {}, test, draws),
        within_domain=within_domain(scores or {}, test, draws),
    )


def _within(
    scores: Mapping[str, Floats], test: RoutingData, strata: ArrayLike, resamples: Resamples
) -> dict[str, Interval]:
    rows = np.arange(len(test))
    return {
        name: interval(auroc_within_of(score, test.weak, strata), resamples, rows)
        for name, score in scores.items()
    }
