"""Whether as many requests are escalated as training promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.flywheel._findings import LEAST_ROWS, effective_size
from foretell.probes import HeldOut
from foretell.records import TrafficLog

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """The ``share`` escalated and the one ``promised``, and by how much they differ.

    ``change`` is ``share - promised`` with its interval, ``p_value`` how often chance alone goes
    as far.
    """

    share: float
    promised: float
    change: float
    low: float
    high: float
    p_value: float


def escalation_change(
    escalated: NDArray[np.bool_],
    promised: float,
    *,
    promised_by: float,
    groups: Sequence[str],
    confidence: float,
) -> Escalation | None:
    """Compare the share escalated with one that was seen before.

    Fisher's exact test on the two shares, which answers for the noise of both; counts are those of
    the effective sizes, rounded. The interval is Newcombe's (1998, method 10).

    Args:
        escalated: Of each recent request.
        promised: Share among training queries.
        promised_by: How many independent queries that share is of; infinite for a share that was
            not measured but set.
        groups: Requests of a group are not independent.
        confidence: Of the interval.

    Returns:
        ``None`` with effective sizes below 50.
    """
    size = effective_size(np.ones(len(escalated)), groups)
    if min(size, promised_by) < LEAST_ROWS:
        return None
    share = float(escalated.mean())
    p_value = _p_value(round(share * size), round(size), promised, promised_by)
    low, high = _wilson(share, size, confidence)
    low_before, high_before = (
        _wilson(promised, promised_by, confidence)
        if np.isfinite(promised_by)
        else (promised, promised)
    )
    change = share - promised
    return Escalation(
        share=share,
        promised=promised,
        change=change,
        low=change - float(np.hypot(share - low, high_before - promised)),
        high=change + float(np.hypot(high - share, promised - low_before)),
        p_value=p_value,
    )


def would_escalate(log: TrafficLog, early: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which requests the rule sends to the strong model, whatever chance made of it.

    What an ``early`` look declined, and what was declined for another reason and not served by the
    weak model, is escalated, too.
    """
    ruled = (log.p_success < log.keep_at) | early
    declined = np.array([action == "declined" for action in log.actions], dtype=bool)
    return np.where(declined, ~log.served_weak, ruled)


def promised_share(held_out: HeldOut, log: TrafficLog) -> tuple[float, float]:
    """Share of training queries, each foretold without its group, below the bars of these requests.

    The mean over requests, as bars move; second, how many independent queries it is of. A bar on
    the gain of a strong call is told by its keeping still while ``keep_at`` follows ``p_strong``.
    """
    weights = held_out.weights if len(held_out.weights) else np.ones(len(held_out.p_success))
    size = effective_size(weights, groups_of(held_out))
    gains = log.p_strong - log.keep_at
    has_gains = len(held_out.p_strong) > 0 and bool(np.isfinite(gains).any())
    if has_gains and _spread(gains) < _spread(log.keep_at):
        scores, bars = held_out.p_success - held_out.p_strong, -gains
    else:
        scores, bars = held_out.p_success, log.keep_at
    known, bars = np.isfinite(scores), bars[np.isfinite(bars)]
    order = np.argsort(scores[known])
    below = np.concatenate([[0.0], np.cumsum(weights[known][order])])
    place = np.searchsorted(scores[known][order], bars, side="left")
    return float((below[place] / below[-1]).mean()), size


def groups_of(held_out: HeldOut) -> list[str]:
    """The group of each training query by name; each its own where none are known."""
    groups = held_out.groups if len(held_out.groups) else np.arange(len(held_out.p_success))
    return [f"{group:.0f}" for group in groups]


def _spread(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(np.subtract(*np.quantile(known, [0.75, 0.25]))) if len(known) else np.inf


def _p_value(successes: int, n: int, promised: float, promised_by: float) -> float:
    try:
        from scipy.stats import binomtest, fisher_exact
    except ImportError as error:
        raise TrainingDataError(
            "the test of the escalated share needs SciPy, which is not installed; "
            "pip install 'foretell[train]'"
        ) from error

    if not np.isfinite(promised_by):
        return float(binomtest(successes, n, promised).pvalue)
    before = round(promised * promised_by)
    table = [[successes, n - successes], [before, round(promised_by) - before]]
    found: Any = fisher_exact(table)
    return float(found.pvalue)


def _wilson(share: float, n: float, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a share."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))
