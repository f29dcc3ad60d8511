"""A database with transactions that mean it: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError

from foretell.errors import StoreError
from foretell.store._migrate import migrate

_WRITE = "foretell_write"
_BUSY_TIMEOUT_MS = 30_000
_UNUSABLE = (DataError, IntegrityError, UnicodeEncodeError, OverflowError)


class UnusableValueError(StoreError):
    """The database will never take these values, so that trying again is in vain."""


class Database:
    """Opens, creates and migrates; hands out transactions; speaks of its URL without password."""

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self._name = parsed.render_as_string(hide_password=True)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        try:
            if self.is_sqlite:
                Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            self._engine: Engine | None = create_engine(parsed)
        except (OSError, ImportError, SQLAlchemyError) as error:
            raise StoreError(f"cannot open the store {self._name}: {error}") from error
        if self.is_sqlite:
            _configure_sqlite(self._engine)
        try:
            with self.transaction(write=True) as connection:
                migrate(connection)
        except StoreError:
            self.close()
            raise

    @contextmanager
    def transaction(self, *, write: bool = False) -> Generator[Connection]:
        """All of it or nothing. On SQLite, writers take turns; readers never wait."""
        if self._engine is None:
            raise StoreError(f"the store {self._name} is closed; open it again")
        try:
            with self._engine.connect() as connection:
                connection = connection.execution_options(**{_WRITE: write})
                with connection.begin():
                    yield connection
        except (SQLAlchemyError, UnicodeEncodeError, OverflowError) as error:
            # SQLAlchemy repeats the statement and its values, which may be a user's own text
            cause = getattr(error, "orig", None) or error
            kind = UnusableValueError if isinstance(error, _UNUSABLE) else StoreError
            raise kind(f"the store {self._name} failed: {_sentence(cause)}") from error

    def insert(self, table: Table) -> Any:
        """An INSERT that knows ``on_conflict_do_update``, which SQLAlchemy has per dialect."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def close(self) -> None:
        """Close all connections; safe to call twice."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        # the text is not repeated: it may hold a password
        raise StoreError(
            "the store's URL cannot be read; wanted something like 'sqlite:///foretell.db'"
        ) from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(f"the store cannot be kept in {backend!r}; use sqlite or postgresql")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreError(
            "the store needs a file to outlive the process; use 'sqlite:///foretell.db'"
        )
    return parsed


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        # sqlite3 must not begin transactions on its own: `begin` below does
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA journal_mode = WAL")
        # some builds of SQLite would let a loss of power undo what was committed last
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        # A writer that begins as a reader fails, instead of waiting, when another was faster.
        write = connection.get_execution_options().get(_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _sentence(cause: BaseException) -> str:
    text = str(cause)
    if "database is locked" in text:
        return "another process kept it locked for too long; stop that one, or try again"
    if "not a database" in text:
        return f"{text}; the file is damaged or of another program"
    return text
