"""Brings a database, empty or older, to the tables as they are now."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from foretell.errors import StoreError

_MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(connection: Connection, revision: str = "head") -> None:
    """Apply the migrations up to ``revision`` that the database has not seen yet.

    ``connection`` must be in a write transaction, which the caller commits. Raises
    ``StoreError`` when the database was written by a newer foretell.
    """
    try:
        command.upgrade(alembic_config(connection), revision)
    except CommandError as error:
        raise StoreError(
            f"the database has tables of another version of foretell ({error}); "
            "upgrade foretell, or open another database"
        ) from error


def alembic_config(connection: Connection) -> Config:
    """What alembic needs to know: where the migrations are and what to run them on."""
    config = Config()
    # alembic interpolates its options like configparser
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
