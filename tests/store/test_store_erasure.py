"""Erased, retained, compacted: what must be gone is gone, and the rest is as it was."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from foretell.errors import InputError, StoreError
from foretell.records import Feedback, Outcome, ReadPoint
from foretell.store import Erased, Store
from foretell.store._vectors import Shards

POINT = ReadPoint(0)
DAY_S = 86_400.0


@pytest.fixture
def traffic(observe, served):
    """Stores requests with what they showed; the vectors of all of them in one file."""

    def put(store: Store, *ids: str, tenant: str = "key-1", domain: str = "geo", **fields) -> None:
        store.append_traffic(
            [served(one, key_id=tenant, domain=domain, **fields) for one in ids],
        )
        store.append(
            [
                observe(one, domain=domain, tenant=tenant, origin="traffic", prompt=f"ask {one}")
                for one in ids
            ]
        )

    return put


def vectors_of(store: Store, domain: str = "geo") -> dict[str, float]:
    data = store.load_routing_data(domain)
    return dict(zip(data.ids, data.activations[POINT][:, 0].tolist(), strict=True))


def shard_ids(folder: Path) -> list[str]:
    """Ids of all queries that any vector file still holds."""
    shards = Shards(folder)
    return sorted(
        one for name in shards.names() for one in shards.whole_table(name)["query_id"].to_pylist()
    )


def test_a_tenant_is_erased_with_vectors_and_feedback_and_others_stay(any_store, traffic, tmp_path):
    traffic(any_store, "1", "2", tenant="key-1")
    traffic(any_store, "3", tenant="key-2")
    any_store.put_feedback(
        Feedback(request_id="1", metric="ok", value=1, source="client"), key_id="key-1"
    )
    any_store.put_outcomes(
        [
            Outcome(domain="geo", query_id=one, role="weak", metric="ok", value=1, source="code")
            for one in ("1", "2", "3")
        ]
    )
    erased = any_store.erase(tenant="key-1")
    assert erased == Erased(queries=2, requests=2, feedback=1, outcomes=2, vectors=2)
    assert [query.id for query in any_store.queries("geo")] == ["3"]
    assert [record.id for record in any_store.requests()] == ["3"]
    assert vectors_of(any_store) == {"3": 3.0}
    assert shard_ids(tmp_path / "vectors") == ["3"]
    assert any_store.erase(tenant="key-1") == Erased()


def test_requests_are_erased_one_by_one_from_a_file_that_others_share(any_store, traffic, tmp_path):
    traffic(any_store, "1", "2", "3", "4")
    erased = any_store.erase(request_ids=["2", "4", "unknown"])
    assert (erased.queries, erased.requests, erased.vectors) == (2, 2, 2)
    assert vectors_of(any_store) == {"1": 1.0, "3": 3.0}
    assert shard_ids(tmp_path / "vectors") == ["1", "3"]
    assert any_store.erase(request_ids=[]) == Erased()


def test_conditions_narrow_each_other_down(any_store, traffic):
    traffic(any_store, "1", tenant="key-1", domain="geo")
    traffic(any_store, "2", tenant="key-1", domain="maths")
    traffic(any_store, "3", tenant="key-2", domain="geo")
    assert any_store.erase(tenant="key-1", domain="geo").requests == 1
    assert {record.id for record in any_store.requests()} == {"2", "3"}
    with pytest.raises(InputError, match="say what to erase"):
        any_store.erase()


def test_who_needed_no_key_is_not_taken_for_what_was_collected(any_store, traffic, observe):
    traffic(any_store, "1", tenant="")
    any_store.append([observe("2")])
    assert any_store.erase(tenant="").queries == 1
    assert any_store.erase(request_ids=["2"]).queries == 0
    assert [query.id for query in any_store.queries("geo")] == ["2"]


def test_a_domain_is_erased_whatever_its_origin_and_its_ledger_stays(any_store, traffic, observe):
    traffic(any_store, "1")
    any_store.append([observe("2"), observe("3", domain="maths")])
    assert any_store.erase(domain="geo") == Erased(queries=2, vectors=2)
    assert [counts.domain for counts in any_store.domains()] == ["maths"]
    assert [record.id for record in any_store.requests()] == ["1"]


def test_erased_texts_are_in_no_file_any_more(store, traffic, tmp_path):
    traffic(store, *map(str, range(1, 40)))
    secret = b"ask 17"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(secret in path.read_bytes() for path in files)
    store.erase(request_ids=["17"])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(secret in path.read_bytes() for path in files)


def test_old_traffic_goes_and_what_was_collected_stays(tmp_path, traffic, observe):
    now = 100 * DAY_S
    clock = [now - 40 * DAY_S]
    url = f"sqlite:///{tmp_path}/a.db"
    with Store.open(url, tmp_path / "vectors", clock=lambda: clock[0]) as store:
        traffic(store, "1", at=clock[0])
        store.append([observe("2")])
        clock[0] = now
        traffic(store, "3", at=now)
        assert store.retain(days=30) == Erased(queries=1, requests=1, vectors=1)
        assert vectors_of(store) == {"2": 2.0, "3": 3.0}
        assert [record.id for record in store.requests()] == ["3"]
        assert store.retain(days=30) == Erased()
        assert store.retain() == Erased()
        with pytest.raises(InputError, match="days is 0"):
            store.retain(days=0)
        with pytest.raises(InputError, match="max_bytes is -1"):
            store.retain(max_bytes=-1)


def test_the_oldest_traffic_goes_while_the_store_is_too_large(any_store, observe, served):
    rng = random.Random(1)  # noqa: S311
    now = [0.0]
    any_store._clock = lambda: now[0]
    for i in range(1, 101):
        now[0] = float(i)
        # PostgreSQL would compress what repeats itself.
        text = rng.randbytes(6_000).hex()
        seen = observe(str(i), origin="traffic", text=text)
        any_store.append_traffic([served(str(i), at=now[0])], [seen])
    any_store.append([observe("1000")])
    limit = 600_000
    erased = any_store.retain(max_bytes=limit)
    assert 0 < erased.queries < 100
    assert any_store.size() <= limit
    left = set(range(erased.queries + 1, 101))
    assert {int(query.id) for query in any_store.queries("geo")} == left | {1000}
    assert {int(record.id) for record in any_store.requests(limit=1000)} == left
    assert any_store.retain(max_bytes=limit) == Erased()


def test_small_files_are_merged_and_every_row_keeps_its_vector(any_store, observe, tmp_path):
    for i in range(6):
        any_store.append([observe(str(10 * i)), observe(str(10 * i + 1))])
    other = ReadPoint(1, "last")
    any_store.append([observe("77", points=(POINT, other))])
    before = vectors_of(any_store)
    merged = any_store.compact()
    assert (merged.merged, merged.into) == (6, 1)
    assert vectors_of(any_store) == before
    assert len(list((tmp_path / "vectors").glob("*.parquet"))) == 2
    found = any_store.check()
    assert found.ok
    assert (found.shards, found.orphaned, found.unlisted) == (2, (), ())
    assert any_store.compact().merged == 0


def test_erasing_after_merging_leaves_no_trace(any_store, traffic, tmp_path):
    for one in ("1", "2", "3"):
        traffic(any_store, one)
    any_store.compact()
    any_store.erase(request_ids=["2"])
    assert vectors_of(any_store) == {"1": 1.0, "3": 3.0}
    assert shard_ids(tmp_path / "vectors") == ["1", "3"]


def test_a_read_that_a_rewriting_overtakes_begins_anew(store, traffic, monkeypatch):
    traffic(store, "1", "2")
    read, overtaken = Shards.read, []

    def slow(shards, name, *args, **kwargs):
        if not overtaken:
            overtaken.append(name)
            store.erase(request_ids=["2"])
        return read(shards, name, *args, **kwargs)

    monkeypatch.setattr(Shards, "read", slow)
    assert vectors_of(store) == {"1": 1.0}


def test_check_names_what_is_missing_damaged_orphaned_unfinished_and_unlisted(
    store, observe, tmp_path
):
    folder = tmp_path / "vectors"
    names = []
    for i in range(4):
        store.append([observe(str(i))])
        (name,) = {path.name for path in folder.glob("*.parquet")} - set(names)
        names.append(name)
    assert store.check().ok
    missing, damaged, orphan, unlisted = names
    (folder / missing).unlink()
    content = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(content[:100] + b"?" + content[101:])
    (folder / "foreign.parquet").write_bytes((folder / orphan).read_bytes())
    (folder / "half.parquet.abc.tmp").write_bytes(b"PAR1")
    manifest = folder / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:3]) + lines[3][:40])  # torn by a crash
    found = store.check()
    assert not found.ok
    assert found.missing == (missing,)
    assert found.damaged == (damaged,)
    assert found.orphaned == ("foreign.parquet",)
    assert found.unfinished == ("half.parquet.abc.tmp",)
    assert found.unlisted == (unlisted,)
    repaired = store.check(repair=True)
    assert set(repaired.removed) == {"foreign.parquet", "half.parquet.abc.tmp"}
    assert (repaired.orphaned, repaired.unfinished, repaired.unlisted) == ((), (), ())
    assert repaired.missing == (missing,)
    assert store.check().unlisted == ()


# Erases a request after another until it is killed, and says so after each.
ERASER = """
import sys
from foretell.store import Store

folder, ids = sys.argv[1], sys.argv[2].split(",")
with Store.open(f"sqlite:///{folder}/a.db", f"{folder}/vectors") as store:
    print("ready", flush=True)
    for one in ids:
        store.erase(request_ids=[one])
        print(one, flush=True)
        store.compact()
"""


def test_an_eraser_that_is_killed_leaves_at_most_files_that_check_names(tmp_path, traffic):
    url, folder = f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors"
    with Store.open(url, folder) as store:
        for start in range(1, 200, 20):
            traffic(store, *map(str, range(start, start + 20)))
    rng = random.Random(3)  # noqa: S311
    gone: set[str] = set()
    for _ in range(4):
        left = [str(i) for i in range(1, 201) if str(i) not in gone]
        rng.shuffle(left)
        command = [sys.executable, "-c", ERASER, str(tmp_path), ",".join(left)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as eraser:
            assert eraser.stdout is not None
            for _ in range(rng.randint(2, 8)):
                gone |= {eraser.stdout.readline().strip()} - {"ready"}
            eraser.kill()
            gone |= set(eraser.stdout.read().split()) - {"ready"}
        with Store.open(url, folder) as store:
            found = store.check()
            assert found.ok, found
            held = vectors_of(store)
            assert held == {one: float(one) for one in held}
            # The one that was being erased is gone or there, as a whole.
            requests = {record.id for record in store.requests(limit=1000)}
            assert requests == set(held)
            assert not gone & requests
            store.check(repair=True)
            assert set(shard_ids(folder)) == requests
            assert store.check().orphaned == ()
    assert len(gone) >= 4


def test_a_rewriting_that_fails_erases_nothing(store, traffic, monkeypatch):
    traffic(store, "1", "2")

    def full_disk(_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        with pytest.raises(StoreError, match="No space left"):
            store.erase(request_ids=["2"])
    assert vectors_of(store) == {"1": 1.0, "2": 2.0}
    assert len(store.requests()) == 2
