"""What answering costs: prices and tokens in, US dollars per 1,000 queries out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from foretell.config import Price
from foretell.evaluation._cost_statistics import Routed
from foretell.evaluation._intervals import Floats, Interval
from foretell.records import RoutingData
from foretell.routers import Sees

TOKEN_COLUMNS: Final = ("prompt_tokens", "weak_tokens", "strong_prompt_tokens", "strong_tokens")
"""The columns that costs are made of; each must hold some value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What the two models of a route cost, each in USD per million tokens."""

    weak: Price
    strong: Price

    @property
    def ratio(self) -> float | None:
        """How many times the weak model's the strong one's output price is; ``None`` if free."""
        return self.strong.output / self.weak.output if self.weak.output else None


DEFAULT_PRICES: Final = Prices(
    weak=Price(input=0.02, output=0.08), strong=Price(input=2.5, output=10.0)
)
"""About what hosted models of 0.1 to 1 and of some 100 billion parameters cost: 1 to 125."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CostCurve:
    """What a router costs and how well it does at each of its thresholds.

    ``share`` rises from 0 (all kept) to 1 (all escalated); ``usd_per_1k`` is the cost of 1,000
    queries and ``quality`` the mean success there, straight between the knots.
    """

    share: Floats
    usd_per_1k: Floats
    quality: Floats

    def usd_per_1k_at(self, share: ArrayLike) -> Floats:
        """Cost of 1,000 queries when that share of them is escalated."""
        return np.interp(np.asarray(share, dtype=np.float64), self.share, self.usd_per_1k)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RouterCost:
    """The least that a router costs in USD per 1,000 queries, with a given success.

    ``equal_quality`` is at the strong model's own success, ``near_quality`` at 95 % of it. Each is
    undefined where the weak model alone has that success.
    """

    equal_quality: Interval
    near_quality: Interval
    curve: CostCurve


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What 1,000 test queries cost in USD without a router, and with one that is always right.

    ``oracle`` sends to the strong model exactly the queries that it answers better, and pays for
    one model a query. ``assumed`` counts, by column, the queries whose tokens were not known: they
    took the mean of the known ones.
    """

    prices: Prices
    always_weak: Interval
    always_strong: Interval
    oracle: Interval
    assumed: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueryCosts:
    """Costs of each query in USD per 1,000 such queries, each (queries,).

    ``weak_prefill`` is the weak model's reading of it, ``weak_answer`` its writing, ``strong`` both
    by the strong model.
    """

    weak_prefill: Floats
    weak_answer: Floats
    strong: Floats
    assumed: Mapping[str, int]

    @classmethod
    def of(cls, data: RoutingData, prices: Prices) -> QueryCosts:
        """From the token columns, none of which may lack every value (``missing_tokens``)."""
        tokens = {name: getattr(data, name) for name in TOKEN_COLUMNS}
        known = {name: np.isfinite(column) for name, column in tokens.items()}
        filled = {
            name: np.where(known[name], column, column[known[name]].mean())
            for name, column in tokens.items()
        }
        # USD per million tokens are thousandths of USD per 1,000 queries of one token.
        weak, strong = prices.weak, prices.strong
        return cls(
            weak_prefill=filled["prompt_tokens"] * weak.input / 1_000,
            weak_answer=filled["weak_tokens"] * weak.output / 1_000,
            strong=(
                filled["strong_prompt_tokens"] * strong.input
                + filled["strong_tokens"] * strong.output
            )
            / 1_000,
            assumed={
                name: count for name, mask in known.items() if (count := int((~mask).sum())) > 0
            },
        )

    @property
    def weak(self) -> Floats:
        """The weak model alone."""
        return self.weak_prefill + self.weak_answer

    def routed(
        self, scores: Floats, weak: Floats, strong: Floats, sees: Sees, overhead: float
    ) -> Routed:
        """A router on these queries, with everything that it pays for.

        Escalating comes on top of what the router must see: nothing of the weak model for one that
        sees the query, its whole prefill or its answer for the others. A gate that stops a prefill
        early pays less than is counted here. ``overhead`` is USD per 1,000 queries, kept or not.
        """
        seen = {"prefill": self.weak_prefill, "answer": self.weak}.get(sees, 0.0)
        return Routed(
            scores=scores,
            weak=weak,
            strong=strong,
            kept=self.weak + overhead,
            escalated=self.strong + seen + overhead,
            weak_alone=self.weak,
            strong_alone=self.strong,
        )


def missing_tokens(data: RoutingData) -> tuple[str, ...]:
    """The token columns without any value."""
    return tuple(name for name in TOKEN_COLUMNS if not np.isfinite(getattr(data, name)).any())


def counted_calls(scores: Floats, weak: Floats, strong: Floats) -> Routed:
    """A router whose cost is the share of strong calls: for queries whose tokens nobody counted."""
    nothing, one = np.zeros(len(scores)), np.ones(len(scores))
    return Routed(
        scores=scores,
        weak=weak,
        strong=strong,
        kept=nothing,
        escalated=one,
        weak_alone=nothing,
        strong_alone=one,
    )


def cost_curve(routed: Routed, share: Floats, weights: Floats) -> CostCurve:
    """The router's path under row weights (queries,); its knots lie at strong-call ``share``."""
    cost, quality = routed.path(weights[None, :])
    return CostCurve(share=share, usd_per_1k=cost[0], quality=quality[0])


def best_first(routed: Routed) -> Floats:
    """Scores of the oracle with money in mind: it escalates what gains most per dollar first.

    No rule has the same success for less, where escalating costs more than keeping on every query
    (the fractional knapsack); queries that cost nothing more count by their gain alone.
    """
    gain = routed.strong - routed.weak
    extra = routed.strong_alone - routed.weak_alone
    rate = gain / np.where(extra > 0, extra, 1.0)
    free = (extra <= 0) & (gain > 0)
    return -np.where(free, np.inf, rate)
