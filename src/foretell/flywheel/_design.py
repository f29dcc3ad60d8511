"""Which unlabelled rows would make a linear probe's estimates surest: pure linear algebra.

The rows to label next are those that most reduce the variance of the probe's log-odds over the
queries it will be asked about: greedy V-optimal design for a logistic regression (Chaloner and
Verdinelli, 1995; Ash et al., 2021, for batches). One rule is uncertain, diverse and recent at once:
a row near the bar informs more, a row in a direction that is known already informs less, and what
is asked about today weighs more in the variance that is to fall.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_FREE = 1e-3
"""Penalty of the intercept: next to none, but the information stays invertible without labels."""


def most_helpful(
    points: Floats,
    chances: Floats,
    *,
    labelled: Rows,
    candidates: Rows,
    weights: Floats,
    count: int,
    l2: float,
) -> Rows:
    """The rows to label next, the most helpful first.

    With design rows ``z`` (a one beside the coordinates), ``s = p (1 - p)`` and the information
    ``H = l2 I + sum over labelled of s z z'``, the variance of all chances is about
    ``tr(H^-1 M)`` for ``M = sum of weight s z z'``. Another label at ``z`` lowers it by
    ``s z' H^-1 M H^-1 z / (1 + s z' H^-1 z)``; the largest is taken, ``H^-1`` updated by its
    rank-one formula, and so on. Ties go to the first.

    Args:
        points: Coordinates (rows, k) of every row.
        chances: Of success, (rows,), as estimated so far; one half where nothing is known.
        labelled: Rows that need no label.
        candidates: Rows to choose from.
        weights: How much each row counts among those that will be asked about, (rows,).
        count: How many to choose; at most all candidates.
        l2: Penalty of the regression that will be fitted.
    """
    design = np.column_stack([points, np.ones(len(points))])
    information = chances * (1 - chances)
    known = design[labelled]
    penalty = np.full(design.shape[1], l2)
    penalty[-1] = _FREE
    covariance = np.linalg.inv(np.diag(penalty) + (known.T * information[labelled]) @ known)
    target = (design.T * (weights * information)) @ design
    rows, s = design[candidates], information[candidates]
    spread = rows @ covariance  # z' H^-1
    reach = spread @ target @ covariance  # z' H^-1 M H^-1
    left = np.ones(len(candidates), dtype=bool)
    chosen = list[int]()
    for _ in range(min(count, len(candidates))):
        own = np.einsum("ij,ij->i", spread, rows)
        gain = np.einsum("ij,ij->i", reach, rows)
        saved = np.where(left, s * gain / (1 + s * own), -np.inf)
        best = int(saved.argmax())
        left[best] = False
        chosen.append(best)
        share = s[best] / (1 + s[best] * own[best])
        a, b = spread[best].copy(), reach[best].copy()
        along_a, along_b = rows @ a, rows @ b
        spread -= share * np.outer(along_a, a)
        reach -= share * (np.outer(along_a, b) + np.outer(along_b, a))
        reach += share**2 * gain[best] * np.outer(along_a, a)
    return candidates[chosen]
