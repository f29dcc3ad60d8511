"""How much is stored, and of whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from foretell.store import _tables
from foretell.store._database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainCounts:
    """How much of a domain is stored. ``weak`` and ``strong`` count observations."""

    domain: str
    queries: int
    weak: int
    strong: int
    outcomes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantCounts:
    """How much is stored of whom: the id of an API key, or ``""`` for who needed none."""

    tenant: str
    queries: int
    requests: int


def counts(database: Database) -> list[DomainCounts]:
    """What is stored, by domain, in the order of their names."""
    with database.transaction() as connection:
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


def tenants(database: Database) -> list[TenantCounts]:
    """What came with each key, and was imported for it, in the order of their ids."""
    mine = (_tables.queries.c.tenant != "") | (_tables.queries.c.origin == "traffic")
    with database.transaction() as connection:
        queries = _count(connection, _tables.queries.c.tenant, where=mine)
        requests = _count(connection, _tables.requests.c.key_id)
    return [
        TenantCounts(
            tenant=tenant, queries=queries.get((tenant,), 0), requests=requests.get((tenant,), 0)
        )
        for (tenant,) in sorted(queries.keys() | requests.keys())
    ]


def _count(
    connection: Connection, *columns: Any, where: ColumnElement[bool] | None = None
) -> dict[tuple[str, ...], int]:
    statement = select(*columns, func.count()).group_by(*columns)
    if where is not None:
        statement = statement.where(where)
    return {tuple(row[:-1]): row[-1] for row in connection.execute(statement)}
