"""The training queries that a query is most like, in the eyes of the weak model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import RoutingError, TrainingDataError
from foretell.probes import ProbeCard, SavedProbe
from foretell.records import ReadPoint, RoutingData, Subspace
from foretell.store import Store, model_key

Vector = NDArray[np.float32]

_MOST: Final = 20_000
"""Queries held in memory: 74 MiB at a width of 960."""

_MOST_TEXT: Final = 500
"""Characters of a query's text that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearQuery:
    """A training query that looks like the one at hand, and how it went.

    ``similarity`` is the cosine of the two activations, -1 to 1, each coordinate standardised by
    the training queries. ``weak`` and ``strong`` are the two models' success, 0 to 1, ``None``
    where it is not known. ``text`` is the beginning of the query's own text, ``None`` unless it was
    asked for.
    """

    id: str
    similarity: float
    weak: float | None
    strong: float | None
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Loaded:
    """Directions (n, width) of unit length, and what is told of each row."""

    directions: Vector
    mean: Vector
    scale: Vector
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    weak: Sequence[float | None]
    strong: Sequence[float | None]
    subspace: Subspace | None

    @classmethod
    def of(cls, data: RoutingData, point: ReadPoint) -> _Loaded:
        rows = data.activations[point]
        mean, spread = rows.mean(axis=0), rows.std(axis=0)
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        return cls(
            directions=_directions(rows, mean, scale),
            mean=mean,
            scale=scale,
            ids=data.ids,
            texts=tuple(text[:_MOST_TEXT] for text in data.texts),
            weak=_known(data.weak, len(data)),
            strong=_known(data.strong, len(data)),
            subspace=data.subspace,
        )


class Neighbours:
    """Training queries of a domain by their activations at one read point.

    They are loaded when somebody first asks, once, and then held; many threads may ask at a time.
    """

    def __init__(self, load: Callable[[], RoutingData], read_point: ReadPoint) -> None:
        self.read_point = read_point
        self._load = load
        self._loading = threading.Lock()
        self._loaded: _Loaded | str | None = None

    @classmethod
    def of_probe(
        cls,
        saved: SavedProbe,
        open_store: Callable[[], Store],
        *,
        strong_model: str | None = None,
        most: int = _MOST,
    ) -> Neighbours | None:
        """Those that a probe was trained among: the newest ``most`` of its model and domain.

        ``strong_model`` is the key of the model whose outcomes are told, needed where several are
        labelled; without it there are then none. ``None`` for a probe without a pooled read point.
        """
        point = pooled_point(saved)
        if point is None:
            return None

        def load() -> RoutingData:
            with open_store() as store:
                return _newest(store, _stored(store, saved.card, point, strong_model), most)

        return cls(load, point)

    def nearest(
        self, vector: Vector, count: int = 10, *, with_text: bool = False
    ) -> tuple[NearQuery, ...] | str:
        """The ``count`` most alike, the nearest first; or why there are none.

        ``vector`` (width,) was read at ``read_point``.
        """
        loaded = self._ensure_loaded()
        if isinstance(loaded, str):
            return loaded
        if vector.shape != loaded.mean.shape:
            return (
                f"the stored activations are {loaded.mean.shape[0]} wide and the query's "
                f"{vector.shape}: they are of another model"
            )
        if loaded.subspace is not None:  # of the stored ones, too, nothing else is left
            vector = loaded.subspace.project({self.read_point: vector})[self.read_point]
        direction = _directions(vector[None], loaded.mean, loaded.scale)[0]
        similarities = loaded.directions @ direction
        return tuple(
            NearQuery(
                id=loaded.ids[row],
                # Rounding can take a cosine past 1.
                similarity=float(np.clip(similarities[row], -1, 1)),
                weak=loaded.weak[row],
                strong=loaded.strong[row],
                text=loaded.texts[row] if with_text else None,
            )
            for row in np.argsort(-similarities, kind="stable")[:count].tolist()
        )

    def _ensure_loaded(self) -> _Loaded | str:
        with self._loading:
            if self._loaded is None:
                try:
                    data = self._load()
                    self._loaded = (
                        _Loaded.of(data, self.read_point)
                        if len(data)
                        else "the store holds no training query of this domain"
                    )
                except RoutingError as error:
                    self._loaded = str(error)
            return self._loaded


def pooled_point(saved: SavedProbe) -> ReadPoint | None:
    """The last pooled read point of a probe, or else its gate's, which is read anyway."""
    pooled = [point for point in saved.probe.read_points if point.pooling != "tokens"]
    if pooled:
        return pooled[-1]
    return None if saved.gate is None else saved.gate.read_point


def _stored(
    store: Store, card: ProbeCard, point: ReadPoint, strong_model: str | None
) -> RoutingData:
    def load(strong: str | None) -> RoutingData:
        return store.load_routing_data(
            card.domain,
            metric=card.label.metric,
            read_points=(point,),
            split="train",
            weak_model=model_key(card.model),
            strong_model=strong,
        )

    try:
        return load(strong_model)
    except TrainingDataError:
        if strong_model is not None:
            raise
        return load("")  # several strong models, none of them named; or it fails again


def _newest(store: Store, data: RoutingData, most: int) -> RoutingData:
    if len(data) <= most:
        return data
    stored = (observation.query.id for observation in store.observations(data.domain[0], "weak"))
    age = {query_id: position for position, query_id in enumerate(stored)}
    order = np.argsort([age.get(query_id, -1) for query_id in data.ids], kind="stable")
    return data.take(np.sort(order[-most:]))


def _directions(rows: Vector, mean: Vector, scale: Vector) -> Vector:
    """Standardised and of unit length; a row at the mean has no direction and stays 0."""
    standard = (rows - mean) * scale
    length = np.linalg.norm(standard, axis=1, keepdims=True)
    return np.divide(standard, length, out=np.zeros_like(standard), where=length > 0)


def _known(column: NDArray[np.float64], n: int) -> list[float | None]:
    if not len(column):
        return [None] * n
    return [None if np.isnan(value) else value for value in column.tolist()]
