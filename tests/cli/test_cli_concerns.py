"""Settings that lead nowhere together are told before anybody waits for what they will never do."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from foretell.cli._concerns import concerns
from foretell.config import Config
from foretell.store import Store
from toy_project import CONFIG, changed, foretell, write_config, write_project

KEY = base64.b64encode(bytes(32)).decode()
NO_RECORD = {"record": False}
REGEX = {"name": "regex", "options": {"pattern": "."}}
TEXT = {"traffic": {"text": True}}
FULL = {"traffic": {"vectors": "full"}}
APART = {"worker": "apart"}
QUALITY = {"routes__auto__goal": {"quality": 0.9}}


def config_with(**changes: Any) -> dict[str, Any]:
    """The toy's, with other values at dotted paths and whole sections by name."""
    sections = {name: value for name, value in changes.items() if "__" not in name}
    paths = {name: value for name, value in changes.items() if "__" in name}
    return {**changed(CONFIG, **paths), **sections}


@pytest.mark.parametrize(
    ("changes", "subjects"),
    [
        ({}, []),
        ({"routes__auto__router": "auto"}, ["store.traffic.vectors"]),
        ({"routes__auto__router": "auto", "store": FULL}, []),
        ({"routes__auto__router": "auto", **QUALITY, "store": FULL}, ["routes.auto.shadow_runs"]),
        (
            {"routes__auto__shadow_runs": {"share": 0}, **QUALITY, "flywheel": APART},
            ["routes.auto.shadow_runs", "flywheel.worker"],
        ),
        (
            {"routes__auto__shadow_runs": {}, "routes__auto__router": "auto", **QUALITY}
            | {"store": FULL},
            ["routes.auto.shadow_runs.strong_share"],
        ),
        (
            {
                "routes__auto__router": "auto",
                "routes__auto__shadow_runs": {"strong_share": 0.02},
                "store": FULL,
                **QUALITY,
            },
            [],
        ),
        (QUALITY, []),
        ({"flywheel": APART}, ["flywheel.worker"]),
        ({"routes__auto__router": "auto", "server": NO_RECORD}, ["routes.auto.router"]),
        (
            {"routes__auto__shadow_runs": {"share": 0.1}, "server": NO_RECORD},
            ["routes.auto.shadow_runs"],
        ),
        ({"routes__auto__explore": 0.1, "server": NO_RECORD}, ["routes.auto.explore"]),
        ({"routes__auto__explore": 0.1}, []),
        ({"routes__auto__explore": 1}, ["routes.auto.explore"]),
        ({"routes__auto__explore": {"start": 0.9}}, ["routes.auto.explore"]),
        ({"flywheel": {"worker": "in_process"}, "server": NO_RECORD}, ["flywheel.worker"]),
        ({"store": {"encryption_key_env": "T_UNSET"}}, ["store.encryption_key_env"]),
        ({"store": {"encryption_key_env": "T_SHORT"}}, ["store.encryption_key_env"]),
        ({"store": {"encryption_key_env": "T_KEY"}}, []),
        ({"flywheel": {"webhook_token_env": "T_UNSET"}}, ["flywheel.webhook_token_env"]),
        ({"flywheel": {"labellers": {"toy": REGEX}}, "store": TEXT}, []),
        ({"flywheel": {"labellers": {"toy": REGEX}}}, ["flywheel.labellers.toy"]),
        ({"flywheel": {"labellers": {"toy": {"name": "feedback"}}}}, []),
        ({"flywheel": {"labellers": {"tyo": REGEX}}, "store": TEXT}, ["flywheel.labellers.tyo"]),
        (
            {"flywheel": {"labellers": {"toy": {"name": "nobody"}}}, "store": TEXT},
            ["flywheel.labellers.toy"],
        ),
        (
            {
                "flywheel": {"labellers": {"toy": {"name": "judge", "options": {"model": "x"}}}},
                "store": TEXT,
            },
            ["flywheel.labellers.toy"],
        ),
        (
            {
                "flywheel": {
                    "labellers": {"toy": {"name": "judge", "options": {"model": "large"}}}
                },
                "store": TEXT,
            },
            [],
        ),
    ],
)
def test_what_leads_nowhere_is_named(monkeypatch, changes, subjects):
    monkeypatch.setenv("T_KEY", KEY)
    monkeypatch.setenv("T_SHORT", "aGVsbG8=")
    found = concerns(Config(**config_with(**changes)))
    assert [concern.subject for concern in found] == subjects
    assert all(concern.detail and concern.cure for concern in found)


def test_validate_and_doctor_tell_them(tmp_path: Path):
    write_project(tmp_path)
    write_config(tmp_path, config_with(server=NO_RECORD, routes__auto__explore=0.1))
    told = foretell(tmp_path, "config validate -c foretell.yaml")
    assert told.code == 0
    assert "warning: routes.auto.explore: server.record is off" in told.out
    machine = foretell(tmp_path, "config validate -c foretell.yaml --json").json()
    assert [one["subject"] for one in machine["warnings"]] == ["routes.auto.explore"]
    assert "routes.auto.explore" in foretell(tmp_path, "doctor -c foretell.yaml").out


def test_the_doctor_tells_that_a_store_has_another_key(tmp_path: Path, monkeypatch):
    write_project(tmp_path)
    write_config(tmp_path, config_with(store={"encryption_key_env": "T_KEY"}))
    monkeypatch.setenv("T_KEY", KEY)
    with Store.open(f"sqlite:///{tmp_path}/foretell.db", tmp_path / "vectors", key=b"k" * 32):
        pass
    told = foretell(tmp_path, "doctor -c foretell.yaml --json")
    findings = {one["subject"]: one for one in json.loads(told.out)["findings"]}
    assert not findings["store.url"]["ok"]
    assert "key" in findings["store.url"]["detail"]


def test_packages_that_are_set_and_not_installed_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr("foretell.cli._concerns.find_spec", lambda _: None)
    monkeypatch.setenv("T_KEY", KEY)
    store = {"url": "postgresql://db/foretell", "encryption_key_env": "T_KEY"}
    found = concerns(Config(**config_with(store=store, flywheel=APART)))
    assert [(one.subject, one.cure) for one in found] == [
        ("store.encryption_key_env", "pip install 'foretell[encrypt]'"),
        ("store.url", "pip install 'foretell[postgres]'"),
        ("flywheel.worker", "pip install 'foretell[postgres]'"),
    ]


def test_a_ladder_that_has_its_probe_may_keep_a_subspace(project, monkeypatch):
    monkeypatch.chdir(project)
    assert concerns(Config(**config_with(routes__auto__router="auto"))) == []
    none = {"traffic": {"vectors": "none"}}
    assert concerns(Config(**config_with(routes__auto__router="auto", store=none))) == []


def test_the_page_on_the_flywheel_shows_a_configuration_without_concerns(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "flywheel.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.setenv("HOOK_TOKEN", "t")
    assert concerns(Config(**yaml.safe_load(settings))) == []
