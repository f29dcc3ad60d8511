"""Labels from answers: what succeeded, as programs, models and people see it."""

from foretell.flywheel._active import (
    Choice,
    HonestSample,
    Strategy,
    choose_queries,
    honest_sample,
)
from foretell.flywheel._advantage import Advantage
from foretell.flywheel._alarms import ALARMS, alarm_states, watch_domain
from foretell.flywheel._budget import BudgetedLabels, label_budget
from foretell.flywheel._canaries import INJECTIONS, Canaries, try_canaries
from foretell.flywheel._code_labeller import Code
from foretell.flywheel._comparison import CalibrationCheck, Comparison, Gain, Paired, compare
from foretell.flywheel._design_space import DesignSpace
from foretell.flywheel._drift import (
    ComparedVectors,
    ReferenceScores,
    WatchedTraffic,
    top_drifting,
    watch,
)
from foretell.flywheel._ensemble import Ensemble, Vote
from foretell.flywheel._feedback import FeedbackCounts, take_feedback, the_vote_metric
from foretell.flywheel._findings import DriftReport, Finding
from foretell.flywheel._holdout import Holdout, current_holdout, freeze_holdout, load_holdout
from foretell.flywheel._json_labellers import JsonField, JsonFields, JsonValid
from foretell.flywheel._judge import Judge, JudgeUse
from foretell.flywheel._judge_cache import JudgeCache
from foretell.flywheel._judge_models import Ask, JudgeModel
from foretell.flywheel._judge_prompts import DEFAULT_RUBRIC
from foretell.flywheel._judge_quality import (
    JudgeHonesty,
    JudgeQuality,
    judge_honesty,
    judge_quality,
    prediction_powered,
    rogan_gladen,
)
from foretell.flywheel._judge_report import JudgedModel, compare_with_people
from foretell.flywheel._labeller import Attributed, Label, Labeller, Source
from foretell.flywheel._labelling import LabelCounts, label_domain
from foretell.flywheel._ladder import climb
from foretell.flywheel._ladder_report import LadderReport
from foretell.flywheel._live_quality import LiveQuality, live_quality, quality_of_route
from foretell.flywheel._off_policy import (
    PolicyValue,
    estimate_accuracy,
    estimate_cost,
    weak_success_rate,
)
from foretell.flywheel._paired import in_shadow, on_holdout
from foretell.flywheel._people import (
    PeopleCounts,
    PeopleLabel,
    QueueItem,
    Verdict,
    people_agreement,
    people_queue,
    put_people_labels,
    take_back_people_labels,
)
from foretell.flywheel._people_agreement import Agreement
from foretell.flywheel._people_files import FilledQueue, read_queue, write_queue
from foretell.flywheel._promotion import (
    Promotion,
    PromotionState,
    consider_promotion,
    promote_probe,
    roll_back_probe,
)
from foretell.flywheel._refit import Refit, refit
from foretell.flywheel._registry import labeller_names, make_labeller
from foretell.flywheel._sandbox import Isolation, SandboxLimits
from foretell.flywheel._schema_labeller import JsonSchema
from foretell.flywheel._selected_auroc import selected_auroc
from foretell.flywheel._sql_labeller import Sql
from foretell.flywheel._status import DomainStatus, RouteStatus, flywheel_status
from foretell.flywheel._text_labellers import Contains, Exact, Numeric, Regex
from foretell.flywheel._two_sample import TwoSample, compare_vectors
from foretell.flywheel._votes import FeedbackOutcomes, feedback_outcomes
from foretell.flywheel._watch import EventWatch, alarms_now, quality_now
from foretell.flywheel._webhook import Webhook
from foretell.flywheel._worker import Worker, ask_for, do_here, make_worker
from foretell.flywheel._workshop import Workshop, forget_verdicts

__all__ = [
    "ALARMS",
    "DEFAULT_RUBRIC",
    "INJECTIONS",
    "Advantage",
    "Agreement",
    "Ask",
    "Attributed",
    "BudgetedLabels",
    "CalibrationCheck",
    "Canaries",
    "Choice",
    "Code",
    "ComparedVectors",
    "Comparison",
    "Contains",
    "DesignSpace",
    "DomainStatus",
    "DriftReport",
    "Ensemble",
    "EventWatch",
    "Exact",
    "FeedbackCounts",
    "FeedbackOutcomes",
    "FilledQueue",
    "Finding",
    "Gain",
    "Holdout",
    "HonestSample",
    "Isolation",
    "JsonField",
    "JsonFields",
    "JsonSchema",
    "JsonValid",
    "Judge",
    "JudgeCache",
    "JudgeHonesty",
    "JudgeModel",
    "JudgeQuality",
    "JudgeUse",
    "JudgedModel",
    "Label",
    "LabelCounts",
    "Labeller",
    "LadderReport",
    "LiveQuality",
    "Numeric",
    "Paired",
    "PeopleCounts",
    "PeopleLabel",
    "PolicyValue",
    "Promotion",
    "PromotionState",
    "QueueItem",
    "ReferenceScores",
    "Refit",
    "Regex",
    "RouteStatus",
    "SandboxLimits",
    "Source",
    "Sql",
    "Strategy",
    "TwoSample",
    "Verdict",
    "Vote",
    "WatchedTraffic",
    "Webhook",
    "Worker",
    "Workshop",
    "alarm_states",
    "alarms_now",
    "ask_for",
    "choose_queries",
    "climb",
    "compare",
    "compare_vectors",
    "compare_with_people",
    "consider_promotion",
    "current_holdout",
    "do_here",
    "estimate_accuracy",
    "estimate_cost",
    "feedback_outcomes",
    "flywheel_status",
    "forget_verdicts",
    "freeze_holdout",
    "honest_sample",
    "in_shadow",
    "judge_honesty",
    "judge_quality",
    "label_budget",
    "label_domain",
    "labeller_names",
    "live_quality",
    "load_holdout",
    "make_labeller",
    "make_worker",
    "on_holdout",
    "people_agreement",
    "people_queue",
    "prediction_powered",
    "promote_probe",
    "put_people_labels",
    "quality_now",
    "quality_of_route",
    "read_queue",
    "refit",
    "rogan_gladen",
    "roll_back_probe",
    "selected_auroc",
    "take_back_people_labels",
    "take_feedback",
    "the_vote_metric",
    "top_drifting",
    "try_canaries",
    "watch",
    "watch_domain",
    "weak_success_rate",
    "write_queue",
]
