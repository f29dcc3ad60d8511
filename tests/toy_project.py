"""A whole project on the tiny engine: queries of known difficulty, and a recorded strong model.

The weak model counts as right about the north, wrong about the south and the east, except for one
query in ten, where it is the other way round; the strong model is wrong about one in five.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from foretell.cli import main
from foretell.prefill.engines.recorded import write_recording
from foretell.records import Answer, Observation, Query, Role, Usage

# A shell may start tests in the background with SIGINT ignored, which children inherit.
_PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from foretell.cli import main
main()
"""
DIRECTIONS = ("north", "south", "east")
CONFIG: Mapping[str, Any] = {
    "schema_version": 1,
    "models": {
        "small": {"engine": "tiny", "price": {"input": 0.02, "output": 0.08}},
        "large": {
            "engine": "recorded",
            "path": "strong.jsonl.gz",
            "price": {"input": 2.5, "output": 10},
        },
    },
    "routes": {
        "auto": {
            "weak": "small",
            "strong": ["large"],
            "domain": "toy",
            "goal": {"strong_share": 0.4},
        }
    },
}


def toy_queries(train: int = 120, test: int = 60) -> list[Query]:
    return [
        Query(
            id=f"q{i:03}",
            messages=(
                {"role": "user", "content": f"Which town in the {DIRECTIONS[i % 3]} is nr {i}?"},
            ),
            split="train" if i < train else "test",
        )
        for i in range(train + test)
    ]


def toy_outcomes(query: Query) -> dict[Role, int]:
    number = int(query.id[1:])
    return {
        "weak": int(("north" in query.text) != (number % 10 == 0)),
        "strong": int(number % 5 != 0),
    }


def strong_observations(queries: list[Query]) -> list[Observation]:
    return [
        Observation(
            domain="toy",
            query=query,
            role="strong",
            answer=Answer(
                text=f"town {query.id}",
                model="big-1",
                finish_reason="stop",
                usage=Usage(prompt_tokens=20, completion_tokens=4),
            ),
        )
        for query in queries
    ]


def write_project(folder: Path, config: Mapping[str, Any] = CONFIG) -> list[Query]:
    """Everything that the command line needs, the labels too."""
    queries = toy_queries()
    write_lines(
        folder / "queries.jsonl",
        [{"id": q.id, "messages": list(q.messages), "split": q.split} for q in queries],
    )
    write_lines(
        folder / "outcomes.jsonl",
        [
            {"id": q.id, "role": role, "metric": "right", "value": value, "source": "code"}
            for q in queries
            for role, value in toy_outcomes(q).items()
        ],
    )
    write_recording(folder / "strong.jsonl.gz", strong_observations(queries))
    write_config(folder, config)
    return queries


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(json.loads(json.dumps(config)))
    (folder / "foretell.yaml").write_text(text, encoding="utf-8")


def changed(config: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The configuration with other values at dotted paths, written ``routes__auto__goal=…``."""
    copy: dict[str, Any] = json.loads(json.dumps(config))
    for path, value in changes.items():
        *sections, last = path.split("__")
        section = copy
        for name in sections:
            section = section[name]
        section[last] = value
    return copy


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How one run of the command ended, and what it said."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What stdout holds, which must be JSON and nothing else."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def foretell(folder: Path, command: str, *arguments: str) -> Finished:
    """The command as a user in ``folder`` types it, in this process; then more arguments."""
    out, err = StringIO(), StringIO()
    with (
        chdir(folder),
        redirect_stdout(out),
        redirect_stderr(err),
        patch.object(sys, "argv", ["foretell", *shlex.split(command), *arguments]),
    ):
        try:
            main()
        except SystemExit as ending:
            code = ending.code or 0
        else:
            code = 0
    assert isinstance(code, int)
    return Finished(code=code, out=out.getvalue(), err=err.getvalue())


def refused(finished: Finished, *said: str) -> None:
    """Exit 1, nothing on stdout, and one sentence on stderr that holds every part of ``said``."""
    # Progress bars come before; the error is the last thing.
    _, mark, sentence = finished.err.rpartition("error: ")
    assert finished.code == 1
    assert finished.out == ""
    assert mark, finished.err
    assert "Traceback" not in finished.err
    assert len(sentence.strip().splitlines()) == 1
    for part in said:
        assert part in sentence


def interrupted(folder: Path, command: str, *, when: Callable[[], bool]) -> Finished:
    """The command in a process of its own, sent a Ctrl-C as soon as ``when`` says so."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *command.split()],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    give_up = time.monotonic() + 60
    while not when() and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return Finished(code=process.returncode, out=out, err=err)
