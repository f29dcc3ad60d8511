"""Outcomes: how answers went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, or_, select

from foretell.errors import InputError
from foretell.records import Outcome, Role
from foretell.store import _tables
from foretell.store._database import Database
from foretell.store._pages import pages


def put(
    database: Database, outcomes: Iterable[Outcome], *, model_key: str | None, recorded_at: float
) -> None:
    """Store outcomes, all or none; each replaces the earlier one of the same key."""
    by_domain: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_domain[outcome.domain].append(outcome)
    if not by_domain:
        return
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    table = _tables.outcomes
    with database.transaction(write=True) as connection:
        for domain, judged in by_domain.items():
            ids = sorted({outcome.query_id for outcome in judged})
            _refuse_unknown(connection, domain, ids)
            latest = {} if model_key is not None else _latest_models(connection, domain, ids)
            for outcome in judged:
                answered_by = model_key or latest.get((outcome.query_id, outcome.role), "")
                row = {**asdict(outcome), "model_key": answered_by, "recorded_at": recorded_at}
                rows[tuple(row[column.name] for column in table.primary_key)] = row
        statement = database.insert(table)
        replaced = ("value", "note", "recorded_at")
        statement = statement.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={name: statement.excluded[name] for name in replaced},
        )
        connection.execute(statement, list(rows.values()))


def metrics(database: Database, domain: str) -> list[str]:
    """Names of the metrics that the domain's answers are labelled by."""
    column = _tables.outcomes.c.metric
    statement = select(column).where(_tables.outcomes.c.domain == domain).distinct()
    with database.transaction() as connection:
        return sorted(connection.scalars(statement))


def unlabelled(
    database: Database, domain: str, metric: str, role: Role, source: str | None
) -> set[str]:
    """Ids of the queries whose answer, or one of them, nobody has judged by a metric."""
    answer, outcome = _tables.observations.c, _tables.outcomes.c
    judged = and_(
        outcome.domain == answer.domain,
        outcome.query_id == answer.query_id,
        outcome.role == answer.role,
        or_(outcome.model_key == answer.model_key, outcome.model_key == ""),
        outcome.metric == metric,
    )
    if source is not None:
        judged = and_(judged, outcome.source == source)
    statement = (
        select(answer.query_id)
        .where(answer.domain == domain, answer.role == role, ~exists().where(judged))
        .distinct()
    )
    with database.transaction() as connection:
        return set(connection.scalars(statement))


def counts(database: Database, domain: str, role: Role) -> Mapping[str, int]:
    """How many answers each source has judged, in the order of the sources' names."""
    table = _tables.outcomes
    judged = (
        select(table.c.source, table.c.query_id, table.c.model_key)
        .where(table.c.domain == domain, table.c.role == role, table.c.value.is_not(None))
        .distinct()
        .subquery()
    )
    n = func.count().label("n")
    statement = select(judged.c.source, n).group_by(judged.c.source).order_by(judged.c.source)
    with database.transaction() as connection:
        return {row.source: row.n for row in connection.execute(statement)}


def _refuse_unknown(connection: Connection, domain: str, query_ids: Sequence[str]) -> None:
    queries = _tables.queries.c
    known: set[str] = set()
    for page in pages(query_ids):
        stored = select(queries.id).where(queries.domain == domain, queries.id.in_(page))
        known |= set(connection.scalars(stored))
    unknown = [query_id for query_id in query_ids if query_id not in known]
    if unknown:
        raise InputError(
            f"{len(unknown)} outcomes are of queries that domain {domain!r} does not have, such "
            f"as {unknown[0]!r}; collect the queries first, or check the domain's name"
        )


def _latest_models(
    connection: Connection, domain: str, query_ids: Sequence[str]
) -> dict[tuple[str, str], str]:
    """By query and role, the key of the model that answered last."""
    table = _tables.observations
    latest: dict[tuple[str, str], str] = {}
    for page in pages(query_ids):
        statement = (
            select(table.c.query_id, table.c.role, table.c.model_key)
            .where(table.c.domain == domain, table.c.query_id.in_(page))
            .order_by(table.c.id)
        )
        for query_id, role, key in connection.execute(statement):
            latest[query_id, role] = key
    return latest


def by_model(database: Database, domain: str) -> Mapping[str, list[Outcome]]:
    """All outcomes of a domain, by the key of the model that answered."""
    table = _tables.outcomes
    statement = select(table).where(table.c.domain == domain).order_by(*table.primary_key)
    found = defaultdict[str, list[Outcome]](list)
    with database.transaction() as connection:
        for row in connection.execute(statement).mappings():
            fields = dict(row)
            del fields["recorded_at"]
            found[fields.pop("model_key")].append(Outcome(**fields))
    return found


def erase(database: Database, outcomes: Iterable[Outcome], *, model_key: str | None) -> int:
    """Delete outcomes by all that identifies them, and return how many there were."""
    names = ("domain", "query_id", "role", "metric", "source", "author")
    columns = _tables.outcomes.c
    erased = 0
    with database.transaction(write=True) as connection:
        for outcome in outcomes:
            place = and_(*(columns[name] == getattr(outcome, name) for name in names))
            if model_key is not None:
                place = and_(place, columns.model_key == model_key)
            erased += connection.execute(delete(_tables.outcomes).where(place)).rowcount
    return erased
