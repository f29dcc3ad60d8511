"""What was decided and noticed, for the record: rows are added, and never changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from foretell.records import Event
from foretell.store._database import Database
from foretell.store._tables import events
from foretell.store._texts import check_plain_json


def note(
    database: Database, kind: str, subject: str, *, by: str, details: Mapping[str, Any], at: float
) -> Event:
    """Write one event down."""
    check_plain_json(details, f"details of the event {kind!r} about {subject!r}")
    row: dict[str, Any] = {
        "at": at,
        "kind": kind,
        "subject": subject,
        "by": by,
        "details": dict(details),
    }
    with database.transaction(write=True) as connection:
        connection.execute(database.insert(events), row)
    return Event(**row)


def newest(
    database: Database, *, kind: str | None, subject: str | None, since: float | None, limit: int
) -> list[Event]:
    """Events, the newest first; of one moment, the one that was noted last."""
    statement = select(events).order_by(events.c.at.desc(), events.c.id.desc()).limit(limit)
    if kind is not None:
        statement = statement.where(events.c.kind == kind)
    if subject is not None:
        statement = statement.where(events.c.subject == subject)
    if since is not None:
        statement = statement.where(events.c.at >= since)
    with database.transaction() as connection:
        return [
            Event(kind=row.kind, subject=row.subject, at=row.at, by=row.by, details=row.details)
            for row in connection.execute(statement)
        ]
