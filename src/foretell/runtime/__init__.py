"""Everything assembled from a configuration: routes that serve, collections, training."""

from foretell.runtime._collect import (
    Collected,
    answering_key,
    collect,
    default_read_points,
    engine_key,
    observer_of_engine,
    observer_of_model,
)
from foretell.runtime._estimators import EarlyLook, NearestEstimator, ProbeEstimator
from foretell.runtime._explain import Explainer, Explanation
from foretell.runtime._foretell import Foretell
from foretell.runtime._goals import (
    Bar,
    bar_for,
    early_looks,
    gain_ranks_better,
    share_within_budget,
)
from foretell.runtime._models import (
    AnsweringModel,
    EngineShelf,
    OnText,
    asking,
    drain,
    open_engine,
    open_model,
)
from foretell.runtime._route import Considered, NoEstimator, Route
from foretell.runtime._rules import PoolRule, Rule
from foretell.runtime._training import (
    Trained,
    early_probes,
    fit_gate_of,
    held_out_of,
    load_split,
    newest_probe,
    pooled_points,
    probe_versions,
    save_selection,
    select_early_probes,
    the_metric,
    train_probe,
    trained_domains,
)

__all__ = [
    "AnsweringModel",
    "Bar",
    "Collected",
    "Considered",
    "EarlyLook",
    "EngineShelf",
    "Explainer",
    "Explanation",
    "Foretell",
    "NearestEstimator",
    "NoEstimator",
    "OnText",
    "PoolRule",
    "ProbeEstimator",
    "Route",
    "Rule",
    "Trained",
    "answering_key",
    "asking",
    "bar_for",
    "collect",
    "default_read_points",
    "drain",
    "early_looks",
    "early_probes",
    "engine_key",
    "fit_gate_of",
    "gain_ranks_better",
    "held_out_of",
    "load_split",
    "newest_probe",
    "observer_of_engine",
    "observer_of_model",
    "open_engine",
    "open_model",
    "pooled_points",
    "probe_versions",
    "save_selection",
    "select_early_probes",
    "share_within_budget",
    "the_metric",
    "train_probe",
    "trained_domains",
]
