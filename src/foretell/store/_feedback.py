"""What people and programs say about requests."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Literal

from sqlalchemy import Connection, and_, delete, exists, select

from foretell.errors import InputError
from foretell.records import Feedback
from foretell.store._database import Database
from foretell.store._tables import feedback, requests
from foretell.store._texts import is_storable

_REPLACED = ("value", "note", "recorded_at", "key_id")
_FIELDS = [feedback.c[field.name] for field in fields(Feedback)]


def put(
    database: Database, given: Feedback, *, key_id: str, recorded_at: float
) -> Literal["created", "replaced"]:
    """Store one piece of feedback in the place of the earlier one by the same author."""
    for name in ("request_id", "metric", "author", "note"):
        if not is_storable(getattr(given, name)):
            raise InputError(
                f"{name} of the feedback holds a character that cannot be stored (NUL or half a "
                "surrogate pair); leave it out"
            )
    statement = database.insert(feedback)
    statement = statement.on_conflict_do_update(
        index_elements=list(feedback.primary_key),
        set_={name: statement.excluded[name] for name in _REPLACED},
    )
    with database.transaction(write=True) as connection:
        if not _known(connection, given.request_id, key_id):
            # the same words whether the request is another key's or nobody's
            raise InputError(
                f"no request {given.request_id!r} is known; wanted the x-request-id of an answer "
                "to the same API key that was not erased since"
            )
        place = _place(given.request_id, given.metric, given.source, given.author)
        was_there = connection.scalar(select(exists().where(place)))
        row = {**asdict(given), "recorded_at": recorded_at, "key_id": key_id}
        connection.execute(statement, row)
    return "replaced" if was_there else "created"


def of_request(database: Database, request_id: str) -> list[Feedback]:
    """All feedback on one request, in the order of metric, source and author."""
    if not is_storable(request_id):
        return []
    statement = select(*_FIELDS).where(feedback.c.request_id == request_id)
    with database.transaction() as connection:
        found = [Feedback(**row) for row in connection.execute(statement).mappings()]
    return sorted(found, key=lambda given: (given.metric, given.source, given.author))


def erase(
    database: Database, request_id: str, *, metric: str, source: str, author: str, key_id: str
) -> bool:
    """Delete one piece of feedback; whether it was there."""
    if not all(map(is_storable, (request_id, metric, source, author))):
        return False
    place = _place(request_id, metric, source, author)
    with database.transaction(write=True) as connection:
        if not _known(connection, request_id, key_id):
            return False
        return connection.execute(delete(feedback).where(place)).rowcount > 0


def _known(connection: Connection, request_id: str, key_id: str) -> bool:
    """Whether a request is stored and, when ``key_id`` is not empty, belongs to that key."""
    condition = requests.c.id == request_id
    if key_id:
        condition = and_(condition, requests.c.key_id == key_id)
    return bool(connection.scalar(select(exists().where(condition))))


def _place(request_id: str, metric: str, source: str, author: str) -> Any:
    return and_(
        feedback.c.request_id == request_id,
        feedback.c.metric == metric,
        feedback.c.source == source,
        feedback.c.author == author,
    )
