"""A trained project on the tiny engine, and gateways in front of a scripted upstream."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from toy_project import foretell, write_project

_LEARN = (
    "collect --domain toy --input queries.jsonl --with-strong --max-tokens 4",
    "label --domain toy --labeller import --option file=outcomes.jsonl",
    "train --domain toy --no-nested --kind linear --json",
)


@pytest.fixture(scope="session")
def trained_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a probe; nobody writes into it."""
    folder = tmp_path_factory.mktemp("trained-toy")
    write_project(folder)
    for command in _LEARN:
        finished = foretell(folder, command)
        assert finished.code == 0, finished.err
    return folder


@pytest.fixture
def toy(trained_toy: Path, tmp_path: Path) -> Path:
    """A copy of one's own."""
    return Path(shutil.copytree(trained_toy, tmp_path / "toy"))


@pytest.fixture(scope="module")
def shared_toy(trained_toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that the tests of one file share."""
    return Path(shutil.copytree(trained_toy, tmp_path_factory.mktemp("shared") / "toy"))
