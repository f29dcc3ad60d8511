"""The frozen, trusted queries that every new probe of a domain is judged by.

No fit ever sees them, and nobody whose word is not trusted has labelled them: whatever slips into
the training data cannot make a probe look good here. The labels are those of the moment of
freezing, so that two probes judged by the same holdout are judged by the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError, TrainingDataError
from foretell.records import Event, ReadPoint, RoutingData
from foretell.runtime import undo_selection
from foretell.store import Store, model_key

Floats = NDArray[np.float64]

LEAST_GROUPS: Final = 30
"""Independent queries without which no interval is worth the name."""
_GROWTH: Final = 2.0
_HISTORY: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdout:
    """Queries of the test side with their trusted labels, as they were when it was frozen.

    ``outcomes`` are success in [0, 1] by the id of the query. ``sha256`` is of the ids and the
    outcomes; ``weak_model`` is the store's key of the model whose answers were labelled, and ``at``
    in seconds since 1970 (UTC).
    """

    domain: str
    metric: str
    weak_model: str
    trusted: tuple[str, ...]
    outcomes: dict[str, float]
    sha256: str
    at: float

    def __len__(self) -> int:
        return len(self.outcomes)

    def rows(self, store: Store, read_points: Sequence[ReadPoint]) -> RoutingData:
        """Those that are still stored, with activations at ``read_points``, weighted.

        What was erased since, or lacks a read point, is left out. The labels are the frozen ones.
        """
        data = store.load_routing_data(
            self.domain,
            metric=self.metric,
            split="test",
            read_points=read_points,
            weak_model=self.weak_model,
            strong_model="",
            sources=self.trusted,
        )
        return undo_selection(with_outcomes(data, self.outcomes))


def freeze_holdout(
    store: Store,
    domain: str,
    *,
    metric: str,
    trusted: Collection[str],
    by: str,
    now: datetime,
    weak_model: str | None = None,
) -> Holdout:
    """Freeze what trusted sources have labelled on the domain's test side, and note it down.

    Args:
        store: Where it is.
        domain: Whose.
        metric: By which labels.
        trusted: Sources of labels that count (``flywheel.trusted``).
        by: Who or what freezes it.
        now: Goes into the event ``holdout``, which holds the ids, the labels and their hash.
        weak_model: Key of the weak model, needed when several have answered.

    Raises:
        TrainingDataError: Too few labels of those sources to judge anything by, or all are alike.
    """
    data = _trusted_rows(store, domain, metric=metric, trusted=trusted, weak_model=weak_model)
    groups, successes = len(set(data.groups)), float(data.weak.sum())
    if not _can_judge(data):
        raise TrainingDataError(
            f"a new probe is judged by trusted labels ({' or '.join(sorted(trusted))}, metric "
            f"{metric!r}) of test queries, in {LEAST_GROUPS} groups or more that hold successes "
            f"and failures; of domain {domain!r} there are {len(data)} in {groups} groups, with "
            f"{successes:g} successes: have people label some, of which three in ten are test "
            f"queries (foretell label --domain {domain} --labeller people --strategy random "
            "--export queue.csv --author NAME), or name more sources in flywheel.trusted"
        )
    outcomes = dict(sorted(zip(data.ids, data.weak.tolist(), strict=True)))
    key = "" if data.model is None else model_key(data.model)
    holdout = Holdout(
        domain=domain,
        metric=metric,
        weak_model=key,
        trusted=tuple(sorted(trusted)),
        outcomes=outcomes,
        sha256=hashlib.sha256(json.dumps(outcomes).encode()).hexdigest(),
        at=now.timestamp(),
    )
    store.note(
        "holdout",
        domain,
        by=by,
        at=holdout.at,
        details={
            "metric": metric,
            "weak_model": key,
            "trusted": list(holdout.trusted),
            "sha256": holdout.sha256,
            "queries": len(outcomes),
            "success_rate": successes / len(data),
            "outcomes": outcomes,
        },
    )
    return holdout


def can_freeze_holdout(
    store: Store,
    domain: str,
    *,
    metric: str,
    trusted: Collection[str],
    weak_model: str | None = None,
) -> bool:
    """Whether trusted sources have labelled enough to judge a probe by."""
    return _can_judge(
        _trusted_rows(store, domain, metric=metric, trusted=trusted, weak_model=weak_model)
    )


def load_holdout(
    store: Store, domain: str, *, metric: str, weak_model: str | None = None
) -> Holdout | None:
    """The newest one that was frozen for a metric and a weak model (any, when ``None``)."""
    for event in store.events(kind="holdout", subject=domain, limit=_HISTORY):
        details = event.details
        if details["metric"] == metric and weak_model in (None, details["weak_model"]):
            return _noted(event)
    return None


def holdout_of(store: Store, domain: str, sha256: str) -> Holdout:
    """The one with this hash; raises ``InputError`` when none was noted."""
    for event in store.events(kind="holdout", subject=domain, limit=_HISTORY):
        if event.details["sha256"] == sha256:
            return _noted(event)
    raise InputError(
        f"no event tells of a holdout {sha256[:12]} of domain {domain!r}; it was in another store, "
        "so refit with this one"
    )


def current_holdout(
    store: Store,
    domain: str,
    *,
    metric: str,
    trusted: Collection[str],
    by: str,
    now: datetime,
    weak_model: str | None = None,
) -> Holdout:
    """The newest holdout, or a new one where there is none, or twice as many labels by now.

    A holdout is also frozen anew when other sources are trusted, and when half of it was erased.
    Raises what ``freeze_holdout`` does.
    """
    known = load_holdout(store, domain, metric=metric, weak_model=weak_model)
    if known is not None and known.trusted == tuple(sorted(trusted)):
        rows = _trusted_rows(
            store, domain, metric=metric, trusted=trusted, weak_model=known.weak_model
        )
        left = sum(query in known.outcomes for query in rows.ids)
        if len(rows) < _GROWTH * len(known) and left * _GROWTH > len(known):
            return known
    return freeze_holdout(
        store, domain, metric=metric, trusted=trusted, by=by, now=now, weak_model=weak_model
    )


def with_outcomes(data: RoutingData, outcomes: dict[str, float]) -> RoutingData:
    """The rows that have an outcome there, with it as ``weak``."""
    data = data.take(np.array([query in outcomes for query in data.ids], dtype=np.bool_))
    return replace(data, weak=np.array([outcomes[query] for query in data.ids], dtype=np.float64))


def _trusted_rows(
    store: Store,
    domain: str,
    *,
    metric: str,
    trusted: Collection[str],
    weak_model: str | None,
) -> RoutingData:
    """Labelled rows of the test side that chance, and no caller, has chosen; no activations."""
    data = store.load_routing_data(
        domain,
        metric=metric,
        split="test",
        read_points=(),
        weak_model=weak_model,
        strong_model="",
        sources=sorted(trusted),
    )
    return undo_selection(data.take(np.isfinite(data.weak)))


def _can_judge(data: RoutingData) -> bool:
    return len(set(data.groups)) >= LEAST_GROUPS and 0 < float(data.weak.sum()) < len(data)


def _noted(event: Event) -> Holdout:
    details = event.details
    return Holdout(
        domain=event.subject,
        metric=details["metric"],
        weak_model=details["weak_model"],
        trusted=tuple(details["trusted"]),
        outcomes=dict(details["outcomes"]),
        sha256=details["sha256"],
        at=event.at,
    )
