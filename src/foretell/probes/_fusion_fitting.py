"""The regression behind a fusion of a probe's score with signals and domains."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foretell.probes._fusion import (
    SIGNALS,
    FittedFusionProbe,
    domain_columns,
    signal_columns,
)
from foretell.probes._logistic import fit_logistic
from foretell.probes._protocol import FittedProbe
from foretell.probes._training_rows import require_weights
from foretell.records import RoutingData

Floats = NDArray[np.float64]


def fit_fusion(
    base: FittedProbe, held_out: Floats, data: RoutingData, l2: float = 1.0
) -> FittedFusionProbe:
    """``FusionProbe.fit_from``."""
    weights = require_weights(data.row_weights(), len(data))
    centre, spread = _mean_and_spread(held_out, weights)
    signals, centres, spreads = _usable_signals(data, weights)
    domains = tuple(sorted(set(data.domain))) if len(set(data.domain)) > 1 else ()
    known = (signal_columns(data, signals) - centres) / spreads
    # A score that does not vary says nothing; dividing by its spread would say it loudly.
    scale = 1 / spread if spread > 0 else 0.0
    columns = [
        (held_out - centre)[:, None] * scale,
        np.where(np.isfinite(known), known, 0.0),
        domain_columns(data, domains),
    ]
    fitted = fit_logistic(np.concatenate(columns, axis=1), data.weak, weights, l2)
    base_weight = float(fitted.coefficients[0]) * scale
    return FittedFusionProbe(
        base=base,
        base_weight=base_weight,
        bias=fitted.intercept - base_weight * centre,
        signals=signals,
        centres=centres,
        signal_weights=fitted.coefficients[1 : 1 + len(signals)] / spreads,
        domains=domains,
        domain_weights=fitted.coefficients[1 + len(signals) :],
    )


def _usable_signals(data: RoutingData, weights: Floats) -> tuple[tuple[str, ...], Floats, Floats]:
    """Signals that are there and vary, with mean and spread where they are known."""
    usable: list[tuple[str, float, float]] = []
    for name in SIGNALS:
        if name != "log_length" and not len(getattr(data, name)):
            continue
        column = signal_columns(data, [name])[:, 0]
        known = np.isfinite(column) & (weights > 0)
        if not known.any():
            continue
        centre, spread = _mean_and_spread(column[known], weights[known])
        if spread > 1e-9 * max(1.0, abs(centre)):
            usable.append((name, centre, spread))
    return (
        tuple(name for name, *_ in usable),
        np.array([centre for _, centre, _ in usable]),
        np.array([spread for *_, spread in usable]),
    )


def _mean_and_spread(column: Floats, weights: Floats) -> tuple[float, float]:
    share = weights / weights.sum()
    mean = float(share @ column)
    return mean, float(np.sqrt(share @ (column - mean) ** 2))
