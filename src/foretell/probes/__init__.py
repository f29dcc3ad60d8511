"""Small learnt functions on activations: fitting, selection, gate, heads, cards and safe files.

A fitted probe predicts with NumPy alone; only fitting imports scikit-learn, or torch.
"""

from foretell.probes._attention import AttentionProbe, FittedAttentionProbe, TokenExplanation
from foretell.probes._bounded import BoundedWeights, bound_weights
from foretell.probes._card import (
    DepthLimit,
    LabelDefinition,
    ProbeCard,
    Provenance,
    describe,
    hash_training_data,
)
from foretell.probes._files import SavedProbe, load_probe, save_probe
from foretell.probes._fusion import FittedFusionProbe, FusionProbe
from foretell.probes._gate import FittedGate, GateSettings, fit_gate
from foretell.probes._heads import (
    Heads,
    HeadsSelection,
    HeadsSettings,
    StrongHead,
    StrongHeadSettings,
    TokensHead,
    TokensHeadSettings,
    fit_heads,
)
from foretell.probes._held_out import HeldOut
from foretell.probes._honest import Metric
from foretell.probes._kinds import KINDS
from foretell.probes._linear import FittedLinearProbe, LinearProbe
from foretell.probes._linear_search import SweepRow
from foretell.probes._mix import FittedMixProbe, MixProbe
from foretell.probes._mlp import FittedMlpProbe, MlpProbe
from foretell.probes._protocol import FittedProbe, Probe
from foretell.probes._rivals import KindRow
from foretell.probes._selection import DEFAULT_KINDS, Selection, select_probe
from foretell.probes._several import FittedSeveralProbe, SeveralProbe
from foretell.probes._subspace import subspace_of
from foretell.probes._threads import spare_one_core

__all__ = [
    "DEFAULT_KINDS",
    "KINDS",
    "AttentionProbe",
    "BoundedWeights",
    "DepthLimit",
    "FittedAttentionProbe",
    "FittedFusionProbe",
    "FittedGate",
    "FittedLinearProbe",
    "FittedMixProbe",
    "FittedMlpProbe",
    "FittedProbe",
    "FittedSeveralProbe",
    "FusionProbe",
    "GateSettings",
    "Heads",
    "HeadsSelection",
    "HeadsSettings",
    "HeldOut",
    "KindRow",
    "LabelDefinition",
    "LinearProbe",
    "Metric",
    "MixProbe",
    "MlpProbe",
    "Probe",
    "ProbeCard",
    "Provenance",
    "SavedProbe",
    "Selection",
    "SeveralProbe",
    "StrongHead",
    "StrongHeadSettings",
    "SweepRow",
    "TokenExplanation",
    "TokensHead",
    "TokensHeadSettings",
    "bound_weights",
    "describe",
    "fit_gate",
    "fit_heads",
    "hash_training_data",
    "load_probe",
    "save_probe",
    "select_probe",
    "spare_one_core",
    "subspace_of",
]
