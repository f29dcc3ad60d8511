"""The store: what was observed, how it went, and the vectors that were read."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, func, select

from foretell.errors import InputError
from foretell.records import Observation, Outcome, Query, ReadPoint, Role, RoutingData, Split
from foretell.store import _routing, _rows, _tables
from foretell.store._database import Database
from foretell.store._vectors import Shards, check_vectors

_PAGE = 500

_Key = tuple[str, str, str, str, int]
"""Domain, query id, role, model key, rollout: there is one observation of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainCounts:
    """How much of a domain is stored. ``weak`` and ``strong`` count observations."""

    domain: str
    queries: int
    weak: int
    strong: int
    outcomes: int


class Store:
    """Durable observations and outcomes of many domains, safe for many threads and processes.

    What ``append`` and ``put_outcomes`` have returned from survives a crash. Vectors are written
    to their Parquet file before the rows that name it, so a crash in between leaves a file that
    nothing names, never a row without its vectors. All errors are ``StoreError`` unless a method
    says otherwise. Use as a context manager, or call ``close``.
    """

    def __init__(self, database: Database, shards: Shards, clock: Callable[[], float]) -> None:
        self._database = database
        self._shards = shards
        self._clock = clock

    @classmethod
    def open(
        cls, url: str, vectors: str | Path, *, clock: Callable[[], float] = time.time
    ) -> Store:
        """Open a store; create it, or bring its tables up to date, when needed.

        Args:
            url: SQLAlchemy's URL of the database, such as ``sqlite:///foretell.db``.
            vectors: Folder of the Parquet files.
            clock: Seconds since 1970 (UTC), recorded beside all that is stored.
        """
        shards = Shards(Path(vectors))
        return cls(Database(url), shards, clock)

    def append(self, observations: Sequence[Observation]) -> int:
        """Store observations, all or none, and return how many were new.

        One that is stored already (same domain, query, role, model and rollout) stays as it was:
        its answer may have been labelled. A query's reference, group, split and attributes
        follow the latest observation. Vectors take one Parquet file per call, model and set of
        read points, so append dozens of observations at a time. They are kept as float16.

        Raises:
            InputError: A query was stored before, under the same id, with other messages.
            StoreError: Also for vectors with NaN or infinite values.
        """
        by_key: dict[_Key, Observation] = {}
        for observation in observations:
            check_vectors(observation)
            by_key.setdefault(_key(observation), observation)
        if not by_key:
            return 0
        now = self._clock()
        with self._database.transaction(write=True) as connection:
            self._put_models(connection, by_key.values())
            self._put_queries(connection, by_key.values(), now)
            for key in _stored_keys(connection, by_key):
                del by_key[key]
            places = self._write_vectors(by_key)
            rows = [
                _rows.observation_row(observation, places.get(key), now)
                for key, observation in by_key.items()
            ]
            if rows:
                connection.execute(self._database.insert(_tables.observations), rows)
        return len(rows)

    def observed(self, domain: str, role: Role, model_key: str, rollout: int = 0) -> set[str]:
        """Ids of the queries that a model has answered: what a second run may skip.

        ``model_key`` is ``store.model_key`` of the model's identity or API name.
        """
        table = _tables.observations
        statement = select(table.c.query_id).where(
            table.c.domain == domain,
            table.c.role == role,
            table.c.model_key == model_key,
            table.c.rollout == rollout,
        )
        with self._database.transaction() as connection:
            return set(connection.scalars(statement))

    def put_outcomes(self, outcomes: Iterable[Outcome], *, model_key: str | None = None) -> None:
        """Store outcomes, all or none; each replaces the earlier one of the same key.

        An outcome judges the answer of one model: of ``model_key``, or else of the model that
        answered the query last in the outcome's role. Other weights need labels of their own.

        Raises:
            InputError: Outcomes of queries that are not stored, with their number.
        """
        by_domain: defaultdict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            by_domain[outcome.domain].append(outcome)
        if not by_domain:
            return
        now = self._clock()
        rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        table = _tables.outcomes
        with self._database.transaction(write=True) as connection:
            for domain, judged in by_domain.items():
                _refuse_unknown(connection, domain, judged)
                latest = {} if model_key is not None else _latest_models(connection, domain)
                for outcome in judged:
                    answered_by = model_key or latest.get((outcome.query_id, outcome.role), "")
                    row = {**asdict(outcome), "model_key": answered_by, "recorded_at": now}
                    rows[tuple(row[column.name] for column in table.primary_key)] = row
            statement = self._database.insert(table)
            replaced = ("value", "note", "recorded_at")
            statement = statement.on_conflict_do_update(
                index_elements=list(table.primary_key),
                set_={name: statement.excluded[name] for name in replaced},
            )
            connection.execute(statement, list(rows.values()))

    def observations(self, domain: str, role: Role | None = None) -> Iterator[Observation]:
        """Observations in the order they were stored, without their vectors.

        Those appended while iterating may or may not come.
        """
        statement = _rows.select_observations().where(_tables.observations.c.domain == domain)
        if role is not None:
            statement = statement.where(_tables.observations.c.role == role)
        statement = statement.order_by(_tables.observations.c.id).limit(_PAGE)
        last_id = 0
        while True:
            with self._database.transaction() as connection:
                page = connection.execute(
                    statement.where(_tables.observations.c.id > last_id)
                ).all()
            yield from map(_rows.observation_of, page)
            if len(page) < _PAGE:
                return
            last_id = page[-1].id

    def queries(self, domain: str) -> list[Query]:
        """The queries of a domain, by id."""
        with self._database.transaction() as connection:
            return _routing.queries_of(connection, domain)

    def metrics(self, domain: str) -> list[str]:
        """Names of the metrics that the domain's answers are labelled by."""
        column = _tables.outcomes.c.metric
        statement = select(column).where(_tables.outcomes.c.domain == domain).distinct()
        with self._database.transaction() as connection:
            return sorted(connection.scalars(statement))

    def load_routing_data(
        self,
        domain: str,
        *,
        metric: str | None = None,
        read_points: Sequence[ReadPoint] | None = None,
        split: Split | None = None,
        weak_model: str | None = None,
        strong_model: str | None = None,
    ) -> RoutingData:
        """The queries of a domain that the weak model has answered, as columns, by id.

        ``weak`` and ``strong`` hold the outcome of each query by ``metric``, NaN where there is
        none: of the most trusted source (human, then code, judge, client), averaged over its
        authors. What a prefill showed is that of the first rollout with vectors. Where the own
        tokens are not known, ``lengths`` holds all tokens of the prompt.

        Args:
            domain: Which domain.
            metric: Which outcomes; may be left out when the domain has one metric, or none.
            read_points: Which activations; when left out, the pooled ones that every query has
                (those of pooling ``tokens`` are large, so they are named or not loaded). Queries
                that lack one of the given points (an early exit) are left out, which is logged.
            split: Only the queries of one side of ``split_of``.
            weak_model: Key of the weak model, needed when several have answered.
            strong_model: Key of the strong model, needed when answers of several are labelled.

        Raises:
            TrainingDataError: No weak observation; several models where one was wanted, with
                their counts; a metric that the domain does not have.
            UnknownReadPointError: A read point that no observation has.
            InputError: Groups on both sides of the split.
        """
        with self._database.transaction() as connection:
            return _routing.load(
                connection,
                self._shards,
                _routing.Wanted(
                    domain=domain,
                    metric=metric,
                    read_points=None if read_points is None else tuple(read_points),
                    split=split,
                    weak_model=weak_model,
                    strong_model=strong_model,
                ),
            )

    def read_points(self, domain: str, *, weak_model: str | None = None) -> list[ReadPoint]:
        """Read points at which any weak observation of the domain has activations, sorted."""
        table = _tables.observations
        statement = select(table.c.vector_shard).where(
            table.c.domain == domain,
            table.c.role == "weak",
            table.c.vector_shard.is_not(None),
            *([] if weak_model is None else [table.c.model_key == weak_model]),
        )
        with self._database.transaction() as connection:
            shards = set(connection.scalars(statement.distinct()))
        return sorted({point for name in shards for point in self._shards.read_points(name or "")})

    def domains(self) -> list[DomainCounts]:
        """What is stored, by domain, in the order of their names."""
        with self._database.transaction() as connection:
            queries = _count(connection, _tables.queries.c.domain)
            answers = _count(connection, _tables.observations.c.domain, _tables.observations.c.role)
            outcomes = _count(connection, _tables.outcomes.c.domain)
        return [
            DomainCounts(
                domain=domain,
                queries=queries[domain,],
                weak=answers.get((domain, "weak"), 0),
                strong=answers.get((domain, "strong"), 0),
                outcomes=outcomes.get((domain,), 0),
            )
            for (domain,) in sorted(queries)
        ]

    def delete_domain(self, domain: str) -> int:
        """Erase all of a domain, vectors too, and return how many queries it had."""
        table = _tables.observations
        shards = select(table.c.vector_shard).where(table.c.domain == domain).distinct()
        with self._database.transaction(write=True) as connection:
            names = {name for name in connection.scalars(shards) if name is not None}
            if self._database.is_sqlite:
                # A crash may have left files that no row names. Here nobody else is writing.
                names |= self._shards.of_domain(domain)
                self._shards.remove_unfinished()
            removed = connection.execute(
                delete(_tables.queries).where(_tables.queries.c.domain == domain)
            )
        self._shards.remove(names)
        return removed.rowcount

    def close(self) -> None:
        """Close the database; safe to call twice."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _put_models(self, connection: Connection, observations: Iterable[Observation]) -> None:
        identities = {
            _rows.key_of(observation): None
            if observation.model is None
            else asdict(observation.model)
            for observation in observations
        }
        connection.execute(
            self._database.insert(_tables.models).on_conflict_do_nothing(),
            [{"key": key, "identity": identity} for key, identity in identities.items()],
        )

    def _put_queries(
        self, connection: Connection, observations: Iterable[Observation], now: float
    ) -> None:
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for observation in observations:
            row = _rows.query_row(observation.domain, observation.query, now)
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
        statement = self._database.insert(_tables.queries)
        followed = ("reference", "group_id", "split", "attributes")
        statement = statement.on_conflict_do_update(
            index_elements=list(_tables.queries.primary_key),
            set_={name: statement.excluded[name] for name in followed},
        )
        connection.execute(statement, list(rows.values()))

    def _write_vectors(self, observations: dict[_Key, Observation]) -> dict[_Key, tuple[str, int]]:
        """Shard and row of each observation that has vectors."""
        alike: defaultdict[tuple[Any, ...], list[_Key]] = defaultdict(list)
        for key, observation in observations.items():
            if observation.activations:
                shapes = {
                    (point, vector.shape[-1]) for point, vector in observation.activations.items()
                }
                alike[observation.domain, _rows.key_of(observation), frozenset(shapes)].append(key)
        places: dict[_Key, tuple[str, int]] = {}
        for (domain, model, _), keys in alike.items():
            name = self._shards.write(domain, model, [observations[key] for key in keys])
            places |= {key: (name, row) for row, key in enumerate(keys)}
        return places


def _key(observation: Observation) -> _Key:
    return (
        observation.domain,
        observation.query.id,
        observation.role,
        _rows.key_of(observation),
        observation.rollout,
    )


def _stored_keys(connection: Connection, keys: Iterable[_Key]) -> list[_Key]:
    """Those of ``keys`` that are stored."""
    wanted = set(keys)
    table = _tables.observations
    columns = (table.c.domain, table.c.query_id, table.c.role, table.c.model_key, table.c.rollout)
    stored: list[_Key] = []
    for domain, ids in _pages({(key[0], key[1]) for key in wanted}):
        statement = select(*columns).where(table.c.domain == domain, table.c.query_id.in_(ids))
        stored += [key for row in connection.execute(statement) if (key := tuple(row)) in wanted]
    return stored


def _pages(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """Domains with their query ids, at most a page of them: databases limit the parameters."""
    by_domain: defaultdict[str, list[str]] = defaultdict(list)
    for domain, query_id in pairs:
        by_domain[domain].append(query_id)
    for domain, ids in by_domain.items():
        for start in range(0, len(ids), _PAGE):
            yield domain, ids[start : start + _PAGE]


def _other_messages(domain: str, query_id: str) -> InputError:
    return InputError(
        f"query {query_id!r} of domain {domain!r} was stored with other messages; "
        "give the new query another id, or delete the domain first"
    )


def _refuse_unknown(connection: Connection, domain: str, outcomes: Sequence[Outcome]) -> None:
    known = set(
        connection.scalars(select(_tables.queries.c.id).where(_tables.queries.c.domain == domain))
    )
    unknown = sorted({outcome.query_id for outcome in outcomes} - known)
    if unknown:
        raise InputError(
            f"{len(unknown)} outcomes are of queries that domain {domain!r} does not have, such "
            f"as {unknown[0]!r}; collect the queries first, or check the domain's name"
        )


def _latest_models(connection: Connection, domain: str) -> dict[tuple[str, str], str]:
    """By query and role, the key of the model that answered last."""
    table = _tables.observations
    statement = (
        select(table.c.query_id, table.c.role, table.c.model_key)
        .where(table.c.domain == domain)
        .order_by(table.c.id)
    )
    return {(query_id, role): key for query_id, role, key in connection.execute(statement)}


def _count(connection: Connection, *columns: Any) -> dict[tuple[str, ...], int]:
    statement = select(*columns, func.count()).group_by(*columns)
    return {tuple(row[:-1]): row[-1] for row in connection.execute(statement)}
