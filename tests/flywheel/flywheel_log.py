"""A log of requests of which a test says only what matters to it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from foretell.records import TrafficLog

_TEXTS = {"actions": "keep", "probes": "geo@1", "weak_models": "small"}


def log_of(**columns: Any) -> TrafficLog:
    """Columns that are not given hold what is likeliest, or what is not known."""
    n = len(next(iter(columns.values())))
    made: dict[str, Any] = {"ids": tuple(f"request-{i}" for i in range(n))}
    for column in fields(TrafficLog):
        name = column.name
        if name in columns:
            given = columns[name]
            made[name] = given if isinstance(given[0], str) else np.asarray(given)
        elif name == "at":
            made[name] = np.arange(n, dtype=np.float64)
        elif name == "served_weak":
            made[name] = np.ones(n, dtype=np.bool_)
        elif name == "weak_chance":
            made[name] = np.ones(n)
        elif name in ("ids", "key_ids", "actions", "causes", "probes", "shadow_probes"):
            made.setdefault(name, (_TEXTS.get(name, ""),) * n)
        elif name == "weak_models":
            made[name] = ("small",) * n
        else:
            made[name] = np.full(n, np.nan)
    return TrafficLog(**made)
