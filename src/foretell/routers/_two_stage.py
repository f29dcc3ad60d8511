"""Bars for two looks: escalate at once, or answer, look at the answer, and then decide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.calibration import KEEP_NOTHING
from foretell.errors import InputError

Floats = NDArray[np.float64]

_MOST_BARS = 400
"""Bars tried for each look: all chances up to this many, else as many evenly spaced by rank."""

_DIGITS = 9
_ROUNDING = 10**-_DIGITS


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """USD of one query's parts, each 0 or more.

    ``prefill`` (of the weak model) is always paid, ``weak_answer`` when the weak model goes on to
    answer, ``strong_answer`` (its own prefill included) when the query escalates.
    """

    prefill: float
    weak_answer: float
    strong_answer: float

    def __post_init__(self) -> None:
        costs = (self.prefill, self.weak_answer, self.strong_answer)
        if not all(np.isfinite(cost) and cost >= 0 for cost in costs):
            raise InputError(f"costs must be finite and 0 or more, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoStageRule:
    """Two bars, and what they did on the queries they were chosen on.

    A query escalates at once when its first chance is below ``answer_at``. The others are answered
    by the weak model, and kept when the combined chance reaches ``keep_at``. There is no bar for
    keeping at once: an answer that will be kept has been paid for, so looking at it is free.

    ``strong_share`` is the share that escalates, ``in_vain_share`` the part of it that the weak
    model had answered first, ``quality`` the mean success of what is served, ``strong_quality`` of
    always asking the strong model, ``cost_usd`` the mean per query, and ``n`` the queries.
    """

    answer_at: float
    keep_at: float
    strong_share: float
    in_vain_share: float
    quality: float
    strong_quality: float
    cost_usd: float
    n: int

    def answers(self, first: Floats) -> NDArray[np.bool_]:
        """Whether the weak model goes on to answer, by chances before that."""
        return first >= self.answer_at

    def keeps(self, first: Floats, combined: Floats) -> NDArray[np.bool_]:
        """Whether its answer is served, by chances before and after."""
        return self.answers(first) & (combined >= self.keep_at)


def two_stage_rule(
    first: ArrayLike,
    combined: ArrayLike,
    *,
    weak: ArrayLike,
    strong: ArrayLike,
    costs: StageCosts,
    quality: float | None = None,
    strong_share: float | None = None,
) -> TwoStageRule:
    """The cheapest rule that holds a quality, or the best one within a share of strong calls.

    Of rules that reach the goal equally well, the one of least cost, then of fewest strong calls.
    The goal holds on these queries; nothing is promised for others.

    Args:
        first: Chances before answering, not fitted on these queries' outcomes.
        combined: Chances after answering, of the same kind.
        weak: Success of the weak model, between 0 and 1.
        strong: Success of the strong model on the same queries.
        costs: What each part of a query costs.
        quality: Routed success to hold, as a share of the strong model's; above 0, at most 1.
        strong_share: Largest share to escalate, from 0 to 1. Give this or ``quality``.

    Raises:
        InputError: No queries, columns that do not fit together, or not exactly one goal.
    """
    columns = _unit_columns(first=first, combined=combined, weak=weak, strong=strong)
    rules = _Rules.of(**columns, costs=costs)
    cost = rules.cost / (rules.cost.max() or 1)  # so that rounding means the same at any price
    if quality is not None and strong_share is None:
        if not 0 < quality <= 1:
            raise InputError(f"quality must be above 0 and at most 1, got {quality}")
        holds = rules.quality >= quality * rules.strong_quality - _ROUNDING
        return rules.best(holds, (cost, rules.strong_share, -rules.quality))
    if strong_share is not None and quality is None:
        if not 0 <= strong_share <= 1:
            raise InputError(f"strong share must be between 0 and 1, got {strong_share}")
        within = rules.strong_share <= strong_share + _ROUNDING
        return rules.best(within, (-rules.quality, cost, rules.strong_share))
    raise InputError(
        f"a two-stage rule needs one goal, got quality {quality} and strong share {strong_share}; "
        "give one of them"
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rules:
    """Every pair of bars with what it does; matrices are (answer bars, keep bars)."""

    answer_bars: Floats
    keep_bars: Floats
    strong_share: Floats
    in_vain_share: Floats
    quality: Floats
    cost: Floats
    strong_quality: float
    n: int

    @classmethod
    def of(
        cls, *, first: Floats, combined: Floats, weak: Floats, strong: Floats, costs: StageCosts
    ) -> _Rules:
        answer_bars, keep_bars = _bars(first), _bars(combined)
        answered = (first >= answer_bars[:, None]).astype(np.float64)
        keepable = (combined >= keep_bars[:, None]).astype(np.float64)
        kept = answered @ keepable.T / len(first)
        won_by_keeping = (answered * (weak - strong)) @ keepable.T / len(first)
        answered_share = answered.mean(axis=1, keepdims=True)
        return cls(
            answer_bars=answer_bars,
            keep_bars=keep_bars,
            strong_share=1 - kept,
            in_vain_share=answered_share - kept,
            quality=strong.mean() + won_by_keeping,
            cost=costs.prefill
            + costs.weak_answer * answered_share
            + costs.strong_answer * (1 - kept),
            strong_quality=float(strong.mean()),
            n=len(first),
        )

    def best(self, reaches: NDArray[np.bool_], preference: tuple[Floats, ...]) -> TwoStageRule:
        """The rule that reaches the goal and is least in ``preference``, the first column first."""
        rows, columns = np.nonzero(reaches)
        # Sums of the same numbers in another order differ in the last digits: that is a tie.
        keys = [np.round(column[rows, columns], _DIGITS) for column in preference]
        place = np.lexsort(keys[::-1])[0]
        row, column = rows[place], columns[place]
        return TwoStageRule(
            answer_at=float(self.answer_bars[row]),
            keep_at=float(self.keep_bars[column]),
            strong_share=float(self.strong_share[row, column]),
            in_vain_share=float(self.in_vain_share[row, column]),
            quality=float(self.quality[row, column]),
            strong_quality=self.strong_quality,
            cost_usd=float(self.cost[row, column]),
            n=self.n,
        )


def _bars(chances: Floats) -> Floats:
    """Bars from one that everything reaches to one that nothing does."""
    levels = np.unique(chances)
    if len(levels) > _MOST_BARS:
        levels = levels[np.linspace(0, len(levels) - 1, _MOST_BARS).astype(np.int64)]
    return np.array([0.0, *levels, KEEP_NOTHING])


def _unit_columns(**columns: ArrayLike) -> dict[str, Floats]:
    arrays = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or arrays["first"].ndim != 1 or not arrays["first"].size:
        raise InputError(f"columns have shapes {shapes}; wanted one number per query in each")
    for name, array in arrays.items():
        if bad := int(np.count_nonzero(~((array >= 0) & (array <= 1)))):
            raise InputError(f"{bad} of {array.size} {name} numbers lie outside 0 to 1")
    return arrays
