from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foretell.errors import StoreError
from foretell.records import Answer, Observation, Query, ReadPoint, Usage
from foretell.store._vectors import Shards

POINT = ReadPoint(3, "mean")


def observations(values):
    answer = Answer(
        text="", model="m", finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=1)
    )
    return [
        Observation(
            domain="geo",
            query=Query(id=str(i), messages=({"role": "user", "content": "?"},)),
            role="weak",
            answer=answer,
            activations={POINT: row},
        )
        for i, row in enumerate(values)
    ]


def round_trip(values):
    with TemporaryDirectory() as folder:
        shards = Shards(Path(folder))
        name = shards.write("geo", "key", observations(values))
        rows = np.arange(len(values))
        return np.stack(shards.read(name, rows, [str(i) for i in rows], [POINT])[POINT])


floats = st.floats(-(2.0**127), 2.0**127, width=32)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=floats))
def test_a_round_trip_is_off_by_half_a_unit_of_float16_at_most(values):
    found = round_trip(values)
    assert found.dtype == np.float32
    # half of float16's last place: 2^-11 of a normal number, 2^-25 of the scale below those
    largest = np.abs(values).max()
    scale = max(1.0, 2.0 ** np.ceil(np.log2(max(largest, 1) / 65504)))
    allowed = np.maximum(np.abs(values, dtype=np.float64) * 2.0**-11, scale * 2.0**-25)
    assert (np.abs(found.astype(np.float64) - values) <= allowed).all()


def test_activations_beyond_float16_do_not_become_infinite():
    massive = np.array([[250_000.0, 0.5, -65_505.0, 3.0]], dtype=np.float32)
    np.testing.assert_allclose(round_trip(massive), massive, rtol=2.0**-11)


def test_values_that_float16_holds_come_back_exactly():
    exact = np.array([[65504.0, -1.5, 0.0, 2.0**-14]], dtype=np.float32)
    np.testing.assert_array_equal(round_trip(exact), exact)


def test_rows_come_in_the_order_asked_for(tmp_path):
    shards = Shards(tmp_path)
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    name = shards.write("geo", "key", observations(values))
    found = shards.read(name, np.array([3, 0, 3]), ["3", "0", "3"], [POINT])
    np.testing.assert_array_equal(found[POINT], values[[3, 0, 3]])


def test_any_parquet_reader_sees_typed_columns(tmp_path):
    shards = Shards(tmp_path)
    rows = observations(np.zeros((2, 5), dtype=np.float32))
    name = shards.write("any/../domain ✓", "key", [replace(row, rollout=1) for row in rows])
    assert (tmp_path / name).parent == tmp_path
    table = pq.read_table(tmp_path / name)
    assert table.schema.field("layer3_mean").type == pa.list_(pa.float16(), 5)
    assert table["query_id"].to_pylist() == ["0", "1"]
    assert table["rollout"].to_pylist() == [1, 1]
    column = pq.ParquetFile(tmp_path / name).metadata.row_group(0).column(2)
    assert column.compression == "ZSTD"
    assert shards.names() == {name}


def test_a_failed_write_leaves_no_shard(tmp_path, monkeypatch):
    def full_disk(_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(StoreError, match=r"cannot write vectors to .*No space left"):
        Shards(tmp_path).write("geo", "key", observations(np.zeros((1, 2), dtype=np.float32)))
    assert list(tmp_path.glob("*.parquet")) == []


def test_tokens_of_queries_of_any_length_come_back_in_the_order_asked_for(tmp_path):
    point = ReadPoint(2, "tokens")
    written = [np.full((tokens, 3), tokens / 2, dtype=np.float32) for tokens in (4, 1, 2)]
    rows = [
        replace(row, activations={point: tokens})
        for row, tokens in zip(observations(np.zeros((3, 1))), written, strict=True)
    ]
    shards = Shards(tmp_path)
    name = shards.write("geo", "key", rows)
    found = shards.read(name, np.array([2, 0, 1]), ["2", "0", "1"], [point])[point]
    for row, index in zip(found, (2, 0, 1), strict=True):
        np.testing.assert_array_equal(row, written[index])
