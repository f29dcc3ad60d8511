"""A bag of words and letters: the baseline that is hard to be ashamed of."""

from __future__ import annotations

from typing import Any

import numpy as np

from foretell.records import RoutingData
from foretell.routers._logistic import Features, LogisticRouter

_MOST_GRAMS = 100_000
"""Of each kind; the most frequent stay. Bounds memory on long texts."""


def tfidf_router() -> LogisticRouter:
    """TF-IDF of words (1 to 2) and of letters within words (2 to 5), logistic, L2 by folds."""
    return LogisticRouter(
        name="tfidf", sees="query", featuriser=_grams, inverse_l2=(0.1, 1.0, 10.0, 100.0)
    )


def _grams(train: RoutingData) -> Features:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorisers: list[Any] = []
    shared: dict[str, Any] = {"sublinear_tf": True, "max_features": _MOST_GRAMS}
    for vectoriser in (
        TfidfVectorizer(ngram_range=(1, 2), **shared),
        TfidfVectorizer(ngram_range=(2, 5), analyzer="char_wb", **shared),
    ):
        build = vectoriser.build_analyzer()
        # scikit-learn refuses texts without a single gram; here they are queries like any other.
        if any(build(text) for text in train.texts):
            vectorisers.append(vectoriser.fit(train.texts))

    def features(data: RoutingData) -> Any:
        from scipy import sparse

        none = sparse.csr_array((len(data), 1), dtype=np.float64)
        blocks = [vectoriser.transform(data.texts) for vectoriser in vectorisers]
        return sparse.hstack([*blocks, none], format="csr")

    return features
