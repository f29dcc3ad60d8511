"""Labelled queries in the order of their scores: a threshold splits them at one place."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._columns import Column, Index, finite_column
from foretell.errors import InputError

KEEP_NOTHING = math.nextafter(1.0, 2.0)
"""The ``keep_at`` that escalates everything: just above every chance, and a number in JSON."""

ScoreRange = tuple[float, float]
"""The lowest and the highest score that a query, old or new, can have; infinities are allowed."""

CHANCES: ScoreRange = (0.0, 1.0)

MOST_LABELS = 1e9
"""More labels than this are no advice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A threshold, what it does on the data it was chosen on, and what stands behind it.

    ``strong_share`` is the share escalated; ``routed_accuracy`` and ``strong_accuracy`` are means
    over the same ``n`` queries. ``guaranteed`` says that a test at the asked confidence backs the
    threshold. When the data cannot support the goal, everything is escalated, ``reason`` says
    so, and ``labels_needed`` is a rough number of labels that would (``None`` when not even
    more of the same data would).
    """

    keep_at: float
    strong_share: float
    routed_accuracy: float
    strong_accuracy: float
    guaranteed: bool
    n: int
    reason: str
    labels_needed: int | None = None


def whole_labels(needed: float) -> int | None:
    """Rounded up; ``None`` for more than anybody would label."""
    return math.ceil(needed) if needed < MOST_LABELS else None


def keep_everything_at(score_range: ScoreRange) -> float:
    """A number that no score is below, and that JSON can hold."""
    return max(score_range[0], -sys.float_info.max)


def keep_nothing_at(score_range: ScoreRange) -> float:
    """A number that every score is below, and that JSON can hold."""
    return min(math.nextafter(score_range[1], math.inf), sys.float_info.max)


def score_column(scores: ArrayLike, score_range: ScoreRange) -> Column:
    """One score per query, at least one, all in range."""
    column = finite_column(scores, "scores")
    low, high = score_range
    if not low < high:
        raise InputError(f"score_range must rise, got {low:g} to {high:g}")
    if bad := int(np.count_nonzero((column < low) | (column > high))):
        raise InputError(
            f"{bad} of {len(column)} scores lie outside {low:g} to {high:g}; say what they can be "
            "with score_range"
        )
    if len(column) == 0:
        raise InputError("no queries to choose a threshold on; label some first")
    return column


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Rows in rising order of score; ``weak`` and ``strong`` are success, ``group`` a number."""

    score: Column
    weak: Column
    strong: Column
    group: Index
    keep_nothing: float

    @classmethod
    def of(
        cls, score: Column, weak: Column, strong: Column, group: Index, *, keep_nothing: float
    ) -> Curve:
        order = np.argsort(score, kind="stable")
        return cls(
            score=score[order],
            weak=weak[order],
            strong=strong[order],
            group=group[order],
            keep_nothing=keep_nothing,
        )

    def __len__(self) -> int:
        return len(self.score)

    @property
    def is_grouped(self) -> bool:
        """Whether some group holds more than one row."""
        return int(self.group.max()) + 1 < len(self)

    def thresholds(self) -> Column:
        """Every threshold that makes a difference to these rows, from "keep nothing" down."""
        return np.append(self.keep_nothing, np.unique(self.score)[::-1])

    def escalated(self, keep_at: Column) -> Index:
        """How many queries each threshold escalates: these are the first ones."""
        return np.searchsorted(self.score, keep_at, side="left")

    def routed(self) -> Column:
        """Successes of routed answers, by number of escalated queries."""
        return split_sums(self.strong, self.weak)

    def threshold(
        self,
        keep_at: float,
        *,
        reason: str,
        guaranteed: bool = False,
        labels_needed: int | None = None,
    ) -> Threshold:
        """The record of one threshold, with what it does on these rows."""
        split = int(self.escalated(np.array([keep_at]))[0])
        n = len(self)
        routed = self.strong[:split].sum() + self.weak[split:].sum()
        return Threshold(
            keep_at=keep_at,
            strong_share=split / n,
            routed_accuracy=float(routed / n),
            strong_accuracy=float(self.strong.sum() / n),
            guaranteed=guaranteed,
            n=n,
            reason=reason,
            labels_needed=labels_needed,
        )


def split_sums(before: Column, after: Column) -> Column:
    """Along the last axis: sum of ``before`` up to each split and of ``after`` from there on."""
    start = np.zeros_like(before[..., :1])
    head = np.concatenate([start, np.cumsum(before, axis=-1)], axis=-1)
    tail = np.concatenate([np.cumsum(after[..., ::-1], axis=-1)[..., ::-1], start], axis=-1)
    return head + tail
