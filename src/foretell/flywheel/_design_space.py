"""Queries as the points among which a linear probe's next labels are chosen."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.flywheel._design import most_helpful

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_AXES: Final = 64
_L2: Final = 100.0
"""Both as in the probe's own first look at a read point."""


class DesignSpace:
    """Standardised features on their leading principal axes, the same for every choice.

    ``features`` are (rows, width), finite: activations at one read point, or what stands for them.
    The axes see no labels, so they may be found once over labelled and unlabelled rows.

    Raises ``TrainingDataError`` without scikit-learn.
    """

    def __init__(self, features: NDArray[np.float32]) -> None:
        self._points = _coordinates(features)

    def helpful(
        self, labels: Floats, candidates: Rows, count: int, *, weights: Floats | None = None
    ) -> Rows:
        """The ``count`` candidates whose labels would make a linear probe's estimates surest.

        See ``most_helpful``; chances are those of a regression on the labels so far, one half
        without both kinds of them, so that the first choice is diverse.

        Args:
            labels: Success by row, NaN where unlabelled.
            candidates: Rows to choose from.
            count: How many, fewer when there are fewer.
            weights: How much each row counts among those that will be asked about; all alike when
                left out.
        """
        if count < 1 or not len(candidates):
            return np.empty(0, dtype=np.int64)
        return most_helpful(
            self._points,
            self._chances(labels),
            labelled=np.flatnonzero(np.isfinite(labels)),
            candidates=candidates,
            weights=np.ones(len(labels)) if weights is None else weights,
            count=count,
            l2=_L2,
        )

    def _chances(self, labels: Floats) -> Floats:
        known = np.isfinite(labels)
        succeeded = labels[known] >= 0.5
        if not succeeded.any() or succeeded.all():
            return np.full(len(labels), 0.5)
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=1 / _L2, max_iter=1000).fit(self._points[known], succeeded)
        return np.asarray(model.predict_proba(self._points)[:, 1], dtype=np.float64)


def text_features(texts: list[str]) -> NDArray[np.float32]:
    """Leading directions of TF-IDF over letters (latent semantic analysis): (texts, directions).

    Zeros where no text has letters.
    """
    _require_sklearn()
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=20_000
    )
    nothing = np.zeros((len(texts), 1), dtype=np.float32)
    if not any(map(vectoriser.build_analyzer(), texts)):
        return nothing
    grams = vectoriser.fit_transform(texts)
    axes = min(_AXES, *(side - 1 for side in grams.shape))
    if axes < 1:
        return nothing
    return np.asarray(TruncatedSVD(axes, random_state=0).fit_transform(grams), dtype=np.float32)


def _coordinates(features: NDArray[np.float32]) -> Floats:
    """(rows, axes); one column of zeros where nothing varies."""
    if len(features) < 2 or not np.ptp(features, axis=0).any():
        return np.zeros((len(features), 1))
    _require_sklearn()
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    standard = StandardScaler().fit_transform(features)
    axes = PCA(min(_AXES, *features.shape), random_state=0).fit_transform(standard)
    return np.asarray(axes, dtype=np.float64)


def _require_sklearn() -> None:
    if find_spec("sklearn") is None:
        raise TrainingDataError(
            "choosing what to label needs scikit-learn, which is not installed; "
            "pip install 'foretell[train]', or choose at random"
        )
