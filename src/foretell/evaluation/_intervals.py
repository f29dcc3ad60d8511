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

_CHUNK_NUMBERS = 2_000_000
"""Weights made at once (16 MiB): bounds memory, whatever the number of queries."""


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
    one a row belongs to.
    """

    counts: NDArray[np.int64]
    group: NDArray[np.int64]

    @classmethod
    def draw(cls, groups: Sequence[str], rng: np.random.Generator, count: int = 1_000) -> Resamples:
        """``count`` draws, each of as many groups as there are, with replacement."""
        names, group = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), count)
        return cls(counts=counts, group=group)

    def weights(self, rows: NDArray[np.int64]) -> Iterator[Floats]:
        """Row weights (some resamples, ``rows``), chunk after chunk."""
        step = max(1, _CHUNK_NUMBERS // max(len(rows), 1))
        for start in range(0, len(self.counts), step):
            yield self.counts[start : start + step, self.group[rows]].astype(np.float64)


def interval(statistic: Statistic, resamples: Resamples, rows: NDArray[np.int64]) -> Interval:
    """The statistic of ``rows`` with the 2.5th to 97.5th percentile of its resampled values.

    Resamples where it is undefined (one class only, no gap) are left out. There is no interval
    around an undefined value, nor from a single group, of which all draws are the same.
    """
    value = statistic(np.ones((1, len(rows))))[0]
    if not np.isfinite(value):
        return Interval(value=None, n=len(rows))
    if len(np.unique(resamples.group[rows])) < 2:
        return Interval(value=float(value), n=len(rows))
    resampled = np.concatenate([statistic(weights) for weights in resamples.weights(rows)])
    low, high = np.percentile(resampled[np.isfinite(resampled)], [2.5, 97.5])
    return Interval(value=float(value), low=float(low), high=float(high), n=len(rows))
