"""Erasure: rows vanish from the database, and their vectors from the shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    delete,
    false,
    func,
    or_,
    select,
    update,
)

from foretell.errors import InputError
from foretell.store._database import Database
from foretell.store._tables import feedback, observations, outcomes, queries, requests
from foretell.store._vectors import Shards

_PAGE: Final = 500

Condition = ColumnElement[bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """How much was erased; ``vectors`` counts the answers that had some."""

    queries: int = 0
    requests: int = 0
    feedback: int = 0
    outcomes: int = 0
    vectors: int = 0

    def __add__(self, other: Erased) -> Erased:
        return Erased(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__slots__}
        )


def erase(
    database: Database,
    shards: Shards,
    *,
    tenant: str | None,
    request_ids: Sequence[str] | None,
    domain: str | None,
) -> Erased:
    """Erase what all given conditions hold for; see ``Store.erase``."""
    of_queries: list[Condition] = []
    of_requests: list[Condition] = []
    if tenant is None and request_ids is None and domain is None:
        raise InputError("say what to erase: of a tenant, of requests by their ids, or a domain")
    if tenant is not None:
        of_queries.append(queries.c.tenant == tenant)
        of_requests.append(requests.c.key_id == tenant)
    if request_ids is not None:
        pages = [request_ids[at : at + _PAGE] for at in range(0, len(request_ids), _PAGE)]
        of_queries.append(or_(false(), *(queries.c.id.in_(page) for page in pages)))
        of_requests.append(or_(false(), *(requests.c.id.in_(page) for page in pages)))
    if of_queries and not tenant:
        # What was collected belongs to no tenant, and may have ids of its own that look alike.
        of_queries.append(queries.c.origin == "traffic")
    if domain is not None:
        of_queries.append(queries.c.domain == domain)
        if of_requests:
            of_requests.append(requests.c.domain == domain)
    return erase_where(
        database,
        shards,
        of_queries=and_(*of_queries),
        of_requests=and_(*of_requests) if of_requests else None,
    )


def erase_where(
    database: Database, shards: Shards, *, of_queries: Condition, of_requests: Condition | None
) -> Erased:
    """Erase queries, with all that hangs on them, and requests with their feedback.

    Shards are written anew without the erased rows, and named, in the same transaction; the old
    ones go when it is committed. A crash leaves all as it was, or files that no row names, which
    the next erasure, or ``check``, removes.
    """
    with database.transaction(write=True) as connection:
        database.overwrite_what_is_deleted(connection)
        database.wait_for_other_rewriters(connection)
        doomed = select(observations.c.id, observations.c.vector_shard).join(queries)
        # Locked, so that vectors which are just being added are known before the row is deleted.
        rows = connection.execute(doomed.where(of_queries).with_for_update(of=observations)).all()
        touched = {row.vector_shard for row in rows if row.vector_shard is not None}
        n_outcomes = connection.scalar(
            select(func.count()).select_from(outcomes.join(queries)).where(of_queries)
        )
        n_queries = connection.execute(delete(queries).where(of_queries)).rowcount
        n_feedback = n_requests = 0
        if of_requests is not None:
            n_feedback = connection.scalar(
                select(func.count()).select_from(feedback.join(requests)).where(of_requests)
            )
            n_requests = connection.execute(delete(requests).where(of_requests)).rowcount
        _rewrite(connection, shards, touched)
        if database.is_sqlite:
            # A crash may have left files that no row names. Here nobody else is writing.
            touched |= orphans(connection, shards) | shards.unfinished()
    shards.remove(touched)
    if n_queries or n_requests:
        database.forget_what_was_overwritten()
    return Erased(
        queries=n_queries,
        requests=n_requests,
        feedback=n_feedback or 0,
        outcomes=n_outcomes or 0,
        vectors=sum(row.vector_shard is not None for row in rows),
    )


def orphans(connection: Connection, shards: Shards) -> set[str]:
    """Shards in the folder that no row names."""
    return shards.names() - named(connection)


def named(connection: Connection) -> set[str]:
    """Shards that a row names."""
    names = select(observations.c.vector_shard).distinct()
    return {name for name in connection.scalars(names) if name is not None}


def rows_of(connection: Connection, names: Iterable[str]) -> dict[str, list[tuple[int, int]]]:
    """Of each shard the ids of the rows that name it, and where in it their vectors are."""
    found: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    ordered = sorted(names)
    for start in range(0, len(ordered), _PAGE):
        statement = (
            select(observations.c.vector_shard, observations.c.id, observations.c.vector_row)
            .where(observations.c.vector_shard.in_(ordered[start : start + _PAGE]))
            .order_by(observations.c.vector_row)
        )
        for name, row_id, row in connection.execute(statement):
            found[name].append((row_id, row))
    return found


def move(connection: Connection, places: Sequence[dict[str, Any]]) -> None:
    """Name new shards: a place is an ``observation`` and its ``shard`` and ``row`` from now on."""
    table = observations
    statement = (
        update(table)
        .where(table.c.id == bindparam("observation"))
        .values(vector_shard=bindparam("shard"), vector_row=bindparam("row"))
    )
    connection.execute(statement, places)


def _rewrite(connection: Connection, shards: Shards, names: Iterable[str]) -> None:
    """Write shards anew with the rows that are still named, and name those instead."""
    for name, left in rows_of(connection, names).items():
        table = shards.whole_table(name).take(pa.array([row for _, row in left]))
        fresh = shards.write_table(table, shards.facts(name))
        move(
            connection,
            [
                {"observation": row_id, "shard": fresh, "row": position}
                for position, (row_id, _) in enumerate(left)
            ],
        )
