"""What a candidate and its rival have foretold of the same queries: frozen ones, and live ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from foretell.flywheel._comparison import Paired
from foretell.flywheel._holdout import Holdout
from foretell.probes import SavedProbe
from foretell.records import RoutingData
from foretell.runtime import undo_selection
from foretell.store import Store

Floats = NDArray[np.float64]


def on_holdout(
    store: Store, candidate: SavedProbe, rival: SavedProbe | None, holdout: Holdout
) -> Paired:
    """The holdout's queries as both foretell them.

    Without a rival, the candidate is up against the share of successes it was trained on, foretold
    of every query.
    """
    points = {*candidate.probe.read_points, *(rival.probe.read_points if rival else ())}
    rows = holdout.rows(store, sorted(points))
    foretold = chances(candidate, rows)
    rivals = np.full(len(rows), candidate.card.base_rate) if rival is None else chances(rival, rows)
    return Paired(
        candidate=foretold,
        rival=rivals,
        outcomes=rows.weak,
        weights=rows.row_weights(),
        groups=rows.groups,
    )


def in_shadow(
    store: Store,
    candidate: SavedProbe,
    rival: SavedProbe | None,
    *,
    since: float,
    metric: str,
    weak_model: str,
    trusted: Collection[str],
) -> Paired:
    """Live requests that both have foretold and whose weak answer a trusted source has labelled.

    The rival is the probe that serves; without one, whatever foretold the request at the time.
    Requests count for those like them of which the weak model's answer was not seen
    (``weak_chance``); those whose caller chose the model do not count, nor those of a group that
    was there in training.

    Args:
        store: Where they are.
        candidate: What is on trial.
        rival: What serves.
        since: When the trial began, seconds since 1970 (UTC).
        metric: By which labels.
        weak_model: Key of the weak model that is foretold.
        trusted: Sources of labels that count.
    """
    domain = candidate.card.domain
    labelled = store.load_routing_data(
        domain,
        metric=metric,
        read_points=(),
        weak_model=weak_model,
        strong_model="",
        sources=sorted(trusted),
    )
    log = store.traffic(domain, since=since, metric=metric)
    foretold = {
        log.ids[row]: (log.shadow_p_success[row], log.p_success[row])
        for row in np.flatnonzero(np.isfinite(log.shadow_p_success) & np.isfinite(log.p_success))
        if log.shadow_probes[row] == candidate.card.name
        and (rival is None or log.probes[row] == rival.card.name)
    }
    recent = set(log.ids)
    before = {
        group
        for query, group in zip(labelled.ids, labelled.groups, strict=True)
        if query not in recent
    }
    counts = np.array(
        [
            query in foretold and group not in before
            for query, group in zip(labelled.ids, labelled.groups, strict=True)
        ],
        dtype=np.bool_,
    )
    rows = undo_selection(labelled.take(counts & np.isfinite(labelled.weak)))
    both = np.array([foretold[query] for query in rows.ids], dtype=np.float64).reshape(-1, 2)
    return Paired(
        candidate=both[:, 0],
        rival=both[:, 1],
        outcomes=rows.weak,
        weights=rows.row_weights(),
        groups=rows.groups,
    )


def chances(saved: SavedProbe, rows: RoutingData) -> Floats:
    """A saved probe's chances of success, one per query."""
    if not len(rows):
        return np.empty(0)
    if saved.subspace is not None:
        within = {point: rows.activations[point] for point in saved.probe.read_points}
        rows = replace(rows, activations=saved.subspace.project(within))
    return saved.probe.chances(rows)
