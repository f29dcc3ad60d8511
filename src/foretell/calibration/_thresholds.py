"""Where to draw the line between keeping and escalating, for a share or for an early look.

A query is kept when its score reaches ``keep_at``. Nothing here is random and nothing is
remembered. Thresholds that hold a quality are in ``_guarantees``, those that hold a risk in
``_risk``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._columns import unit_column
from foretell.calibration._curve import (
    CHANCES,
    ScoreRange,
    keep_everything_at,
    keep_nothing_at,
    score_column,
)
from foretell.errors import InputError


def keep_at_for_strong_share(
    scores: ArrayLike, share: float, *, score_range: ScoreRange = CHANCES
) -> float:
    """The highest threshold that escalates at most ``share`` of these queries.

    Queries of equal score are kept or escalated together, so fewer may be escalated than asked.

    Args:
        scores: At least one; higher means better kept.
        share: From 0 (keep everything) to 1 (escalate everything).
        score_range: What a score can be: 0 to 1 for a chance, -1 to 1 for a difference of two.
    """
    score = score_column(scores, score_range)
    _require_share(share, "strong share")
    if share == 0:
        return keep_everything_at(score_range)
    # The tolerance keeps 0.3 of 10 queries at 3, whatever the product rounds to.
    budget = math.floor(share * len(score) + 1e-9)
    return float(np.sort(score)[budget]) if budget < len(score) else keep_nothing_at(score_range)


def stop_below(p_early: ArrayLike, kept: ArrayLike, loss: float) -> float:
    """Where an early look may decline already: the highest bar that stops few kept queries.

    Args:
        p_early: Chances by an early, weaker probe, not fitted on these queries' outcomes.
        kept: Whether the full rule keeps each of the same queries.
        loss: Share of the kept queries that may fall below the bar, from 0 to 1.

    Returns:
        A bar to stop below; 0 (stops nothing) when nothing is kept.
    """
    p = unit_column(p_early, "chances")
    if len(p) == 0:
        raise InputError("no queries to choose a threshold on; label some first")
    keeps = np.asarray(kept, dtype=bool)
    if keeps.shape != p.shape:
        raise InputError(f"{len(p)} chances but {keeps.size} decisions; wanted one for each query")
    _require_share(loss, "loss")
    among_kept = np.sort(p[keeps])
    if not len(among_kept):
        return 0.0
    return float(among_kept[min(math.floor(loss * len(among_kept) + 1e-9), len(among_kept) - 1)])


def _require_share(value: float, name: str) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} must be between 0 and 1, got {value}")
