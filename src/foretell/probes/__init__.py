"""Small learnt functions on activations: fitting, selection, cards and safe files.

A fitted probe predicts with NumPy alone; only fitting imports scikit-learn.
"""

from foretell.probes._card import LabelDefinition, ProbeCard, describe, hash_training_data
from foretell.probes._files import HeldOut, SavedProbe, load_probe, save_probe
from foretell.probes._honest import Metric
from foretell.probes._linear import FittedLinearProbe, LinearProbe
from foretell.probes._selection import Selection, SweepRow, select_linear_probe
from foretell.probes._threads import spare_one_core

__all__ = [
    "FittedLinearProbe",
    "HeldOut",
    "LabelDefinition",
    "LinearProbe",
    "Metric",
    "ProbeCard",
    "SavedProbe",
    "Selection",
    "SweepRow",
    "describe",
    "hash_training_data",
    "load_probe",
    "save_probe",
    "select_linear_probe",
    "spare_one_core",
]
