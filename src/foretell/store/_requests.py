"""Requests that a gateway served: written once, read back, erased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, delete, func, select

from foretell.errors import InputError
from foretell.records import MeteredUsage, RequestRecord
from foretell.store._database import Database
from foretell.store._days import day_of
from foretell.store._tables import requests
from foretell.store._texts import is_storable

_PLAIN = tuple(field.name for field in fields(RequestRecord) if field.name != "usage")
_TOKENS = tuple(field.name for field in fields(MeteredUsage))
_NO_TOKENS: dict[str, Any] = dict.fromkeys(_TOKENS)


def append(database: Database, connection: Connection, records: Sequence[RequestRecord]) -> None:
    """Store records; one whose id is stored stays as it was."""
    if records:
        statement = database.insert(requests).on_conflict_do_nothing(index_elements=[requests.c.id])
        connection.execute(statement, [_row(record) for record in records])


def find(database: Database, request_id: str) -> RequestRecord | None:
    """The record of one request."""
    if not is_storable(request_id):
        return None
    with database.transaction() as connection:
        row = connection.execute(select(requests).where(requests.c.id == request_id)).first()
    return None if row is None else _record(row)


def newest(
    database: Database, *, since: float | None, key_id: str | None, route: str | None, limit: int
) -> list[RequestRecord]:
    """Records, newest first."""
    statement = select(requests).order_by(requests.c.at.desc(), requests.c.id).limit(limit)
    if since is not None:
        statement = statement.where(requests.c.at >= since)
    if key_id is not None:
        statement = statement.where(requests.c.key_id == key_id)
    if route is not None:
        statement = statement.where(requests.c.route == route)
    with database.transaction() as connection:
        return [_record(row) for row in connection.execute(statement)]


def decided(database: Database, route: str, domain: str | None) -> int:
    """How many requests a route's own rule has decided."""
    statement = (
        select(func.count())
        .select_from(requests)
        .where(requests.c.route == route, requests.c.weak_chance.is_not(None))
    )
    if domain is not None:
        statement = statement.where(requests.c.domain == domain)
    with database.transaction() as connection:
        return connection.scalar(statement) or 0


def erase(database: Database, *, before: float | None, key_id: str | None) -> int:
    """Delete records, their feedback with them, and return how many there were."""
    if before is None and key_id is None:
        raise InputError(
            "say which requests to erase: those before a time, those of a key, or both"
        )
    statement = delete(requests)
    if before is not None:
        statement = statement.where(requests.c.at < before)
    if key_id is not None:
        statement = statement.where(requests.c.key_id == key_id)
    with database.transaction(write=True) as connection:
        return connection.execute(statement).rowcount


def _row(record: RequestRecord) -> dict[str, Any]:
    # Not `asdict`, which copies deeply: this runs for every request.
    row = {name: getattr(record, name) for name in _PLAIN}
    row["day"] = day_of(record.at)
    usage = record.usage
    row |= _NO_TOKENS if usage is None else {name: getattr(usage, name) for name in _TOKENS}
    return row


def _record(row: Any) -> RequestRecord:
    plain = {name: getattr(row, name) for name in _PLAIN}
    tokens = {name: getattr(row, name) for name in _TOKENS}
    return RequestRecord(
        **plain, usage=None if row.prompt_tokens is None else MeteredUsage(**tokens)
    )
