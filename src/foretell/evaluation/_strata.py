"""Ranking among queries that are alike: what is left of an AUROC without a plain confound."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.evaluation._intervals import Floats, Statistic

_MOST_BINS = 20
_SMALLEST_BIN = 25


def auroc_within_of(scores: Floats, outcomes: Floats, strata: ArrayLike) -> Statistic:
    """Chance that a success scores above a failure *of its own stratum*, ties one half.

    The stratified Mann-Whitney statistic (van Elteren, 1960, with every pair counting the same):
    scores that only tell the strata apart have 0.5. Undefined when no stratum holds both outcomes.
    """
    _, stratum = np.unique(np.asarray(strata), return_inverse=True)
    order = np.lexsort((scores, stratum))
    ranked, own = scores[order], stratum[order]
    is_new = np.concatenate([[True], (ranked[1:] != ranked[:-1]) | (own[1:] != own[:-1])])
    starts = np.flatnonzero(is_new)
    stratum_of_block = own[starts]
    # For each stratum, its first block of equal scores; for each block, its stratum's place.
    first = np.flatnonzero(np.diff(stratum_of_block, prepend=-1))
    place = np.cumsum(np.diff(stratum_of_block, prepend=-1) != 0) - 1
    succeeded = outcomes[order]

    def statistic(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        successes = np.add.reduceat(sorted_weights * succeeded, starts, axis=1)
        failures = np.add.reduceat(sorted_weights * (1 - succeeded), starts, axis=1)
        below = np.cumsum(failures, axis=1) - failures
        beaten = below - below[:, first][:, place] + failures / 2
        pairs = (
            np.add.reduceat(successes, first, axis=1) * np.add.reduceat(failures, first, axis=1)
        ).sum(axis=1)
        won = (successes * beaten).sum(axis=1)
        return np.where(pairs > 1e-12, won / np.where(pairs > 1e-12, pairs, 1.0), np.nan)

    return statistic


def length_strata(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bins of about the same length, so that within one length tells (next to) nothing.

    Every length is a bin of its own when there are no more than 20 of them; otherwise the bins
    hold equal shares of the queries, about 25 or more each and at most 20 bins, and a length is
    never cut in two.
    """
    distinct, rank = np.unique(lengths, return_inverse=True)
    if len(distinct) <= _MOST_BINS:
        return rank.astype(np.int64)
    bins = int(np.clip(len(lengths) // _SMALLEST_BIN, 1, _MOST_BINS))
    # The share of shorter queries, which all queries of one length have in common.
    shorter = np.searchsorted(np.sort(lengths), lengths) / len(lengths)
    return (shorter * bins).astype(np.int64)
