"""Metrics with an interval and a count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import auroc, brier, expected_calibration_error, log_loss

Floats = NDArray[np.float64]

_RESAMPLES = 500

STRICT_JSON: Mapping[str, object] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
"""How pydantic reads the parts of a card: no unknown key, no guessing of types, no NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A value with its 95 % interval over ``n`` queries; ``None`` where undefined."""

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    value: float | None
    low: float | None
    high: float | None
    n: int


def measure(
    p_success: Floats,
    outcomes: Floats,
    groups: Sequence[str],
    seed: int,
    *,
    weights: Floats | None = None,
) -> dict[str, Metric]:
    """AUROC, Brier score, log loss and ECE of held-out chances; ``weights`` count as repetitions.

    Intervals are percentiles of a bootstrap over whole groups. ECE has none: resampling adds noise
    to every bin, which moves the resampled values up and away from the estimate.
    """
    metrics: dict[str, Callable[[Floats, Floats, Floats], float | None]] = {
        "auroc": auroc,
        "brier": brier,
        "log_loss": log_loss,
    }
    n = len(outcomes)
    repeats = np.ones(n) if weights is None else weights
    measured = {
        "ece": Metric(
            value=expected_calibration_error(p_success, outcomes, repeats),
            low=None,
            high=None,
            n=n,
        )
    }

    def weighted(metric: Callable[[Floats, Floats, Floats], float | None], draw: Floats):
        return metric(p_success, outcomes, draw * repeats)

    for name, metric in metrics.items():
        measured[name] = with_interval(partial(weighted, metric), groups, seed)
    return measured


def with_interval(
    metric: Callable[[Floats], float | None], groups: Sequence[str], seed: int
) -> Metric:
    """A metric of (n,) row weights, where all are 1; its interval by resampling whole groups."""
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), _RESAMPLES)
    resampled = [metric(draw[group].astype(np.float64)) for draw in draws]
    defined = [value for value in resampled if value is not None]
    low, high = np.percentile(defined, [2.5, 97.5]) if defined else (None, None)
    return Metric(
        value=metric(np.ones(len(group))),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        n=len(group),
    )
