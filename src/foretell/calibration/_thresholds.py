"""Where to draw the line between keeping and escalating.

A query is kept when ``p_success >= keep_at``. Goals come in (a share, a quality), ``keep_at``
comes out; nothing here is random and nothing is remembered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._columns import Column, same_length, unit_column
from foretell.errors import InputError

KEEP_NOTHING = math.nextafter(1.0, 2.0)
"""The ``keep_at`` that escalates everything: just above every chance, and a number in JSON."""

_STEPS = 1000
"""Thresholds that a guarantee may choose from, evenly spaced and fixed before seeing any data."""

_STAKES = np.array([0.1, 0.3, 0.9])
"""Bets on "the routed accuracy is high enough". Below 1, so that no loss can ruin them."""


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


def keep_at_for_strong_share(p_success: ArrayLike, share: float) -> float:
    """The highest threshold that escalates at most ``share`` of these queries.

    Queries of equal chance are kept or escalated together, so fewer may be escalated than asked.

    Args:
        p_success: Chances between 0 and 1, at least one.
        share: From 0 (keep everything) to 1 (escalate everything).
    """
    p = _some_chances(p_success)
    _require_share(share, "strong share")
    if share == 0:
        return 0.0
    # The tolerance keeps 0.3 of 10 queries at 3, whatever the product rounds to.
    budget = math.floor(share * len(p) + 1e-9)
    return float(np.sort(p)[budget]) if budget < len(p) else KEEP_NOTHING


def keep_at_for_quality(
    p_success: ArrayLike,
    weak: ArrayLike,
    strong: ArrayLike,
    quality: float,
    confidence: float | None = None,
) -> Threshold:
    """The threshold that escalates least while routed accuracy holds ``quality``.

    The goal is that the mean accuracy of routed answers is at least ``quality`` times the strong
    model's. Without ``confidence`` the goal holds on these queries. With it, it holds for new
    queries of the same kind with at least that probability over the draw of these: thresholds are
    tested from "escalate everything" downwards, each at level ``1 - confidence``, until one fails
    (fixed-sequence Learn-then-Test: Angelopoulos et al., 2021). Each is a
    betting test for bounded losses (Waudby-Smith and Ramdas, 2024).

    Raising ``quality`` or ``confidence`` never lowers the threshold.

    Args:
        p_success: Chances between 0 and 1, not fitted on these queries' outcomes.
        weak: Success of the weak model, between 0 and 1.
        strong: Success of the strong model on the same queries.
        quality: Above 0, at most 1.
        confidence: Above 0, below 1; ``None`` for the sample's own best.

    Raises:
        InputError: No queries, columns of different lengths, or a number outside its range.
    """
    p = _some_chances(p_success)
    weak_success = unit_column(weak, "weak outcomes")
    strong_success = unit_column(strong, "strong outcomes")
    same_length(chances=p, weak=weak_success, strong=strong_success)
    if not 0 < quality <= 1:
        raise InputError(f"quality must be above 0 and at most 1, got {quality}")
    if confidence is not None and not 0 < confidence < 1:
        raise InputError(f"confidence must be above 0 and below 1, got {confidence}")
    curve = _Curve.of(p, weak_success, strong_success)
    if confidence is None:
        return curve.threshold(curve.least_that_holds(quality), reason="holds on these queries")
    return _guaranteed(curve, quality, confidence)


def stop_below(p_early: ArrayLike, kept: ArrayLike, loss: float) -> float:
    """Where an early look may decline already: the highest bar that stops few kept queries.

    Args:
        p_early: Chances by an early, weaker probe, not fitted on these queries' outcomes.
        kept: Whether the full rule keeps each of the same queries.
        loss: Share of the kept queries that may fall below the bar, from 0 to 1.

    Returns:
        A bar to stop below; 0 (stops nothing) when nothing is kept.
    """
    p = _some_chances(p_early)
    keeps = np.asarray(kept, dtype=bool)
    if keeps.shape != p.shape:
        raise InputError(f"{len(p)} chances but {keeps.size} decisions; wanted one for each query")
    _require_share(loss, "loss")
    among_kept = np.sort(p[keeps])
    if not len(among_kept):
        return 0.0
    return float(among_kept[min(math.floor(loss * len(among_kept) + 1e-9), len(among_kept) - 1)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Curve:
    """Queries in the order of their chances: a threshold splits them at one place."""

    p: Column
    weak: Column
    strong: Column

    @classmethod
    def of(cls, p: Column, weak: Column, strong: Column) -> _Curve:
        order = np.argsort(p, kind="stable")
        return cls(p=p[order], weak=weak[order], strong=strong[order])

    def escalated(self, keep_at: Column) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """How many queries each threshold escalates: these are the first ones."""
        return np.searchsorted(self.p, keep_at, side="left")

    def least_that_holds(self, quality: float) -> float:
        """The lowest threshold with routed accuracy of ``quality`` times the strong model's."""
        candidates = np.append(np.unique(self.p), KEEP_NOTHING)
        routed = _split_sums(self.strong, self.weak)[self.escalated(candidates)]
        # Sums of the same numbers in another order differ in the last digits.
        enough = routed >= quality * self.strong.sum() - 1e-9 * len(self.p)
        return float(candidates[np.argmax(enough)])

    def threshold(
        self,
        keep_at: float,
        *,
        reason: str,
        guaranteed: bool = False,
        labels_needed: int | None = None,
    ) -> Threshold:
        split = int(self.escalated(np.array([keep_at]))[0])
        n = len(self.p)
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


def _guaranteed(curve: _Curve, quality: float, confidence: float) -> Threshold:
    candidates = np.arange(_STEPS, -1, -1) / _STEPS
    split = curve.escalated(candidates)
    wealth = _log_wealth(curve, quality)[:, split]
    needed = -math.log(1 - confidence)
    passed = int(np.argmin(np.append(_log_mean_exp(wealth) >= needed, False)))
    if passed > 0 and split[passed - 1] < len(curve.p):
        return curve.threshold(
            float(candidates[passed - 1]),
            guaranteed=True,
            reason=f"holds for new queries with confidence {confidence:g}",
        )
    first_kept = int(np.argmax(split < len(curve.p)))
    growth = float(wealth[:, first_kept].max()) / len(curve.p)
    more = (needed + math.log(len(_STAKES))) / growth if growth > 0 else math.inf
    labels_needed = math.ceil(more) if more < 1e9 else None
    advice = (
        "and more labels like these would not help: lower the goal or use a better router"
        if labels_needed is None
        else f"about {labels_needed} would: label more queries, or lower the goal"
    )
    return curve.threshold(
        KEEP_NOTHING,
        reason=(
            f"{len(curve.p)} labels cannot support quality {quality:g} at confidence "
            f"{confidence:g}, so everything is escalated; {advice}"
        ),
        labels_needed=labels_needed,
    )


def _log_wealth(curve: _Curve, quality: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Evidence that the goal holds, by stake (rows) and number of escalated queries (columns).

    A query's margin is ``d = routed - quality * strong``, at least -1. Where the goal fails, the
    mean of ``d`` is below 0, so the product of ``1 + stake * d`` over independent queries has an
    expected value of at most 1 for every stake in (0, 1); so has the average over the stakes. By
    Markov's inequality it exceeds ``1 / delta`` with probability at most ``delta``: its inverse
    is a valid p-value. This is the betting test of Waudby-Smith and Ramdas (2024), which Bates
    et al. (2021) recommend for bounded losses, in a form that ignores the order of rows. Bounds
    that look at the mean alone (Hoeffding-Bentkus) need many times the labels here, since the
    margin of an escalated query hardly varies.
    """
    stakes = _STAKES[:, None]
    kept = np.log1p(stakes * (curve.weak - quality * curve.strong))
    escalated = np.log1p(stakes * (1 - quality) * curve.strong)
    return _split_sums(escalated, kept)


def _split_sums(before: Column, after: Column) -> Column:
    """Along the last axis: sum of ``before`` up to each split and of ``after`` from there on."""
    start = np.zeros_like(before[..., :1])
    head = np.concatenate([start, np.cumsum(before, axis=-1)], axis=-1)
    tail = np.concatenate([np.cumsum(after[..., ::-1], axis=-1)[..., ::-1], start], axis=-1)
    return head + tail


def _log_mean_exp(values: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Column:
    top = values.max(axis=0)
    return top + np.log(np.exp(values - top).mean(axis=0))


def _some_chances(p_success: ArrayLike) -> Column:
    p = unit_column(p_success, "chances")
    if len(p) == 0:
        raise InputError("no queries to choose a threshold on; label some first")
    return p


def _require_share(value: float, name: str) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} must be between 0 and 1, got {value}")
