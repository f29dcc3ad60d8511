"""From a goal to a threshold, with what was held out in training as the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import (
    RiskThreshold,
    Threshold,
    keep_at_for_quality,
    keep_at_for_risk,
    keep_at_for_strong_share,
    stop_below,
)
from foretell.config import QualityGoal, RiskGoal, StrongShareGoal, ThresholdGoal
from foretell.errors import ConfigError
from foretell.probes import FittedLinearProbe, HeldOut, SavedProbe
from foretell.runtime._estimators import EarlyLook
from foretell.runtime._ladder_rows import unselected

_EARLY_LOSS: Final = 0.04
_FEWEST_TO_COMPARE: Final = 50
_RESAMPLES: Final = 200

Goal = QualityGoal | StrongShareGoal | RiskGoal | ThresholdGoal

_CHANCES: Final = (0.0, 1.0)
_GAINS: Final = (-1.0, 1.0)
"""What ``p_success`` and ``p_success - p_strong`` can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Keep when ``p_success >= keep_at``; ``reason`` says in a sentence where it comes from.

    With ``least_gain``, a query whose ``p_strong`` is foretold, too, is kept unless the strong
    model's chance is more than that above the weak one's. ``guaranteed`` says that a test backs the
    bar for new queries; where one was asked for and does not, about ``labels_needed`` labels would
    (``None`` when not even more of the same).
    """

    keep_at: float
    reason: str
    least_gain: float | None = None
    guaranteed: bool = False
    labels_needed: int | None = None

    def keeps(self, held_out: HeldOut) -> NDArray[np.bool_]:
        """Which of the held-out queries the rule keeps, (n,)."""
        if self.least_gain is None:
            return held_out.p_success >= self.keep_at
        return held_out.p_success >= held_out.p_strong - self.least_gain


def bar_for(goal: Goal, held_out: HeldOut) -> Bar:
    """The threshold that a goal asks for.

    ``held_out`` is the router's on queries it has not seen; of those that traffic brought, a part
    counts that is as if no rule had chosen whose answers are seen (``unselected``). Where it
    foretells the strong model, too, the bar may be on the gain of a strong call instead of on
    ``p_success``: for a quality it is whichever escalates less, each tested at half of the error
    that the confidence leaves; for a share, gain when that ranks clearly better. A goal of a risk,
    or of a bare threshold, is about ``p_success``. Raises ``ConfigError`` when the goal needs
    evidence that is not there.
    """
    if isinstance(goal, ThresholdGoal):
        return Bar(keep_at=goal.threshold, reason="the configured threshold")
    if len(held_out.weak_chance) or len(held_out.pair_chance):
        # The same part each time, so that a route opened twice has one bar.
        held_out = unselected(held_out, goal, np.random.default_rng(0))
    if isinstance(goal, StrongShareGoal):
        return _bar_for_share(goal.strong_share, held_out)
    known = np.isfinite(held_out.strong)
    if not known.any():
        name = "risk" if isinstance(goal, RiskGoal) else "quality"
        raise ConfigError(
            f"goal {name} compares with the strong model, whose answers were not labelled; "
            "collect --with-strong and label, or use {strong_share: …}"
        )
    p_success, weak, strong = (
        column[known] for column in (held_out.p_success, held_out.weak, held_out.strong)
    )
    groups = held_out.groups[known] if len(held_out.groups) else np.arange(len(weak))
    # Queries of one template stand or fall together, so that they promise less.
    clustered = groups if len(np.unique(groups)) < len(groups) else None
    if isinstance(goal, RiskGoal):
        lost = np.maximum(strong - weak, 0.0)
        safe = keep_at_for_risk(p_success, lost, goal.risk, groups=clustered)
        return _bar_on_chance(safe, safe.reason)

    def by(
        score: NDArray[np.float64], confidence: float, score_range: tuple[float, float]
    ) -> Threshold:
        return keep_at_for_quality(
            score,
            weak,
            strong,
            goal.quality,
            confidence,
            groups=clustered,
            score_range=score_range,
        )

    p_strong = held_out.p_strong[known] if len(held_out.p_strong) else np.empty(0)
    if not len(p_strong) or not np.isfinite(p_strong).all():
        alone = by(p_success, goal.confidence, _CHANCES)
        return _bar_on_chance(alone, alone.reason)
    confidence = (1 + goal.confidence) / 2
    success, gain = (
        by(p_success, confidence, _CHANCES),
        by(p_success - p_strong, confidence, _GAINS),
    )
    chosen = gain if gain.guaranteed and gain.strong_share < success.strong_share else success
    # Two tests at half of the error each are one promise at the confidence that was asked for.
    reason = chosen.reason.replace(f"confidence {confidence:g}", f"confidence {goal.confidence:g}")
    if chosen is gain:
        bar = _bar_on_gain(gain.keep_at, f"{reason}, by what a strong call gains")
        return replace(bar, guaranteed=True)
    return _bar_on_chance(success, reason)


def _bar_for_share(share: float, held_out: HeldOut) -> Bar:
    reason = f"sends {share:.0%} of the training queries to the strong model"
    if gain_ranks_better(held_out):
        known = np.isfinite(held_out.p_strong)
        score = (held_out.p_success - held_out.p_strong)[known]
        keep_at = keep_at_for_strong_share(score, share, score_range=_GAINS)
        return _bar_on_gain(keep_at, f"{reason}, those that gain most by it")
    return Bar(keep_at=keep_at_for_strong_share(held_out.p_success, share), reason=reason)


def _bar_on_chance(chosen: Threshold | RiskThreshold, reason: str) -> Bar:
    return Bar(
        keep_at=chosen.keep_at,
        reason=reason,
        guaranteed=chosen.guaranteed,
        labels_needed=chosen.labels_needed,
    )


def _bar_on_gain(keep_at: float, reason: str) -> Bar:
    """From a bar on ``p_success - p_strong``."""
    # The rule compares p_success with a difference: the slack keeps what rounding would not.
    least_gain = 1e-12 - keep_at
    # For an estimate without p_strong: as if the strong model were certain to succeed.
    return Bar(keep_at=max(0.0, 1.0 - least_gain), reason=reason, least_gain=least_gain)


def gain_ranks_better(held_out: HeldOut) -> bool:
    """Whether queries are better escalated by foretold gain than by chance of failure.

    Compares the accuracy won, averaged over all strong-call shares, on the held-out queries whose
    outcomes and chances are all known; better is by more than one standard error of the paired
    difference, from 200 resamples.
    """
    if not len(held_out.p_strong):
        return False
    known = np.isfinite(held_out.p_strong) & np.isfinite(held_out.strong)
    n = int(known.sum())
    if n < _FEWEST_TO_COMPARE:
        return False
    p_success, p_strong = held_out.p_success[known], held_out.p_strong[known]
    won = held_out.strong[known] - held_out.weak[known]
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    counts = np.vstack([np.ones(n), draws])

    def mean_won(score: NDArray[np.float64]) -> NDArray[np.float64]:
        order = np.argsort(score, kind="stable")
        return np.cumsum(counts[:, order] * won[order], axis=1).mean(axis=1)

    ahead = mean_won(p_success - p_strong) - mean_won(p_success)
    return bool(ahead[0] > ahead[1:].std())


def share_within_budget(budget_usd: float, *, weak_usd: float, strong_usd: float) -> float:
    """The share of queries that may go to the strong model for ``budget_usd`` a query.

    Every query pays the weak model; a kept one its answer too, which is charged to all here, so
    the budget holds with something to spare.
    """
    if strong_usd <= 0:
        return 1.0
    return min(1.0, max(0.0, (budget_usd - weak_usd) / strong_usd))


def early_looks(held_out: HeldOut, early: Sequence[SavedProbe], bar: Bar) -> tuple[EarlyLook, ...]:
    """What the early probes may stop, each below a bar of its own.

    Where the route's bar is on the gain of a strong call, so is theirs, if they foretell one.
    Together they may stop at most 4 % of the training queries that the full rule keeps.
    """
    kept = bar.keeps(held_out)
    loss = _EARLY_LOSS / max(1, len(early))
    looks: list[EarlyLook] = []
    for saved in early:
        seen, probe = saved.held_out, saved.probe
        if not isinstance(probe, FittedLinearProbe) or len(seen.p_success) != len(kept):
            continue
        strong = saved.heads.strong
        if bar.least_gain is None or strong is None or not np.isfinite(seen.p_strong).all():
            looks.append(EarlyLook(probe=probe, bar=stop_below(seen.p_success, kept, loss)))
            continue
        # stop_below goes by chances from 0 to 1.
        halved = stop_below((seen.p_success - seen.p_strong + 1) / 2, kept, loss)
        looks.append(EarlyLook(probe=probe, bar=2 * halved - 1, strong=strong))
    return tuple(looks)
