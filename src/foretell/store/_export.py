"""What is stored, as files that other programs read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import JSON, BigInteger, Boolean, Double, Integer, Select, Table, select

from foretell.errors import InputError, StoreError
from foretell.store._database import Database
from foretell.store._sealed_columns import SealedJson
from foretell.store._tables import feedback, observations, outcomes, queries, requests
from foretell.store._vectors import Shards

ExportFormat = Literal["parquet", "jsonl"]

_PAGE: Final = 5_000
_TABLES: Final = (queries, observations, outcomes, requests, feedback)
_INNER: Final = ("id", "vector_shard", "vector_row")
"""Columns of ``observations`` that mean something only here."""


def export(
    database: Database, shards: Shards, folder: Path, *, domain: str | None, kind: ExportFormat
) -> list[Path]:
    """Write every table, and with Parquet the vectors; see ``Store.export``."""
    if kind not in get_args(ExportFormat):
        raise InputError(f"the format is {kind!r}; wanted parquet or jsonl")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            # Files of an earlier export may hold what was erased since.
            raise InputError(f"{folder} is not empty; name a new folder, or empty this one")
        written = [_table(database, folder, table, domain, kind) for table in _TABLES]
        if kind == "parquet":
            written += _vectors(database, shards, folder, domain)
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error
    return written


def _table(
    database: Database, folder: Path, table: Table, domain: str | None, kind: ExportFormat
) -> Path:
    columns = [
        column for column in table.c if table is not observations or column.name not in _INNER
    ]
    statement = select(*columns).order_by(*table.primary_key)
    if domain is not None:
        statement = _of_domain(statement, table, domain)
    path = folder / f"{table.name}.{kind}"
    with path.open("xb") as file:
        pages = _pages(database, statement)
        if kind == "jsonl":
            for page in pages:
                for row in page:
                    file.write(json.dumps(dict(row), ensure_ascii=False).encode() + b"\n")
        else:
            schema = pa.schema([(column.name, _arrow_type(column.type)) for column in columns])
            texts = [column.name for column in columns if _is_json(column.type)]
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for page in pages:
                    rows = [_as_text(dict(row), texts) for row in page]
                    writer.write_table(pa.Table.from_pylist(rows, schema))
    return path


def _of_domain(statement: Select[Any], table: Table, domain: str) -> Select[Any]:
    if table is feedback:
        return statement.join(requests).where(requests.c.domain == domain)
    return statement.where(table.c.domain == domain)


def _pages(database: Database, statement: Select[Any]) -> Iterator[Sequence[Any]]:
    with database.transaction() as connection:
        result = connection.execution_options(yield_per=_PAGE).execute(statement)
        yield from result.mappings().partitions(_PAGE)


def _vectors(database: Database, shards: Shards, folder: Path, domain: str | None) -> list[Path]:
    """One file for each shard, with the columns that join it to ``observations``."""
    statement = (
        select(
            observations.c.vector_shard,
            observations.c.vector_row,
            observations.c.domain,
            observations.c.query_id,
            observations.c.role,
            observations.c.model_key,
            observations.c.rollout,
        )
        .where(observations.c.vector_shard.is_not(None))
        .order_by(observations.c.vector_shard, observations.c.vector_row)
    )
    if domain is not None:
        statement = statement.where(observations.c.domain == domain)
    place = folder / "activations"
    place.mkdir()
    with database.transaction() as connection:
        rows = connection.execute(statement).all()
    by_shard: dict[str, list[Any]] = {}
    for row in rows:
        by_shard.setdefault(row.vector_shard, []).append(row)
    written = [_shard(shards, place, name, found) for name, found in by_shard.items()]
    return written + _subspaces(shards, folder, by_shard)


def _shard(shards: Shards, place: Path, name: str, rows: Sequence[Any]) -> Path:
    facts = shards.facts(name)
    stored = shards.whole_table(name).take(pa.array([row.vector_row for row in rows]))
    columns: dict[str, Any] = {
        of: [getattr(row, of) for row in rows]
        for of in ("domain", "query_id", "role", "model_key", "rollout")
    }
    columns["subspace"] = [facts.get("subspace", "")] * len(rows)
    table = pa.table(columns)
    for point, scale in facts["scales"].items():
        table = table.append_column(point, _scaled(stored[point].combine_chunks(), scale))
    path = place / f"{name.partition('.')[0]}.parquet"
    pq.write_table(table, path, compression="zstd")
    return path


def _scaled(column: Any, scale: float) -> Any:
    """Lists of float32 out of lists of float16 that were scaled; lists of lists alike."""
    if isinstance(column, pa.ListArray):
        return pa.ListArray.from_arrays(column.offsets, _scaled(column.values, scale))
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    scaled = pa.array(values * np.float32(scale))
    return pa.FixedSizeListArray.from_arrays(scaled, column.type.list_size)


def _subspaces(shards: Shards, folder: Path, names: dict[str, list[Any]]) -> list[Path]:
    written: list[Path] = []
    for subspace in sorted({shards.subspace(name) for name in names} - {""}):
        source = shards.subspaces.path(subspace)
        path = folder / "subspaces" / source.name
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, path)
        written.append(path)
    return written


def _arrow_type(kind: Any) -> Any:
    for known, arrow in (
        (Boolean, pa.bool_()),
        (BigInteger, pa.int64()),
        (Integer, pa.int64()),
        (Double, pa.float64()),
    ):
        if isinstance(kind, known):
            return arrow
    return pa.string()


def _is_json(kind: Any) -> bool:
    return isinstance(kind, JSON | SealedJson)


def _as_text(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """With what is JSON as text: its shape differs from row to row."""
    for name in names:
        if row[name] is not None:
            row[name] = json.dumps(row[name], ensure_ascii=False)
    return row
