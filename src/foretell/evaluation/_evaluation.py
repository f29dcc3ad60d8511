"""What a comparison of routers found, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from foretell.calibration import BrierDecomposition
from foretell.evaluation._controls import Controls
from foretell.evaluation._costs import Costs, RouterCost
from foretell.evaluation._curves import Curve, RiskCoverageCurve
from foretell.evaluation._intervals import Interval
from foretell.probes import SweepRow
from foretell.records import ModelIdentity
from foretell.routers import FittedRouter, Sees

_CURVE_POINTS = 101
"""Of a curve in JSON: every percent of the strong-call share, or of coverage."""

_LEAVES = (
    "auroc",
    "auprc",
    "apgr",
    "cpt50",
    "cpt80",
    "cpt95",
    "aiq",
    "audc",
    "qnc",
    "aurc",
    "brier",
    "log_loss",
    "regret",
    "regret_area",
)
"""Metrics that the JSON maps from a router's name to an interval."""

CostBasis = Literal["tokens", "strong calls"]
"""``tokens``: costs are USD, from token counts and prices; ``strong calls``: the share of them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RouterResult:
    """One router on the test queries.

    Over queries whose weak outcome is known:

    - ``auroc``, ``auprc`` (of foretelling success) and ``aurc`` (less is better) rank;
      ``auroc_within`` is, by attribute, the AUROC among queries of one value of it.
    - ``brier``, ``log_loss``, ``ece`` and ``brier_parts`` are about the chances. ``ece`` (bins of
      equal mass: the adaptive one) and ``ece_width`` (of equal width) have no interval: resampling
      adds noise to every bin, which moves resampled values up and away from it.

    Over those whose strong outcome is known too:

    - ``apgr``, ``cpt50``, ``cpt80``, ``cpt95`` and ``pgr`` (by strong-call share) are about the
      gap between the models, and undefined where there is none.
    - ``regret`` is the success that the oracle, which escalates exactly the queries that the strong
      model answers better, has more than the router at the oracle's strong-call share;
      ``regret_area`` is the area between their curves.
    - ``aiq`` and ``audc`` are mean success over costs from always-weak to always-strong: ``audc``
      (arXiv 2502.08773) along the router's own curve, ``aiq`` (arXiv 2403.12031) along the
      non-decreasing convex hull of that curve and the two models alone. ``qnc`` (arXiv 2502.08773)
      is the least cost, in shares of always-strong's, with the success of always-strong, and
      ``saving`` what that leaves: it is below 0 for a router that costs more than it saves.

    Thresholds behind ``qnc``, ``saving`` and ``cost`` are found on the test queries themselves,
    which flatters all routers alike; the calibration room chooses them with a guarantee.
    """

    name: str
    sees: Sees
    auroc: Interval
    auroc_within: Mapping[str, Interval]
    auprc: Interval
    aurc: Interval
    brier: Interval
    brier_parts: BrierDecomposition | None
    log_loss: Interval
    ece: Interval
    ece_width: Interval
    apgr: Interval
    cpt50: Interval
    cpt80: Interval
    cpt95: Interval
    pgr: Mapping[float, Interval]
    regret: Interval
    regret_area: Interval
    aiq: Interval
    audc: Interval
    qnc: Interval
    saving: Interval
    cost: RouterCost | None
    curve: Curve | None
    risk_coverage: RiskCoverageCurve


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The probe's metric less that of the router ``against``, on the same resamples.

    Above 0 the probe is better, but for ``aurc``, where it is worse.
    """

    against: str
    auroc: Interval
    auprc: Interval
    aurc: Interval
    apgr: Interval
    saving: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class GapClosed:
    """How far the probe comes from the best simple router towards the oracle, in one metric.

    ``simple`` names the router that sees the query alone and has the highest value on the test
    queries; choosing it there favours it over the probe. ``share`` is what the probe gains over it
    in shares of what the oracle does: 0 is no gain, 1 the oracle, below 0 a loss. It is undefined,
    for the ``reason`` given, where the oracle gains nothing or one of the values is.
    """

    simple: str | None
    of_simple: Interval
    of_probe: Interval
    of_oracle: Interval
    share: Interval
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Part of the test queries, and every router on it.

    A third of them by the embedding router's score, or those with one value of an attribute,
    named ``attribute=value``.
    """

    name: str
    n: int
    base_rate: float
    auroc: Mapping[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Queries of about the same chance by the probe: what was foretold and what came."""

    p_success: float
    success: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongCase:
    """A query where the probe's chance and the outcome are far apart."""

    id: str
    text: str
    p_success: float
    weak: float
    strong: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """All routers side by side on queries that none was fitted on.

    ``base_rate`` and ``strong_rate`` are the two models' own success on the test queries.
    ``best_baseline`` has the highest test AUROC of those that see the query alone; choosing it on
    the test set favours the baseline. ``differences``, ``slices``, ``reliability``, ``sweep`` and
    ``most_wrong`` are about the router named ``probe`` and empty without it (``slices``, the
    thirds, without one named ``embedding``). ``attribute_slices`` are the values of attributes with
    at least 30 queries, of either outcome.

    ``cost_basis`` says what ``aiq``, ``audc``, ``qnc`` and ``saving`` count as cost; ``costs`` is
    ``None`` unless tokens are known. ``gap_closed`` is by metric, ``saving`` and ``apgr``.

    ``folds`` is how many fits are behind each router's scores: 1 but for ``cross_evaluate``.
    ``fitted`` holds the routers as fitted, and nothing after that; it is not part of the JSON.
    """

    domains: tuple[str, ...]
    model: ModelIdentity | None
    train_size: int
    test_size: int
    unlabelled: int
    folds: int
    base_rate: float
    strong_rate: float | None
    routers: tuple[RouterResult, ...]
    best_baseline: str | None
    differences: tuple[Difference, ...]
    slices: tuple[Slice, ...]
    attribute_slices: tuple[Slice, ...]
    cost_basis: CostBasis
    costs: Costs | None
    gap_closed: Mapping[str, GapClosed]
    controls: Controls
    reliability: tuple[ReliabilityBin, ...]
    sweep: tuple[SweepRow, ...]
    most_wrong: tuple[WrongCase, ...]
    fitted: Mapping[str, FittedRouter]

    def router(self, name: str) -> RouterResult | None:
        """The result of one router, ``None`` when it did not take part."""
        return next((result for result in self.routers if result.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``: no NaN, ``None`` where undefined.

        Each metric maps a router's name to ``{"value", "low", "high", "n"}``; ``ece`` is the
        probe's. ``slices`` holds those of attributes too.
        """
        probe = self.router("probe")
        by_router = {
            metric: {result.name: asdict(getattr(result, metric)) for result in self.routers}
            for metric in _LEAVES
        }
        return {
            "schema_version": 1,
            "domains": list(self.domains),
            "model": asdict(self.model) if self.model else None,
            "train_size": self.train_size,
            "test_size": self.test_size,
            "unlabelled": self.unlabelled,
            "folds": self.folds,
            "base_rate": self.base_rate,
            "strong_rate": self.strong_rate,
            **by_router,
            "auroc_within": {r.name: _leaves(r.auroc_within) for r in self.routers},
            "pgr": {
                r.name: _leaves({f"{share:g}": leaf for share, leaf in r.pgr.items()})
                for r in self.routers
            },
            "brier_parts": {
                r.name: asdict(r.brier_parts) if r.brier_parts else None for r in self.routers
            },
            "ece": asdict(probe.ece) if probe else None,
            "ece_by_router": {result.name: asdict(result.ece) for result in self.routers},
            "ece_width": {result.name: asdict(result.ece_width) for result in self.routers},
            "sees": {result.name: result.sees for result in self.routers},
            "best_baseline": self.best_baseline,
            "differences": {row.against: asdict(row) for row in self.differences},
            "slices": {row.name: asdict(row) for row in (*self.slices, *self.attribute_slices)},
            "controls": {**asdict(self.controls), "shuffled_auroc": self.controls.shuffled_auroc},
            "reliability": [asdict(row) for row in self.reliability],
            "sweep": [{**asdict(row), "read_point": row.read_point.name} for row in self.sweep],
            "most_wrong": [asdict(case) for case in self.most_wrong],
            "curves": {r.name: _curve_json(r.curve, r.cost) for r in self.routers if r.curve},
            "risk_coverage": {r.name: _risk_json(r.risk_coverage) for r in self.routers},
            "costs": _costs_json(self.costs) if self.costs else None,
            "cost": {r.name: _cost_json(r.cost) for r in self.routers if r.cost},
            "saving_at_equal_quality": self._saving_json(),
            "gap_closed": {metric: asdict(gap) for metric, gap in self.gap_closed.items()},
        }

    def _saving_json(self) -> dict[str, Any]:
        gap = self.gap_closed["saving"]
        return {
            "basis": self.cost_basis,
            "simple_router": gap.simple,
            "simple": asdict(gap.of_simple),
            "probe": asdict(gap.of_probe),
            "oracle": asdict(gap.of_oracle),
            "by_router": {result.name: asdict(result.saving) for result in self.routers},
            "reason": gap.reason,
        }


def _leaves(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: asdict(leaf) for name, leaf in intervals.items()}


def _curve_json(curve: Curve, cost: RouterCost | None) -> dict[str, list[float]]:
    share = np.linspace(0, 1, _CURVE_POINTS)
    points = {"share": share.tolist(), "quality": curve.quality_at(share).tolist()}
    if cost:
        points["usd_per_1k"] = cost.curve.usd_per_1k_at(share).tolist()
    return points


def _risk_json(curve: RiskCoverageCurve) -> dict[str, list[float]]:
    # Nothing kept has no risk: the first point is one percent.
    coverage = np.linspace(0, 1, _CURVE_POINTS)[1:]
    return {"coverage": coverage.tolist(), "risk": curve.risk_at(coverage).tolist()}


def _costs_json(costs: Costs) -> dict[str, Any]:
    prices = costs.prices
    return {
        "weak_usd_per_mtok": prices.weak.model_dump(),
        "strong_usd_per_mtok": prices.strong.model_dump(),
        "price_ratio": prices.ratio,
        "always_weak": asdict(costs.always_weak),
        "always_strong": asdict(costs.always_strong),
        "oracle": asdict(costs.oracle),
        "assumed": dict(costs.assumed),
    }


def _cost_json(cost: RouterCost) -> dict[str, Any]:
    return {"equal_quality": asdict(cost.equal_quality), "near_quality": asdict(cost.near_quality)}
