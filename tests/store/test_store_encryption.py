"""An encrypted store gives back what was put in, and its files do not."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foretell.config import StoreConfig
from foretell.errors import ConfigError, StoreError
from foretell.records import Feedback, Outcome, ReadPoint
from foretell.store import Store, store_key

KEY = bytes(range(32))
OTHER = bytes(32)


def opened(folder: Path, key: bytes | None) -> Store:
    return Store.open(f"sqlite:///{folder}/foretell.db", folder / "vectors", key=key)


def fill(store: Store, observe, served) -> None:
    store.append_requests([served("7")])
    query = {"reference": "secret reference", "attributes": {"who": "secret person"}}
    store.append([observe("7", prompt="secret question", text="secret answer", query=query)])
    store.put_outcomes(
        [
            Outcome(
                domain="geo",
                query_id="7",
                role="weak",
                metric="ok",
                value=1,
                source="human",
                note="secret note",
            )
        ]
    )
    store.put_feedback(
        Feedback(request_id="7", metric="ok", value=1, source="client", note="secret remark"),
        key_id="key-1",
    )


def test_all_texts_and_vectors_come_back_with_the_key(tmp_path, observe, served):
    with opened(tmp_path, KEY) as store:
        fill(store, observe, served)
    with opened(tmp_path, KEY) as store:
        (seen,) = store.observations("geo")
        assert seen.query.text == "secret question"
        assert seen.query.reference == "secret reference"
        assert seen.query.attributes == {"who": "secret person"}
        assert seen.answer.text == "secret answer"
        assert store.outcomes("geo")[next(iter(store.outcomes("geo")))][0].note == "secret note"
        assert store.feedback("7")[0].note == "secret remark"
        data = store.load_routing_data("geo")
        np.testing.assert_array_equal(data.activations[ReadPoint(0)], [[7, 8, 9, 10]])
        assert store.check().ok


def test_no_file_holds_a_text_or_a_readable_vector(tmp_path, observe, served):
    with opened(tmp_path, KEY) as store:
        fill(store, observe, served)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not any(b"secret" in path.read_bytes() for path in files)
        (shard,) = (tmp_path / "vectors").glob("*.parquet.aes")
        assert b"PAR1" not in shard.read_bytes()


def test_nothing_that_is_null_becomes_something(tmp_path, observe):
    with opened(tmp_path, KEY) as store:
        store.append([observe("1")])
        (seen,) = store.observations("geo")
        assert seen.query.reference is None


def test_storing_the_same_query_again_is_known_for_the_same(tmp_path, observe):
    with opened(tmp_path, KEY) as store:
        assert store.append([observe("1")]) == 1
        assert store.append([observe("1")]) == 0


def test_rows_are_erased_from_encrypted_files_too(tmp_path, observe):
    with opened(tmp_path, KEY) as store:
        store.append([observe(one, origin="traffic") for one in "123"])
        store.erase(request_ids=["2"])
        store.append([observe("5")])
        assert store.compact().merged == 2
        assert store.load_routing_data("geo").ids == ("1", "3", "5")


@pytest.mark.parametrize(
    ("made_with", "opened_with", "message"),
    [
        (KEY, None, "is encrypted and no key was given; name the variable"),
        (KEY, OTHER, "sealed with another key"),
        (None, KEY, "made without encryption, and a key was given"),
    ],
)
def test_a_store_opens_only_with_its_own_key(tmp_path, observe, made_with, opened_with, message):
    with opened(tmp_path, made_with) as store:
        store.append([observe("1")])
    with pytest.raises(StoreError, match=message):
        opened(tmp_path, opened_with)
    with opened(tmp_path, made_with) as store:
        assert store.queries("geo")


def test_a_store_without_texts_takes_the_first_key(tmp_path):
    opened(tmp_path, None).close()
    opened(tmp_path, KEY).close()
    with pytest.raises(StoreError, match="another key"):
        opened(tmp_path, OTHER)


def test_a_damaged_vector_file_is_named(tmp_path, observe):
    with opened(tmp_path, KEY) as store:
        store.append([observe("1")])
        (shard,) = (tmp_path / "vectors").glob("*.parquet.aes")
        content = bytearray(shard.read_bytes())
        content[40] ^= 1
        shard.write_bytes(content)
        with pytest.raises(StoreError, match=r"\.parquet\.aes cannot be decrypted"):
            store.load_routing_data("geo")
        assert store.check().damaged == (shard.name,)


def test_a_key_of_another_length_is_refused(tmp_path):
    with pytest.raises(StoreError, match="has 16 bytes; wanted 32"):
        opened(tmp_path, bytes(16))


def test_the_key_comes_from_the_variable_that_the_settings_name(monkeypatch):
    assert store_key(StoreConfig()) is None
    config = StoreConfig(encryption_key_env="FT_KEY")
    with pytest.raises(ConfigError, match="FT_KEY is not set"):
        store_key(config)
    monkeypatch.setenv("FT_KEY", base64.b64encode(KEY).decode())
    assert store_key(config) == KEY
    for wrong in ("not base64!", base64.b64encode(bytes(16)).decode()):
        monkeypatch.setenv("FT_KEY", wrong)
        with pytest.raises(ConfigError, match="openssl rand -base64 32"):
            store_key(config)


def test_without_the_library_the_extra_is_named(tmp_path):
    code = f"""
import sys
sys.modules["cryptography"] = None
from foretell.errors import StoreError
from foretell.store import Store
Store.open("sqlite:///{tmp_path}/a.db", "{tmp_path}/v").close()  # needs none
try:
    Store.open("sqlite:///{tmp_path}/a.db", "{tmp_path}/v", key=bytes(32))
except StoreError as error:
    print(error)
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "pip install 'foretell[encrypt]'" in output
