"""Another model's reading of the query: the baseline nearest to a probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from foretell.records import RoutingData
from foretell.routers._logistic import Features, LogisticRouter
from foretell.routers._minilm import shared_sentence_encoder

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to vectors of unit length, (texts, width)."""


def embedding_router(encode: Encode | None = None) -> LogisticRouter:
    """Logistic on sentence vectors, L2 by folds.

    ``encode`` defaults to all-MiniLM-L6-v2, whose weights are fetched when first needed.
    """
    return LogisticRouter(
        name="embedding",
        sees="query",
        featuriser=partial(_vectors, encode or encode_with_minilm),
        inverse_l2=(0.1, 1.0, 10.0, 100.0),
    )


def _vectors(encode: Encode, train: RoutingData) -> Features:
    centre = encode(train.texts).mean(axis=0, dtype=np.float64)

    def features(data: RoutingData) -> NDArray[np.float64]:
        # Vectors of like texts nearly coincide; without their mean the L2 acts on what differs.
        return encode(data.texts) - centre

    return features


def encode_with_minilm(texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors by all-MiniLM-L6-v2; its weights are fetched at the first call."""
    return shared_sentence_encoder().encode(texts)
