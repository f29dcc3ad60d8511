"""Labels from answers: what succeeded, as programs, models and people see it."""

from foretell.flywheel._canaries import INJECTIONS, Canaries, try_canaries
from foretell.flywheel._code_labeller import Code
from foretell.flywheel._ensemble import Ensemble, Vote
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
from foretell.flywheel._registry import labeller_names, make_labeller
from foretell.flywheel._sandbox import Isolation, SandboxLimits
from foretell.flywheel._schema_labeller import JsonSchema
from foretell.flywheel._sql_labeller import Sql
from foretell.flywheel._text_labellers import Contains, Exact, Numeric, Regex
from foretell.flywheel._workshop import Workshop, forget_verdicts

__all__ = [
    "DEFAULT_RUBRIC",
    "INJECTIONS",
    "Ask",
    "Attributed",
    "Canaries",
    "Code",
    "Contains",
    "Ensemble",
    "Exact",
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
    "Numeric",
    "Regex",
    "SandboxLimits",
    "Source",
    "Sql",
    "Vote",
    "Workshop",
    "compare_with_people",
    "forget_verdicts",
    "judge_honesty",
    "judge_quality",
    "label_domain",
    "labeller_names",
    "make_labeller",
    "prediction_powered",
    "rogan_gladen",
    "try_canaries",
]
