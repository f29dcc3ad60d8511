"""From rows and shards to the columns that routers train on."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from foretell.errors import TrainingDataError, UnknownReadPointError
from foretell.records import (
    Observation,
    Query,
    ReadPoint,
    Role,
    RoutingData,
    Split,
    TokenActivations,
)
from foretell.store import _rows, _tables
from foretell.store._splits import check_splits, split_of
from foretell.store._vectors import Shards

_logger = logging.getLogger(__name__)

_NOTHING = np.empty((0, 0), dtype=np.float32)

_TRUST = ("human", "code", "judge", "client")
"""Sources of outcomes, the most trusted first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What ``Store.load_routing_data`` was asked for."""

    domain: str
    metric: str | None
    read_points: tuple[ReadPoint, ...] | None
    split: Split | None
    weak_model: str | None
    strong_model: str | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """One weak observation and where its vectors are."""

    observation: Observation
    shard: str | None
    row: int | None


def load(connection: Connection, shards: Shards, wanted: Wanted) -> RoutingData:
    """The columns; see ``Store.load_routing_data``."""
    weak_key, by_query = _weak_observations(connection, wanted)
    seen = [by_query[query_id] for query_id in sorted(by_query)]
    if wanted.split is not None:
        check_splits(one.observation.query for one in seen)
        seen = [one for one in seen if split_of(one.observation.query) == wanted.split]
    points, seen = _with_points(shards, wanted, seen)
    ids = tuple(one.observation.query.id for one in seen)
    labels = _labels(connection, wanted, weak_key)
    usages = _strong_usages(connection, wanted.domain, labels.strong_key)
    observations = [one.observation for one in seen]
    activations, sequences = _activations(shards, points, seen)
    return RoutingData(
        domain=(wanted.domain,) * len(seen),
        ids=ids,
        texts=tuple(one.query.text for one in observations),
        groups=tuple(one.query.group or one.query.id for one in observations),
        lengths=np.array([_length(one) for one in observations], dtype=np.int64),
        attributes=tuple(one.query.attributes for one in observations),
        activations=activations,
        sequences=sequences,
        first_entropy=_column(
            one.first_token.entropy if one.first_token else None for one in observations
        ),
        first_margin=_column(
            one.first_token.margin if one.first_token else None for one in observations
        ),
        answer_logprob=_column(one.answer.mean_logprob for one in observations),
        prompt_tokens=_column(one.answer.usage.prompt_tokens for one in observations),
        weak_tokens=_column(one.answer.usage.completion_tokens for one in observations),
        strong_prompt_tokens=_column(usages.get(query_id, (None, None))[0] for query_id in ids),
        strong_tokens=_column(usages.get(query_id, (None, None))[1] for query_id in ids),
        weak=_column(labels.weak.get(query_id) for query_id in ids),
        strong=_column(labels.strong.get(query_id) for query_id in ids),
        model=observations[0].model if observations else None,
    )


def queries_of(connection: Connection, domain: str) -> list[Query]:
    """The queries of a domain, by id."""
    statement = select(_tables.queries).where(_tables.queries.c.domain == domain)
    queries = map(_rows.query_of, connection.execute(statement))
    return sorted(queries, key=lambda query: query.id)


def _weak_observations(connection: Connection, wanted: Wanted) -> tuple[str, dict[str, _Seen]]:
    """Key of the weak model and, by query, its first rollout, preferably one with vectors."""
    table = _tables.observations
    statement = (
        _rows.select_observations()
        .where(table.c.domain == wanted.domain, table.c.role == "weak")
        # a descending sort would put NULL first on one database and last on another
        .order_by(table.c.vector_shard.is_(None).desc(), table.c.rollout.desc())
    )
    rows = connection.execute(statement).all()
    counts = Counter(row.model_key for row in rows)
    key = _the_only("weak", counts, wanted.weak_model)
    if not counts[key]:
        raise TrainingDataError(
            f"domain {wanted.domain!r} has no observation of the weak model"
            + (f" {key}" if key else "")
            + "; run 'foretell collect' first, or check the domain's name"
        )
    # the last row of a query wins
    return key, {
        row.query_id: _Seen(_rows.observation_of(row), row.vector_shard, row.vector_row)
        for row in rows
        if row.model_key == key
    }


def _the_only(role: Role, counts: Mapping[str, int], chosen: str | None) -> str:
    """The chosen model's key, else the only one there is, else ``""``."""
    if chosen is not None:
        return chosen
    if len(counts) > 1:
        listing = ", ".join(f"{key} ({count})" for key, count in sorted(counts.items()))
        raise TrainingDataError(
            f"several models have answered in the role {role!r}, with their counts: {listing}; "
            f"choose one by {role}_model, or delete the domain and collect again"
        )
    return next(iter(counts), "")


def _with_points(
    shards: Shards, wanted: Wanted, seen: Sequence[_Seen]
) -> tuple[Sequence[ReadPoint], Sequence[_Seen]]:
    """The read points to load, and the observations that have all of them."""
    names = {one.shard for one in seen if one.shard is not None}
    points_of = {name: shards.read_points(name) for name in names}
    if wanted.read_points is None:
        sets = [points_of.get(one.shard or "", frozenset()) for one in seen]
        if not any(sets):
            return (), seen
        common = sorted(
            point for point in frozenset.intersection(*sets) if point.pooling != "tokens"
        )
        if not common:
            listing = ", ".join(
                f"{', '.join(sorted(point.name for point in points)) or 'none'} ({count})"
                for points, count in Counter(sets).items()
            )
            raise TrainingDataError(
                f"no read point is common to the {len(seen)} weak observations of domain "
                f"{wanted.domain!r}: {listing}; choose read points, or collect again"
            )
        return common, seen
    everywhere = frozenset[ReadPoint]().union(*points_of.values())
    for point in wanted.read_points:
        if point not in everywhere:
            raise UnknownReadPointError(
                f"no observation of domain {wanted.domain!r} has {point.name}; it has "
                f"{', '.join(known.name for known in sorted(everywhere)) or 'no vectors'}"
            )
    needed = frozenset(wanted.read_points)
    having = [one for one in seen if needed <= points_of.get(one.shard or "", frozenset())]
    if len(having) < len(seen):
        _logger.warning(
            "%d of %d queries of domain %r lack a read point and are left out",
            len(seen) - len(having),
            len(seen),
            wanted.domain,
        )
    return wanted.read_points, having


def _activations(
    shards: Shards, points: Sequence[ReadPoint], seen: Sequence[_Seen]
) -> tuple[dict[ReadPoint, NDArray[np.float32]], dict[ReadPoint, TokenActivations]]:
    """Columns of the pooled read points, and of those that keep every token."""
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, one in enumerate(seen):
        positions[one.shard or ""].append(position)
    pooled: dict[ReadPoint, NDArray[np.float32]] = {}
    token_rows: dict[ReadPoint, list[NDArray[np.float32]]] = {}
    for shard, at in positions.items() if points else ():
        read = shards.read(
            shard,
            np.array([seen[position].row for position in at], dtype=np.int64),
            [seen[position].observation.query.id for position in at],
            points,
        )
        for point, rows in read.items():
            if point.pooling == "tokens":
                column = token_rows.setdefault(point, [_NOTHING] * len(seen))
                for position, row in zip(at, rows, strict=True):
                    column[position] = row
                continue
            if point not in pooled:
                pooled[point] = np.empty((len(seen), rows[0].shape[-1]), dtype=np.float32)
            pooled[point][at] = rows
    return pooled, {point: TokenActivations.stack(rows) for point, rows in token_rows.items()}


@dataclass(frozen=True, slots=True)
class _Labels:
    """Success by query, of the weak and of the strong model, and whose the strong ones are."""

    weak: dict[str, float]
    strong: dict[str, float]
    strong_key: str


def _labels(connection: Connection, wanted: Wanted, weak_key: str) -> _Labels:
    table = _tables.outcomes
    statement = select(table).where(table.c.domain == wanted.domain, table.c.value.is_not(None))
    rows = connection.execute(statement).all()
    metrics = sorted({row.metric for row in rows})
    metric = wanted.metric
    if metric is None and len(metrics) > 1:
        raise TrainingDataError(
            f"domain {wanted.domain!r} is labelled by several metrics: {', '.join(metrics)}; "
            "choose one"
        )
    if metric is not None and metric not in metrics:
        raise TrainingDataError(
            f"domain {wanted.domain!r} has no outcomes by {metric!r}; it has "
            f"{', '.join(metrics) or 'none at all, so label it first'}"
        )
    rows = [row for row in rows if metric in (None, row.metric)]
    strong = [row for row in rows if row.role == "strong"]
    counts = Counter(row.model_key for row in strong if row.model_key)
    strong_key = _the_only("strong", counts, wanted.strong_model)
    weak = [row for row in rows if row.role == "weak"]
    return _Labels(
        weak=_by_query(weak, weak_key), strong=_by_query(strong, strong_key), strong_key=strong_key
    )


def _strong_usages(connection: Connection, domain: str, key: str) -> dict[str, tuple[int, int]]:
    """By query, the tokens that the strong model read and wrote in its first answer."""
    table = _tables.observations
    statement = (
        select(table.c.query_id, table.c.prompt_tokens, table.c.completion_tokens)
        .where(table.c.domain == domain, table.c.role == "strong", table.c.model_key == key)
        .order_by(table.c.rollout.desc())
    )
    return {row.query_id: (row[1], row[2]) for row in connection.execute(statement)}


def _by_query(rows: Iterable[Any], key: str) -> dict[str, float]:
    """The most trusted outcome of each query; one of this very model before one of none."""
    ranked: defaultdict[str, defaultdict[tuple[bool, int], list[float]]]
    ranked = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.model_key in (key, ""):
            rank = (row.model_key != key, _TRUST.index(row.source))
            ranked[row.query_id][rank].append(row.value)
    return {query_id: fmean(ranks[min(ranks)]) for query_id, ranks in ranked.items()}


def _length(observation: Observation) -> int:
    if observation.own_tokens is not None:
        return observation.own_tokens
    return observation.answer.usage.prompt_tokens


def _column(values: Iterable[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
