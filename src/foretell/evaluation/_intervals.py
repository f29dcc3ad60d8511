"""A number with its interval: percentile bootstrap over groups, the same draws for every number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Statistic = Callable[[Floats], Floats]
"""Row weights (resamples, rows) to values (resamples,); NaN where the value is undefined.

A weight counts a row as that many rows, so a whole bootstrap is one call.
"""

_CHUNK_NUMBERS = 200_000
"""Weights made at once (1.6 MiB): what fits a cache is fastest, and bounds memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its 95 % interval over ``n`` queries; ``None`` where undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resamples:
    """Bootstrap draws of whole groups (Field and Welsh, 2007), kept so that numbers stay paired.

    ``counts`` (resamples, groups) says how often a draw takes each group, ``group`` (rows,) which
    one a row belongs to, ``repetitions`` (rows,) how many rows it stands for in the first place.
    """

    counts: NDArray[np.int64]
    group: NDArray[np.int64]
    repetitions: Floats

    @classmethod
    def draw(
        cls,
        groups: Sequence[str],
        rng: np.random.Generator,
        count: int = 1_000,
        *,
        repetitions: Floats | None = None,
    ) -> Resamples:
        """``count`` draws, each of as many groups as there are, with replacement.

        ``repetitions`` is 1 for each row where not given.
        """
        names, group = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), count)
        every = np.ones(len(group)) if repetitions is None else repetitions
        return cls(counts=counts, group=group, repetitions=every)

    def weights(self, rows: NDArray[np.int64]) -> Iterator[Floats]:
        """Row weights (some resamples, ``rows``), chunk after chunk.

        Resamples that take none of the rows are left out: nothing is defined on them.
        """
        step = max(1, _CHUNK_NUMBERS // max(len(rows), 1))
        for start in range(0, len(self.counts), step):
            taken = np.take(self.counts[start : start + step], self.group[rows], axis=1)
            taken = taken * self.repetitions[rows]
            some = taken.any(axis=1)
            yield taken if some.all() else taken[some]


def interval(statistic: Statistic, resamples: Resamples, rows: NDArray[np.int64]) -> Interval:
    """The statistic of ``rows`` with the 2.5th to 97.5th percentile of its resampled values.

    Nothing is defined without rows. Resamples where it is undefined (one class only, no gap) are
    left out. There is no interval around an undefined value, nor from a single group, of which all
    draws are the same, nor where no resample defines the value.
    """
    if not len(rows):
        return Interval(value=None, n=0)
    value = statistic(resamples.repetitions[rows][None, :])[0]
    if not np.isfinite(value):
        return Interval(value=None, n=len(rows))
    if len(np.unique(resamples.group[rows])) < 2:
        return Interval(value=float(value), n=len(rows))
    resampled = np.concatenate([statistic(weights) for weights in resamples.weights(rows)])
    defined = resampled[np.isfinite(resampled)]
    if not len(defined):
        return Interval(value=float(value), n=len(rows))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(value=float(value), low=float(low), high=float(high), n=len(rows))
