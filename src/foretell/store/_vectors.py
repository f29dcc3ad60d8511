"""Vectors in Parquet files, called shards.

A shard has the columns ``query_id``, ``rollout`` and one per read point, a fixed-size list of
float16, compressed with zstd; a read point of pooling ``tokens`` is a list of such lists, one a
token. The file's metadata under the key ``foretell`` is a JSON object
with the format's version, the domain, the model's key and, by column, the ``scales``: stored
value times scale is the activation. Where ``subspace`` is there, it is the activation's coordinates
in the subspace of that name, whose file is in the folder ``subspaces``. Of an encrypted store the
file is a nonce of 12 bytes and the Parquet file by AES-256-GCM, with the file's name as context.
"""

from __future__ import annotations

import io
import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foretell.errors import StoreError
from foretell.records import Observation, ReadPoint
from foretell.store._cipher import Cipher
from foretell.store._durable import UNFINISHED, write_durably
from foretell.store._manifest import Manifest, ShardEntry
from foretell.store._subspaces import Subspaces

_WHOLE, _REDUCED = 1, 2
"""Formats; the second holds coordinates, which a reader that does not know it must not take."""

_METADATA_KEY = b"foretell"
_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
_PLAIN, _SEALED = ".parquet", ".parquet.aes"


class ShardGoneError(StoreError):
    """A shard was rewritten or removed since the database was asked about it; ask again."""


class Shards:
    """The Parquet files of one folder, and beside them their manifest and subspaces."""

    def __init__(
        self,
        folder: Path,
        *,
        cipher: Cipher | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.manifest = Manifest(folder)
        self.subspaces = Subspaces(folder / "subspaces")
        self._cipher = cipher
        self._clock = clock
        self._known_facts: dict[str, Mapping[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot keep vectors in {folder}: {error.strerror}") from error

    def write(self, domain: str, key: str, rows: Sequence[Observation]) -> str:
        """Write one shard and return its name; row i is ``rows[i]``.

        All rows must have the same read points and subspace. The name exists only once the whole
        file is on the disk; a crash before that leaves at most a file that ends in ``.tmp``.
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
        facts: dict[str, Any] = {
            "format": _WHOLE,
            "domain": domain,
            "model_key": key,
            "scales": scales,
        }
        if subspace := rows[0].subspace:
            facts |= {"format": _REDUCED, "subspace": subspace}
        return self.write_table(pa.table(columns), facts)

    def write_table(self, table: Any, facts: Mapping[str, Any]) -> str:
        """Write a shard whose columns and ``facts`` are those of others, and return its name."""
        table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(facts)})
        name = f"{re.sub(r'[^A-Za-z0-9]+', '-', facts['domain'])[:40]}-{uuid.uuid4().hex}"
        name += _PLAIN if self._cipher is None else _SEALED
        file = io.BytesIO()
        try:
            # No two values are the same, and nobody searches them: a quarter of the time without.
            pq.write_table(
                table, file, compression="zstd", use_dictionary=False, write_statistics=False
            )
            content = file.getvalue()
            if self._cipher is not None:
                content = self._cipher.seal(content, name)
            write_durably(self.folder / name, content)
            self.manifest.add(self._entry(name, facts, content, table))
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"cannot write vectors to {self.folder / name}: {error}") from error
        return name

    def read_points(self, name: str) -> frozenset[ReadPoint]:
        """The read points that a shard has."""
        return frozenset(ReadPoint.parse(column) for column in self.facts(name)["scales"])

    def subspace(self, name: str) -> str:
        """The subspace that a shard's vectors were reduced to; ``""`` for whole ones."""
        return self.facts(name).get("subspace", "")

    def read(
        self,
        name: str,
        rows: NDArray[np.int64],
        ids: Sequence[str],
        points: Iterable[ReadPoint],
        *,
        subspace: str = "",
    ) -> dict[ReadPoint, list[NDArray[np.float32]]]:
        """Activations of each of ``rows``, which must belong to the queries ``ids``.

        Each is (width,), or (tokens, width) at a point of pooling ``tokens``. Reduced ones are
        restored to their width. With a ``subspace``, whole ones are projected on it.
        """
        points = list(points)
        facts = self.facts(name)
        table = self._table(name, ["query_id", *(point.name for point in points)])
        try:
            taken = table.take(pa.array(rows))
        except pa.ArrowException as error:
            raise self._unreadable(name, error) from error
        if taken["query_id"].to_pylist() != list(ids):
            raise StoreError(
                f"{self.folder / name} holds vectors of other queries than the database says; "
                "restore the vectors folder and the database from the same backup"
            )
        found = {
            point: _to_numpy(taken[point.name], np.float32(facts["scales"][point.name]))
            for point in points
        }
        stored = facts.get("subspace", "")
        if not (stored or subspace) or not len(rows):
            return found
        bases = self.subspaces.load(stored or subspace).bases
        for point in found.keys() & bases.keys():
            stacked = np.stack(found[point])
            basis = bases[point]
            found[point] = list(basis.restore(stacked) if stored else basis.project(stacked))
        return found

    def whole_table(self, name: str) -> Any:
        """All columns of a shard as they are stored."""
        return self._table(name, None)

    def names(self) -> set[str]:
        """All shards in the folder, whether anybody knows them or not."""
        return {
            path.name
            for path in self.folder.iterdir()
            if path.name.endswith((_PLAIN, _SEALED)) and path.is_file()
        }

    def unfinished(self) -> set[str]:
        """What crashes left half-written, or somebody is just writing."""
        return {path.name for path in self.folder.glob(f"*{UNFINISHED}")}

    def written_at(self, name: str) -> float | None:
        """When a file was written, in seconds since 1970; ``None`` when it is gone."""
        try:
            return (self.folder / name).stat().st_mtime
        except FileNotFoundError:
            return None

    def size(self) -> int:
        """Bytes of all shards."""
        return sum(map(self.bytes, self.names()))

    def bytes(self, name: str) -> int:
        """Size of a shard on the disk; 0 when it is gone."""
        try:
            return (self.folder / name).stat().st_size
        except FileNotFoundError:
            return 0

    def schema(self, name: str) -> Any:
        """Columns of a shard, with their types."""
        try:
            return pq.read_schema(self._source(name))
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(name, error) from error

    def entry(self, name: str) -> ShardEntry:
        """What the manifest says of a shard."""
        return self._entry(name, self.facts(name), self._content(name), self.whole_table(name))

    def checksum(self, name: str) -> str:
        """SHA-256 of a shard as it is on the disk."""
        return sha256(self._content(name)).hexdigest()

    def remove(self, names: Iterable[str]) -> None:
        """Delete shards; one that is gone already is no error."""
        names = list(names)
        try:
            self.manifest.remove(
                [name for name in names if not name.endswith(UNFINISHED)], self._clock()
            )
        except OSError as error:
            raise StoreError(f"cannot write to {self.folder}: {error.strerror}") from error
        for name in names:
            self._known_facts.pop(name, None)
            try:
                (self.folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"cannot delete {self.folder / name}: {error.strerror}") from error

    def facts(self, name: str) -> Mapping[str, Any]:
        """What a shard says of itself."""
        if name not in self._known_facts:
            self._known_facts[name] = self._read_facts(name)
        return self._known_facts[name]

    def _entry(self, name: str, facts: Mapping[str, Any], content: bytes, table: Any) -> ShardEntry:
        return ShardEntry(
            name=name,
            domain=facts["domain"],
            model_key=facts["model_key"],
            rows=len(table),
            read_points=tuple(sorted(facts["scales"])),
            bytes=len(content),
            sha256=sha256(content).hexdigest(),
            subspace=facts.get("subspace", ""),
            at=self._clock(),
        )

    def _read_facts(self, name: str) -> Mapping[str, Any]:
        metadata = self.schema(name).metadata or {}
        facts = json.loads(metadata.get(_METADATA_KEY, b"{}"))
        if facts.get("format") not in (_WHOLE, _REDUCED):
            raise StoreError(
                f"{self.folder / name} is a vector file of format {facts.get('format')}, wanted "
                f"{_WHOLE} or {_REDUCED}; upgrade foretell, or move foreign files out of the "
                "vectors folder"
            )
        return facts

    def _table(self, name: str, columns: list[str] | None) -> Any:
        try:
            return pq.read_table(self._source(name), columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(name, error) from error

    def _source(self, name: str) -> Any:
        """What pyarrow can read a shard from."""
        if not name.endswith(_SEALED):
            return self.folder / name
        if self._cipher is None:
            raise StoreError(
                f"{self.folder / name} is encrypted and no key was given; name the variable that "
                "holds it in store.encryption_key_env"
            )
        return pa.BufferReader(self._cipher.open(self._content(name), name))

    def _content(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> StoreError:
        kind = ShardGoneError if isinstance(error, FileNotFoundError) else StoreError
        return kind(
            f"cannot read vectors from {self.folder / name}: {error}; restore the file, or "
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
