"""Exported files hold what is stored, for programs that have never heard of foretell."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from foretell.errors import InputError
from foretell.records import Basis, Feedback, Outcome, ReadPoint, Subspace
from foretell.store import Store


@pytest.fixture
def filled(any_store, observe, served):
    any_store.append_requests([served("1"), served("2", domain="maths")])
    query = {"reference": {"city": "Rome"}, "attributes": {"field": "city"}}
    any_store.append(
        [
            observe("1", query=query, text="Rome, “the city”\n", origin="traffic", tenant="key-1"),
            observe("1", "strong", query=query, origin="traffic", tenant="key-1"),
            observe("3"),
            observe("2", domain="maths"),
        ]
    )
    any_store.put_outcomes(
        [Outcome(domain="geo", query_id="1", role="weak", metric="ok", value=1, source="code")]
    )
    for one in ("1", "2"):
        any_store.put_feedback(
            Feedback(request_id=one, metric="ok", value=0.5, source="client"), key_id="key-1"
        )
    return any_store


def test_duckdb_joins_answers_outcomes_and_vectors(filled, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    paths = filled.export(folder)
    monkeypatch.chdir(folder)
    assert {path.name for path in paths if path.parent == folder} == {
        f"{name}.parquet"
        for name in ("queries", "observations", "outcomes", "requests", "feedback")
    }
    found = duckdb.sql(
        """
        SELECT q.id, o.answer_text, s.value, v.layer0_last, q.reference ->> '$.city' AS city
        FROM 'queries.parquet' q
        JOIN 'observations.parquet' o ON (o.domain, o.query_id) = (q.domain, q.id)
        JOIN 'activations/*.parquet' v
          ON (v.domain, v.query_id, v.role, v.model_key, v.rollout)
           = (o.domain, o.query_id, o.role, o.model_key, o.rollout)
        LEFT JOIN 'outcomes.parquet' s
          ON (s.domain, s.query_id, s.role) = (o.domain, o.query_id, o.role)
        WHERE q.domain = 'geo' ORDER BY q.id
        """
    ).fetchall()
    assert [row[:3] for row in found] == [("1", "Rome, “the city”\n", 1.0), ("3", "Paris", None)]
    np.testing.assert_array_equal(found[1][3], [3, 4, 5, 6])
    assert found[0][4] == "Rome"


def test_the_query_of_the_documentation_runs(filled, tmp_path, monkeypatch):
    filled.export(tmp_path / "backup")
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "data.md"
    (query,) = re.findall(r"```sql\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    found = duckdb.sql(query.replace("layer20_last", "layer0_last")).fetchall()
    assert sorted((row[0], row[2]) for row in found if row[2] is not None) == [("1", 1.0)]
    assert len(found) == 3


def test_types_survive(filled, tmp_path, monkeypatch):
    filled.export(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    types = dict(
        duckdb.sql("SELECT column_name, column_type FROM (DESCRIBE 'requests.parquet')").fetchall()
    )
    assert types["at"] == "DOUBLE"
    assert types["status"] == "BIGINT"
    assert types["streamed"] == "BOOLEAN"
    assert types["route"] == "VARCHAR"


def test_json_lines_hold_the_same_rows(filled, tmp_path):
    folder = tmp_path / "out"
    filled.export(folder, format="jsonl", domain="geo")
    rows = {
        path.stem: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in folder.glob("*.jsonl")
    }
    assert [row["id"] for row in rows["queries"]] == ["1", "3"]
    assert rows["queries"][0]["reference"] == {"city": "Rome"}
    assert rows["queries"][0]["tenant"] == "key-1"
    assert len(rows["observations"]) == 3
    assert [row["id"] for row in rows["requests"]] == ["1"]
    assert [row["request_id"] for row in rows["feedback"]] == ["1"]
    assert len(rows["outcomes"]) == 1
    assert not (folder / "activations").exists()


def test_only_one_domain_when_asked(filled, tmp_path, monkeypatch):
    filled.export(tmp_path / "out", domain="maths")
    monkeypatch.chdir(tmp_path / "out")
    for name in ("queries.parquet", "activations/*.parquet", "requests.parquet"):
        found = duckdb.read_parquet(name).project("domain").distinct().fetchall()
        assert found == [("maths",)]


def test_reduced_vectors_are_exported_with_their_subspace(
    any_store, observe, tmp_path, monkeypatch
):
    point = ReadPoint(0)
    basis = Basis(centre=np.zeros(4), scale=np.ones(4), axes=np.eye(4)[:, :2], rest=np.empty(0))
    subspace = Subspace(id="few", bases={point: basis})
    any_store.put_subspace("few", subspace.bases)
    whole = observe("5", points=(point,))
    reduced = subspace.reduce(whole.activations)
    any_store.append([replace(whole, activations=reduced, subspace="few")])
    paths = any_store.export(tmp_path / "out")
    assert tmp_path / "out" / "subspaces" / "few.safetensors" in paths
    monkeypatch.chdir(tmp_path / "out")
    found = duckdb.sql("SELECT subspace, layer0_last FROM 'activations/*.parquet'").fetchall()
    assert found == [("few", [5.0, 6.0])]


def test_values_beyond_float16_and_tokens_come_out_as_they_went_in(
    any_store, observe, tmp_path, monkeypatch
):
    tokens = ReadPoint(1, "tokens")
    values = np.array([[1e6, 2], [3, 4], [5, 6]], dtype=np.float32)
    any_store.append([replace(observe("1"), activations={tokens: values})])
    any_store.export(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    (found,) = duckdb.sql("SELECT layer1_tokens FROM 'activations/*.parquet'").fetchall()
    np.testing.assert_allclose(np.array(found[0]), values, rtol=2**-11, atol=1e-3)


def test_an_encrypted_store_is_exported_in_the_clear(tmp_path, observe, monkeypatch):
    key = bytes(range(32))
    with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors", key=key) as store:
        store.append([observe("1", text="secret")])
        store.export(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    found = duckdb.sql("SELECT answer_text FROM 'observations.parquet'").fetchall()
    assert found == [("secret",)]


def test_a_folder_that_holds_something_is_left_alone(filled, tmp_path):
    with pytest.raises(InputError, match="is not empty; name a new folder"):
        filled.export(tmp_path)
    with pytest.raises(InputError, match="wanted parquet or jsonl"):
        filled.export(tmp_path / "out", format="csv")
