"""Labels from answers: what succeeded, by checks that a program can do."""

from foretell.flywheel._json_labellers import JsonField, JsonFields, JsonValid
from foretell.flywheel._labeller import Label, Labeller
from foretell.flywheel._labelling import LabelCounts, label_domain
from foretell.flywheel._registry import labeller_names, make_labeller
from foretell.flywheel._text_labellers import Contains, Exact, Numeric, Regex

__all__ = [
    "Contains",
    "Exact",
    "JsonField",
    "JsonFields",
    "JsonValid",
    "Label",
    "LabelCounts",
    "Labeller",
    "Numeric",
    "Regex",
    "label_domain",
    "labeller_names",
    "make_labeller",
]
