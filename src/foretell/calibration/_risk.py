"""The threshold that escalates least while the expected loss of keeping stays small."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._columns import finite_column, group_column, same_length
from foretell.calibration._curve import (
    CHANCES,
    ScoreRange,
    keep_nothing_at,
    score_column,
    split_sums,
    whole_labels,
)
from foretell.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskThreshold:
    """A threshold, what it does on the ``n`` queries it was chosen on, and what it promises.

    ``strong_share`` is the share escalated and ``risk`` the mean loss over groups, which escalated
    queries enter as 0. ``guaranteed`` is false when the data cannot support the goal: everything is
    escalated, ``reason`` says so, and ``labels_needed`` is a rough number of labels that would do
    (``None`` when not even more of the same data would).
    """

    keep_at: float
    strong_share: float
    risk: float
    guaranteed: bool
    n: int
    reason: str
    labels_needed: int | None = None


def keep_at_for_risk(
    scores: ArrayLike,
    loss_if_kept: ArrayLike,
    risk: float,
    *,
    bound: float = 1.0,
    groups: ArrayLike | None = None,
    score_range: ScoreRange = CHANCES,
) -> RiskThreshold:
    """The threshold that escalates least while the expected loss is at most ``risk``.

    Conformal risk control (Angelopoulos et al., 2024, ICLR, theorem 1): escalating costs no loss,
    so the loss falls as the threshold rises, and the lowest one with
    ``(n * mean loss + bound) / (n + 1) <= risk`` has an expected loss of at most ``risk`` on a new
    query of the same kind. The expectation is over the draw of these queries too: it holds on
    average over calibrations, where ``keep_at_for_quality`` holds for this one, with a confidence.

    Raising ``risk`` never raises the threshold.

    Args:
        scores: Higher means better kept; not fitted on these queries' outcomes.
        loss_if_kept: What keeping each query costs, from 0 to ``bound``: ``1 - weak``, or
            ``max(strong - weak, 0)``.
        risk: The mean loss allowed, above 0.
        bound: The largest loss that any query can have.
        groups: Queries of one group are not independent of each other; the loss is then that of a
            query drawn at random from a new group, and every group counts once.
        score_range: What a score can be, as in ``keep_at_for_quality``.

    Raises:
        InputError: No queries, columns of different lengths, or a number outside its range.
    """
    score = score_column(scores, score_range)
    loss = finite_column(loss_if_kept, "losses")
    same_length(scores=score, losses=loss)
    if not risk > 0:
        raise InputError(f"risk must be above 0, got {risk}")
    if bad := int(np.count_nonzero((loss < 0) | (loss > bound))):
        raise InputError(f"{bad} of {len(loss)} losses lie outside 0 to the bound {bound:g}")
    group = group_column(groups, len(score))
    n_groups = int(group.max()) + 1

    order = np.argsort(score, kind="stable")
    thresholds = np.append(np.unique(score), keep_nothing_at(score_range))
    split = np.searchsorted(score[order], thresholds, side="left")
    # Every group counts once, whatever its size.
    counted = (loss / np.bincount(group)[group])[order]
    kept_loss = split_sums(np.zeros_like(counted), counted)[split]
    # The tolerance keeps a loss that is exactly allowed allowed, whatever the product rounds to.
    allowed = kept_loss + bound <= risk * (n_groups + 1) + 1e-9

    def threshold(chosen: int, reason: str, labels_needed: int | None = None) -> RiskThreshold:
        return RiskThreshold(
            keep_at=float(thresholds[chosen]),
            strong_share=float(split[chosen] / len(loss)),
            risk=float(kept_loss[chosen] / n_groups),
            guaranteed=bool(allowed[:-1].any()),
            n=len(loss),
            reason=reason,
            labels_needed=labels_needed,
        )

    if allowed[:-1].any():
        lowest = int(np.argmax(allowed))
        return threshold(lowest, f"the expected loss of a new query is at most {risk:g}")
    spare = risk - float(kept_loss[:-1].min()) / n_groups
    groups_needed = (bound - risk) / spare if spare > 0 else math.inf
    labels_needed = whole_labels(groups_needed * len(loss) / n_groups)
    advice = (
        "and more labels like these would not help: allow more or use a better router"
        if labels_needed is None
        else f"about {labels_needed} would: label more queries, or allow more"
    )
    reason = f"{len(loss)} labels cannot support a risk of {risk:g}, so everything is escalated; "
    return threshold(len(thresholds) - 1, reason + advice, labels_needed)
