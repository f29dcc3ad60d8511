"""One number out of several repeats of a random thing: a subset that was drawn, a shuffle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foretell.evaluation._intervals import Interval, Resamples, Statistic


def mean_over_repeats(
    repeats: Sequence[Statistic],
    resamples: Resamples,
    rows: NDArray[np.int64],
    rng: np.random.Generator,
) -> Interval:
    """Mean of the repeats' statistics of ``rows``, with an interval over queries and repeats.

    Each resample draws groups of queries and, with replacement, as many repeats as there are. A
    repeat whose statistic is undefined is left out; the mean is ``None`` when all are, or when
    there are none. From a handful of repeats their part of the interval comes out a little narrow.
    """
    once = resamples.repetitions[rows][None, :]
    values = [float(statistic(once)[0]) for statistic in repeats]
    defined = [
        statistic for statistic, value in zip(repeats, values, strict=True) if np.isfinite(value)
    ]
    if not defined:
        return Interval(value=None, n=len(rows))
    value = float(np.nanmean(values))
    if len(np.unique(resamples.group[rows])) < 2:
        return Interval(value=value, n=len(rows))
    found: list[NDArray[np.float64]] = []
    for weights in resamples.weights(rows):
        by_repeat = np.stack([statistic(weights) for statistic in defined], axis=1)
        count = len(defined)
        drawn = rng.multinomial(count, np.full(count, 1 / count), len(weights))
        known = np.isfinite(by_repeat)
        counted = np.where(known, drawn, 0)
        some = counted.any(axis=1)
        total = (counted * np.where(known, by_repeat, 0.0)).sum(axis=1)
        found.append(total[some] / counted.sum(axis=1)[some])
    resampled = np.concatenate(found)
    if not len(resampled):
        return Interval(value=value, n=len(rows))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(value=value, low=float(low), high=float(high), n=len(rows))
