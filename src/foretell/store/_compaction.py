"""Compaction: many small shards become few."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from foretell.store._database import Database
from foretell.store._erasure import move, named, rows_of
from foretell.store._vectors import ShardGoneError, Shards

_SMALL_BYTES: Final = 8 * 2**20
"""Shards of at least this size stay as they are; merged ones get about as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """How many shards were merged, and into how many."""

    merged: int
    into: int


def compact(database: Database, shards: Shards) -> Compacted:
    """Merge small shards that are alike; readers go on, and see the old ones or the new."""
    with database.transaction() as connection:
        names = named(connection)
    merged = into = 0
    for batch in _batches(shards, names):
        if _merge(database, shards, batch):
            merged += len(batch)
            into += 1
    shards.manifest.rewrite()
    return Compacted(merged=merged, into=into)


def _batches(shards: Shards, names: set[str]) -> Iterator[Sequence[str]]:
    """Two or more small shards each, of the same kind, oldest first."""
    alike: defaultdict[str, list[tuple[float, str, int]]] = defaultdict(list)
    for name in names:
        size = shards.bytes(name)
        if 0 < size < _SMALL_BYTES:
            # Facts hold the scales, too: so values are copied as they are, and lose nothing.
            kind = json.dumps([shards.facts(name), _types(shards, name)], sort_keys=True)
            alike[kind].append((shards.written_at(name) or 0.0, name, size))
    for of_kind in alike.values():
        batch: list[str] = []
        total = 0
        for _, name, size in sorted(of_kind):
            batch.append(name)
            total += size
            if total >= _SMALL_BYTES:
                if len(batch) > 1:
                    yield batch
                batch, total = [], 0
        if len(batch) > 1:
            yield batch


def _types(shards: Shards, name: str) -> list[str]:
    """Of the columns: widths may differ between shards with the same read points."""
    return [f"{field.name}: {field.type}" for field in shards.schema(name)]


def _merge(database: Database, shards: Shards, names: Sequence[str]) -> bool:
    """Write one shard in the place of several; ``False`` when they changed meanwhile."""
    try:
        tables = [shards.whole_table(name) for name in names]
    except ShardGoneError:
        return False
    starts = dict(zip(names, _starts(tables), strict=True))
    with database.transaction(write=True) as connection:
        database.wait_for_other_rewriters(connection)
        found = rows_of(connection, names)
        # Whoever wrote them anew in the meantime has left rows out, which must not come back.
        if sum(map(len, found.values())) != sum(map(len, tables)):
            return False
        # Within the transaction: before, another process could take it for what a crash left.
        fresh = shards.write_table(pa.concat_tables(tables), shards.facts(names[0]))
        places: list[dict[str, Any]] = [
            {"observation": row_id, "shard": fresh, "row": starts[name] + row}
            for name, rows in found.items()
            for row_id, row in rows
        ]
        move(connection, places)
    shards.remove(names)
    return True


def _starts(tables: Sequence[Any]) -> list[int]:
    starts = [0]
    for table in tables:
        starts.append(starts[-1] + len(table))
    return starts[:-1]
