"""``foretell keys``: a key is shown once, listed by its id, revoked for good."""

from __future__ import annotations

import pytest

from foretell.store import Store, key_sha256
from toy_project import CONFIG, changed, foretell, refused, write_config


@pytest.fixture
def folder(tmp_path):
    write_config(tmp_path, changed(CONFIG, server={"stored_keys": True}))
    return tmp_path


def stored(folder, key):
    with Store.open(f"sqlite:///{folder}/foretell.db", folder / "vectors") as store:
        return store.key_by_sha256(key_sha256(key))


def test_a_key_is_made_listed_and_revoked(folder):
    made = foretell(
        folder,
        "keys create billing --route auto --route large --rate 60 --concurrent 2 "
        "--usd-per-day 1.5 --escalations-per-day 10 --json",
    ).json()
    key = made.pop("key")
    limits = {
        "routes": ["auto", "large"],
        "requests_per_minute": 60.0,
        "concurrent": 2,
        "usd_per_day": 1.5,
        "escalations_per_day": 10,
    }
    assert made["limits"] == limits
    assert (made["name"], made["revoked_at"]) == ("billing", None)
    assert stored(folder, key).id == made["id"]

    assert foretell(folder, "keys ls --json").json() == {"keys": [made]}

    revoked = foretell(folder, f"keys revoke {made['id']} --json").json()
    assert revoked["revoked_at"] >= made["created_at"]
    assert {**revoked, "revoked_at": None} == made
    assert stored(folder, key) is None
    assert foretell(folder, f"keys revoke {made['id']} --json").json() == revoked


def test_the_key_stands_alone_on_stdout_and_is_never_shown_again(folder):
    made = foretell(folder, "keys create", "the [bold]app")
    key = made.out.strip()
    assert made.out == f"{key}\n"
    assert stored(folder, key).name == "the [bold]app"
    assert "for the [bold]app. Keep the key now" in made.err
    assert key not in made.err
    shown = foretell(folder, "keys ls")
    key_id = stored(folder, key).id
    assert key_id in shown.out
    assert "anything" in shown.out
    assert f"{key_id} for the [bold]app is revoked" in foretell(folder, f"keys revoke {key_id}").out
    listed = foretell(folder, "keys ls --json")
    for finished in (shown, listed):
        assert key.removeprefix("fk-") not in finished.out + finished.err
        assert key_sha256(key) not in finished.out


def test_limits_are_listed_in_words(folder):
    foretell(folder, "keys create a --route auto --rate 0.5 --concurrent 1 --usd-per-day 2")
    foretell(folder, "keys create b --escalations-per-day 3")
    words = " ".join(foretell(folder, "keys ls").out.split())
    for part in ("auto", "0.5 a minute", "1 at a time", "2 USD a day", "3 escalations a day"):
        assert part in words


def test_no_keys_are_said_to_be_none(folder):
    assert "there are no keys; run foretell keys create" in foretell(folder, "keys ls").out
    assert foretell(folder, "keys ls --json").json() == {"keys": []}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--route atuo", "no route or model is called 'atuo'; known are auto, large, small"),
        ("--rate 0", "requests_per_minute is 0"),
        ("--concurrent 0", "concurrent is 0"),
        ("--usd-per-day nan", "usd_per_day is nan"),
        ("--escalations-per-day -1", "escalations_per_day is -1"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(folder, options, said):
    refused(foretell(folder, f"keys create a {options}"), said)
    assert foretell(folder, "keys ls --json").json() == {"keys": []}


def test_an_unknown_id_is_refused(folder):
    refused(foretell(folder, "keys revoke key-0"), "no API key has the id 'key-0'")


def test_a_key_that_no_gateway_would_accept_is_made_with_a_warning(tmp_path):
    write_config(tmp_path, CONFIG)
    made = foretell(tmp_path, "keys create a --json")
    assert made.json()["name"] == "a"
    assert "server.stored_keys: true" in made.err
