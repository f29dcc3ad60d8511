"""API keys and the configurations of a gateway, as they are kept."""

from __future__ import annotations

import hashlib
import logging
import math

import pytest

from foretell.errors import InputError
from foretell.records import KeyLimits
from foretell.store import ConfigVersion, Store, key_sha256

ALL_LIMITS = KeyLimits(
    routes=("auto", "large"),
    requests_per_minute=90.5,
    concurrent=3,
    usd_per_day=0.25,
    escalations_per_day=0,
)


@pytest.mark.parametrize("limits", [KeyLimits(), ALL_LIMITS])
def test_a_key_is_found_by_its_hash_with_its_limits(any_store, limits):
    made, key = any_store.create_key("billing", limits)
    assert key.startswith("fk-")
    assert len(key) == len("fk-") + 43  # 32 bytes in base64 without padding
    assert made.sha256 == key_sha256(key) == hashlib.sha256(key.encode()).hexdigest()
    assert (made.name, made.limits, made.revoked_at) == ("billing", limits, None)
    assert any_store.key_by_sha256(made.sha256) == made
    assert any_store.key_by_sha256(key) is None
    assert any_store.keys() == [made]


def test_keys_and_ids_do_not_repeat(any_store):
    made = [any_store.create_key("same name") for _ in range(20)]
    assert len({key for _, key in made}) == 20
    assert len({record.id for record, _ in made}) == 20
    listed = any_store.keys()
    assert {record.id for record in listed} == {record.id for record, _ in made}


def test_a_revoked_key_is_listed_and_no_longer_found(tmp_path):
    times = iter([1.0, 2.0, 3.0, 4.0])
    url = f"sqlite:///{tmp_path}/a.db"
    with Store.open(url, tmp_path / "vectors", clock=lambda: next(times)) as store:
        made, _ = store.create_key("billing")
        revoked = store.revoke_key(made.id)
        assert (revoked.created_at, revoked.revoked_at) == (1.0, 2.0)
        assert store.key_by_sha256(made.sha256) is None
        assert store.revoke_key(made.id) == revoked
        assert store.keys() == [revoked]
        with pytest.raises(InputError, match="no API key has the id 'key-0'; 'foretell keys ls'"):
            store.revoke_key("key-0")


@pytest.mark.parametrize(
    ("name", "limits", "said"),
    [
        ("", KeyLimits(), "wanted printable text"),
        (" ", KeyLimits(), "wanted printable text"),
        ("a\x1b[31m", KeyLimits(), "wanted printable text"),
        ("a", KeyLimits(routes=()), "routes must name at least one"),
        ("a", KeyLimits(routes=("auto", "")), "routes must name at least one"),
        ("a", KeyLimits(requests_per_minute=0), "requests_per_minute is 0; wanted at least 0.001"),
        ("a", KeyLimits(concurrent=0), "concurrent is 0; wanted at least 1"),
        ("a", KeyLimits(usd_per_day=-0.01), "usd_per_day is -0.01; wanted at least 0"),
        ("a", KeyLimits(usd_per_day=math.nan), "usd_per_day is nan"),
        ("a", KeyLimits(usd_per_day=math.inf), "usd_per_day is inf"),
        ("a", KeyLimits(escalations_per_day=-1), "escalations_per_day is -1; wanted at least 0"),
    ],
)
def test_a_key_that_could_do_nothing_is_not_made(any_store, name, limits, said):
    with pytest.raises(InputError, match=said):
        any_store.create_key(name, limits)
    assert any_store.keys() == []


def test_neither_the_files_of_the_database_nor_the_logs_ever_see_a_key(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as store:
        made, key = store.create_key("billing", ALL_LIMITS)
        assert store.key_by_sha256(key_sha256(key)) is not None
        store.revoke_key(made.id)
        # open: what was written is in the -wal file still
        files = {path.name: path.read_bytes() for path in tmp_path.glob("a.db*")}
    assert {"a.db", "a.db-wal"} <= files.keys()
    files["closed"] = (tmp_path / "a.db").read_bytes()
    for content in files.values():
        assert key.encode() not in content
        assert key.removeprefix("fk-").encode() not in content
    assert any(made.sha256.encode() in content for content in files.values())
    assert key.removeprefix("fk-") not in caplog.text


def test_any_text_has_a_hash(any_store):
    assert any_store.key_by_sha256(key_sha256("\ud800")) is None


def test_configurations_come_back_newest_first_and_once(any_store):
    put = any_store.put_config_version
    assert put("hash-1", "a: 1", "start", 1.0)
    assert not put("hash-1", "a: 1", "start", 2.0)
    assert put("hash-2", "a: 2", "admin", 3.0)
    assert put("hash-1", "a: 1", "rollback")
    found = any_store.config_versions()
    assert [version.hash for version in found] == ["hash-1", "hash-2", "hash-1"]
    assert found[-1] == ConfigVersion(number=1, hash="hash-1", text="a: 1", by="start", at=1.0)
    assert found[0].at > 1e9  # the store's clock
