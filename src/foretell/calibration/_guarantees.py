"""The threshold that escalates least while routed answers stay good enough."""

from __future__ import annotations

import math
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._columns import (
    Column,
    finite_column,
    group_column,
    same_length,
    unit_column,
)
from foretell.calibration._curve import (
    CHANCES,
    Curve,
    ScoreRange,
    Threshold,
    keep_nothing_at,
    score_column,
    whole_labels,
)
from foretell.calibration._quality_tests import BettingTest, BinomialTest, QualityTest
from foretell.errors import InputError

TestOfQuality = Literal["betting", "binomial"]
TestSequence = Literal["fixed", "bonferroni"]

_GRID: Final = 20
"""Thresholds that Bonferroni shares its error among, unless told others."""


def keep_at_for_quality(
    scores: ArrayLike,
    weak: ArrayLike,
    strong: ArrayLike,
    quality: float,
    confidence: float | None = None,
    *,
    test: TestOfQuality = "betting",
    sequence: TestSequence = "fixed",
    candidates: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    score_range: ScoreRange = CHANCES,
) -> Threshold:
    """The threshold that escalates least while routed accuracy holds ``quality``.

    The goal is that the mean accuracy of routed answers is at least ``quality`` times the strong
    model's. Without ``confidence`` the goal holds on these queries. With it, it holds for new
    queries of the same kind with at least that probability over the draw of these (Learn then
    Test: Angelopoulos et al., 2021).

    ``sequence="fixed"`` tests thresholds from "escalate everything" downwards, each at level
    ``1 - confidence``, until one fails. An error must pass the highest threshold that breaks the
    goal, which is one fixed number however the data fall, so testing *all* numbers in order is
    valid. The result changes only at scores that occur, so these are the ones looked at. For the
    same reason none may be skipped for being unlikely. ``"bonferroni"`` shares the error among
    a few thresholds fixed in advance and takes the lowest that passes: it can pass over a
    stretch of scores that ranks badly, and pays for it everywhere else.

    ``test="betting"`` takes rates and groups and mostly needs the fewest labels. ``"binomial"``
    takes outcomes of 0 and 1 and rests on exact Clopper-Pearson bounds alone; it escalates less
    only where the strong model hardly ever fails. Settle on one before looking at the result:
    taking the better of two is a guarantee of neither.

    Raising ``quality`` or ``confidence`` never lowers the threshold, with ungrouped queries.

    Args:
        scores: Higher means better kept; not fitted on these queries' outcomes. A chance, or any
            other routing score, such as ``p_success - p_strong``.
        weak: Success of the weak model, between 0 and 1.
        strong: Success of the strong model on the same queries.
        quality: Above 0, at most 1.
        confidence: Above 0, below 1; ``None`` for the sample's own best.
        test: How one threshold is tested.
        sequence: How many are.
        candidates: Thresholds to choose from under a ``confidence``, fixed without looking at
            these queries; for example quantiles of the scores of others. By default every number
            for ``"fixed"``, 20 evenly spaced ones over ``score_range`` for ``"bonferroni"``.
        groups: Queries of one group are not independent of each other (a template, a document,
            a conversation); the guarantee then rests on the number of groups.
        score_range: What a score can be: 0 to 1 for a chance, -1 to 1 for a difference of two,
            -inf to inf for log-odds. It says what "escalate everything" is.

    Raises:
        InputError: No queries, columns of different lengths, a number outside its range, or
            rates or groups for the binomial test.
    """
    score = score_column(scores, score_range)
    weak_success = unit_column(weak, "weak outcomes")
    strong_success = unit_column(strong, "strong outcomes")
    same_length(scores=score, weak=weak_success, strong=strong_success)
    if not 0 < quality <= 1:
        raise InputError(f"quality must be above 0 and at most 1, got {quality}")
    if confidence is not None and not 0 < confidence < 1:
        raise InputError(f"confidence must be above 0 and below 1, got {confidence}")
    curve = Curve.of(
        score,
        weak_success,
        strong_success,
        group_column(groups, len(score)),
        keep_nothing=keep_nothing_at(score_range),
    )
    if confidence is None:
        return curve.threshold(_least_that_holds(curve, quality), reason="holds on these queries")
    if test not in get_args(TestOfQuality):
        raise InputError(f"unknown test {test!r}; use one of {', '.join(get_args(TestOfQuality))}")
    chosen: QualityTest = (BettingTest if test == "betting" else BinomialTest).of(curve, quality)
    descending = _candidates(curve, sequence, candidates, score_range)
    return _guaranteed(curve, chosen, descending, sequence, quality, confidence)


def _least_that_holds(curve: Curve, quality: float) -> float:
    """The lowest threshold with routed accuracy of ``quality`` times the strong model's."""
    thresholds = curve.thresholds()[::-1]
    routed = curve.routed()[curve.escalated(thresholds)]
    # Sums of the same numbers in another order differ in the last digits.
    enough = routed >= quality * curve.strong.sum() - 1e-9 * len(curve)
    return float(thresholds[np.argmax(enough)])


def _candidates(
    curve: Curve, sequence: TestSequence, given: ArrayLike | None, score_range: ScoreRange
) -> Column:
    """Thresholds to test, from the highest down; the lowest keeps at least one query."""
    if sequence not in get_args(TestSequence):
        raise InputError(
            f"unknown sequence {sequence!r}; use one of {', '.join(get_args(TestSequence))}"
        )
    if given is not None:
        descending = np.unique(finite_column(given, "candidates"))[::-1]
        if len(descending) == 0 or descending[-1] > curve.score[-1]:
            raise InputError(
                f"none of the {len(descending)} candidates keeps any of these {len(curve)} "
                f"queries, whose highest score is {curve.score[-1]:g}; add lower ones"
            )
        return descending
    if sequence == "fixed":
        return curve.thresholds()
    if not all(map(math.isfinite, score_range)):
        raise InputError(
            "scores without bounds have no evenly spaced thresholds for 'bonferroni'; pass "
            "candidates, such as quantiles of the scores of other queries"
        )
    low, high = score_range
    return np.linspace(low, high, _GRID, endpoint=False)[::-1]


def _guaranteed(
    curve: Curve,
    test: QualityTest,
    descending: Column,
    sequence: TestSequence,
    quality: float,
    confidence: float,
) -> Threshold:
    miss = 1 - confidence
    among = 1 if sequence == "fixed" else len(descending)
    split = curve.escalated(descending)
    passed = test.passes(split, miss, among)
    if sequence == "fixed":
        passed = np.logical_and.accumulate(passed)
    keeps = split < len(curve)
    if (passed & keeps).any():
        lowest = np.flatnonzero(passed & keeps)[-1]
        return curve.threshold(
            float(descending[lowest]),
            guaranteed=True,
            reason=f"holds for new queries with confidence {confidence:g}",
        )
    # In a fixed sequence the highest threshold that keeps something must pass first. Elsewhere any
    # may, but on few labels the best of many looks better than it is: it is asked last.
    more = test.labels_needed(split[keeps][:1], miss, among)
    if sequence == "bonferroni" and math.isinf(more):
        more = test.labels_needed(split[keeps], miss, among)
    labels_needed = whole_labels(more)
    advice = (
        "and more labels like these would not help: lower the goal or use a better router"
        if labels_needed is None
        else f"about {labels_needed} would: label more queries, or lower the goal"
    )
    return curve.threshold(
        curve.keep_nothing,
        reason=(
            f"{len(curve)} labels cannot support quality {quality:g} at confidence "
            f"{confidence:g}, so everything is escalated; {advice}"
        ),
        labels_needed=labels_needed,
    )
