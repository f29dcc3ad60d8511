"""From a goal to a threshold, with what was held out in training as the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from foretell.calibration import keep_at_for_quality, keep_at_for_strong_share, stop_below
from foretell.config import QualityGoal, StrongShareGoal, ThresholdGoal
from foretell.errors import ConfigError
from foretell.probes import FittedLinearProbe, HeldOut, SavedProbe

_EARLY_LOSS: Final = 0.04

Goal = QualityGoal | StrongShareGoal | ThresholdGoal


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Keep when ``p_success >= keep_at``; ``reason`` says in a sentence where it comes from."""

    keep_at: float
    reason: str


def bar_for(goal: Goal, held_out: HeldOut) -> Bar:
    """The threshold that a goal asks for.

    ``held_out`` is the router's on queries it has not seen. Raises ``ConfigError`` when the goal
    needs evidence that is not there.
    """
    if isinstance(goal, ThresholdGoal):
        return Bar(keep_at=goal.threshold, reason="the configured threshold")
    if isinstance(goal, StrongShareGoal):
        keep_at = keep_at_for_strong_share(held_out.p_success, goal.strong_share)
        return Bar(
            keep_at=keep_at,
            reason=f"sends {goal.strong_share:.0%} of the training queries to the strong model",
        )
    known = np.isfinite(held_out.strong)
    if not known.any():
        raise ConfigError(
            "goal quality compares with the strong model, whose answers were not labelled; "
            "collect --with-strong and label, or use {strong_share: …}"
        )
    threshold = keep_at_for_quality(
        held_out.p_success[known],
        held_out.weak[known],
        held_out.strong[known],
        goal.quality,
        goal.confidence,
    )
    return Bar(keep_at=threshold.keep_at, reason=threshold.reason)


def share_within_budget(budget_usd: float, *, weak_usd: float, strong_usd: float) -> float:
    """The share of queries that may go to the strong model for ``budget_usd`` a query.

    Every query pays the weak model; a kept one its answer too, which is charged to all here, so
    the budget holds with something to spare.
    """
    if strong_usd <= 0:
        return 1.0
    return min(1.0, max(0.0, (budget_usd - weak_usd) / strong_usd))


def early_bars(
    held_out: HeldOut, early: Sequence[SavedProbe], keep_at: float
) -> tuple[tuple[FittedLinearProbe, float], ...]:
    """Early probes with the bars below which each declines.

    Together they may decline at most 4 % of the training queries that the full rule keeps.
    """
    kept = held_out.p_success >= keep_at
    return tuple(
        (saved.probe, stop_below(saved.held_out.p_success, kept, _EARLY_LOSS / len(early)))
        for saved in early
        if len(saved.held_out.p_success) == len(kept)
    )
