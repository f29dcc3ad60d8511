"""Whether two sets of vectors are of one kind: a classifier tries to tell them apart.

The classifier two-sample test (Lopez-Paz and Oquab, 2017): if something that was trained to know
the recent queries from the training ones does so on queries it has not seen, they differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.flywheel._findings import LEAST_ROWS

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

_COMPONENTS: Final = 64
_FOLDS: Final = 5
_RIDGE: Final = 0.1
_CHUNK: Final = 250
"""Relabellings that are tried at once; bounds memory."""

_MOST_RELABELLINGS: Final = 9_999


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TwoSample:
    """How well recent vectors can be told from the reference.

    ``auc`` is the chance that a recent query looks more recent than one of the reference, for a
    classifier that saw neither; a half where nothing tells them apart. ``low`` and ``high`` are its
    interval. ``p_value`` is how often chance alone does as well, by a
    statistic that sees a few strange queries among many ordinary ones sooner than the AUC does.
    ``scores`` (recent,) say how recent each recent query looks, in no unit.
    """

    auc: float
    low: float
    high: float
    p_value: float
    scores: Floats


def compare_vectors(
    reference: NDArray[np.floating[Any]],
    recent: NDArray[np.floating[Any]],
    *,
    reference_groups: Sequence[str],
    recent_groups: Sequence[str],
    confidence: float,
    rng: np.random.Generator,
) -> TwoSample | None:
    """Tell recent vectors (m, width) from reference ones (n, width), and how far chance would.

    A ridge regression on standardised principal components, cross-fitted in five folds; the AUC is
    the mean over folds. The test compares, within folds, mean Savage scores of the ranks,
    ``-log(1 - rank / (rows + 1))``, which count the top of the ranking most: where one query in
    ten is of another kind, the AUC cannot exceed 0.55, and much of its noise is of the other nine.
    What chance does comes from relabelling whole groups at random and doing all of it again (a
    permutation test): exact where groups of both sides are drawn from one population, however few
    they are. Standardisation, components, folds and penalty look at no labels, so they take
    nothing from that.

    The interval is that of DeLong et al. (1988) with the clusters of Obuchowski (1997), which
    leaves out that other data would have trained other classifiers; it is never narrower than the
    spread of AUCs among the relabellings.

    Args:
        reference: What recent ones are compared with, finite.
        recent: Of the same width, finite.
        reference_groups: Rows of a group are not independent, and share a fold.
        recent_groups: The same of the recent rows; a name that is on both sides is one fold's, too.
        confidence: Of the test, and of the interval.
        rng: Draws folds and relabellings.

    Returns:
        ``None`` with fewer than 50 rows or groups on a side.
    """
    names = np.asarray([*reference_groups, *recent_groups], dtype=np.str_)
    is_recent = np.repeat([False, True], [len(reference), len(recent)])
    if min(len(set(reference_groups)), len(set(recent_groups))) < LEAST_ROWS:
        return None
    vectors = np.concatenate([reference, recent], dtype=np.float64)
    coordinates = _coordinates(vectors, rng)
    _, group = np.unique(names, return_inverse=True)
    folds = list(_folds(group.astype(np.int64), rng))
    # A name on both sides is two groups to be relabelled: each lies within a side.
    _, unit = np.unique(2 * group + is_recent, return_inverse=True)
    unit = unit.astype(np.int64)
    labels = is_recent[:, None]
    scores = _held_out_scores(coordinates, labels, folds)
    ahead, auc = (float(found[0]) for found in _how_far_ahead(scores, labels, folds))
    by_chance = [
        _how_far_ahead(_held_out_scores(coordinates, shuffled, folds), shuffled, folds)
        for shuffled in _relabellings(unit, is_recent, 1 - confidence, rng)
    ]
    chance_ahead, chance_auc = (np.concatenate(found) for found in zip(*by_chance, strict=True))
    error = max(_error(scores[:, 0], is_recent, unit, folds), float(chance_auc.std()))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return TwoSample(
        auc=auc,
        low=max(0.0, auc - reach),
        high=min(1.0, auc + reach),
        p_value=(1 + int(np.count_nonzero(chance_ahead >= ahead))) / (1 + len(chance_ahead)),
        scores=scores[is_recent, 0],
    )


def _coordinates(vectors: Floats, rng: np.random.Generator) -> Floats:
    """The leading principal components of the standardised vectors, each of variance 1."""
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise TrainingDataError(
            "comparing vectors needs scikit-learn, which is not installed; "
            "pip install 'foretell[train]'"
        ) from error
    spread = vectors.std(axis=0)
    varies = spread > 1e-6 * np.abs(vectors).max(axis=0)
    standard = (vectors[:, varies] - vectors[:, varies].mean(axis=0)) / spread[varies]
    if not standard.shape[1]:
        return np.zeros((len(vectors), 1))
    most = min(_COMPONENTS, *standard.shape)
    analysis: Any = PCA(most, svd_solver="randomized", random_state=int(rng.integers(2**31)))
    coordinates: Floats = analysis.fit_transform(standard)
    length = coordinates.std(axis=0)
    return coordinates / np.where(length > 1e-9 * length.max(), length, 1.0)


def _folds(group: Index, rng: np.random.Generator) -> Iterator[Index]:
    """Rows by fold, groups whole; the labels have no say in it."""
    fold_of = rng.permutation(int(group.max()) + 1) % _FOLDS
    for fold in range(_FOLDS):
        yield np.flatnonzero(fold_of[group] == fold)


def _held_out_scores(
    coordinates: Floats, labels: NDArray[np.bool_], folds: Sequence[Index]
) -> Floats:
    """Scores (rows, labellings) of each row by a ridge regression on the other folds."""
    scores = np.empty(labels.shape)
    for held_out in folds:
        rest = np.ones(len(coordinates), dtype=bool)
        rest[held_out] = False
        seen = coordinates[rest] - coordinates[rest].mean(axis=0)
        gram = seen.T @ seen
        gram[np.diag_indices(len(gram))] += _RIDGE * len(seen)
        pull = seen.T @ labels[rest].astype(np.float64)
        scores[held_out] = coordinates[held_out] @ np.linalg.solve(gram, pull)
    return scores


def _how_far_ahead(
    scores: Floats, labels: NDArray[np.bool_], folds: Sequence[Index]
) -> tuple[Floats, Floats]:
    """Of each labelling: mean Savage score of recent rows less that of the others, and the AUC.

    Both within folds, weighted by the pairs in each; ties count one half.
    """
    from scipy.stats import rankdata

    ahead, won, pairs = (np.zeros(scores.shape[1]) for _ in range(3))
    for rows in folds:
        recent = labels[rows]
        m = recent.sum(axis=0)
        others = len(rows) - m
        ranks: Floats = rankdata(scores[rows], axis=0)
        savage = -np.log1p(-ranks / (len(rows) + 1))
        of_recent = (savage * recent).sum(axis=0)
        # Differences of means times their pairs, so that a side without rows counts for nothing.
        ahead += of_recent * others - (savage.sum(axis=0) - of_recent) * m
        won += (ranks * recent).sum(axis=0) - m * (m + 1) / 2
        pairs += m * others
    return ahead / pairs, won / pairs


def _relabellings(
    unit: Index, is_recent: NDArray[np.bool_], miss: float, rng: np.random.Generator
) -> Iterator[NDArray[np.bool_]]:
    """Labels (rows, some) with the groups' labels shuffled among them."""
    of_unit = np.zeros(int(unit.max()) + 1, dtype=bool)
    of_unit[unit] = is_recent
    count = min(max(499, math.ceil(10 / miss) - 1), _MOST_RELABELLINGS)
    for start in range(0, count, _CHUNK):
        tiled = np.tile(of_unit[:, None], (1, min(_CHUNK, count - start)))
        yield rng.permuted(tiled, axis=0)[unit]


def _error(
    scores: Floats, is_recent: NDArray[np.bool_], unit: Index, folds: Sequence[Index]
) -> float:
    """Standard error of the AUC, from the share that each group has in it."""
    pairs = 0
    pull = np.zeros(int(unit.max()) + 1)
    for rows in folds:
        recent, reference = rows[is_recent[rows]], rows[~is_recent[rows]]
        if not (count := len(recent) * len(reference)):
            continue
        above = scores[recent][:, None] - scores[reference]
        won = (above > 0) + (above == 0) / 2
        mean = float(won.mean())
        pairs += count
        np.add.at(pull, unit[recent], count * (won.mean(axis=1) - mean) / len(recent))
        np.add.at(pull, unit[reference], count * (won.mean(axis=0) - mean) / len(reference))
    return float(np.sqrt(np.square(pull).sum())) / pairs
