"""Evidence: routers side by side, with intervals, controls and a report."""

from foretell.evaluation._confounder import Confounder, optimise_confounder
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
from foretell.evaluation._evidence import gather_extras, gather_robustness
from foretell.evaluation._extras import Extras
from foretell.evaluation._gate_evidence import GateEvidence, gate_evidence
from foretell.evaluation._guarantees import GuaranteeRow, guarantee_rows
from foretell.evaluation._intervals import Interval
from foretell.evaluation._join import join_domains
from foretell.evaluation._learning_curve import (
    LearningCurve,
    LearningPoint,
    RouterLearning,
    learning_curve,
)
from foretell.evaluation._near_duplicates import NearDuplicate, find_near_duplicates
from foretell.evaluation._oracle import oracle_curve
from foretell.evaluation._perturbations import (
    PERTURBATIONS,
    Perturbation,
    append_text,
    perturb,
    perturb_query,
)
from foretell.evaluation._report import ReportContext, render_report
from foretell.evaluation._robustness import FlipRate, RobustnessRow, flip_rate, robustness
from foretell.evaluation._scoring import Score, engine_scorer, text_scorer
from foretell.evaluation._terminal import draw_curve
from foretell.evaluation._transfer import Transfer, TransferRow, leave_one_domain_out

__all__ = [
    "DEFAULT_PRICES",
    "PERTURBATIONS",
    "Confounder",
    "Controls",
    "CostBasis",
    "CostCurve",
    "Costs",
    "Curve",
    "Difference",
    "Evaluation",
    "Extras",
    "FlipRate",
    "GapClosed",
    "GateEvidence",
    "GuaranteeRow",
    "Interval",
    "LearningCurve",
    "LearningPoint",
    "NearDuplicate",
    "Perturbation",
    "Prices",
    "Progress",
    "ReliabilityBin",
    "ReportContext",
    "RiskCoverageCurve",
    "RobustnessRow",
    "RouterCost",
    "RouterLearning",
    "RouterResult",
    "Score",
    "Slice",
    "Transfer",
    "TransferRow",
    "WrongCase",
    "apgr",
    "append_text",
    "aurc",
    "cost_quality_curve",
    "cpt",
    "cross_evaluate",
    "draw_curve",
    "engine_scorer",
    "evaluate_routers",
    "find_near_duplicates",
    "flip_rate",
    "gate_evidence",
    "gather_extras",
    "gather_robustness",
    "guarantee_rows",
    "join_domains",
    "learning_curve",
    "leave_one_domain_out",
    "optimise_confounder",
    "oracle_curve",
    "perturb",
    "perturb_query",
    "pgr",
    "render_report",
    "risk_coverage_curve",
    "robustness",
    "text_scorer",
]
