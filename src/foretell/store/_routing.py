"""From rows and shards to the columns that routers train on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, case, func, select

from foretell.errors import TrainingDataError, UnknownReadPointError
from foretell.records import Observation, Origin, Query, ReadPoint, Role, RoutingData, Split
from foretell.store import _rows, _tables
from foretell.store._reading import Place, read_columns, shared_subspace
from foretell.store._splits import check_splits, split_of
from foretell.store._trust import most_trusted
from foretell.store._vectors import Shards

_logger = logging.getLogger(__name__)

_LEAST_OF_RULE: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What ``Store.load_routing_data`` was asked for."""

    domain: str
    metric: str | None
    read_points: tuple[ReadPoint, ...] | None
    split: Split | None
    weak_model: str | None
    strong_model: str | None
    since: float | None = None
    sources: tuple[str, ...] | None = None
    origins: tuple[Origin, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """One weak observation, where its vectors are, and how likely it was to be seen."""

    observation: Observation
    shard: str | None
    row: int | None
    chance: float | None
    pair_chance: float | None

    @property
    def place(self) -> Place:
        """Of the vectors; only where there are any."""
        return Place(self.observation.query.id, self.shard or "", self.row or 0)


def load(connection: Connection, shards: Shards, wanted: Wanted) -> RoutingData:
    """The columns; see ``Store.load_routing_data``."""
    weak_key, by_query = _weak_observations(connection, wanted)
    seen = [by_query[query_id] for query_id in sorted(by_query)]
    if wanted.split is not None:
        check_splits(one.observation.query for one in seen)
        seen = [one for one in seen if split_of(one.observation.query) == wanted.split]
    points, seen = _with_points(shards, wanted, seen)
    subspace = shared_subspace(shards, [one.shard for one in seen]) if points else ""
    ids = tuple(one.observation.query.id for one in seen)
    labels = _labels(connection, wanted, weak_key)
    usages = _strong_usages(connection, wanted.domain, labels.strong_key)
    observations = [one.observation for one in seen]
    activations, sequences = read_columns(
        shards, [one.place for one in seen] if points else [], points, subspace=subspace
    )
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
        weak_chance=_column(one.chance for one in seen),
        pair_chance=_column(one.pair_chance for one in seen),
        model=observations[0].model if observations else None,
        subspace=shards.subspaces.load(subspace) if subspace else None,
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
        .add_columns(
            _tables.requests.c.weak_chance,
            _tables.requests.c.pair_chance,
            *_rule_columns(),
        )
        .outerjoin(_tables.requests, _tables.requests.c.id == table.c.query_id)
        .where(table.c.domain == wanted.domain, table.c.role == "weak")
        # a descending sort would put NULL first on one database and last on another
        .order_by(table.c.vector_shard.is_(None).desc(), table.c.rollout.desc())
    )
    if wanted.since is not None:
        statement = statement.where(table.c.recorded_at >= wanted.since)
    if wanted.origins is not None:
        statement = statement.where(_tables.queries.c.origin.in_(wanted.origins))
    rows = connection.execute(statement).all()
    counts = Counter(row.model_key for row in rows)
    key = _the_only("weak", counts, wanted.weak_model)
    if not counts[key]:
        raise TrainingDataError(
            f"domain {wanted.domain!r} has no observation of the weak model"
            + (f" {key}" if key else "")
            + ("" if (wanted.since, wanted.origins) == (None, None) else " of that time and origin")
            + "; run 'foretell collect' first, or check the domain's name"
        )
    comparable = _comparable_chances(connection, wanted.domain)
    # the last row of a query wins
    return key, {
        row.query_id: _Seen(
            _rows.observation_of(row),
            row.vector_shard,
            row.vector_row,
            row.weak_chance if row.origin == "traffic" else 1.0,
            comparable(row) if row.origin == "traffic" else 1.0,
        )
        for row in rows
        if row.model_key == key
    }


def _rule_columns() -> tuple[Any, ...]:
    """What tells the rules that served apart: the probe, or the bar where there is none."""
    table = _tables.requests
    bar = case((table.c.probe.is_(None), table.c.keep_at))
    return table.c.weak_model, table.c.probe, bar.label("bar")


def _comparable_chances(connection: Connection, domain: str) -> Callable[[Any], float | None]:
    """The chance to see both answers of a row, made comparable between the rules that served.

    Rows are made comparable by thinning all of them to the smallest chance. What was served by one
    rule is a fair sample once it is thinned to that rule's own smallest, so chances are scaled for
    each rule to have the same: or a rule that keeps some would thin out all that came while nothing
    was kept. Rules of few requests, whose smallest chance may not have occurred, stay as they are.
    """
    table = _tables.requests
    columns = _rule_columns()
    statement = (
        select(*columns, func.min(table.c.pair_chance).label("least"), func.count().label("n"))
        .where(table.c.domain == domain, table.c.pair_chance > 0)
        .group_by(*columns)
    )
    found = connection.execute(statement).all()
    smallest = min((row.least for row in found), default=1.0)
    scale = {
        (row.weak_model, row.probe, row.bar): smallest / row.least
        for row in found
        if row.n >= _LEAST_OF_RULE
    }

    def of(row: Any) -> float | None:
        if row.pair_chance is None:
            return None
        return row.pair_chance * scale.get((row.weak_model, row.probe, row.bar), 1.0)

    return of


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
        if not points_of:
            return (), seen
        seen = _without_bare_traffic(wanted.domain, seen)
        seen = _in_one_subspace(shards, wanted.domain, seen)
        sets = [points_of.get(one.shard or "", frozenset()) for one in seen]
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
    if not needed:
        return (), having
    return wanted.read_points, _in_one_subspace(shards, wanted.domain, having)


def _without_bare_traffic(domain: str, seen: Sequence[_Seen]) -> Sequence[_Seen]:
    """All but the requests whose vectors were not kept, which is no mistake as in a collection."""
    kept = [one for one in seen if one.shard is not None or one.observation.origin != "traffic"]
    if len(kept) < len(seen):
        _logger.info(
            "%d requests of domain %r, of which no vectors were kept, are left out",
            len(seen) - len(kept),
            domain,
        )
    return kept


def _in_one_subspace(shards: Shards, domain: str, seen: Sequence[_Seen]) -> Sequence[_Seen]:
    """All but those whose vectors were reduced to another subspace than most others'."""
    chosen = shared_subspace(shards, [one.shard for one in seen])
    fits = {"", chosen}
    kept = [one for one in seen if one.shard is None or shards.subspace(one.shard) in fits]
    if len(kept) < len(seen):
        _logger.warning(
            "%d of %d queries of domain %r are left out: their vectors are of another subspace",
            len(seen) - len(kept),
            len(seen),
            domain,
        )
    elif chosen and any(one.shard and not shards.subspace(one.shard) for one in seen):
        _logger.info("vectors of domain %r are projected on the subspace %s", domain, chosen)
    return kept


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
    known = sorted({row.metric for row in rows})
    if wanted.sources is not None:
        rows = [row for row in rows if row.source in wanted.sources]
    metrics = sorted({row.metric for row in rows})
    metric = wanted.metric
    if metric is None and len(metrics) > 1:
        raise TrainingDataError(
            f"domain {wanted.domain!r} is labelled by several metrics: {', '.join(metrics)}; "
            "choose one"
        )
    if metric is not None and metric not in known:
        raise TrainingDataError(
            f"domain {wanted.domain!r} has no outcomes by {metric!r}; it has "
            f"{', '.join(known) or 'none at all, so label it first'}"
        )
    rows = [row for row in rows if metric in (None, row.metric)]
    strong = [row for row in rows if row.role == "strong"]
    counts = Counter(row.model_key for row in strong if row.model_key)
    strong_key = _the_only("strong", counts, wanted.strong_model)
    weak = [row for row in rows if row.role == "weak"]
    return _Labels(
        weak=most_trusted(weak, lambda _: weak_key),
        strong=most_trusted(strong, lambda _: strong_key),
        strong_key=strong_key,
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


def _length(observation: Observation) -> int:
    if observation.own_tokens is not None:
        return observation.own_tokens
    return observation.answer.usage.prompt_tokens


def _column(values: Iterable[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
