"""Evidence: routers side by side, with intervals, controls and a report."""

from foretell.evaluation._controls import Controls
from foretell.evaluation._curves import Curve, apgr, cost_quality_curve, cpt, pgr
from foretell.evaluation._evaluate import Progress, evaluate_routers
from foretell.evaluation._evaluation import (
    Difference,
    Evaluation,
    ReliabilityBin,
    RouterResult,
    Slice,
    WrongCase,
)
from foretell.evaluation._intervals import Interval
from foretell.evaluation._report import ReportContext, render_report
from foretell.evaluation._terminal import draw_curve

__all__ = [
    "Controls",
    "Curve",
    "Difference",
    "Evaluation",
    "Interval",
    "Progress",
    "ReliabilityBin",
    "ReportContext",
    "RouterResult",
    "Slice",
    "WrongCase",
    "apgr",
    "cost_quality_curve",
    "cpt",
    "draw_curve",
    "evaluate_routers",
    "pgr",
    "render_report",
]
