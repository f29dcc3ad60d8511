"""Exact bounds on a chance from counted successes."""

from __future__ import annotations

import numpy as np

from foretell.calibration._columns import Column
from foretell.calibration._scipy import needs_scipy
from foretell.errors import InputError


def clopper_pearson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a chance (Clopper and Pearson, 1934).

    It covers the true chance with at least ``confidence``, whatever that chance is; each side
    misses it at most half of the rest. Without trials it is everything from 0 to 1.

    Args:
        successes: From 0 to ``n``.
        n: Independent trials.
        confidence: Above 0, below 1.
    """
    if not 0 <= successes <= n:
        raise InputError(f"successes must be from 0 to the {n} trials, got {successes}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be above 0 and below 1, got {confidence}")
    miss = (1 - confidence) / 2
    return lower_bound(successes, n, miss), upper_bound(successes, n, miss)


def lower_bound(successes: float, n: float, miss: float) -> float:
    """Exceeds the true chance with a probability of at most ``miss``."""
    try:
        from scipy.special import betaincinv
    except ImportError as error:
        raise needs_scipy("an exact binomial bound") from error

    return float(betaincinv(successes, n - successes + 1, miss)) if successes > 0 else 0.0


def upper_bound(successes: float, n: float, miss: float) -> float:
    """Falls short of the true chance with a probability of at most ``miss``."""
    return 1 - lower_bound(n - successes, n, miss)


def chance_of_at_least(successes: Column, n: int, chance: float) -> Column:
    """How likely that many successes or more are in ``n`` trials of that ``chance``.

    At most ``miss`` exactly where ``lower_bound`` reaches ``chance``, and many times faster than
    inverting it for every count.
    """
    try:
        from scipy.special import betainc
    except ImportError as error:
        raise needs_scipy("an exact binomial test") from error

    some = np.maximum(successes, 1)
    return np.where(successes > 0, betainc(some, n - some + 1, chance), 1.0)
