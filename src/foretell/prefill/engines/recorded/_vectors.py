"""The Parquet half of a recording: one column of float32 vectors for each read point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.prefill._cache import appears_whole
from foretell.records import ReadPoint

Vectors = Mapping[ReadPoint, NDArray[np.float32]]


def write_vectors(path: Path, rows: Sequence[Vectors]) -> None:
    """Write rows that have the same read points."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        point.name: _column([row[point] for row in rows], ragged=point.pooling == "tokens")
        for point in sorted(rows[0])
    }
    with appears_whole(path) as partial:
        pq.write_table(pa.table(columns), partial, compression="zstd")


def read_vectors(path: Path) -> list[Vectors]:
    """The rows, each a read-only view of its column; raises ``OSError`` or ``ValueError``."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    points = [ReadPoint.parse(name) for name in table.column_names]
    columns = [
        _rows(column.combine_chunks(), ragged=point.pooling == "tokens")
        for point, column in zip(points, table.columns, strict=True)
    ]
    return [dict(zip(points, row, strict=True)) for row in zip(*columns, strict=True)]


def _column(vectors: list[NDArray[np.float32]], *, ragged: bool) -> Any:
    import pyarrow as pa

    width = vectors[0].shape[-1]
    flat = np.concatenate([vector.astype(np.float32).reshape(-1) for vector in vectors])
    column: Any = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
    if ragged:
        ends = np.cumsum([0, *map(len, vectors)], dtype=np.int32)
        column = pa.ListArray.from_arrays(pa.array(ends), column)
    return column


def _rows(column: Any, *, ragged: bool) -> list[NDArray[np.float32]]:
    if not ragged:
        width = column.type.list_size
        return list(column.flatten().to_numpy().reshape(-1, width))
    width = column.type.value_type.list_size
    tokens = column.flatten().flatten().to_numpy().reshape(-1, width)
    ends = column.offsets.to_numpy()
    return [tokens[start:end] for start, end in pairwise(ends)]
