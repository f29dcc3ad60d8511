"""A database with transactions that mean it: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Select,
    Table,
    cast,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError

from foretell.errors import StoreError
from foretell.store._cipher import Cipher
from foretell.store._encryption import require_key
from foretell.store._migrate import migrate
from foretell.store._sealed_columns import encrypt_columns
from foretell.store._tables import metadata

_WRITE = "foretell_write"
_BUSY_TIMEOUT_MS = 30_000
_EMPTYING_TIMEOUT_MS = 500
_MIGRATION_LOCK = 0x666F726574656C6C  # any number, as long as nothing else takes it
# Unless the URL says otherwise: a server that has vanished from the network is given up on after
# about half a minute, where the system's own patience is hours.
_POSTGRESQL_PATIENCE = {
    "connect_timeout": "10",
    "keepalives_idle": "20",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
_REWRITERS = 0x666F7265  # any number that other programs on the database will not think of
_UNUSABLE = (DataError, IntegrityError, UnicodeEncodeError, OverflowError)


class UnusableValueError(StoreError):
    """The database will never take these values, so that trying again is in vain."""


class Database:
    """Opens, creates and migrates; hands out transactions; speaks of its URL without password."""

    def __init__(self, url: str, *, cipher: Cipher | None = None) -> None:
        parsed = _parse(url)
        self._name = parsed.set(query={}).render_as_string(hide_password=True)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        try:
            if self.is_sqlite:
                Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            # A connection that a restart of the server has ended is found out before it is used.
            self._engine: Engine | None = create_engine(parsed, pool_pre_ping=not self.is_sqlite)
        except ModuleNotFoundError as error:
            raise StoreError(
                f"cannot open the store {self._name}: {error}; PostgreSQL needs the extra "
                "'postgres': pip install 'foretell[postgres]'"
            ) from error
        except (OSError, ImportError, SQLAlchemyError) as error:
            raise StoreError(f"cannot open the store {self._name}: {error}") from error
        if cipher is not None:
            encrypt_columns(self._engine.dialect, cipher)
        if self.is_sqlite:
            # Many rows in one statement. Each statement lets another thread have the interpreter,
            # and beside a busy one it may take milliseconds to get it back.
            self._engine.dialect.use_insertmanyvalues_wo_returning = True
            _configure_sqlite(self._engine)
        try:
            with self.transaction(write=True) as connection:
                if not self.is_sqlite:  # where writers take no turns by themselves
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
                migrate(connection)
                require_key(connection, cipher)
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

    def fetch_at_once(
        self, connection: Connection, statement: Select[*tuple[Any, ...]]
    ) -> Sequence[Any]:
        """All rows of a statement whose columns are numbers and text.

        On SQLite each row that is fetched lets another thread have the interpreter, as each
        statement does, so they come as one.
        """
        if not self.is_sqlite:
            return connection.execute(statement).all()
        rows = statement.subquery()
        return json.loads(
            connection.scalars(select(func.json_group_array(func.json_array(*rows.c)))).one()
        )

    def numbered(self, values: Sequence[int]) -> tuple[ColumnElement[int], ColumnElement[int]]:
        """Columns of a table made of ``values``, and of their positions from 0."""
        if self.is_sqlite:
            each = func.json_each(json.dumps(values)).table_valued("key", "value")
            return each.c.value, each.c.key
        array = cast(values, postgresql.ARRAY(BigInteger))
        each = func.unnest(array).table_valued("value", with_ordinality="position")
        each = each.render_derived()
        return each.c.value, each.c.position - 1

    def overwrite_what_is_deleted(self, connection: Connection) -> None:
        """Have SQLite fill the room of deleted rows with zeros, on this connection from now on."""
        if self.is_sqlite:
            connection.exec_driver_sql("PRAGMA secure_delete = ON")

    def wait_for_other_rewriters(self, connection: Connection) -> None:
        """Only one at a time writes shards anew; on SQLite there is only one writer anyway."""
        if not self.is_sqlite:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_REWRITERS})")

    def forget_what_was_overwritten(self) -> None:
        """Have SQLite empty its log, which still holds pages as they were, if nobody reads them."""
        if not self.is_sqlite or self._engine is None:
            return
        connection = self._engine.raw_connection()
        try:
            cursor = connection.cursor()
            # Writers wait meanwhile, and a long read is not worth that: the next one empties it.
            cursor.execute(f"PRAGMA busy_timeout = {_EMPTYING_TIMEOUT_MS}")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        finally:
            connection.close()

    def size(self) -> int:
        """Bytes of all rows, without the room that deleted ones left."""
        if self.is_sqlite:
            pages = "SELECT (SELECT page_count FROM pragma_page_count) - freelist_count"
            used = f"{pages}, page_size FROM pragma_freelist_count, pragma_page_size"
            with self.transaction() as connection:
                n_pages, page_bytes = connection.exec_driver_sql(used).one()
            return n_pages * page_bytes
        with self.transaction() as connection:
            return sum(
                connection.exec_driver_sql(
                    f"SELECT coalesce(sum(pg_column_size(t.*)), 0) FROM {table.name} t"  # noqa: S608
                ).scalar_one()
                for table in metadata.sorted_tables
            )

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
    if backend == "postgresql":
        return parsed.set(query={**_POSTGRESQL_PATIENCE, **parsed.query})
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
