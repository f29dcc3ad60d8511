"""Whether chances are still true to their word, by what became of recent requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import reliability_diagram
from foretell.flywheel._findings import LEAST_ROWS, effective_size

Floats = NDArray[np.float64]

_MOST_BINS: Final = 10
_ROWS_PER_BIN: Final = 25
_RESAMPLES: Final = 500
_MOST_DRAWS: Final = 4_999


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationError:
    """Mean distance ``error`` of chance and outcome, beyond what true chances would show.

    ``low`` and ``high`` are its interval, ``p_value`` is how often chances that are true to their
    word look as wrong.
    """

    error: float
    low: float
    high: float
    p_value: float


def calibration_error(
    p_success: Floats,
    outcomes: Floats,
    *,
    weights: Floats,
    groups: Sequence[str],
    confidence: float,
    rng: np.random.Generator,
) -> CalibrationError | None:
    """Expected calibration error less its bias, and a test that the bias does not fool.

    The plain error is never 0, and the larger the fewer the rows. So outcomes are drawn again and
    again from the chances themselves (consistency resampling; Bröcker and Smith, 2007): the mean
    of those errors is the bias, and the share of them that are as large is the p-value. Rows of a
    group share one uniform number, as if what they have in common decided all of them, which
    makes the test careful where a conversation has many turns. The interval is the basic
    bootstrap's over groups; it never leaves the value out.

    Args:
        p_success: Chances that were foretold.
        outcomes: Successes from 0 to 1.
        weights: Of rows that were seen with a chance of ``c``, ``1 / c``.
        groups: Rows of a group are not independent.
        confidence: Of the test, and of the interval.
        rng: Draws outcomes and groups.

    Returns:
        ``None`` with an effective size below 50.
    """
    size = effective_size(weights, groups)
    if size < LEAST_ROWS:
        return None
    bins = reliability_diagram(
        p_success, outcomes, weights, bins=min(_MOST_BINS, int(size / _ROWS_PER_BIN))
    )
    bin_of = np.searchsorted([one.high for one in bins], p_success)
    members = np.eye(len(bins))[bin_of]
    _, group = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    units = int(group.max()) + 1

    def errors(outcome: Floats, weight: Floats) -> Floats:
        """Of each row (draws, requests): sum over bins of the distances of their sums."""
        return np.abs((weight * (p_success - outcome)) @ members).sum(axis=-1) / weight.sum(axis=-1)

    observed = float(errors(outcomes, weights))
    draws = min(max(_RESAMPLES - 1, ceil(10 / (1 - confidence)) - 1), _MOST_DRAWS)
    drawn = rng.random((draws, units))[:, group] < p_success
    by_chance = errors(drawn.astype(np.float64), weights)
    repeated = rng.multinomial(units, np.full(units, 1 / units), _RESAMPLES)[:, group]
    resampled = errors(outcomes, weights * repeated)
    miss = (1 - confidence) / 2
    below, above = np.quantile(resampled, [miss, 1 - miss])
    value = max(0.0, observed - float(by_chance.mean()))
    return CalibrationError(
        error=value,
        low=max(0.0, min(value, 2 * observed - float(above))),
        high=min(1.0, max(value, 2 * observed - float(below))),
        p_value=(1 + int(np.count_nonzero(by_chance >= observed - 1e-12))) / (1 + draws),
    )
