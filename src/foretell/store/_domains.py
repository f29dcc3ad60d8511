"""How much is stored of each domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

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


def _count(connection: Connection, *columns: Any) -> dict[tuple[str, ...], int]:
    statement = select(*columns, func.count()).group_by(*columns)
    return {tuple(row[:-1]): row[-1] for row in connection.execute(statement)}
