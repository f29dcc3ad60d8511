"""Whether scores are spread as they were: the population stability index, and its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.flywheel._findings import LEAST_ROWS, effective_size

Floats = NDArray[np.float64]

_MOST_BINS: Final = 10
_ROWS_PER_BIN: Final = 10
_DRAWS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """The index ``psi`` with its interval.

    ``p_value`` is how often chance alone goes as far where nothing has changed; ``bins`` is how
    many were compared.
    """

    psi: float
    low: float
    high: float
    p_value: float
    bins: int


def population_stability(
    reference: Floats,
    recent: Floats,
    *,
    reference_weights: Floats,
    reference_groups: Sequence[str],
    recent_groups: Sequence[str],
    confidence: float,
    rng: np.random.Generator,
    merged_below: float = -np.inf,
) -> Stability | None:
    """The population stability index over quantile bins of the reference.

    ``sum over bins of (recent - reference) ln(recent / reference)``, of the shares in each bin,
    half a row added to each so that none is empty. Where nothing has changed it is not 0 but about
    ``(1 / n + 1 / m)`` times a chi-square variable of ``bins - 1`` degrees of freedom (Yurdakul and
    Naranjo, 2020, "Statistical properties of the population stability index"), which is the test;
    ``n`` and ``m`` are the effective sizes of both sides. The interval is the basic bootstrap's,
    which takes that upward bias back; it never leaves the value out.

    Args:
        reference: Scores to compare with.
        recent: Scores of recent requests.
        reference_weights: Repetitions of each reference row.
        reference_groups: Rows of a group are not independent.
        recent_groups: The same of the recent rows.
        confidence: Of the interval.
        rng: Draws the bootstrap.
        merged_below: All scores below this are one bin: what an early look declined has no score
            but one below the bar.

    Returns:
        ``None`` with effective sizes below 50, or where all of the reference is in one bin.
    """
    try:
        from scipy.stats import chi2
    except ImportError as error:
        raise TrainingDataError(
            "the stability of scores needs SciPy, which is not installed; "
            "pip install 'foretell[train]'"
        ) from error

    n = effective_size(reference_weights, reference_groups)
    m = effective_size(np.ones(len(recent)), recent_groups)
    if min(n, m) < LEAST_ROWS:
        return None
    edges = _edges(reference, reference_weights, int(min(n, m) / _ROWS_PER_BIN), merged_below)
    bins = len(edges) + 1
    if bins == 1:
        return None
    expected = _shares(reference, reference_weights, edges)
    seen = _shares(recent, np.ones(len(recent)), edges)
    psi = float(_index(expected * n, seen * m))
    drawn = _index(
        rng.multinomial(int(n), expected, _DRAWS).astype(np.float64),
        rng.multinomial(int(m), seen, _DRAWS).astype(np.float64),
    )
    miss = (1 - confidence) / 2
    below, above = np.quantile(drawn, [miss, 1 - miss])
    return Stability(
        psi=psi,
        low=max(0.0, min(psi, 2 * psi - float(above))),
        high=max(psi, 2 * psi - float(below)),
        p_value=float(chi2.sf(psi / (1 / n + 1 / m), bins - 1)),
        bins=bins,
    )


def _edges(scores: Floats, weights: Floats, most: int, merged_below: float) -> Floats:
    """Where bins end: at quantiles of the weighted scores, those of equal scores once."""
    order = np.argsort(scores, kind="stable")
    ordered, mass = scores[order], np.cumsum(weights[order]) / weights.sum()
    count = min(_MOST_BINS, most)
    places = np.searchsorted(mass, np.arange(1, count) / count)
    inner = np.unique(ordered[places])
    # A bin holds what is below its edge, so the lowest score bounds nothing.
    inner = inner[inner > ordered[0]]
    if merged_below > ordered[0]:
        inner = np.append(min(merged_below, np.nextafter(ordered[-1], np.inf)), inner)
        inner = np.unique(inner[inner >= merged_below])
    return inner


def _shares(scores: Floats, weights: Floats, edges: Floats) -> Floats:
    counts = np.bincount(np.searchsorted(edges, scores, side="right"), weights, len(edges) + 1)
    return counts / counts.sum()


def _index(reference: Floats, recent: Floats) -> Floats:
    """The index of counts (..., bins), half a row added to each bin."""
    expected = (reference + 0.5) / (reference + 0.5).sum(axis=-1, keepdims=True)
    seen = (recent + 0.5) / (recent + 0.5).sum(axis=-1, keepdims=True)
    return np.sum((seen - expected) * np.log(seen / expected), axis=-1)
