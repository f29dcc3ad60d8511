"""Outcomes: how answers went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, select

from foretell.errors import InputError
from foretell.records import Outcome
from foretell.store import _tables
from foretell.store._database import Database


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
            _refuse_unknown(connection, domain, judged)
            latest = {} if model_key is not None else _latest_models(connection, domain)
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
