"""What has been labelled since a probe was trained says how far its chances can be relied on.

A probe brings the queries its bar is chosen on. A newer one that ranks no better is not promoted,
so without what came later a bar would stay as careful as few labels made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from foretell.errors import RoutingError, TrainingDataError
from foretell.probes import HeldOut, SavedProbe, subspace_of
from foretell.records import ReadPoint, RoutingData, Split
from foretell.store import Store, model_key

Floats = NDArray[np.float64]


def with_later_evidence(
    saved: SavedProbe, early: Sequence[SavedProbe], store: Store, *, strong_model: str | None
) -> HeldOut:
    """What the bar of a goal of a quality or a risk is chosen on, with what is labelled by now.

    To the queries that the probe was trained on, each foretold without its own group, come those
    that it has not seen, foretold by it: the test side, and of the training side the later ones
    whose group was not there before. Only the columns that such a bar reads are filled. Where
    nothing more is known, or its vectors were not kept, ``saved.held_out`` is all there is.

    ``strong_model`` is its key in the store, needed when answers of several are labelled.
    """
    try:
        rows = _not_seen(saved, store, strong_model)
    except RoutingError:
        return saved.held_out
    # What was reduced to this probe's own subspace still holds all that it reads.
    if rows.subspace is not None and rows.subspace.id != subspace_of(saved, early).id:
        return saved.held_out
    if not rows.weak.size:
        return saved.held_out
    rows = rows.take(np.isfinite(rows.weak))
    return _joined(saved, rows) if len(rows) else saved.held_out


def _not_seen(saved: SavedProbe, store: Store, strong_model: str | None) -> RoutingData:
    card, strong = saved.card, saved.heads.strong
    points = {*saved.probe.read_points, *([] if strong is None else [strong.read_point])}
    trained_at = datetime.fromisoformat(card.created).timestamp()

    def load(
        points: Sequence[ReadPoint], split: Split | None = None, since: float | None = None
    ) -> RoutingData:
        return store.load_routing_data(
            card.domain,
            metric=card.label.metric,
            read_points=points,
            split=split,
            weak_model=model_key(card.model),
            strong_model=strong_model,
            since=since,
        )

    rows, training = load(sorted(points)), load((), "train")
    try:
        later = set(load((), since=trained_at).ids)
    except TrainingDataError:
        later = set[str]()  # nothing came since
    seen = {
        group
        for query, group in zip(training.ids, training.groups, strict=True)
        if query not in later
    }
    # Groups of the test side are in none of them.
    return rows.take(np.array([group not in seen for group in rows.groups], dtype=np.bool_))


def _joined(saved: SavedProbe, rows: RoutingData) -> HeldOut:
    before, strong = saved.held_out, saved.heads.strong
    within = rows.activations
    if saved.subspace is not None:
        within = {**within, **saved.subspace.project(within)}
        rows = replace(rows, activations=within)
    p_strong = np.empty(0)
    if strong is not None and len(before.p_strong):
        p_strong = np.asarray(strong.p_strong(within[strong.read_point]), dtype=np.float64)
    _, groups = np.unique(np.asarray(rows.groups), return_inverse=True)
    old_groups = before.groups if len(before.groups) else np.arange(len(before.weak), dtype=float)
    chances = [_filled(before.pair_chance, len(before.weak)), _filled(rows.pair_chance, len(rows))]
    return HeldOut(
        p_success=np.concatenate([before.p_success, saved.probe.chances(rows)]),
        weak=np.concatenate([before.weak, rows.weak]),
        strong=np.concatenate([before.strong, _filled(rows.strong, len(rows), np.nan)]),
        p_strong=np.concatenate([before.p_strong, p_strong]) if len(p_strong) else p_strong,
        groups=np.concatenate([old_groups, groups + old_groups.max() + 1]),
        weak_chance=np.concatenate(
            [_filled(before.weak_chance, len(before.weak)), _filled(rows.weak_chance, len(rows))]
        ),
        pair_chance=np.concatenate(_on_one_scale(chances)),
    )


def _filled(column: Floats, n: int, value: float = 1.0) -> Floats:
    return column if len(column) else np.full(n, value)


def _on_one_scale(chances: Sequence[Floats]) -> list[Floats]:
    """Each part with the same smallest chance: thinned to its own, a part is a fair sample."""
    least = [float(part[part > 0].min(initial=1.0)) for part in chances]
    return [part * (min(least) / own) for part, own in zip(chances, least, strict=True)]
