"""Whether one way to foretell is better than another: paired, cross-fitted, and looked at rarely.

The score is the squared error of the chance (Brier, 1950). It is proper, so that neither a better
ranking nor an honester level goes unpaid; it asks for no answer of the strong model, and it is the
same whatever the goal, so that a changed goal makes no evidence void. It is bounded, so that a few
queries of large weight cannot carry an interval as far as they would a log loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.records import RoutingData
from foretell.runtime import Step

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

Foretelling = Callable[[RoutingData, RoutingData, np.random.Generator], Floats]
"""Fits on the first queries, and gives the chances of the second."""

WORTH_A_STEP: Final = 0.002
"""A smaller advantage is none: it is that of chances which are off by 0.045 no more. Two that tell
no query from another differ by less, yet always in the same way, for which no test is meant."""

_FOLDS: Final = 5
_CHUNK: Final = 500
_GROWTH: Final = 1.5
_MOST_LOOKS: Final = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Advantage:
    """By how much the squared error of ``step`` is below that of ``over``, on ``n`` queries.

    ``low`` and ``high`` are bounds of which each fails with probability ``level``; ``error`` is the
    standard error. They are ``None`` where there is but one group, or no difference at all.
    """

    step: Step
    over: Step
    value: float
    level: float
    n: int
    low: float | None = None
    high: float | None = None
    error: float | None = None

    @property
    def leads(self) -> bool:
        """Whether it looks better by enough to be worth a step, beyond chance or not."""
        return self.value > WORTH_A_STEP

    @property
    def ahead(self) -> bool:
        """Whether it leads, and is better beyond what chance makes."""
        return self.leads and self.low is not None and self.low > 0

    @property
    def words(self) -> str:
        """In a clause: who is ahead of whom, and how sure that is."""
        span = "" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]"
        if self.leads:
            return (
                f"{self.step} is ahead of {self.over} by {self.value:.3f}{span} on {self.n} labels"
            )
        return (
            f"{self.step} is not ahead of {self.over} ({self.value:.3f}{span}) on {self.n} labels"
        )


def advantage(
    data: RoutingData,
    step: tuple[Step, Foretelling],
    over: tuple[Step, Foretelling],
    *,
    level: float,
    seed: int,
) -> Advantage:
    """Both cross-fitted on the same folds of ``data``, which is labelled; its weights count.

    No group straddles two folds, and groups are what the bootstrap draws. Raises what a fit does,
    and ``TrainingDataError`` where the outcomes do not allow for folds.
    """
    folds = _folds(data, seed)
    losses = [
        np.square(_cross_fitted(data, foretell, folds, seed) - data.weak)
        for _, foretell in (step, over)
    ]
    return paired(
        losses[1] - losses[0],
        data.row_weights(),
        data.groups,
        names=(step[0], over[0]),
        level=level,
        rng=np.random.default_rng(seed),
    )


def paired(
    differences: Floats,
    weights: Floats,
    groups: Sequence[str],
    *,
    names: tuple[Step, Step],
    level: float,
    rng: np.random.Generator,
    resamples: int = 10_000,
) -> Advantage:
    """The weighted mean of ``differences`` with its interval by drawing groups anew.

    The studentised bootstrap (Hall, 1988; Efron and Tibshirani, 1993, section 12.5) of clusters:
    what is drawn is the mean's distance from the truth in its own standard errors, so that neither
    a few dozens of groups nor a lopsided score makes the bound promise more than it keeps. The
    standard error is that of a ratio estimate, between clusters.
    """
    _, group = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    count = int(group.max()) + 1
    mass, sums = np.zeros(count), np.zeros(count)
    np.add.at(mass, group, weights)
    np.add.at(sums, group, weights * differences)
    once = np.ones((1, count))
    value, error = (float(of[0]) for of in _means_with_errors(once, mass, sums))
    step, over = names
    found = Advantage(step=step, over=over, value=value, level=level, n=len(differences))
    if count < 2 or not error:
        return found
    distances: list[Floats] = []
    for start in range(0, resamples, _CHUNK):
        draws = rng.multinomial(count, np.full(count, 1 / count), min(_CHUNK, resamples - start))
        means, errors = _means_with_errors(draws.astype(np.float64), mass, sums)
        some = errors > 0
        distances.append((means[some] - value) / errors[some])
    least, most = np.quantile(np.concatenate(distances), [level, 1 - level])
    return replace(
        found, low=float(value - most * error), high=float(value - least * error), error=error
    )


def _means_with_errors(draws: Floats, mass: Floats, sums: Floats) -> tuple[Floats, Floats]:
    """Of every draw (draws, groups), the weighted mean and its standard error; NaN without mass."""
    total = draws @ mass
    with np.errstate(invalid="ignore"):
        means = (draws @ sums) / total
        squares = draws @ sums**2 - 2 * means * (draws @ (sums * mass))
        squares += means**2 * (draws @ mass**2)
        count = draws.sum(axis=1)
        # Rounding can take a sum of squares below 0.
        return means, np.sqrt(np.maximum(squares, 0) * count / (count - 1)) / total


def look_level(error: float, look: int) -> float:
    """The part of an error that the ``look``-th look (from 1) may spend: all of them, the whole.

    ``error / (look (look + 1))`` sums to ``error``; by the union bound no dependence between looks
    can make it more.
    """
    return error / (look * (look + 1))


def next_look_at(labels: int) -> int:
    """How many labels the next look takes: half as many again, so that looks are few."""
    return math.ceil(labels * _GROWTH)


def labels_to_settle(found: Advantage, *, look: int) -> int | None:
    """How many more labels would show an advantage of the size found at the ``look``-th look.

    The first look to come at which such a lead would be just above the bar: its standard error
    falls with the root of the labels, while later looks ask for more. ``None`` where there is no
    lead, and where no look would.
    """
    if found.error is None or not found.leads:
        return None
    # Of what this look could spend, so much was for this comparison.
    error = found.level * look * (look + 1)
    labels = found.n
    for later in range(look + 1, look + _MOST_LOOKS):
        labels = next_look_at(labels)
        bar = NormalDist().inv_cdf(1 - look_level(error, later))
        if found.value > bar * found.error * math.sqrt(found.n / labels):
            return labels - found.n
    return None


def _cross_fitted(
    data: RoutingData, foretell: Foretelling, folds: Sequence[tuple[Rows, Rows]], seed: int
) -> Floats:
    chances = np.empty(len(data))
    for fitted_on, held in folds:
        generator = np.random.default_rng(seed)
        chances[held] = foretell(data.take(fitted_on), data.take(held), generator)
    return chances


def _folds(data: RoutingData, seed: int) -> list[tuple[Rows, Rows]]:
    """Rows to fit on and rows held out; outcomes balanced, no group in two of them."""
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise TrainingDataError(
            "comparing steps needs scikit-learn, which is not installed; "
            "pip install 'foretell[train]'"
        ) from error
    succeeded = data.weak >= 0.5
    fewest = min(len(set(data.groups)), int(succeeded.sum()), int((~succeeded).sum()))
    if fewest < _FOLDS:
        raise TrainingDataError(
            f"{len(data)} labelled queries hold {int(succeeded.sum())} successes in "
            f"{len(set(data.groups))} groups; wanted {_FOLDS} or more of groups, successes and "
            "failures: label more queries"
        )
    splitter = StratifiedGroupKFold(n_splits=_FOLDS, shuffle=True, random_state=seed)
    return list(splitter.split(np.empty(len(data)), succeeded, data.groups))
