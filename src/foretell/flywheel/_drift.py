"""One look at the traffic: is it still what the probe was trained on, and is the probe still right?

Nothing here reads or writes; ``watch_domain`` brings what is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foretell.config import DriftConfig
from foretell.flywheel._calibration_drift import calibration_error
from foretell.flywheel._escalation import (
    escalation_change,
    groups_of,
    promised_share,
    would_escalate,
)
from foretell.flywheel._findings import (
    LEAST_ROWS,
    DriftReport,
    Finding,
    effective_size,
    judged,
    unknown,
)
from foretell.flywheel._stability import population_stability
from foretell.flywheel._two_sample import TwoSample, compare_vectors
from foretell.probes import HeldOut
from foretell.records import TrafficLog

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_NO_DIFFERENCE: Final = 0.5
_NEWEST: Final = 20
_ENOUGH_SCORES: Final = 100
_HEAVIEST: Final = 20.0
"""What one labelled request counts at most. At 2 % exploration it would be 50, and a dozen of them
would drown all others: what is found below the bar counts less than it should, but can be told."""

_RULED: Final = frozenset(("keep", "escalate", "explore", "declined"))
"""What a rule decided; callers and conversations chose the rest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedVectors:
    """Vectors of one read point, of one space: ``reference`` (n, width) and ``recent`` (m, width).

    ``ids`` name the recent requests. Rows of a group are not independent of each other.
    """

    reference: NDArray[np.floating[Any]]
    recent: NDArray[np.floating[Any]]
    reference_groups: tuple[str, ...]
    recent_groups: tuple[str, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReferenceScores:
    """Chances that the probe gives to queries it was not trained on, (n,).

    ``weights`` count as repetitions; rows of a group are not independent of each other.
    """

    p_success: Floats
    weights: Floats
    groups: tuple[str, ...]

    @classmethod
    def of(cls, held_out: HeldOut) -> ReferenceScores:
        """Chances of cross-fitting: nearly those of the probe."""
        n = len(held_out.p_success)
        return cls(
            p_success=held_out.p_success,
            weights=held_out.weights if len(held_out.weights) else np.ones(n),
            groups=tuple(groups_of(held_out)),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WatchedTraffic:
    """Requests that one probe foretold, oldest first, with what tells how they hang together.

    ``groups`` names what belongs together (a conversation), row by row; ``early`` marks what an
    early look declined, whose ``p_success`` is that of another probe.
    """

    log: TrafficLog
    groups: tuple[str, ...]
    early: Bools

    def take(self, rows: NDArray[Any]) -> WatchedTraffic:
        """The requests at ``rows`` (a boolean mask, or positions), in that order."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        return WatchedTraffic(
            log=self.log.take(index),
            groups=tuple(self.groups[i] for i in index),
            early=self.early[index],
        )

    def newest(self, count: int) -> WatchedTraffic:
        """The last ``count`` requests, or all."""
        return self.take(np.arange(max(0, len(self.log) - count), len(self.log)))


def watch(
    traffic: WatchedTraffic,
    *,
    config: DriftConfig,
    held_out: HeldOut | None,
    vectors: ComparedVectors | None,
    scores: ReferenceScores | None = None,
    rng: np.random.Generator,
    probe: str = "",
) -> DriftReport:
    """Compare recent requests with what training saw and promised.

    Args:
        traffic: Requests that the probe foretold. Scores and escalation are about the newest
            ``config.window`` of them, calibration about the newest that are labelled.
        config: What is compared, and where it becomes an alarm.
        held_out: The probe's, ``None`` without one.
        vectors: ``None`` where none are kept.
        scores: What recent scores are compared with; those of ``held_out`` where ``None`` or few.
        rng: Draws folds, relabellings and resamples.
        probe: ``id@version``, for the report.
    """
    traffic = traffic.take(np.array([a in _RULED for a in traffic.log.actions], dtype=bool))
    window = traffic.newest(config.window)
    comparison = None if vectors is None else _compared(vectors, config, rng)
    of_vectors = _of_vectors(vectors, comparison, config)
    newest = (
        top_drifting(vectors.ids, comparison)
        if vectors is not None and comparison is not None and of_vectors.alarm
        else ()
    )
    return DriftReport(
        findings=(
            of_vectors,
            _of_calibration(traffic, config, rng),
            _of_scores(window, held_out, scores, config, rng),
            _of_escalation(window, held_out, config),
        ),
        probe=probe,
        newest=newest,
    )


def top_drifting(
    ids: Sequence[str], comparison: TwoSample, *, limit: int = _NEWEST
) -> tuple[str, ...]:
    """The recent requests that look least like the reference, the furthest first.

    ``ids`` are those of the recent rows that were compared. Each was judged by a classifier that
    had not seen it.
    """
    order: list[int] = np.argsort(-comparison.scores, kind="stable")[:limit].tolist()
    return tuple(ids[row] for row in order)


def _compared(
    vectors: ComparedVectors, config: DriftConfig, rng: np.random.Generator
) -> TwoSample | None:
    return compare_vectors(
        vectors.reference,
        vectors.recent,
        reference_groups=vectors.reference_groups,
        recent_groups=vectors.recent_groups,
        confidence=config.confidence,
        rng=rng,
    )


def _of_vectors(
    vectors: ComparedVectors | None, comparison: TwoSample | None, config: DriftConfig
) -> Finding:
    n = 0 if vectors is None else len(vectors.recent)
    if vectors is None or comparison is None:
        reason = (
            "no vectors are kept of recent requests, or none of the test side to compare them with"
            if vectors is None
            else f"too few vectors to compare: {n} recent ones and {len(vectors.reference)} of the "
            f"test side; wanted {LEAST_ROWS} of each, of different conversations"
        )
        return unknown("vectors", n=n, limit=_NO_DIFFERENCE, words=reason)
    differ = comparison.p_value <= 1 - config.confidence
    told = "can be told from" if differ else "cannot be told from"
    return judged(
        "vectors",
        comparison.auc,
        (comparison.low, comparison.high),
        n=n,
        limit=_NO_DIFFERENCE,
        p_value=comparison.p_value,
        confidence=config.confidence,
        words=f"recent queries {told} those of the test side: a classifier's AUC is "
        f"{comparison.auc:.3f} [{comparison.low:.3f}, {comparison.high:.3f}], and chance does as "
        f"well {comparison.p_value:.2%} of the time ({n} requests)",
    )


def _of_calibration(
    traffic: WatchedTraffic, config: DriftConfig, rng: np.random.Generator
) -> Finding:
    chance = traffic.log.weak_chance
    usable = np.isfinite(traffic.log.weak) & np.isfinite(traffic.log.p_success) & (chance > 0)
    labelled = traffic.take(usable).newest(config.window)
    log, n = labelled.log, len(labelled.log)
    weights = np.minimum(1 / log.weak_chance, _HEAVIEST)
    found = None
    if n:
        found = calibration_error(
            log.p_success,
            log.weak,
            weights=weights,
            groups=labelled.groups,
            confidence=config.confidence,
            rng=rng,
        )
    if found is None:
        size = effective_size(weights, labelled.groups)
        return unknown(
            "calibration",
            n=n,
            limit=config.ece,
            words=f"too few labels to judge the chances by: {n} requests whose answer by the weak "
            f"model is labelled, worth {size:.0f} independent ones; wanted {LEAST_ROWS}",
        )
    return judged(
        "calibration",
        found.error,
        (found.low, found.high),
        n=n,
        limit=config.ece,
        p_value=found.p_value,
        confidence=config.confidence,
        words=f"chances are off by {found.error:.3f} [{found.low:.3f}, {found.high:.3f}] more than "
        f"true ones would seem to be ({n} labelled requests; the limit is {config.ece:g})",
    )


def _of_scores(
    window: WatchedTraffic,
    held_out: HeldOut | None,
    scores: ReferenceScores | None,
    config: DriftConfig,
    rng: np.random.Generator,
) -> Finding:
    # What was declined for want of an estimate has no score.
    scored = window.take(np.isfinite(window.log.p_success))
    log, n = scored.log, len(scored.log)
    if held_out is None:
        return unknown("scores", n=n, limit=config.psi, words="no probe's scores to compare with")
    if scores is None or len(scores.p_success) < _ENOUGH_SCORES:
        scores = ReferenceScores.of(held_out)
    # Below the bar of an early look scores are those of another probe, so all of that is one bin.
    bar = float(log.keep_at[scored.early].max()) if scored.early.any() else -np.inf
    recent = np.where(scored.early, np.nextafter(bar, -np.inf), log.p_success)
    found = population_stability(
        scores.p_success,
        recent,
        reference_weights=scores.weights,
        reference_groups=scores.groups,
        recent_groups=scored.groups,
        confidence=config.confidence,
        rng=rng,
        merged_below=bar,
    )
    if found is None:
        return unknown(
            "scores",
            n=n,
            limit=config.psi,
            words=f"too few scores to compare: {n} recent ones above what an early look declines",
        )
    return judged(
        "scores",
        found.psi,
        (found.low, found.high),
        n=n,
        limit=config.psi,
        p_value=found.p_value,
        confidence=config.confidence,
        words=f"the stability index of the scores is {found.psi:.3f} [{found.low:.3f}, "
        f"{found.high:.3f}] over {found.bins} bins ({n} requests; the limit is {config.psi:g})",
    )


def _of_escalation(
    window: WatchedTraffic, held_out: HeldOut | None, config: DriftConfig
) -> Finding:
    log, n = window.log, len(window.log)
    if held_out is None or not np.isfinite(log.keep_at).any():
        words = "no probe promised a share of strong calls"
        return unknown("escalation", n=n, limit=config.escalation, words=words)
    promised, size = promised_share(held_out, log)
    found = escalation_change(
        would_escalate(log, window.early),
        promised,
        promised_by=size,
        groups=window.groups,
        confidence=config.confidence,
    )
    if found is None:
        words = f"too few requests to judge the share of strong calls by: {n}"
        return unknown("escalation", n=n, limit=config.escalation, words=words)
    sides = sorted((abs(found.low), abs(found.high)))
    return judged(
        "escalation",
        abs(found.change),
        (0.0 if found.low <= 0 <= found.high else sides[0], sides[1]),
        n=n,
        limit=config.escalation,
        p_value=found.p_value,
        confidence=config.confidence,
        words=f"{found.share:.1%} of the requests are escalated where training promised "
        f"{found.promised:.1%}: a change of {found.change:+.3f} [{found.low:+.3f}, "
        f"{found.high:+.3f}] ({n} requests; the limit is {config.escalation:g})",
    )
