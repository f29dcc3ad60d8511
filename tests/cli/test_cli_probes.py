from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from toy_project import foretell, refused


@pytest.fixture
def two(project: Path) -> Path:
    """A project whose probe was trained twice, with other folds."""
    foretell(project, "train --domain toy --no-nested --kind linear --seed 1 --json").json()
    return project


def serving(folder: Path) -> list[str]:
    listed = foretell(folder, "probes ls --json").json()["probes"]
    return [one["probe"] for one in listed if one["serving"]]


def test_a_probe_is_promoted_and_rolled_back_and_the_history_tells_it(two):
    assert serving(two) == ["toy@2"]
    words = "probes promote toy@1 --why 'a try' --by ann --json"
    assert foretell(two, words).json() == {"domain": "toy", "serving": 1, "before": 2}
    assert serving(two) == ["toy@1"]
    assert foretell(two, "probes show toy").json()["version"] == 1
    back = foretell(two, "probes rollback toy --json").json()
    assert back == {"domain": "toy", "serving": 2, "before": 1}
    assert serving(two) == ["toy@2"]
    events = foretell(two, "probes history toy --json").json()["events"]
    assert [(one["kind"], one["details"]) for one in events] == [
        ("rolled_back", {"version": 2, "before": 1, "why": "rolled back by hand"}),
        ("promoted", {"version": 1, "before": 2, "why": "a try"}),
    ]
    assert events[1]["by"] == "ann"
    assert foretell(two, "probes history tea --json").json() == {"events": []}


def test_people_are_told_the_same_in_words(two):
    assert "toy@2 serves" in foretell(two, "probes promote toy@2").out
    assert "toy@1 serves in the place of toy@2" in foretell(two, "probes promote toy@1").out
    listed = foretell(two, "probes ls").out.splitlines()
    assert any("toy@1" in line and "serves" in line for line in listed)
    assert any("toy@2" in line and "served before" in line for line in listed)
    assert "toy@2 serves in the place of toy@1" in foretell(two, "probes rollback toy").out
    history = foretell(two, "probes history").out
    assert "promoted 1" in history
    assert "rolled back 2" in history
    assert "rolled back by hand" in " ".join(history.split())


def test_a_probe_is_exported_as_an_archive_and_served_from_it(project):
    told = foretell(project, "probes export toy@1 --to toy.zip --json").json()
    assert told == {"probe": "toy@1", "path": "toy.zip"}
    card = foretell(project, "probes show toy@1").json()
    shutil.rmtree(project / "probes")
    with zipfile.ZipFile(project / "toy.zip") as file:
        file.extractall(project / "probes")
    assert foretell(project, "probes show toy").json() == card
    assert foretell(project, "route 'Which town in the north is nr 7?' --json").json()


def test_a_probe_is_exported_into_another_folder(project):
    assert "toy@1 is in" in foretell(project, "probes export toy@1 --to elsewhere").out
    assert (project / "elsewhere" / "toy" / "1" / "card.json").is_file()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("probes promote toy", ("'toy' is no probe's name", "geo@3")),
        ("probes promote toy@", ("is no probe's name",)),
        ("probes promote toy@x", ("is no probe's name",)),
        ("probes promote toy@-1", ("is no probe's name",)),
        ("probes promote toy@9", ("there are toy@1",)),
        ("probes promote ../toy@1", ("without '/'",)),
        ("probes rollback toy", ("nothing served domain 'toy' before toy@1",)),
        ("probes rollback tea", ("there are no probes of domain 'tea'", "there are: toy")),
        ("probes promote tea@1", ("there are no probes of domain 'tea'", "there are: toy")),
        ("probes export toy@9 --to a.zip", ("there are toy@1",)),
        ("probes export toy@1 --to queries.jsonl", ("cannot write",)),
        ("probes export toy@1 --to probes", ("is there already",)),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(project, command, said):
    refused(foretell(project, command), *said)


def test_a_probe_that_is_to_serve_but_is_gone_is_missed_by_name(two):
    foretell(two, "probes promote toy@1")
    shutil.rmtree(two / "probes" / "toy" / "1")
    refused(foretell(two, "route 'Which town?'"), "no probe toy@1", "there are toy@2")
    refused(foretell(two, "probes rollback tea"), "tea")
    assert foretell(two, "probes rollback toy --json").json()["serving"] == 2
