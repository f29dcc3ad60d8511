from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from toy_project import foretell, write_project


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Any]]:
    """A project taken through every verb that learns, and what each printed as JSON."""
    folder = tmp_path_factory.mktemp("finished")
    write_project(folder)
    steps = {
        "collect": "collect --domain toy --input queries.jsonl --with-strong --max-tokens 4",
        "label": "label --domain toy --labeller import --option file=outcomes.jsonl",
        "train": "train --domain toy --no-nested",
        "evaluate": "evaluate --domain toy",
    }
    return folder, {
        verb: foretell(folder, *command.split(), "--json").json() for verb, command in steps.items()
    }


@pytest.fixture
def project(finished_project: tuple[Path, Mapping[str, Any]], tmp_path: Path) -> Path:
    """A copy of the finished project, to be changed at will."""
    return Path(shutil.copytree(finished_project[0], tmp_path / "project"))


@pytest.fixture
def fresh_project(tmp_path: Path) -> Path:
    """A project of which nothing was collected."""
    write_project(tmp_path)
    return tmp_path
