"""Chances against what happened, bin by bin: the diagram, the error, the decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from foretell.calibration._binomial import clopper_pearson
from foretell.calibration._columns import Column, Index, chance_columns
from foretell.errors import InputError

Binning = Literal["mass", "width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """The ``n`` queries with chances from ``low`` to ``high``, both of which occur.

    ``share_low`` and ``share_high`` are the Clopper-Pearson interval of ``success_share``;
    ``None`` where it does not apply, that is to success rates or unequal weights.
    """

    low: float
    high: float
    mean_p: float
    success_share: float
    share_low: float | None
    share_high: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrierDecomposition:
    """``brier = reliability - resolution + uncertainty + within_bin``, each a mean over queries.

    ``reliability`` is the squared distance of chances and shares of successes (0 is best),
    ``resolution`` the spread of those shares between bins (more is better), ``uncertainty`` the
    variance of the outcomes (the data's own). ``within_bin`` is what bins hide: the variance of
    the chances in a bin less twice their covariance with the outcomes; it is 0 when each bin
    holds a single chance.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float

    @property
    def brier(self) -> float:
        """The Brier score that the parts add up to."""
        return self.reliability - self.resolution + self.uncertainty + self.within_bin


def expected_calibration_error(
    p_success: ArrayLike,
    outcomes: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 15,
    binning: Binning = "mass",
) -> float | None:
    """Mean distance, over bins, of the mean chance and the share of successes.

    ECE of Naeini et al. (2015); with equal-mass bins it is the adaptive ECE of Nixon et al. (2019).
    It is biased upwards by about the noise of one bin, so compare it at equal sizes only.

    Args:
        p_success: Chances between 0 and 1.
        outcomes: Successes between 0 and 1.
        weights: Repetitions of each row.
        bins: At most this many bins; empty ones count for nothing.
        binning: ``mass`` gives each bin about the same number of rows (equal chances share a bin,
            whatever its size), ``width`` the same range of chances.

    Returns:
        A number from 0 to 1, or ``None`` without rows.
    """
    binned = _Binned.of(p_success, outcomes, weights, bins, binning)
    if binned is None:
        return None
    return float(binned.share @ np.abs(binned.mean_p - binned.success_share))


def reliability_diagram(
    p_success: ArrayLike,
    outcomes: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 10,
    binning: Binning = "mass",
    confidence: float = 0.95,
) -> tuple[ReliabilityBin, ...]:
    """Mean chance and share of successes in each bin that is not empty, in rising order.

    Args:
        p_success: Chances between 0 and 1.
        outcomes: Successes between 0 and 1.
        weights: Repetitions of each row; rows without weight are left out.
        bins: At most this many bins.
        binning: As in ``expected_calibration_error``.
        confidence: Of the interval around each share of successes.
    """
    binned = _Binned.of(p_success, outcomes, weights, bins, binning)
    if binned is None:
        return ()
    plain = bool(np.isin(binned.outcome, (0.0, 1.0)).all() and np.ptp(binned.weight) == 0)
    rows: list[ReliabilityBin] = []
    for index in range(len(binned.share)):
        among = binned.bin_of == index
        n = int(np.count_nonzero(among))
        interval = (
            clopper_pearson(int(binned.outcome[among].sum()), n, confidence)
            if plain
            else (None, None)
        )
        rows.append(
            ReliabilityBin(
                low=float(binned.p[among].min()),
                high=float(binned.p[among].max()),
                mean_p=float(binned.mean_p[index]),
                success_share=float(binned.success_share[index]),
                share_low=interval[0],
                share_high=interval[1],
                n=n,
            )
        )
    return tuple(rows)


def brier_decomposition(
    p_success: ArrayLike,
    outcomes: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 15,
    binning: Binning = "mass",
) -> BrierDecomposition | None:
    """The Brier score's parts (Murphy, 1973), exact with the within-bin terms of Stephenson et al.

    Stephenson, Coelho and Jolliffe (2008), "Two extra components in the Brier score
    decomposition". A success rate counts as successes and failures, as in ``brier``.

    Args:
        p_success: Chances between 0 and 1.
        outcomes: Successes between 0 and 1.
        weights: Repetitions of each row.
        bins: At most this many bins.
        binning: As in ``expected_calibration_error``.

    Returns:
        The parts, or ``None`` without rows.
    """
    binned = _Binned.of(p_success, outcomes, weights, bins, binning)
    if binned is None:
        return None
    base_rate = float(binned.share @ binned.success_share)
    p_off = binned.p - binned.mean_p[binned.bin_of]
    outcome_off = binned.outcome - binned.success_share[binned.bin_of]
    row_share = binned.weight / binned.weight.sum()
    return BrierDecomposition(
        reliability=float(binned.share @ (binned.mean_p - binned.success_share) ** 2),
        resolution=float(binned.share @ (binned.success_share - base_rate) ** 2),
        uncertainty=base_rate * (1 - base_rate),
        within_bin=float(row_share @ (p_off**2 - 2 * p_off * outcome_off)),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Binned:
    """Rows with weight, the bin of each, and the means of the bins that are not empty."""

    p: Column
    outcome: Column
    weight: Column
    bin_of: Index
    share: Column
    mean_p: Column
    success_share: Column

    @classmethod
    def of(
        cls,
        p_success: ArrayLike,
        outcomes: ArrayLike,
        weights: ArrayLike | None,
        bins: int,
        binning: Binning,
    ) -> _Binned | None:
        if bins < 1:
            raise InputError(f"bins must be at least 1, got {bins}")
        p, outcome, weight = chance_columns(p_success, outcomes, weights)
        seen = weight > 0
        if not seen.any():
            return None
        p, outcome, weight = p[seen], outcome[seen], weight[seen]
        place = _mid_rank_share(p, weight) if binning == "mass" else p
        wanted = np.minimum((place * bins).astype(np.int64), bins - 1)
        bin_of = np.unique(wanted, return_inverse=True)[1].astype(np.int64)
        mass = np.bincount(bin_of, weight)
        return cls(
            p=p,
            outcome=outcome,
            weight=weight,
            bin_of=bin_of,
            share=mass / mass.sum(),
            mean_p=np.bincount(bin_of, weight * p) / mass,
            success_share=np.bincount(bin_of, weight * outcome) / mass,
        )


def _mid_rank_share(values: Column, weight: Column) -> Column:
    """Share of the weight below each value, half of its own included: equal for equal values."""
    levels, level = np.unique(values, return_inverse=True)
    mass = np.bincount(level, weight, minlength=len(levels))
    return ((np.cumsum(mass) - mass / 2) / mass.sum())[level]
