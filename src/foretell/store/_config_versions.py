"""Which configurations were in force, so that one can be gone back to."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from foretell.store._database import Database
from foretell.store._tables import config_versions


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigVersion:
    """A configuration as it came into force.

    ``number`` counts from 1 in the order in which they came; some may be left out. ``hash`` tells
    texts apart, ``by`` says who or what brought it, ``at`` is seconds since 1970 (UTC).
    """

    number: int
    hash: str
    text: str
    by: str
    at: float


def put(database: Database, config_hash: str, text: str, by: str, at: float) -> bool:
    """Store a version, unless the newest one has the same hash; whether it was stored."""
    newest = select(config_versions.c.hash).order_by(config_versions.c.number.desc()).limit(1)
    row = {"hash": config_hash, "text": text, "by": by, "at": at}
    with database.transaction(write=True) as connection:
        if connection.scalar(newest) == config_hash:
            return False
        connection.execute(database.insert(config_versions), row)
    return True


def all_versions(database: Database) -> list[ConfigVersion]:
    """All versions, newest first."""
    statement = select(config_versions).order_by(config_versions.c.number.desc())
    with database.transaction() as connection:
        return [ConfigVersion(**row) for row in connection.execute(statement).mappings()]
