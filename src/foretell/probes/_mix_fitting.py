"""Shares on the simplex: the convex problem behind a layer mix."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.probes._mix import Shares

try:
    from scipy.optimize import minimize
except ImportError as error:
    raise TrainingDataError(
        "fitting a probe needs SciPy, which is not installed; pip install 'foretell[train]'"
    ) from error

Floats = NDArray[np.float64]

_SMALLEST_SHARE = 0.02
"""Below this a read point is not worth reading: its share goes to the others."""


def fit_shares(scores: Floats, outcomes: Floats, weights: Floats) -> Shares:
    """The shares, scale and bias of least weighted log loss, none of them small.

    Slopes of a logistic regression that may not be negative are a point on the simplex times a
    scale, and the loss is convex in them: one optimum, and a sparse one. What is left after shares
    below 2 % are dropped is fitted again.

    Args:
        scores: Held-out log-odds (n, read points).
        outcomes: Successes between 0 and 1, (n,).
        weights: Repetitions of each row, (n,).

    Returns:
        Equal shares and scale 0 where no column ranks above chance.
    """
    slopes, bias = _likeliest(scores, outcomes, weights)
    if (total := float(slopes.sum())) > 0:
        kept = slopes >= _SMALLEST_SHARE * total
        slopes = np.where(kept, slopes, 0.0)
        slopes[kept], bias = _likeliest(scores[:, kept], outcomes, weights)
        total = float(slopes.sum())
    if total <= 0:
        shares = np.full(scores.shape[1], 1 / scores.shape[1])
        return Shares(shares=tuple(shares.tolist()), scale=0.0, bias=bias)
    return Shares(shares=tuple((slopes / total).tolist()), scale=total, bias=bias)


def _likeliest(scores: Floats, outcomes: Floats, weights: Floats) -> tuple[Floats, float]:
    """Slopes, none negative, and the intercept."""
    share = weights / weights.sum()
    mean = share @ scores
    spread = np.sqrt(share @ (scores - mean) ** 2)
    # In units of its own spread every column weighs the same in the solver's tolerances.
    scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
    columns = (scores - mean) * scale
    base = float(share @ outcomes)

    def loss(at: Floats) -> tuple[float, Floats]:
        log_odds = columns @ at[:-1] + at[-1]
        residual = share * (np.exp(-np.logaddexp(0.0, -log_odds)) - outcomes)
        value = share @ (np.logaddexp(0.0, log_odds) - outcomes * log_odds)
        return float(value), np.append(residual @ columns, residual.sum())

    best = minimize(
        loss,
        np.append(np.zeros(scores.shape[1]), math.log(base / (1 - base))),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * scores.shape[1] + [(None, None)],
        options={"ftol": 1e-12, "gtol": 1e-8, "maxiter": 500},
    )
    slopes = np.maximum(np.asarray(best.x[:-1], dtype=np.float64), 0) * scale
    return slopes, float(best.x[-1] - slopes @ mean)
