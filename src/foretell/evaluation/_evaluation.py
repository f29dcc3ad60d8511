"""What a comparison of routers found, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foretell.evaluation._controls import Controls
from foretell.evaluation._curves import Curve
from foretell.evaluation._intervals import Interval
from foretell.probes import SweepRow
from foretell.records import ModelIdentity
from foretell.routers import FittedRouter, Sees

_CURVE_POINTS = 101
"""Of a curve in JSON: every percent of the strong-call share."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RouterResult:
    """One router on the test queries.

    ``auroc``, ``brier`` and ``ece`` are over queries whose weak outcome is known; ``apgr``,
    ``cpt50``, ``cpt80`` and ``curve`` over those whose strong one is known too. ``ece`` has no
    interval: resampling adds noise to every bin, which moves resampled values up and away from it.
    """

    name: str
    sees: Sees
    auroc: Interval
    apgr: Interval
    cpt50: Interval
    cpt80: Interval
    brier: Interval
    ece: Interval
    curve: Curve | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The probe's metric less that of the router ``against``, on the same resamples."""

    against: str
    auroc: Interval
    apgr: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A third of the test queries by the embedding router's score, and every router on it."""

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
    ``most_wrong`` are about the router named ``probe`` and empty without it (``slices`` without
    one named ``embedding``). ``fitted`` holds the routers as fitted; it is not part of the JSON.
    """

    domains: tuple[str, ...]
    model: ModelIdentity | None
    train_size: int
    test_size: int
    unlabelled: int
    base_rate: float
    strong_rate: float | None
    routers: tuple[RouterResult, ...]
    best_baseline: str | None
    differences: tuple[Difference, ...]
    slices: tuple[Slice, ...]
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

        ``auroc``, ``apgr``, ``cpt50`` and ``cpt80`` map a router's name to
        ``{"value", "low", "high", "n"}``; ``ece`` is the probe's.
        """
        probe = self.router("probe")
        by_router = {
            metric: {result.name: asdict(getattr(result, metric)) for result in self.routers}
            for metric in ("auroc", "apgr", "cpt50", "cpt80", "brier")
        }
        return {
            "schema_version": 1,
            "domains": list(self.domains),
            "model": asdict(self.model) if self.model else None,
            "train_size": self.train_size,
            "test_size": self.test_size,
            "unlabelled": self.unlabelled,
            "base_rate": self.base_rate,
            "strong_rate": self.strong_rate,
            **by_router,
            "ece": asdict(probe.ece) if probe else None,
            "ece_by_router": {result.name: asdict(result.ece) for result in self.routers},
            "sees": {result.name: result.sees for result in self.routers},
            "best_baseline": self.best_baseline,
            "differences": {row.against: asdict(row) for row in self.differences},
            "slices": {row.name: asdict(row) for row in self.slices},
            "controls": asdict(self.controls),
            "reliability": [asdict(row) for row in self.reliability],
            "sweep": [{**asdict(row), "read_point": row.read_point.name} for row in self.sweep],
            "most_wrong": [asdict(case) for case in self.most_wrong],
            "curves": {r.name: _curve_json(r.curve) for r in self.routers if r.curve},
        }


def _curve_json(curve: Curve) -> dict[str, list[float]]:
    share = np.linspace(0, 1, _CURVE_POINTS)
    return {"share": share.tolist(), "quality": curve.quality_at(share).tolist()}
