"""A bag of words and letters: the baseline that is hard to be ashamed of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from foretell.records import RoutingData
from foretell.routers._logistic import Features, LogisticRouter

_WORDS: Final = MappingProxyType({"ngram_range": (1, 2)})
_LETTERS: Final = MappingProxyType({"ngram_range": (2, 5), "analyzer": "char_wb"})
_MOST_GRAMS = 100_000
"""Of each kind; the most frequent stay. Bounds memory on long texts."""


def tfidf_router() -> LogisticRouter:
    """TF-IDF of words (1 to 2), with letters within words (2 to 5) or without, logistic.

    Whether letters help is decided on folds, and so is the L2.
    """
    return LogisticRouter(
        name="tfidf",
        sees="query",
        featuriser=partial(_grams, (_WORDS, _LETTERS)),
        alternatives=(partial(_grams, (_WORDS,)),),
        inverse_l2=(0.1, 1.0, 10.0, 100.0),
    )


def _grams(kinds: tuple[Mapping[str, Any], ...], train: RoutingData) -> Features:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorisers: list[Any] = []
    for kind in kinds:
        vectoriser = TfidfVectorizer(**kind, sublinear_tf=True, max_features=_MOST_GRAMS)
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
