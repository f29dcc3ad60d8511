"""Evidence: routers side by side, with intervals, controls and a report."""

from foretell.evaluation._controls import Controls
from foretell.evaluation._costs import DEFAULT_PRICES, CostCurve, Costs, Prices, RouterCost
from foretell.evaluation._cross_evaluate import cross_evaluate
from foretell.evaluation._curves import (
    Curve,
    RiskCoverageCurve,
    apgr,
    aurc,
    cost_quality_curve,
    cpt,
    pgr,
    risk_coverage_curve,
)
from foretell.evaluation._evaluate import Progress, evaluate_routers
from foretell.evaluation._evaluation import (
    CostBasis,
    Difference,
    Evaluation,
    GapClosed,
    ReliabilityBin,
    RouterResult,
    Slice,
    WrongCase,
)
from foretell.evaluation._intervals import Interval
from foretell.evaluation._report import ReportContext, render_report
from foretell.evaluation._terminal import draw_curve

__all__ = [
    "DEFAULT_PRICES",
    "Controls",
    "CostBasis",
    "CostCurve",
    "Costs",
    "Curve",
    "Difference",
    "Evaluation",
    "GapClosed",
    "Interval",
    "Prices",
    "Progress",
    "ReliabilityBin",
    "ReportContext",
    "RiskCoverageCurve",
    "RouterCost",
    "RouterResult",
    "Slice",
    "WrongCase",
    "apgr",
    "aurc",
    "cost_quality_curve",
    "cpt",
    "cross_evaluate",
    "draw_curve",
    "evaluate_routers",
    "pgr",
    "render_report",
    "risk_coverage_curve",
]
