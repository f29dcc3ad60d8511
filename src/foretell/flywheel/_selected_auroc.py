"""How well scores rank outcomes of which only a chosen part is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import InputError
from foretell.evaluation import Interval
from foretell.flywheel._influence import interval_of

Floats = NDArray[np.float64]


def selected_auroc(
    scores: ArrayLike,
    outcomes: ArrayLike,
    chances: ArrayLike,
    *,
    p_hat: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> Interval:
    r"""The AUROC over all queries, from those whose outcome was seen.

    Queries that a rule keeps are those it foretells success for; among them scores differ less, so
    their AUROC says little of the whole. Each seen query stands for ``1 / chance`` of its kind:

    .. math:: \hat\theta = \sum_{i \ne j} a_i b_j k_{ij} / \sum_{i \ne j} a_i b_j

    with :math:`k_{ij}` 1 where i scores higher, and one half at a tie. By inverse propensity
    :math:`a = w y, b = w (1 - y)`, with :math:`w` the weight of a seen query and 0 of the others.
    With ``p_hat`` it is doubly robust (Robins et al., 1994): :math:`a = m + w (y - m), b = 1 - a`,
    where :math:`m` is what ``p_hat`` foretells, also of those not seen. That is right if either the
    chances or ``p_hat`` are, and varies less the better ``p_hat`` is. ``p_hat`` must be foretold
    without the outcome of the query itself.

    Weights have a mean of 1, so that labels may be missing among what was seen, if by chance alone.

    Args:
        scores: Higher means likelier to succeed, (n,).
        outcomes: Success from 0 to 1, (n,); NaN where it was not seen.
        chances: How likely it was that each would be seen, (n,); those of NaN or 0 are left out.
        p_hat: Chance of success, (n,).
        groups: Queries of one group are not independent; each its own where not given.
        confidence: Of the interval.

    Returns:
        The AUROC; ``n`` counts outcomes. ``None`` where these are all of one class.
    """
    score, outcome, chance = (np.asarray(c, dtype=np.float64) for c in (scores, outcomes, chances))
    foretold = None if p_hat is None else np.asarray(p_hat, dtype=np.float64)
    sizes = {len(column) for column in (score, outcome, chance, foretold) if column is not None}
    if len(sizes) > 1 or (groups is not None and len(groups) != len(score)):
        raise InputError(
            f"the columns of an AUROC have {sorted(sizes)} rows; wanted one number of all"
        )
    known = np.nan_to_num(chance) > 0
    weights = np.where(np.isfinite(outcome), 1.0, 0.0)[known] / chance[known]
    outcome, score = np.nan_to_num(outcome[known]), score[known]
    n = int(np.count_nonzero(weights))
    if not n:
        return Interval(value=None, n=0)
    weights /= weights.mean()
    if foretold is None:
        successes, failures = weights * outcome, weights * (1 - outcome)
        residuals = np.zeros(len(weights))
    else:
        foretold = foretold[known]
        residuals = weights * (outcome - foretold)
        successes = foretold + residuals
        failures = 1 - successes
    ranked = _Ranked.of(score, successes, failures)
    if ranked is None:
        return Interval(value=None, n=n)
    # What a row changes through its own weight, and through the mean that all weights have.
    shifted = float(ranked.slope @ residuals)
    influence = ranked.influence - shifted * (weights - 1) / len(weights)
    of = None if groups is None else [groups[int(i)] for i in np.flatnonzero(known)]
    return interval_of(
        ranked.value, influence, groups=of, confidence=confidence, n=n, limits=(0.0, 1.0)
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ranked:
    """The ratio of both sums, its influence, and its slope in each ``a`` where ``b = 1 - a``."""

    value: float
    influence: Floats
    slope: Floats

    @classmethod
    def of(cls, scores: Floats, successes: Floats, failures: Floats) -> _Ranked | None:
        """In the time of a sort; ``None`` where one class has no weight."""
        levels, level = np.unique(scores, return_inverse=True)

        def by_level(weight: Floats) -> tuple[Floats, float]:
            at = np.bincount(level, weight, minlength=len(levels))
            return (np.cumsum(at) - at / 2)[level], float(at.sum())

        beaten, all_failures = by_level(failures)
        below, all_successes = by_level(successes)
        beating = all_successes - below
        # A row is no pair with itself; at its own tie it would count one half.
        own = successes * failures
        pairs = all_successes * all_failures - own.sum()
        if pairs <= 0:
            return None
        value = float((successes @ beaten - own.sum() / 2) / pairs)
        of_success = beaten - value * all_failures - failures * (0.5 - value)
        of_failure = beating - value * all_successes - successes * (0.5 - value)
        return cls(
            value=value,
            influence=(successes * of_success + failures * of_failure) / pairs,
            slope=(of_success - of_failure) / pairs,
        )
