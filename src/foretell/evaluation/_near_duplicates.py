"""Test queries that were as good as seen in training."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretell.records import RoutingData

_NEAR = 0.8
"""Two cities in one question reach 0.6, one sum with another number or a word more 0.8."""

_GRAMS = (3, 5)
_HASHED_GRAMS = 2**20
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicate:
    """A test query, the training query most like it, and how like they are, 0.8 to 1."""

    test_id: str
    train_id: str
    test_text: str
    train_text: str
    similarity: float


def find_near_duplicates(train: RoutingData, test: RoutingData) -> tuple[NearDuplicate, ...]:
    """Test queries whose text is nearly that of a training query, the likest first.

    Texts are compared without case, punctuation and extra white space. Nearly: a weighted Jaccard
    similarity of 0.8 or more between their sets of letter 3- to 5-grams, where a gram weighs
    ``log((1 + texts) / (texts that hold it))``. What all queries share (a template, a system
    prompt) so counts for nothing and what tells them apart for much: two cities in one question
    are no duplicates, one sum told twice with another number in it is. Texts without letters or
    digits have no duplicates.
    """
    texts = [_folded(text) for text in (*train.texts, *test.texts)]
    if not len(train) or not len(test) or not any(texts):
        return ()
    grams, weights = _weighted_grams(texts)
    total = np.asarray(grams @ weights, dtype=np.float64)
    weighted = grams.multiply(weights[None, :]).tocsr()
    seen, unseen = weighted[: len(train)], grams[len(train) :]
    found: list[NearDuplicate] = []
    for start in range(0, len(test), _ROWS_AT_ONCE):
        shared = (unseen[start : start + _ROWS_AT_ONCE] @ seen.T).toarray()
        own = total[len(train) + start :][: len(shared)]
        union = own[:, None] + total[None, : len(train)] - shared
        similarity = shared / np.where(union > 0, union, 1.0)
        for row, likest in enumerate(similarity.argmax(axis=1).tolist()):
            if similarity[row, likest] >= _NEAR:
                found.append(
                    NearDuplicate(
                        test_id=test.ids[start + row],
                        train_id=train.ids[likest],
                        test_text=test.texts[start + row],
                        train_text=train.texts[likest],
                        similarity=min(1.0, float(similarity[row, likest])),
                    )
                )
    return tuple(sorted(found, key=lambda pair: (-pair.similarity, pair.test_id)))


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[\W_]+", " ", plain).split())


def _weighted_grams(texts: Sequence[str]) -> tuple[Any, Any]:
    """Which grams each text holds (texts, hashed grams), a sparse matrix of ones; their weights."""
    from sklearn.feature_extraction.text import HashingVectorizer

    # Its stub takes norm for a string, though None is what leaves the ones as they are.
    options: dict[str, Any] = {"norm": None, "binary": True, "alternate_sign": False}
    vectoriser = HashingVectorizer(
        analyzer="char", ngram_range=_GRAMS, n_features=_HASHED_GRAMS, lowercase=False, **options
    )
    grams: Any = vectoriser.transform([f" {text} " if text else "" for text in texts])
    held_by = np.bincount(grams.indices, minlength=_HASHED_GRAMS)
    return grams, np.log((1 + len(texts)) / np.maximum(held_by, 1))
