from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import foretell.store
from foretell.errors import StoreError
from foretell.store import Store
from foretell.store._migrate import migrate
from foretell.store._tables import metadata

SCRIPTS = ScriptDirectory(str(Path(foretell.store.__file__).parent / "migrations"))
REVISIONS = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]

# One row in each table of the first revision.
FIRST_ROWS = """
INSERT INTO models VALUES ('big-1', NULL);
INSERT INTO queries VALUES ('geo', '1', '[{"role": "user", "content": "?"}]', NULL, NULL, NULL,
                            '{}', 1.0);
INSERT INTO observations VALUES (1, 'geo', '1', 'strong', 'big-1', 0, 'Paris', 'big-1', 'stop',
                                 3, 1, 0, NULL, NULL, NULL, NULL, NULL, NULL, 1.0);
INSERT INTO outcomes VALUES ('geo', '1', 'strong', 'big-1', 'right', 'code', '', 1.0, '', 1.0);
"""

# One row in the tables that the second revision added and the third one changed.
SECOND_ROWS = """
INSERT INTO requests (id, at, day, key_id, model, serve, action, status, streamed, explored,
                      seconds, domain)
    VALUES ('r', 1.0, '1970-01-01', 'key-1', 'small', 'weak', 'keep', 200, 0, 0, 0.5, 'geo');
INSERT INTO feedback VALUES ('r', 'good', 'client', 'ann', 1.0, 'fine', 2.0);
"""


def test_an_empty_database_gets_the_tables_as_the_code_knows_them(tmp_path):
    Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors").close()
    engine = sa.create_engine(f"sqlite:///{tmp_path}/a.db")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_database_of_the_first_revision_is_brought_up_to_date_with_its_rows(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/a.db")
    with engine.begin() as connection:
        migrate(connection, REVISIONS[0])
    engine.dispose()
    with closing(sqlite3.connect(tmp_path / "a.db")) as raw:
        raw.executescript(FIRST_ROWS)
    for _ in range(2):
        with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as store:
            (found,) = store.observations("geo")
            assert found.answer.text == "Paris"
            assert store.domains()[0].outcomes == 1
            assert store.spent_today() == (0.0, 0)
            assert (store.keys(), store.config_versions()) == ([], [])
            assert (store.events(), store.jobs()) == ([], [])
            assert (found.tenant, found.origin) == ("", "collected")


def test_a_database_of_the_second_revision_is_brought_up_to_date_with_its_rows(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/a.db")
    with engine.begin() as connection:
        migrate(connection, REVISIONS[1])
    engine.dispose()
    with closing(sqlite3.connect(tmp_path / "a.db")) as raw:
        raw.executescript(FIRST_ROWS + SECOND_ROWS)
    with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as store:
        record = store.request("r")
        assert record is not None
        assert (record.weak_model, record.weak_chance, record.shadow_probe) == (None,) * 3
        (vote,) = store.votes("geo")
        # whose it was is not known, so it counts for the key whose request it is about
        assert (vote.key_id, vote.author, vote.value) == ("key-1", "ann", 1.0)
        assert store.traffic("geo").ids == ("r",)
        assert [one.origin for one in store.observations("geo")] == ["collected"]


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_same_holds_on_postgresql(empty_postgresql, tmp_path, revision):
    engine = sa.create_engine(empty_postgresql)
    with engine.begin() as connection:
        migrate(connection, revision)
        # the databases write down what is true in different ways
        rows = SECOND_ROWS.replace("0, 0, 0.5", "false, false, 0.5")
        connection.exec_driver_sql(FIRST_ROWS + (rows if revision == REVISIONS[1] else ""))
    with Store.open(empty_postgresql, tmp_path / "vectors") as store:
        assert [one.answer.text for one in store.observations("geo")] == ["Paris"]
        assert [vote.key_id for vote in store.votes("geo")] == ["key-1"] * (
            revision == REVISIONS[1]
        )
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


@pytest.mark.parametrize("revision", REVISIONS)
def test_tables_of_any_revision_become_those_that_the_code_knows(tmp_path, revision):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/a.db")
    with engine.begin() as connection:
        migrate(connection, revision)
    Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors").close()
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_revisions_are_one_line_that_begins_with_the_first_tables():
    assert REVISIONS[0] == "0001"
    assert SCRIPTS.get_heads() == [REVISIONS[-1]]


def test_a_database_of_a_newer_version_is_refused(tmp_path):
    Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors").close()
    with closing(sqlite3.connect(tmp_path / "a.db")) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
        raw.commit()
    with pytest.raises(StoreError, match=r"another version of foretell .*'9999'.*; upgrade"):
        Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors")


def test_the_tables_are_understood_by_postgresql():
    # Without a server what can be checked is that every table can be written in its dialect.
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateIndex, CreateTable

    for table in metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))
        for index in table.indexes:
            assert "CREATE INDEX" in str(CreateIndex(index).compile(dialect=postgresql.dialect()))
