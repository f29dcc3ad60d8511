"""How well answers do by now, as the labels of recent traffic tell, undoing who was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from foretell.errors import RoutingError
from foretell.evaluation import Interval
from foretell.flywheel._influence import interval_of
from foretell.flywheel._off_policy import estimate_accuracy
from foretell.records import TrafficLog
from foretell.store import Store

_RECENT: Final = 5000
_CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveQuality:
    """The share of a route's recent answers that succeed, and what it would be without routing.

    Each with a 95 % interval and the number of labels behind it; ``None`` where nothing is known.
    Requests that a caller or a conversation decided are left out. ``served`` is a plain mean of the
    labels of served answers; the other two are doubly robust. ``unreached`` counts requests of
    which the log cannot tell what the strong model, or the weak one, would have answered: nothing
    is left to chance there.

    Labels are taken to be missing by chance alone: if callers rate only what annoys them, so do
    these numbers.
    """

    requests: int
    served: Interval
    always_strong: Interval
    always_weak: Interval
    unreached: int

    @property
    def words(self) -> str:
        """In a sentence."""
        if self.served.value is None:
            return "no answer of recent traffic is labelled"
        return (
            f"{_told(self.served)} of answers succeed; always the strong model "
            f"{_told(self.always_strong)}, always the weak one {_told(self.always_weak)} "
            f"({self.served.n} labels of {self.requests} requests)"
        )


def live_quality(log: TrafficLog) -> LiveQuality:
    """What a log of recent requests tells."""
    ruled = log.take(np.isfinite(log.weak_chance))
    outcome = np.where(ruled.served_weak, ruled.weak, ruled.strong)
    known = outcome[np.isfinite(outcome)]
    strong, weak = (estimate_accuracy(ruled, share, confidence=_CONFIDENCE) for share in (0.0, 1.0))
    return LiveQuality(
        requests=len(ruled),
        served=_mean(known),
        always_strong=strong.dr,
        always_weak=weak.dr,
        unreached=max(strong.unreached, weak.unreached),
    )


def quality_of_route(
    store: Store, domain: str, route: str, *, metric: str | None = None
) -> LiveQuality | None:
    """Of the last 5,000 requests of a route in a domain; ``None`` where its labels are of no use.

    That is where they are by several metrics and ``metric`` names none.
    """
    try:
        log = store.traffic(domain, route=route, metric=metric, limit=_RECENT)
    except RoutingError:
        return None
    return live_quality(log) if len(log) else None


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval:
    if not len(values):
        return Interval(value=None, n=0)
    mean = float(values.mean())
    influence = (values - mean) / len(values)
    return interval_of(
        mean, influence, groups=None, confidence=_CONFIDENCE, n=len(values), limits=(0.0, 1.0)
    )


def _told(interval: Interval) -> str:
    if interval.value is None:
        return "not known"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
