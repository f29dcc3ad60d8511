"""What is stored, as the command line shows it, brings it in and out, and erases it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from toy_project import foretell


def ok(project, *command):
    done = foretell(project, *command)
    assert done.code == 0, done.err
    return done


@pytest.fixture
def log(project):
    """A log of three requests, one of which failed."""
    rows = [
        {
            "request": {"messages": [{"role": "user", "content": f"Question {i}?"}]},
            "response": {
                "id": f"chatcmpl-{i}",
                "model": "big-1",
                "choices": [
                    {
                        "message": {"role": "assistant", "content": f"Answer {i}"},
                        "finish_reason": "stop",
                    }
                ],
            },
        }
        for i in range(2)
    ]
    rows.append({**rows[0], "error": {"message": "overloaded"}})
    path = project / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_log_is_imported_counted_and_erased_by_its_tenant(project, log):
    command = f"data import {log.name} --format openai --domain logs --tenant key-7"
    done = ok(project, *command.split(), "--json").json()
    assert (done["answers"], done["new"], done["estimated_tokens"]) == (2, 2, 2)
    assert [row["line"] for row in done["bad"]] == [3]
    again = ok(project, command)
    assert "0 answers imported, 2 were there already" in again.out
    assert "line 3 is left out" in again.err
    stats = ok(project, "data stats --json").json()
    assert {"tenant": "key-7", "queries": 2, "requests": 0} in stats["tenants"]
    assert stats["bytes"] > 0
    assert "key-7" in ok(project, "data stats").out
    erased = ok(project, "data delete --tenant key-7 --yes --json").json()
    assert erased["queries_erased"] == 2
    assert [row["domain"] for row in ok(project, "data stats --json").json()["domains"]] == ["toy"]


def test_a_table_is_imported_by_the_names_of_its_columns(project):
    (project / "log.csv").write_text("question,reply\nWhy?,Because.\n")
    command = "data import log.csv --format csv --domain logs --column prompt=question"
    ok(project, f"{command} --column answer=reply --model big-1")
    wrong = foretell(project, f"{command} --column answer")
    assert "write --column prompt=question" in wrong.err


def test_what_is_stored_is_exported(project):
    done = ok(project, "data export out --domain toy --json").json()
    names = {path.rpartition("/")[2] for path in done["files"]}
    assert {"queries.parquet", "observations.parquet", "outcomes.parquet"} <= names
    assert "5 files in lines" in ok(project, "data export lines --format jsonl").out
    assert "is not empty" in foretell(project, "data export out").err


def test_a_missing_file_of_vectors_is_told_and_ends_with_1(project):
    assert "all well" in ok(project, "data check").out
    shard = next((project / "vectors").glob("*.parquet"))
    (project / "vectors" / "left.parquet").write_bytes(shard.read_bytes())
    assert "left.parquet is named by no row" in ok(project, "data check").out
    assert ok(project, "data check --repair --json").json()["removed"] == ["left.parquet"]
    shard.unlink()
    found = foretell(project, "data check --json")
    assert found.code == 1
    assert json.loads(found.out)["missing"] == [shard.name]


def test_retention_needs_a_limit_and_leaves_what_was_collected(project):
    assert "no limit is set" in foretell(project, "data retain").err
    assert "0 queries erased" in ok(project, "data retain --days 1").out
    assert ok(project, "data retain --max-gb 0.000001 --json").json()["queries_erased"] == 0


def test_small_files_are_merged(project):
    before = len(list((project / "vectors").glob("*.parquet")))
    done = ok(project, "data compact --json").json()
    assert done["merged"] in (0, before)
    assert "files of vectors became" in ok(project, "data compact").out


def test_nothing_is_erased_unless_it_is_said_what(project):
    assert "say what to erase" in foretell(project, "data delete --yes").err
    assert "0 queries erased" in ok(project, "data delete --request unknown --yes").out


def test_the_commands_of_the_documentation_are_understood(project):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    commands = re.findall(r"^foretell (data .*)$", page, flags=re.MULTILINE)
    assert len(commands) >= 10
    for command in commands:
        confirmed = f"{command} --yes" if command.startswith("data delete") else command
        done = foretell(project, confirmed)
        # Files of logs are not there, which is said once the options were understood.
        assert done.code == 0 or "cannot read" in done.err, (command, done.err)
