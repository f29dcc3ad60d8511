"""What routing buys: quality by strong-call share, and risk by the share that is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from foretell.errors import InputError
from foretell.evaluation._intervals import Floats, Statistic
from foretell.evaluation._statistics import (
    apgr_of,
    aurc_of,
    cpt_of,
    curve_knots,
)


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RiskCoverageCurve:
    """How many of the kept queries the weak model fails, by how many are kept.

    ``coverage`` rises from 0 to 1 (all are kept); ``failed`` is kept failures per query asked,
    straight between the knots, so the risk at a coverage is ``failed`` divided by it.
    """

    coverage: Floats
    failed: Floats

    def risk_at(self, coverage: ArrayLike) -> Floats:
        """Failure share among the kept when that share, above 0, is kept."""
        at = np.asarray(coverage, dtype=np.float64)
        if not ((at > 0) & (at <= 1)).all():
            raise InputError(f"coverage must be above 0 and at most 1, got {coverage}")
        return np.interp(at, self.coverage, self.failed) / at


def cost_quality_curve(
    scores: ArrayLike, weak: ArrayLike, strong: ArrayLike, weights: ArrayLike | None = None
) -> Curve:
    """The curve of escalating lowest scores first.

    Queries of one score are taken in a random order, on average: the curve is straight across
    them, and the order of rows does not matter.

    Args:
        scores: Per query, higher means the weak model is likelier to succeed.
        weak: Success of the weak model, 0 to 1.
        strong: Success of the strong model, 0 to 1.
        weights: Repetitions of each row, 1 where absent.

    Raises:
        InputError: No queries, columns of different lengths, or a number that is not finite.
    """
    score, of_weak, of_strong = _columns(scores=scores, weak=weak, strong=strong)
    weight = _weight_column(weights, len(score))
    share, gain = curve_knots(score, of_weak, of_strong, weight[None, :])
    quality = np.average(of_weak, weights=weight) + gain[0]
    quality[-1] = np.average(of_strong, weights=weight)
    return Curve(share=share[0], quality=quality)


def risk_coverage_curve(
    scores: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None
) -> RiskCoverageCurve:
    """The curve of keeping highest scores first (Geifman and El-Yaniv, 2017).

    Equal scores are kept in a random order, on average. ``outcomes`` are successes of the weak
    model, 0 to 1; the other arguments and errors as for ``cost_quality_curve``.
    """
    score, outcome = _columns(scores=scores, outcomes=outcomes)
    weight = _weight_column(weights, len(score))
    kept, failed = curve_knots(-score, np.zeros(len(score)), 1 - outcome, weight[None, :])
    return RiskCoverageCurve(coverage=kept[0], failed=failed[0])


def aurc(scores: ArrayLike, outcomes: ArrayLike) -> float | None:
    """Area under the risk-coverage curve: the mean risk over every number of kept queries.

    Geifman and El-Yaniv, "Selective classification for deep neural networks" (2017); lower is
    better, and a router that knows nothing has the failure share. Arguments and errors as for
    ``risk_coverage_curve``.
    """
    return _value(aurc_of(*_columns(scores=scores, outcomes=outcomes)), np.size(scores))


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
    columns = _columns(scores=scores, weak=weak, strong=strong)
    return _value(apgr_of(*columns), len(columns[0]))


def cpt(scores: ArrayLike, weak: ArrayLike, strong: ArrayLike, *, target: float) -> float | None:
    """Call-performance threshold: smallest share whose PGR reaches ``target``; ``None`` if no gap.

    ``target`` is above 0 and at most 1: CPT(50 %) of RouteLLM has ``target=0.5``. The other
    arguments and errors as for ``cost_quality_curve``.
    """
    if not 0 < target <= 1:
        raise InputError(f"target must be above 0 and at most 1, got {target}")
    score, of_weak, of_strong = _columns(scores=scores, weak=weak, strong=strong)
    return _value(cpt_of(score, of_weak, of_strong, target), len(score))


def _columns(**given: ArrayLike) -> tuple[Floats, ...]:
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in given.items()}
    shapes = [column.shape for column in columns.values()]
    if len(shapes[0]) != 1 or not shapes[0][0] or len(set(shapes)) > 1:
        raise InputError(
            f"{_listed(columns)} have shapes {_listed(map(str, shapes))}; wanted one number per "
            "query in each"
        )
    if not all(np.isfinite(column).all() for column in columns.values()):
        raise InputError("scores or outcomes are not finite; leave those queries out")
    return tuple(columns.values())


def _weight_column(weights: ArrayLike | None, n: int) -> Floats:
    column = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if column.shape != (n,) or not (np.isfinite(column) & (column >= 0)).all() or not column.any():
        raise InputError(
            f"weights have shape {column.shape}; wanted {n} numbers of at least 0, not all 0"
        )
    return column


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}"


def _value(statistic: Statistic, n: int) -> float | None:
    value = float(statistic(np.ones((1, n)))[0])
    return value if np.isfinite(value) else None
