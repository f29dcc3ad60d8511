"""A router that knows only what kind of query it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foretell.records import RoutingData
from foretell.routers._logistic import Features, LogisticRouter


def domain_router() -> LogisticRouter:
    """Logistic on the one-hot domain and attributes, L2 by folds; constant where all are alike.

    Each value of an attribute, number or not, is a category of its own; one not met in training
    counts for nothing.
    """
    return LogisticRouter(
        name="domain", sees="query", featuriser=_one_hot, inverse_l2=(0.1, 1.0, 10.0)
    )


def _one_hot(train: RoutingData) -> Features:
    rows = [_categories(train, row) for row in range(len(train))]
    # A category that every row shares tells nothing; leaving it out makes the constant case exact.
    telling = sorted(set[tuple[str, str]]().union(*rows) - set.intersection(*rows))
    place = {category: index for index, category in enumerate(telling)}

    def features(data: RoutingData) -> NDArray[np.float64]:
        matrix = np.zeros((len(data), max(len(place), 1)))
        for row in range(len(data)):
            for category in _categories(data, row) & place.keys():
                matrix[row, place[category]] = 1.0
        return matrix

    return features


def _categories(data: RoutingData, row: int) -> set[tuple[str, str]]:
    attributes = {(f"attribute {name}", str(value)) for name, value in data.attributes[row].items()}
    return attributes | {("domain", data.domain[row])}
