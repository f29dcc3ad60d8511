"""What a candidate and its rival have foretold of the same queries: frozen ones, and live ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from foretell.errors import UnknownReadPointError
from foretell.flywheel._comparison import Paired
from foretell.flywheel._holdout import Holdout
from foretell.probes import SavedProbe
from foretell.records import ReadPoint, RoutingData, Split
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
    was there in training. Where the weak model was asked only afterwards, in a shadow run, the
    candidate foretells by the vectors that were kept of it, if they were kept whole: below the
    step ``probe`` of a ladder, no other prefill runs for what is escalated.

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

    def labelled_rows(split: Split | None, points: Sequence[ReadPoint] = ()) -> RoutingData:
        return store.load_routing_data(
            domain,
            metric=metric,
            read_points=points,
            split=split,
            weak_model=weak_model,
            strong_model="",
            sources=sorted(trusted),
        )

    labelled = labelled_rows(None)
    log = store.traffic(domain, since=since, metric=metric)
    live = np.isfinite(log.p_success)
    if rival is not None:
        live &= np.array([probe == rival.card.name for probe in log.probes], dtype=np.bool_)
    foretold = {
        log.ids[row]: (log.shadow_p_success[row], log.p_success[row])
        for row in np.flatnonzero(live & np.isfinite(log.shadow_p_success))
        if log.shadow_probes[row] == candidate.card.name
    }
    untold = {
        log.ids[row]: log.p_success[row]
        for row in np.flatnonzero(live)
        if not log.shadow_probes[row]
    }
    if untold:
        foretold |= _afterwards(candidate, untold, labelled_rows)
    recent = set(log.ids)
    trained = labelled_rows("train")
    before = {
        group
        for query, group in zip(trained.ids, trained.groups, strict=True)
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


def _afterwards(
    candidate: SavedProbe,
    untold: Mapping[str, float],
    load: Callable[[None, Sequence[ReadPoint]], RoutingData],
) -> dict[str, tuple[float, float]]:
    """By query, what the candidate makes of vectors that were kept, and the rival's chance."""
    try:
        rows = load(None, sorted(candidate.probe.read_points))
    except UnknownReadPointError:
        return {}
    if rows.subspace is not None:
        return {}
    rows = rows.take(np.array([query in untold for query in rows.ids], dtype=np.bool_))
    return {
        query: (float(chance), untold[query])
        for query, chance in zip(rows.ids, chances(candidate, rows), strict=True)
    }


def chances(saved: SavedProbe, rows: RoutingData) -> Floats:
    """A saved probe's chances of success, one per query."""
    if not len(rows):
        return np.empty(0)
    if saved.subspace is not None:
        within = {point: rows.activations[point] for point in saved.probe.read_points}
        rows = replace(rows, activations=saved.subspace.project(within))
    return saved.probe.chances(rows)
