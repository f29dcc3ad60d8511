"""What a store knows of itself."""

from __future__ import annotations

import secrets

from sqlalchemy import select

from foretell.store._database import Database
from foretell.store._tables import store_facts

_SALT_BYTES = 32


def salt(database: Database) -> bytes:
    """The store's own random bytes, made when they are first asked for."""
    statement = database.insert(store_facts).on_conflict_do_nothing()
    chosen = select(store_facts.c.value).where(store_facts.c.name == "salt")
    with database.transaction() as connection:
        found = connection.scalar(chosen)
    if found is None:
        with database.transaction(write=True) as connection:
            # another process may have been faster, and then its salt is the store's
            connection.execute(statement, {"name": "salt", "value": secrets.token_hex(_SALT_BYTES)})
            found = connection.scalars(chosen).one()
    return bytes.fromhex(found)
