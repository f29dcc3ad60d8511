"""Vectors in Parquet files, called shards.

A shard has the columns ``query_id``, ``rollout`` and one per read point, a fixed-size list of
float16, compressed with zstd; a read point of pooling ``tokens`` is a list of such lists, one a
token. The file's metadata under the key ``foretell`` is a JSON object
with the format's version, the domain, the model's key and, by column, the ``scales``: stored
value times scale is the activation.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foretell.errors import StoreError
from foretell.records import Observation, ReadPoint

_FORMAT = 1
_METADATA_KEY = b"foretell"
_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


class Shards:
    """The Parquet files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot keep vectors in {folder}: {error.strerror}") from error

    def write(self, domain: str, key: str, rows: Sequence[Observation]) -> str:
        """Write one shard and return its name; row i is ``rows[i]``.

        All rows must have the same read points. The name exists only once the whole file is on
        the disk; a crash before that leaves at most a file that ends in ``.tmp``.
        """
        scales: dict[str, float] = {}
        columns: dict[str, pa.Array[Any]] = {
            "query_id": pa.array([row.query.id for row in rows], pa.string()),
            "rollout": pa.array([row.rollout for row in rows], pa.int32()),
        }
        for point in sorted(rows[0].activations):
            vectors = [np.atleast_2d(row.activations[point]) for row in rows]
            values = np.concatenate(vectors)
            scales[point.name] = scale = _scale(values)
            flat = pa.array((values / scale).astype(np.float16).ravel())
            column = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
            if point.pooling == "tokens":
                starts = np.cumsum([0, *map(len, vectors)], dtype=np.int32)
                column = pa.ListArray.from_arrays(pa.array(starts), column)
            columns[point.name] = column
        facts = {"format": _FORMAT, "domain": domain, "model_key": key, "scales": scales}
        table = pa.table(columns).replace_schema_metadata({_METADATA_KEY: json.dumps(facts)})
        name = f"{re.sub(r'[^A-Za-z0-9]+', '-', domain)[:40]}-{uuid.uuid4().hex}.parquet"
        try:
            self._write_durably(table, name)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"cannot write vectors to {self._folder / name}: {error}") from error
        return name

    def read_points(self, name: str) -> frozenset[ReadPoint]:
        """The read points that a shard has."""
        return frozenset(ReadPoint.parse(column) for column in self._facts(name)["scales"])

    def read(
        self, name: str, rows: NDArray[np.int64], ids: Sequence[str], points: Iterable[ReadPoint]
    ) -> dict[ReadPoint, list[NDArray[np.float32]]]:
        """Activations of each of ``rows``, which must belong to the queries ``ids``.

        Each is (width,), or (tokens, width) at a point of pooling ``tokens``.
        """
        points = list(points)
        scales: Mapping[str, float] = self._facts(name)["scales"]
        try:
            table = pq.read_table(
                self._folder / name, columns=["query_id", *(point.name for point in points)]
            )
            taken = table.take(pa.array(rows))
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(name, error) from error
        if taken["query_id"].to_pylist() != list(ids):
            raise StoreError(
                f"{self._folder / name} holds vectors of other queries than the database says; "
                "restore the vectors folder and the database from the same backup"
            )
        return {
            point: _to_numpy(taken[point.name], np.float32(scales[point.name])) for point in points
        }

    def of_domain(self, domain: str) -> set[str]:
        """Names of all shards with vectors of a domain, whether the database knows them or not."""
        names = (path.name for path in self._folder.glob("*.parquet"))
        return {name for name in names if self._facts(name)["domain"] == domain}

    def remove(self, names: Iterable[str]) -> None:
        """Delete shards; one that is gone already is no error."""
        for name in names:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(
                    f"cannot delete {self._folder / name}: {error.strerror}"
                ) from error

    def remove_unfinished(self) -> None:
        """Delete what a crash left half-written; nothing must be writing at the same time."""
        self.remove(path.name for path in self._folder.glob("*.tmp"))

    def _write_durably(self, table: Any, name: str) -> None:
        unfinished = self._folder / f"{name}.tmp"
        with unfinished.open("xb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._folder / name)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, must survive a loss of power
        finally:
            os.close(folder)

    def _facts(self, name: str) -> dict[str, Any]:
        try:
            metadata = pq.read_schema(self._folder / name).metadata or {}
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(name, error) from error
        facts = json.loads(metadata.get(_METADATA_KEY, b"{}"))
        if facts.get("format") != _FORMAT:
            raise StoreError(
                f"{self._folder / name} is a vector file of format {facts.get('format')}, wanted "
                f"{_FORMAT}; upgrade foretell, or move foreign files out of the vectors folder"
            )
        return facts

    def _unreadable(self, name: str, error: Exception) -> StoreError:
        return StoreError(
            f"cannot read vectors from {self._folder / name}: {error}; restore the file, or "
            "delete the domain and collect again"
        )


def check_vectors(observation: Observation) -> None:
    """Refuse what a shard cannot hold, naming the query."""
    for point, values in observation.activations.items():
        where = f"{point.name} of query {observation.query.id!r}"
        axes = 2 if point.pooling == "tokens" else 1
        if values.ndim != axes or not values.size:
            raise StoreError(
                f"{where} has axes {values.shape}; wanted (width,), or (tokens, width) at a read "
                "point of pooling 'tokens'"
            )
        if n_bad := int(np.count_nonzero(~np.isfinite(values))):
            raise StoreError(
                f"{where} has {n_bad} NaN or infinite values of {values.size}; "
                "check the weights and the engine"
            )


def _scale(values: NDArray[np.float32]) -> float:
    """The smallest power of two, at least 1, that brings ``values`` into float16's range.

    Residual streams can have a few dimensions beyond 65504, which would become infinite. A power
    of two costs no precision: the relative error stays at most 2^-11.
    """
    largest = float(np.abs(values).max(initial=0))
    return 2.0 ** max(0, int(np.ceil(np.log2(max(largest, 1) / _LARGEST_FLOAT16))))


def _to_numpy(column: Any, scale: np.float32) -> list[NDArray[np.float32]]:
    lists = column.combine_chunks()
    starts: NDArray[np.int32] | None = None
    if isinstance(lists, pa.ListArray):
        offsets = lists.offsets.to_numpy()
        starts = offsets - offsets[0]
        lists = lists.flatten()
    flat = cast("NDArray[np.float16]", lists.flatten().to_numpy(zero_copy_only=False))
    values = flat.reshape(len(lists), -1).astype(np.float32) * scale
    return list(values) if starts is None else np.split(values, starts[1:-1])
