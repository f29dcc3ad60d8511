"""Whether a new probe is better than the one that serves, on queries that both have foretold.

The gain is the mean difference of their squared errors (Brier, 1950), query by query: positive
where the new one is closer. That score is proper, so neither a better ranking nor an honester level
goes unpaid; it is what wrong decisions cost on average over all prices of a strong call (Schervish,
1989), so that a probe which is better for the present goal alone does not pass, and a changed goal
makes no evidence void; and it is bounded, so that a few queries of large weight carry no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import auroc, brier, expected_calibration_error

Floats = NDArray[np.float64]

_SIGNIFICANT: Final = 0.01
_RESAMPLES: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Paired:
    """Queries that two have foretold, of known outcome; row i of every column is the same one.

    ``candidate`` and ``rival`` are chances, ``outcomes`` success in [0, 1]. ``weights`` undo how
    likely each was to be seen; rows of the same of ``groups`` are not independent.
    """

    candidate: Floats
    rival: Floats
    outcomes: Floats
    weights: Floats
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.outcomes)

    def __add__(self, other: Paired) -> Paired:
        """The rows of both."""
        return Paired(
            candidate=np.concatenate([self.candidate, other.candidate]),
            rival=np.concatenate([self.rival, other.rival]),
            outcomes=np.concatenate([self.outcomes, other.outcomes]),
            weights=np.concatenate([self.weights, other.weights]),
            groups=self.groups + other.groups,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """By how much the squared error falls, over ``n`` queries in ``groups`` groups.

    Each of ``low`` and ``high`` is passed by chance with probability ``level``. They are ``None``
    where all queries are of one group.
    """

    value: float
    low: float | None
    high: float | None
    level: float
    n: int
    groups: int

    @property
    def shown(self) -> bool:
        """Whether there is one, beyond what chance makes."""
        return self.low is not None and self.low > 0

    @property
    def loss_shown(self) -> bool:
        """Whether it is a loss, beyond what chance makes."""
        return self.high is not None and self.high < 0

    def __str__(self) -> str:
        span = "" if self.low is None else f" [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.value:.4f}{span} on {self.n} labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationCheck:
    """How true chances are to their word.

    ``ece`` is the expected calibration error as measured, and ``by_chance`` what perfect chances
    would show on average on so few queries; ``excess`` is what is left, at least 0. ``low`` and
    ``high`` bound the excess at 98 %: measured less what perfect chances show when they look worst
    or best. ``holds`` unless the excess is above ``limit``, and above what chance makes.
    """

    ece: float
    by_chance: float
    excess: float
    low: float
    high: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the chances can be relied on, as far as can be seen."""
        return not (self.excess > self.limit and self.low > 0)

    def __str__(self) -> str:
        return f"{self.excess:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A candidate against its rival, on the same queries.

    ``brier`` and ``auroc`` are the candidate's, and then the rival's; an AUROC is ``None`` where
    all outcomes are alike.
    """

    gain: Gain
    calibration: CalibrationCheck
    brier: float
    rivals_brier: float
    auroc: float | None
    rivals_auroc: float | None

    @property
    def calibrated(self) -> bool:
        """Whether the candidate's chances can be relied on."""
        return self.calibration.holds


def compare(
    rows: Paired, *, level: float, limit: float, rng: np.random.Generator
) -> Comparison | None:
    """The candidate against its rival; ``None`` without rows.

    Args:
        rows: What both have foretold.
        level: What each side of the gain's interval may be wrong by.
        limit: A calibration error above this is too large.
        rng: For what perfect chances would show.
    """
    if not len(rows) or rows.weights.sum() <= 0:
        return None

    def scored(chances: Floats) -> tuple[float, float | None]:
        error = cast("float", brier(chances, rows.outcomes, rows.weights))  # there are rows
        return error, auroc(chances, rows.outcomes, rows.weights)

    (error, ranking), (rivals_error, rivals_ranking) = map(scored, (rows.candidate, rows.rival))
    return Comparison(
        gain=gain_of(rows, level=level),
        calibration=check_calibration(
            rows.candidate,
            rows.outcomes,
            rows.weights,
            rows.groups,
            limit=limit,
            rng=rng,
        ),
        brier=error,
        rivals_brier=rivals_error,
        auroc=ranking,
        rivals_auroc=rivals_ranking,
    )


def gain_of(rows: Paired, *, level: float) -> Gain:
    """The weighted mean of the differences, with an interval by groups.

    The variance of a ratio of sums over groups, linearised (Cochran, 1977, equation 6.13), and
    Student's t with one degree less than there are groups.
    """
    from scipy.stats import t

    squares = (rows.rival - rows.outcomes) ** 2 - (rows.candidate - rows.outcomes) ** 2
    _, group = np.unique(np.asarray(rows.groups, dtype=np.str_), return_inverse=True)
    mass = float(rows.weights.sum())
    value = float(rows.weights @ squares / mass)
    count = int(group.max()) + 1
    low = high = None
    if count > 1:
        residuals = np.bincount(group, rows.weights * (squares - value))
        error = math.sqrt(count / (count - 1) * float(residuals @ residuals)) / mass
        reach = float(t.isf(level, count - 1)) * error
        low, high = value - reach, value + reach
    return Gain(value=value, low=low, high=high, level=level, n=len(rows), groups=count)


def check_calibration(
    p_success: Floats,
    outcomes: Floats,
    weights: Floats,
    groups: Sequence[str],
    *,
    limit: float,
    rng: np.random.Generator,
) -> CalibrationCheck:
    """The calibration error beside what it would be by chance alone.

    Few queries show an error even where every chance is true, so outcomes are drawn from the
    chances themselves (consistency resampling; Bröcker and Smith, 2007). One lot is drawn for each
    group: copies of a query succeed or fail together.
    """
    names, group = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)

    def error(succeeded: Floats) -> float:
        # None only without rows.
        return cast("float", expected_calibration_error(p_success, succeeded, weights))

    by_chance = np.array(
        [
            error((rng.random(len(names))[group] < p_success).astype(np.float64))
            for _ in range(_RESAMPLES)
        ]
    )
    ece, typical = error(outcomes), float(by_chance.mean())
    best, worst = np.quantile(by_chance, [_SIGNIFICANT, 1 - _SIGNIFICANT])
    return CalibrationCheck(
        ece=ece,
        by_chance=typical,
        excess=max(0.0, ece - typical),
        low=max(0.0, ece - float(worst)),
        high=max(0.0, ece - float(best)),
        limit=limit,
    )
