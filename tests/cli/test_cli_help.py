from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from foretell.cli import app
from toy_project import foretell

COMMAND = typer.main.get_command(app)
GROUPS = {name: verb for name, verb in COMMAND.commands.items() if hasattr(verb, "commands")}
VERBS = [name for name in COMMAND.commands if name not in GROUPS]
SUBVERBS = [f"{group} {verb}" for group in GROUPS for verb in GROUPS[group].commands]


def test_the_verbs_of_the_contract_are_there():
    assert {"demo", "route", "chat", "collect", "label", "train", "evaluate", "doctor"} <= {*VERBS}
    assert {"probes ls", "probes show", "data stats", "data delete", "models pull"} <= {*SUBVERBS}
    assert {"config schema", "config validate", "config show"} <= {*SUBVERBS}


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_ends_with_an_example(verb, tmp_path):
    shown = foretell(tmp_path, f"{verb} --help")
    assert shown.code == 0
    assert f"Example: foretell {verb}" in " ".join(shown.out.split())
    assert "--json" in shown.out


@pytest.mark.parametrize("verb", SUBVERBS)
def test_help_of_a_verb_in_a_group_has_an_example_whose_options_are_there(verb, tmp_path):
    shown = " ".join(foretell(tmp_path, f"{verb} --help").out.split())
    _, found, example = shown.partition(f"Example: foretell {verb}")
    assert found
    example, _, options = example.partition("╭")
    for option in re.findall(r"--[a-z-]+", example):
        assert option in options


@pytest.mark.parametrize("verb", [*GROUPS, *SUBVERBS])
def test_help_of_a_group_and_its_verbs_is_short(verb, tmp_path):
    shown = foretell(tmp_path, f"{verb} -h")
    assert shown.code == 0
    assert "Usage: foretell" in shown.out


def test_a_wrong_option_is_a_usage_error_without_a_traceback(tmp_path):
    wrong = foretell(tmp_path, "train --domian toy")
    assert wrong.code == 2
    assert "--domian" in wrong.err
    assert "Traceback" not in wrong.err


def test_no_colours_where_none_are_wanted(project):
    """As on a terminal, which ``FORCE_COLOR`` stands for; ``NO_COLOR`` has the last word."""
    foretell_script = Path(sys.executable).with_name("foretell")
    plain = subprocess.run(
        [foretell_script, "route", "Which town in the north is nr 1?"],
        cwd=project,
        env={"FORCE_COLOR": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the weak model would answer" in plain.stdout
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain.stdout + plain.stderr)
