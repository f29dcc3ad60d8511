"""Observations: rows, and the vectors that they name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, func, select, update

from foretell.errors import InputError
from foretell.records import Observation, ReadPoint, Role
from foretell.store import _rows, _tables
from foretell.store._database import Database
from foretell.store._pages import PAGE, pages
from foretell.store._vectors import Shards, check_vectors

_Key = tuple[str, str, str, str, int]
"""Domain, query id, role, model key, rollout: there is one observation of each."""


def append(
    database: Database, shards: Shards, observations: Sequence[Observation], *, recorded_at: float
) -> int:
    """Store observations, all or none, and return how many were new."""
    for observation in observations:
        check_vectors(observation)
    if not observations:
        return 0
    with database.transaction(write=True) as connection:
        new = _put_what_is_observed(database, connection, observations, recorded_at)
        for key in _stored(database, connection, new):
            del new[key]
        places = _write_vectors(shards, new)
        if rows := _observation_rows(new, places, recorded_at):
            connection.execute(database.insert(_tables.observations), rows)
    return len(new)


def append_bare(
    database: Database,
    connection: Connection,
    observations: Sequence[Observation],
    *,
    recorded_at: float,
) -> None:
    """Store observations without their vectors, which ``append_vectors`` adds."""
    if observations:
        by_key = _put_what_is_observed(database, connection, observations, recorded_at)
        statement = database.insert(_tables.observations).on_conflict_do_nothing()
        connection.execute(statement, _observation_rows(by_key, {}, recorded_at))


def append_vectors(database: Database, shards: Shards, observations: Sequence[Observation]) -> int:
    """Add the vectors of stored observations that have none, and return of how many.

    What is not stored (any more), or has vectors, is passed over.
    """
    by_key: dict[_Key, Observation] = {}
    for observation in observations:
        check_vectors(observation)
        if observation.activations:
            by_key.setdefault(_key(observation), observation)
    if not by_key:
        return 0
    table = _tables.observations
    with database.transaction(write=True) as connection:
        # Rows stay locked until their shard is named, so that nobody erases them in between.
        stored = _stored(database, connection, by_key, table.c.vector_shard.is_(None), lock=True)
        places = _write_vectors(shards, {key: by_key[key] for key in stored})
        _name_places(database, connection, stored, places)
    return len(places)


def answered_by(database: Database, domain: str, role: Role) -> dict[str, int]:
    """Counts of answers by the model's key."""
    table = _tables.observations
    statement = (
        select(table.c.model_key, func.count())
        .where(table.c.domain == domain, table.c.role == role)
        .group_by(table.c.model_key)
    )
    with database.transaction() as connection:
        return {row[0]: row[1] for row in connection.execute(statement)}


def observed(database: Database, domain: str, role: Role, model_key: str, rollout: int) -> set[str]:
    """Ids of the queries that a model has answered."""
    table = _tables.observations
    statement = select(table.c.query_id).where(
        table.c.domain == domain,
        table.c.role == role,
        table.c.model_key == model_key,
        table.c.rollout == rollout,
    )
    with database.transaction() as connection:
        return set(connection.scalars(statement))


def in_order(database: Database, domain: str, role: Role | None) -> Iterator[Observation]:
    """Observations in the order they were stored, a page at a time, without their vectors."""
    statement = _rows.select_observations().where(_tables.observations.c.domain == domain)
    if role is not None:
        statement = statement.where(_tables.observations.c.role == role)
    statement = statement.order_by(_tables.observations.c.id).limit(PAGE)
    last_id = 0
    while True:
        with database.transaction() as connection:
            page = connection.execute(statement.where(_tables.observations.c.id > last_id)).all()
        yield from map(_rows.observation_of, page)
        if len(page) < PAGE:
            return
        last_id = page[-1].id


def read_points(
    database: Database, shards: Shards, domain: str, weak_model: str | None
) -> list[ReadPoint]:
    """Read points at which any weak observation of the domain has activations, sorted."""
    table = _tables.observations
    statement = select(table.c.vector_shard).where(
        table.c.domain == domain,
        table.c.role == "weak",
        table.c.vector_shard.is_not(None),
        *([] if weak_model is None else [table.c.model_key == weak_model]),
    )
    with database.transaction() as connection:
        names = set(connection.scalars(statement.distinct()))
    return sorted({point for name in names for point in shards.read_points(name or "")})


def _put_what_is_observed(
    database: Database,
    connection: Connection,
    observations: Iterable[Observation],
    recorded_at: float,
) -> dict[_Key, Observation]:
    """Store models and queries; the observations, each once."""
    by_key: dict[_Key, Observation] = {}
    for observation in observations:
        by_key.setdefault(_key(observation), observation)
    _put_models(database, connection, by_key.values())
    _put_queries(database, connection, by_key.values(), recorded_at)
    return by_key


def _observation_rows(
    observations: Mapping[_Key, Observation],
    places: Mapping[_Key, tuple[str, int]],
    recorded_at: float,
) -> list[dict[str, Any]]:
    return [
        _rows.observation_row(observation, places.get(key), recorded_at)
        for key, observation in observations.items()
    ]


def _put_models(
    database: Database, connection: Connection, observations: Iterable[Observation]
) -> None:
    models = {_rows.key_of(observation): observation.model for observation in observations}
    connection.execute(
        database.insert(_tables.models).on_conflict_do_nothing(),
        [
            {"key": key, "identity": None if model is None else asdict(model)}
            for key, model in sorted(models.items(), key=lambda item: item[0])
        ],
    )


def _put_queries(
    database: Database,
    connection: Connection,
    observations: Iterable[Observation],
    recorded_at: float,
) -> None:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for observation in observations:
        row = _rows.query_row(observation, recorded_at)
        key = (observation.domain, observation.query.id)
        if key in rows and rows[key]["messages"] != row["messages"]:
            raise _other_messages(*key)
        rows[key] = row
    for domain, ids in _pages(rows):
        stored = select(_tables.queries.c.id, _tables.queries.c.messages).where(
            _tables.queries.c.domain == domain, _tables.queries.c.id.in_(ids)
        )
        for query_id, messages in connection.execute(stored):
            if rows[domain, query_id]["messages"] != messages:
                raise _other_messages(domain, query_id)
    statement = database.insert(_tables.queries)
    followed = ("reference", "group_id", "split", "attributes")
    statement = statement.on_conflict_do_update(
        index_elements=list(_tables.queries.primary_key),
        set_={name: statement.excluded[name] for name in followed},
    )
    # in one order for all, so that no two writers wait for each other
    connection.execute(statement, [rows[key] for key in sorted(rows)])


def _write_vectors(
    shards: Shards, observations: Mapping[_Key, Observation]
) -> dict[_Key, tuple[str, int]]:
    """Shard and row of each observation that has vectors."""
    alike: defaultdict[tuple[Any, ...], list[_Key]] = defaultdict(list)
    for key, observation in observations.items():
        if observation.activations:
            shapes = {
                (point, vector.shape[-1]) for point, vector in observation.activations.items()
            }
            kind = (observation.domain, _rows.key_of(observation), observation.subspace)
            alike[*kind, frozenset(shapes)].append(key)
    places: dict[_Key, tuple[str, int]] = {}
    for (domain, model, *_), keys in alike.items():
        name = shards.write(domain, model, [observations[key] for key in keys])
        places |= {key: (name, row) for row, key in enumerate(keys)}
    return places


def _name_places(
    database: Database,
    connection: Connection,
    stored: Mapping[_Key, int],
    places: Mapping[_Key, tuple[str, int]],
) -> None:
    """Have rows name the shards, and the rows of them, in which their vectors are."""
    in_order: defaultdict[str, list[int]] = defaultdict(list)
    for key, (shard, _) in places.items():  # whose places are in the order of the shard's rows
        in_order[shard].append(stored[key])
    table = _tables.observations
    for shard, row_ids in in_order.items():
        row_id, position = database.numbered(row_ids)
        named = update(table).where(table.c.id == row_id)
        connection.execute(named.values(vector_shard=shard, vector_row=position))


def _key(observation: Observation) -> _Key:
    return (
        observation.domain,
        observation.query.id,
        observation.role,
        _rows.key_of(observation),
        observation.rollout,
    )


def _stored(
    database: Database,
    connection: Connection,
    keys: Iterable[_Key],
    *conditions: Any,
    lock: bool = False,
) -> dict[_Key, int]:
    """Row ids of those of ``keys`` that are stored; with ``lock``, nobody else changes them."""
    wanted = set(keys)
    table = _tables.observations
    columns = (table.c.domain, table.c.query_id, table.c.role, table.c.model_key, table.c.rollout)
    stored: dict[_Key, int] = {}
    for domain, ids in _pages({(key[0], key[1]) for key in wanted}):
        statement = select(table.c.id, *columns).where(
            table.c.domain == domain, table.c.query_id.in_(ids), *conditions
        )
        if lock:
            statement = statement.with_for_update()
        for row_id, *key in database.fetch_at_once(connection, statement):
            if tuple(key) in wanted:
                stored[tuple(key)] = row_id
    return stored


def _pages(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """Domains with a page of their query ids at a time."""
    by_domain: defaultdict[str, list[str]] = defaultdict(list)
    for domain, query_id in pairs:
        by_domain[domain].append(query_id)
    for domain, ids in by_domain.items():
        for page in pages(ids):
            yield domain, page


def _other_messages(domain: str, query_id: str) -> InputError:
    return InputError(
        f"query {query_id!r} of domain {domain!r} was stored with other messages; "
        "give the new query another id, or delete the domain first"
    )
