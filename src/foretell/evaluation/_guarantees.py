"""What a goal of quality promises on training queries, and what came of it on test queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.config import QualityGoal
from foretell.errors import InputError
from foretell.evaluation._intervals import Floats, Interval, Resamples, interval
from foretell.evaluation._statistics import mean_of
from foretell.probes import HeldOut
from foretell.records import RoutingData
from foretell.runtime import bar_for

QUALITIES: Final = (0.9, 0.95, 1.0)
_CONFIDENCE: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class GuaranteeRow:
    """One goal: the rule chosen for it without the test queries, and what the rule did on those.

    The goal is that routed answers succeed at least ``quality`` times as often as the strong
    model's. ``promise`` says in a sentence what the training queries support; with ``guaranteed``
    the goal holds for new queries with probability ``confidence`` over the draw of the training
    queries. Otherwise everything is escalated, and about ``labels_needed`` labels would support
    the goal (``None`` when not even more of the same would). With ``by_gain`` the rule is about
    what a strong call gains, and ``keep_at`` is for queries of which that is not foretold.

    On the test queries that both models answered: ``strong_share`` is the share escalated,
    ``margin`` the routed accuracy less ``quality`` times the strong model's, and ``held`` whether
    that is at least 0; ``None`` without such queries. A goal that holds may still miss by chance
    on a sample: its interval then reaches 0.
    """

    quality: float
    confidence: float
    keep_at: float
    by_gain: bool
    guaranteed: bool
    labels_needed: int | None
    promise: str
    strong_share: Interval
    routed_accuracy: Interval
    strong_accuracy: Interval
    margin: Interval
    held: bool | None


def guarantee_rows(
    held_out: HeldOut,
    test: RoutingData,
    p_success: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    p_strong: NDArray[np.float64] | None = None,
    qualities: Sequence[float] = QUALITIES,
    confidence: float = _CONFIDENCE,
    resamples: int = 1_000,
) -> tuple[GuaranteeRow, ...]:
    """A row for each of ``qualities``, by the rule that a route with that goal follows.

    Args:
        held_out: Of the training queries, what the rules are chosen on.
        test: Other queries; those without outcomes of both models, or of weight 0, are left out.
        p_success: The same probe's chances of the test queries, (n,).
        rng: Decides the resamples.
        p_strong: Chances of the strong model, (n,), from a head beside the probe; without them
            ``held_out`` is used without its own, for a rule that needs them cannot be followed.
        qualities: Shares of the strong model's success to hold.
        confidence: Of each promise.
        resamples: Bootstrap draws behind each interval, over groups.

    Raises:
        InputError: No test queries, or columns of different lengths.
        ConfigError: No training query has an outcome of the strong model.
    """
    if not len(test):
        raise InputError("there are no test queries to hold the goals against; give at least one")
    strong = test.strong if test.strong.size else np.full(len(test), np.nan)
    foretold = {"p_success": p_success, "p_strong": p_strong}
    for name, column in foretold.items():
        if column is not None and column.shape != (len(test),):
            raise InputError(
                f"{name} has shape {column.shape} for {len(test)} test queries; wanted one each"
            )
    rows = np.flatnonzero(np.isfinite(test.weak) & np.isfinite(strong) & (test.row_weights() > 0))
    unseen = HeldOut(
        p_success=p_success[rows],
        weak=test.weak[rows],
        strong=strong[rows],
        p_strong=np.empty(0) if p_strong is None else p_strong[rows],
    )
    draws = Resamples.draw(test.groups, rng, resamples, repetitions=test.row_weights())
    evidence = held_out if p_strong is not None else replace(held_out, p_strong=np.empty(0))
    return tuple(
        _row(QualityGoal(quality=quality, confidence=confidence), evidence, unseen, draws, rows)
        for quality in qualities
    )


def _row(
    goal: QualityGoal,
    held_out: HeldOut,
    unseen: HeldOut,
    resamples: Resamples,
    rows: NDArray[np.int64],
) -> GuaranteeRow:
    """By the outcomes of ``unseen``, which are the ``rows`` of those resampled."""

    def mean(values: Floats) -> Interval:
        return interval(mean_of(values), resamples, rows)

    bar = bar_for(goal, held_out)
    kept = bar.keeps(unseen)
    routed = np.where(kept, unseen.weak, unseen.strong)
    margin = mean(routed - goal.quality * unseen.strong)
    return GuaranteeRow(
        quality=goal.quality,
        confidence=goal.confidence,
        keep_at=bar.keep_at,
        by_gain=bar.least_gain is not None,
        guaranteed=bar.guaranteed,
        labels_needed=bar.labels_needed,
        promise=bar.reason,
        strong_share=mean((~kept).astype(np.float64)),
        routed_accuracy=mean(routed),
        strong_accuracy=mean(unseen.strong),
        margin=margin,
        # Means of the same numbers in another order differ in the last digits.
        held=None if margin.value is None else margin.value >= -1e-12,
    )
