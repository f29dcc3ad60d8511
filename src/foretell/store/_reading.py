"""Vectors of many rows, from the shards that they lie in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from foretell.records import ReadPoint, TokenActivations
from foretell.store._vectors import ShardGoneError, Shards

_NOTHING = np.empty((0, 0), dtype=np.float32)
_TRIES = 3

_P = ParamSpec("_P")
_T = TypeVar("_T")


def asks_again(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """A read that begins anew when a shard was written anew after the database had named it."""

    @wraps(read)
    def patient(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for _ in range(_TRIES - 1):
            try:
                return read(*args, **kwargs)
            except ShardGoneError:
                continue
        return read(*args, **kwargs)

    return patient


@dataclass(frozen=True, slots=True)
class Place:
    """Where the vectors of one query are."""

    query_id: str
    shard: str
    row: int


def read_columns(
    shards: Shards, places: Sequence[Place], points: Sequence[ReadPoint], *, subspace: str = ""
) -> tuple[dict[ReadPoint, NDArray[np.float32]], dict[ReadPoint, TokenActivations]]:
    """Columns of the pooled read points, and of those that keep every token.

    Every place must have all of the points. With a ``subspace`` whole vectors are projected on it.
    """
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, place in enumerate(places):
        positions[place.shard].append(position)
    pooled: dict[ReadPoint, NDArray[np.float32]] = {}
    token_rows: dict[ReadPoint, list[NDArray[np.float32]]] = {}
    for shard, at in positions.items() if points else ():
        read = shards.read(
            shard,
            np.array([places[position].row for position in at], dtype=np.int64),
            [places[position].query_id for position in at],
            points,
            subspace=subspace,
        )
        for point, rows in read.items():
            if point.pooling == "tokens":
                column = token_rows.setdefault(point, [_NOTHING] * len(places))
                for position, row in zip(at, rows, strict=True):
                    column[position] = row
                continue
            if point not in pooled:
                pooled[point] = np.empty((len(places), rows[0].shape[-1]), dtype=np.float32)
            pooled[point][at] = rows
    return pooled, {point: TokenActivations.stack(rows) for point, rows in token_rows.items()}


def shared_subspace(shards: Shards, names: Iterable[str | None]) -> str:
    """The subspace that vectors of some rows must be brought to, so that none can be told apart.

    ``names`` are the rows' shards. Whole vectors can be projected on any subspace, but those of one
    not on another. So it is the one of most rows, of equals the last by name; ``""`` where all are
    whole.
    """
    counts = Counter(shards.subspace(name) for name in names if name)
    del counts[""]
    return max(((count, name) for name, count in counts.items()), default=(0, ""))[1]
