"""Routers on one number that is there anyway: length, entropy, log-probability."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.records import RoutingData
from foretell.routers._logistic import Features, LogisticRouter

Signal = Callable[[RoutingData], NDArray[np.float64]]


def length_router() -> LogisticRouter:
    """The logarithm of the prompt's own tokens; whether short or long is easier is learnt.

    Where folds say so its square counts too: the middle may be the easiest, or the hardest.
    """
    return LogisticRouter(
        name="length",
        sees="query",
        featuriser=partial(_one_signal, "lengths", _log_length),
        alternatives=(_log_length_and_square,),
    )


def first_token_entropy_router() -> LogisticRouter:
    """Entropy of the first token to come: the same prefill's own signal, free beside the probe."""
    return LogisticRouter(
        name="first_token_entropy",
        sees="prefill",
        featuriser=partial(_one_signal, "first_entropy", lambda data: data.first_entropy),
    )


def answer_logprob_router() -> LogisticRouter:
    """Mean log-probability of the answer: a reference from after the decision, not a router."""
    return LogisticRouter(
        name="answer_logprob",
        sees="answer",
        featuriser=partial(_one_signal, "answer_logprob", lambda data: data.answer_logprob),
    )


def _log_length(data: RoutingData) -> NDArray[np.float64]:
    return np.log1p(data.lengths)


def _log_length_and_square(train: RoutingData) -> Features:
    """Beyond the training lengths both stay at the end, since a parabola would run away."""
    signal = _one_signal("lengths", _log_length, train)
    known = signal(train)
    least, most = known.min(), known.max()

    def features(data: RoutingData) -> NDArray[np.float64]:
        inside = np.clip(signal(data), least, most)
        return np.hstack([inside, inside**2])

    return features


def _one_signal(column: str, signal: Signal, train: RoutingData) -> Features:
    """The signal in units of its training spread; an unknown value counts as the training mean."""
    values = _values(signal, train)
    known = values[np.isfinite(values)]
    if not len(known):
        raise TrainingDataError(
            f"column {column!r} holds no value in {len(train)} queries; "
            "collect it, or leave out the router that reads it"
        )
    mean, spread = float(known.mean()), float(known.std()) or 1.0

    def features(data: RoutingData) -> NDArray[np.float64]:
        values = _values(signal, data)
        return np.where(np.isfinite(values), (values - mean) / spread, 0.0)[:, None]

    return features


def _values(signal: Signal, data: RoutingData) -> NDArray[np.float64]:
    values = np.asarray(signal(data), dtype=np.float64)
    return values if len(values) else np.full(len(data), np.nan)
