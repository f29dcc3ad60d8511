"""What recent vectors are compared with: the training queries, at a read point that both have."""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.flywheel._drift import ComparedVectors, WatchedTraffic
from foretell.probes import ProbeCard
from foretell.records import Origin, ReadPoint, RoutingData
from foretell.store import RecentVectors, Store, model_key

_MOST_REFERENCE: Final = 2_000
_ENOUGH_TRAFFIC: Final = 200
_MOST_SINCE: Final = 50_000


def compared_vectors(
    store: Store, card: ProbeCard, window: WatchedTraffic, rng: np.random.Generator
) -> ComparedVectors | None:
    """Recent vectors of a probe's requests, and those of the queries it was trained on.

    At the probe's own read point, or at the highest that all of the recent ones have where early
    looks stopped some. ``None`` where there are none, or not in one space. Requests with the same
    vector (one prompt, asked again and again) are a group, as are those of a conversation.
    """
    key = model_key(card.model)
    vectors = store.recent_vectors(card.domain, weak_model=key, limit=len(window.log) or 1)
    group_of = dict(zip(window.log.ids, window.groups, strict=True))
    rows = [row for row, query_id in enumerate(vectors.ids) if query_id in group_of]
    known = set(store.read_points(card.domain, weak_model=key))
    point = _read_point(card, known & set(vectors.activations))
    if not rows or point is None:
        return None
    reference = _training_queries(store, card, point, rng)
    if not reference:
        return None
    reference = _some(reference, rng)
    spaces = _in_one_space(vectors, reference, point)
    if spaces is None:
        return None
    recent = spaces[0][rows]
    ids = tuple(vectors.ids[row] for row in rows)
    return ComparedVectors(
        reference=spaces[1],
        recent=recent,
        reference_groups=reference.groups,
        recent_groups=_groups(recent, ids, [group_of[query_id] for query_id in ids]),
        ids=ids,
    )


def _read_point(card: ProbeCard, known: Set[ReadPoint]) -> ReadPoint | None:
    own = known & set(card.read_points)
    return max(own or known, default=None)


def _in_one_space(
    vectors: RecentVectors, reference: RoutingData, point: ReadPoint
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Recent and reference vectors, both reduced to the subspace that either of them went through.

    Where they went through two, something is missing from each, which would tell them apart.
    """
    recent, before = vectors.activations[point], reference.activations[point]
    spaces = [space for space in (vectors.subspace, reference.subspace) if space is not None]
    if len({space.id for space in spaces}) > 1:
        return None
    if not spaces or point not in spaces[0].bases:
        return recent, before
    basis = spaces[0].bases[point]
    return basis.reduce(recent), basis.reduce(before)


def _training_queries(
    store: Store, card: ProbeCard, point: ReadPoint, rng: np.random.Generator
) -> RoutingData | None:
    """Queries that the probe was trained on: traffic where that is enough, else what was collected.

    Traffic is seen where the weak model answered. Each query is taken with a chance that is
    inverse to its chance of being seen (rejection sampling), so that those taken stand for all.
    """

    def load(*origins: Origin) -> RoutingData | None:
        try:
            return store.load_routing_data(
                card.domain,
                metric=card.label.metric,
                read_points=(point,),
                split="train",
                weak_model=model_key(card.model),
                strong_model="",
                origins=origins,
            )
        except TrainingDataError:  # no such query is stored
            return None

    collected = load("collected", "imported")
    trained_on_traffic = card.provenance is not None and card.provenance.seen.get("traffic")
    traffic = load("traffic") if trained_on_traffic else None
    if traffic is None:
        return collected
    since = datetime.fromisoformat(card.created).timestamp()
    later = set(store.traffic(card.domain, since=since, limit=_MOST_SINCE).ids)
    traffic = traffic.take(np.array([i not in later for i in traffic.ids], dtype=bool))
    traffic = traffic.take(_unselected(traffic.weak_chance, rng))
    if collected is None or len(traffic) >= min(_ENOUGH_TRAFFIC, len(collected)):
        return traffic
    return collected


def _unselected(chances: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Rows to take so that each query, seen or not, was as likely to be taken as any other.

    Rows whose chance is not known, or 0, are left out.
    """
    known = np.nan_to_num(chances) > 0
    least = chances[known].min() if known.any() else 1.0
    return known & (rng.random(len(chances)) < least / np.where(known, chances, 1.0))


def _some(data: RoutingData, rng: np.random.Generator) -> RoutingData:
    if len(data) <= _MOST_REFERENCE:
        return data
    return data.take(rng.choice(len(data), _MOST_REFERENCE, replace=False))


def _groups(
    vectors: NDArray[np.float32], ids: Sequence[str], groups: Sequence[str]
) -> tuple[str, ...]:
    """The conversation of each request, else what has the same vector."""
    _, same = np.unique(vectors, axis=0, return_inverse=True)
    return tuple(
        group if group != query_id else f"vector {number}"
        for query_id, group, number in zip(ids, groups, same.ravel(), strict=True)
    )
