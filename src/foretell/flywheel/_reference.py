"""What recent vectors are compared with: queries like those of the training, and where.

Not the training queries themselves, but those of the domain's test side, which are of the same kind
and on which nothing was fitted. A subspace is fitted on the training queries, and so close to them
that others look strange in it: at a confidence of 0.99, one look in twenty was a false alarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError, UnknownReadPointError
from foretell.flywheel._drift import ComparedVectors, ReferenceScores, WatchedTraffic
from foretell.probes import ProbeCard, SavedProbe
from foretell.records import Origin, ReadPoint, RoutingData
from foretell.store import RecentVectors, Store, model_key

_MOST_REFERENCE: Final = 2_000
_ENOUGH_TRAFFIC: Final = 100
_MOST_SINCE: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """What recent requests of a probe are compared with; ``None`` where there is nothing."""

    vectors: ComparedVectors | None = None
    scores: ReferenceScores | None = None


def reference_of(
    store: Store, saved: SavedProbe, window: WatchedTraffic, rng: np.random.Generator
) -> Reference:
    """Vectors of a probe's requests beside those of the test side, and the test side's chances.

    Vectors are compared at the probe's own read point, or at the highest that all of the recent
    ones have where early looks stopped some. Requests with the same vector (one prompt, asked again
    and again) are a group, as are those of a conversation.
    """
    card = saved.card
    key = model_key(card.model)
    vectors = store.recent_vectors(card.domain, weak_model=key, limit=len(window.log) or 1)
    known = {p for p in store.read_points(card.domain, weak_model=key) if p.pooling != "tokens"}
    own = known & set(card.read_points)
    shared = known & set(vectors.activations)
    point = max(own & shared or shared, default=None)
    wanted = own if point is None else own | {point}
    queries = _test_queries(store, card, sorted(wanted), rng) if wanted else None
    if not queries:
        return Reference()
    if len(queries) > _MOST_REFERENCE:
        queries = queries.take(rng.choice(len(queries), _MOST_REFERENCE, replace=False))
    return Reference(
        vectors=None if point is None else _compared(vectors, queries, point, window),
        scores=_scores(saved, queries) if own == set(card.read_points) else None,
    )


def _compared(
    vectors: RecentVectors, queries: RoutingData, point: ReadPoint, window: WatchedTraffic
) -> ComparedVectors | None:
    """Those of the requests that are looked at; ``None`` without any, or not in one space."""
    group_of = dict(zip(window.log.ids, window.groups, strict=True))
    rows = [row for row, query_id in enumerate(vectors.ids) if query_id in group_of]
    spaces = _in_one_space(vectors, queries, point)
    if not rows or spaces is None:
        return None
    recent, ids = spaces[0][rows], tuple(vectors.ids[row] for row in rows)
    return ComparedVectors(
        reference=spaces[1],
        recent=recent,
        reference_groups=queries.groups,
        recent_groups=_groups(recent, ids, [group_of[query_id] for query_id in ids]),
        ids=ids,
    )


def _scores(saved: SavedProbe, queries: RoutingData) -> ReferenceScores:
    """The probe's own chances, which those of cross-fitting are only like: steps lie elsewhere."""
    if saved.subspace is not None:
        queries = replace(queries, activations=saved.subspace.project(queries.activations))
    probe = saved.probe
    return ReferenceScores(
        p_success=probe.calibration.p(probe.scores(queries)),
        weights=np.ones(len(queries)),
        groups=queries.groups,
    )


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


def _test_queries(
    store: Store, card: ProbeCard, points: Sequence[ReadPoint], rng: np.random.Generator
) -> RoutingData | None:
    """The test side of what the probe learnt from: of traffic where that is enough, else collected.

    Traffic is seen where the weak model answered. Each query is taken with a chance that is
    inverse to its chance of being seen (rejection sampling), so that those taken stand for all.
    """

    def load(*origins: Origin) -> RoutingData | None:
        try:
            return store.load_routing_data(
                card.domain,
                metric=card.label.metric,
                read_points=points,
                split="test",
                weak_model=model_key(card.model),
                strong_model="",
                origins=origins,
            )
        except (TrainingDataError, UnknownReadPointError):  # no such query is stored
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


def _groups(
    vectors: NDArray[np.float32], ids: Sequence[str], groups: Sequence[str]
) -> tuple[str, ...]:
    """The conversation of each request, else what has the same vector."""
    _, same = np.unique(vectors, axis=0, return_inverse=True)
    return tuple(
        group if group != query_id else f"vector {number}"
        for query_id, group, number in zip(ids, groups, same.ravel(), strict=True)
    )
