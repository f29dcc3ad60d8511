"""The test queries that both models answered, where a router's gain and cost are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.evaluation._cost_statistics import Routed, cost_at_quality_of, qnc_of
from foretell.evaluation._costs import (
    Costs,
    Prices,
    QueryCosts,
    RouterCost,
    best_first,
    cost_curve,
    counted_calls,
    missing_tokens,
)
from foretell.evaluation._curves import Curve, cost_quality_curve
from foretell.evaluation._evaluation import CostBasis, GapClosed, RouterResult
from foretell.evaluation._intervals import Floats, Interval, Resamples, Statistic, interval
from foretell.evaluation._statistics import apgr_of, less, mean_of, ratio
from foretell.records import RoutingData
from foretell.routers import Sees

PROBE: Final = "probe"

_NEAR_QUALITY = 0.95

_GapMetric = Literal["saving", "apgr"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """What a router says of all test queries, each (queries,).

    ``scores`` rank, ``chances`` are of success; ``overhead`` is what asking the router costs
    besides the models, in USD per 1,000 queries.
    """

    name: str
    sees: Sees
    scores: Floats
    chances: Floats
    overhead: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """The ``rows`` of the test queries whose outcomes of both models are known.

    The other columns are over those rows alone. ``query_costs`` is ``None`` where tokens are
    unknown.
    """

    rows: NDArray[np.int64]
    weak: Floats
    strong: Floats
    weights: Floats
    resamples: Resamples
    prices: Prices
    query_costs: QueryCosts | None

    @classmethod
    def among(cls, test: RoutingData, resamples: Resamples, prices: Prices) -> Answered:
        """Those of ``test``, all of whose weak outcomes are known."""
        known = np.isfinite(test.strong) if test.strong.size else np.zeros(len(test), bool)
        # Activations are of no use here, and heavy.
        answered = replace(test, activations={}, sequences={}).take(known)
        return cls(
            rows=np.flatnonzero(known),
            weak=answered.weak,
            strong=answered.strong,
            weights=answered.row_weights(),
            resamples=resamples,
            prices=prices,
            query_costs=None if missing_tokens(answered) else QueryCosts.of(answered, prices),
        )

    @property
    def strong_rate(self) -> float | None:
        """Mean success of the strong model."""
        return float(np.average(self.strong, weights=self.weights)) if len(self.rows) else None

    @property
    def cost_basis(self) -> CostBasis:
        """What costs are counted in."""
        return "tokens" if self.query_costs else "strong calls"

    def columns(self, judged: Judged) -> tuple[Floats, Floats, Floats]:
        """The router's scores and both models' outcomes."""
        return judged.scores[self.rows], self.weak, self.strong

    def routed(self, judged: Judged) -> Routed:
        """The router with what it pays for."""
        columns = self.columns(judged)
        if self.query_costs is None:
            return counted_calls(*columns)
        return self.query_costs.routed(*columns, judged.sees, judged.overhead)

    def measure(self, statistic: Statistic) -> Interval:
        """A statistic of these rows with its interval."""
        return interval(statistic, self.resamples, self.rows)

    def curve(self, judged: Judged) -> Curve | None:
        """Quality by strong-call share; ``None`` without a query."""
        if not len(self.rows):
            return None
        return cost_quality_curve(*self.columns(judged), self.weights)

    def cost(self, judged: Judged, curve: Curve | None) -> RouterCost | None:
        """What the router costs in USD; ``None`` where tokens are unknown."""
        if self.query_costs is None or curve is None:
            return None
        routed = self.routed(judged)
        return RouterCost(
            equal_quality=self.measure(cost_at_quality_of(routed, 1.0)),
            near_quality=self.measure(cost_at_quality_of(routed, _NEAR_QUALITY)),
            curve=cost_curve(routed, curve.share, self.weights),
        )

    def costs(self) -> Costs | None:
        """What the models cost without a router; ``None`` where tokens are unknown."""
        costs = self.query_costs
        if costs is None:
            return None
        right = np.where(self.strong > self.weak, costs.strong, costs.weak)
        return Costs(
            prices=self.prices,
            always_weak=self.measure(mean_of(costs.weak)),
            always_strong=self.measure(mean_of(costs.strong)),
            oracle=self.measure(mean_of(right)),
            assumed=costs.assumed,
        )

    def apgr(self, judged: Judged) -> Statistic:
        """The router's average gap recovered."""
        return apgr_of(*self.columns(judged))

    def saving(self, judged: Judged) -> Statistic:
        """The router's saving at equal quality, in shares of always-strong's cost."""
        return _saving_of(self.routed(judged))

    def gap_closed(
        self, judged: Sequence[Judged], results: Sequence[RouterResult]
    ) -> Mapping[str, GapClosed]:
        """How far the probe comes from the best simple router to the oracle, by metric."""
        without_router = Judged(
            name="oracle", sees="query", scores=np.empty(0), chances=np.empty(0)
        )
        oracle = replace(without_router, scores=self._spread(self.weak - self.strong))
        thrifty = replace(oracle, scores=self._spread(best_first(self.routed(oracle))))
        return {
            "saving": self._gap("saving", self.saving, judged, results, thrifty),
            "apgr": self._gap("apgr", self.apgr, judged, results, oracle),
        }

    def _spread(self, values: Floats) -> Floats:
        """A column over these rows as one over all test queries, 0 elsewhere."""
        column = np.zeros(int(self.rows.max(initial=-1)) + 1)
        column[self.rows] = values
        return column

    def _gap(
        self,
        metric: _GapMetric,
        statistic_of: Callable[[Judged], Statistic],
        judged: Sequence[Judged],
        results: Sequence[RouterResult],
        oracle: Judged,
    ) -> GapClosed:
        values: dict[str, Interval] = {result.name: getattr(result, metric) for result in results}
        rivals = [
            (value, one.name, one)
            for one in judged
            if one.sees == "query" and (value := values[one.name].value) is not None
        ]
        simple = max(rivals, key=lambda rival: rival[:2])[2] if rivals else None
        probe = next((one for one in judged if one.name == PROBE), None)
        nothing = Interval(value=None, n=len(self.rows))
        best = statistic_of(oracle)
        share = nothing
        if simple and probe:
            base = statistic_of(simple)
            share = self.measure(_part(less(statistic_of(probe), base), less(best, base)))
        return GapClosed(
            simple=simple.name if simple else None,
            of_simple=values[simple.name] if simple else nothing,
            of_probe=values[PROBE] if probe else nothing,
            of_oracle=self.measure(best),
            share=share,
            reason=None if share.value is not None else self._why_no_gap(simple, probe),
        )

    def _why_no_gap(self, simple: Judged | None, probe: Judged | None) -> str:
        if not len(self.rows):
            return "no test query has outcomes of both models"
        strong, weak = (np.average(of, weights=self.weights) for of in (self.strong, self.weak))
        if strong <= weak:
            return "the weak model alone does as well as the strong one"
        if probe is None:
            return f"no router named {PROBE!r} took part"
        if simple is None:
            return "no router that sees the query alone took part"
        return f"the oracle gains nothing over {simple.name}"


def _saving_of(routed: Routed) -> Statistic:
    cost = qnc_of(routed)

    def statistic(weights: Floats) -> Floats:
        return 1 - cost(weights)

    return statistic


def _part(of: Statistic, whole: Statistic) -> Statistic:
    def statistic(weights: Floats) -> Floats:
        return ratio(of(weights), whole(weights))

    return statistic
