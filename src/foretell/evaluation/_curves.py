"""What routing buys: quality against the share of queries that the strong model answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from foretell.errors import InputError
from foretell.evaluation._intervals import Floats, Statistic
from foretell.evaluation._statistics import apgr_of, cpt_of, curve_knots


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Quality at each strong-call share, straight between the knots.

    ``share`` rises from 0 (the weak model answers all) to 1 (the strong one does); ``quality`` is
    the mean success there, so its ends are the two models' own.
    """

    share: Floats
    quality: Floats

    def quality_at(self, share: ArrayLike) -> Floats:
        """Mean success when that share of the queries is escalated."""
        return np.interp(np.asarray(share, dtype=np.float64), self.share, self.quality)


def cost_quality_curve(scores: ArrayLike, weak: ArrayLike, strong: ArrayLike) -> Curve:
    """The curve of escalating lowest scores first.

    Queries of one score are taken in a random order, on average: the curve is straight across
    them, and the order of rows does not matter.

    Args:
        scores: Per query, higher means the weak model is likelier to succeed.
        weak: Success of the weak model, 0 to 1.
        strong: Success of the strong model, 0 to 1.

    Raises:
        InputError: No queries, columns of different lengths, or a number that is not finite.
    """
    score, of_weak, of_strong = _columns(scores, weak, strong)
    share, gain = curve_knots(score, of_weak, of_strong, np.ones((1, len(score))))
    quality = of_weak.mean() + gain[0]
    quality[-1] = of_strong.mean()
    return Curve(share=share[0], quality=quality)


def pgr(quality: float, *, weak: float, strong: float) -> float | None:
    """Performance gap recovered, ``(quality - weak) / (strong - weak)``; ``None`` without a gap.

    Ong et al., "RouteLLM" (arXiv 2406.18665), section 3.2. Below 0 when worse than the weak model.
    """
    gap = strong - weak
    return (quality - weak) / gap if gap > 0 else None


def apgr(scores: ArrayLike, weak: ArrayLike, strong: ArrayLike) -> float | None:
    """Average PGR over strong-call shares, the integral from 0 to 1; ``None`` without a gap.

    RouteLLM averages ten shares; the integral is what that tends to. Random routing has 0.5.
    Arguments and errors as for ``cost_quality_curve``.
    """
    columns = _columns(scores, weak, strong)
    return _value(apgr_of(*columns), len(columns[0]))


def cpt(scores: ArrayLike, weak: ArrayLike, strong: ArrayLike, *, target: float) -> float | None:
    """Call-performance threshold: smallest share whose PGR reaches ``target``; ``None`` if no gap.

    ``target`` is above 0 and at most 1: CPT(50 %) of RouteLLM has ``target=0.5``. The other
    arguments and errors as for ``cost_quality_curve``.
    """
    if not 0 < target <= 1:
        raise InputError(f"target must be above 0 and at most 1, got {target}")
    columns = _columns(scores, weak, strong)
    return _value(cpt_of(*columns, target), len(columns[0]))


def _columns(
    scores: ArrayLike, weak: ArrayLike, strong: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    score, of_weak, of_strong = (
        np.asarray(column, dtype=np.float64) for column in (scores, weak, strong)
    )
    if score.ndim != 1 or not len(score) or not score.shape == of_weak.shape == of_strong.shape:
        raise InputError(
            f"scores, weak and strong have shapes {score.shape}, {of_weak.shape} and "
            f"{of_strong.shape}; wanted one number per query in each"
        )
    if not all(np.isfinite(column).all() for column in (score, of_weak, of_strong)):
        raise InputError("scores or outcomes are not finite; leave those queries out")
    return score, of_weak, of_strong


def _value(statistic: Statistic, n: int) -> float | None:
    value = float(statistic(np.ones((1, n)))[0])
    return value if np.isfinite(value) else None
