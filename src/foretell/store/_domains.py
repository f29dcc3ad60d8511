"""How much is stored of each domain, and its erasure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select

from foretell.store import _tables
from foretell.store._database import Database
from foretell.store._vectors import Shards


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


def erase(database: Database, shards: Shards, domain: str) -> int:
    """Erase all of a domain, vectors too, and return how many queries it had."""
    table = _tables.observations
    named = select(table.c.vector_shard).where(table.c.domain == domain).distinct()
    with database.transaction(write=True) as connection:
        names = {name for name in connection.scalars(named) if name is not None}
        if database.is_sqlite:
            # A crash may have left files that no row names. Here nobody else is writing.
            names |= shards.of_domain(domain)
            shards.remove_unfinished()
        removed = connection.execute(
            delete(_tables.queries).where(_tables.queries.c.domain == domain)
        )
    shards.remove(names)
    return removed.rowcount


def _count(connection: Connection, *columns: Any) -> dict[tuple[str, ...], int]:
    statement = select(*columns, func.count()).group_by(*columns)
    return {tuple(row[:-1]): row[-1] for row in connection.execute(statement)}
