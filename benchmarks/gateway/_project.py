"""A project to serve: the tiny engine with a trained probe, and the mock upstream behind it.

The tiny engine's weights are made up, so its answers mean nothing; its prefill costs some
milliseconds, and a probe on its activations tells north from south as well as any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gateway._processes import KEY, foretell

DOMAIN = "towns"
TEXT = "Which town in the {} is nr {}?"
DIRECTIONS = ("north", "south", "east")
KEYS_VARIABLE = "BENCH_KEYS"
ADMIN_TOKEN = "bench-admin-token-0123456789"  # noqa: S105 - of a server on loopback
ADMIN_VARIABLE = "BENCH_ADMIN"
ENVIRONMENT = {KEYS_VARIABLE: KEY, ADMIN_VARIABLE: f"admin:{ADMIN_TOKEN}"}


def make_project(folder: Path, upstream: str, *, queries: int = 240) -> None:
    """Write the configuration and train the probe; takes some seconds."""
    rows = list(_rows(queries))
    _write_lines(folder / "queries.jsonl", [query for query, _ in rows])
    _write_lines(folder / "outcomes.jsonl", [outcome for _, outcome in rows])
    write_config(folder, config(upstream))
    domain = ("--domain", DOMAIN, "--route", "auto")
    foretell(folder, "collect", *domain, "--input", "queries.jsonl", "--max-tokens", "4")
    imported = ("--labeller", "import", "--option", "file=outcomes.jsonl")
    foretell(folder, "label", "--domain", DOMAIN, *imported)
    foretell(folder, "train", *domain)


def config(
    upstream: str,
    *,
    goal: Mapping[str, float] | None = None,
    server: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Three routes to the same models: by the probe, always strong, and by chance."""
    shared = {"weak": "small", "strong": ["large"], "domain": DOMAIN}
    return {
        "schema_version": 1,
        "models": {
            "large": {
                "engine": "openai",
                "base_url": upstream,
                "model": "mock-1",
                "price": {"input": 2.5, "output": 10},
            },
            "small": {"engine": "tiny", "price": {"input": 0.02, "output": 0.08}},
        },
        "routes": {
            "auto": {**shared, "goal": goal or {"threshold": 1.0}},
            "always": {**shared, "router": "strong", "goal": {"strong_share": 1.0}},
            "chance": {**shared, "router": "random", "goal": {"strong_share": 1.0}},
        },
        "server": {"api_keys_env": KEYS_VARIABLE, **(server or {})},
    }


def write_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """As ``foretell.yaml``; JSON is YAML, too."""
    (folder / "foretell.yaml").write_text(json.dumps(settings, indent=1))


def _rows(queries: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Right about the north, wrong elsewhere, but for one in ten, where it is the other way."""
    for i in range(queries):
        direction = DIRECTIONS[i % 3]
        right = (direction == "north") != (i % 10 == 0)
        query = {
            "id": f"q{i:04}",
            "prompt": TEXT.format(direction, i),
            "split": "test" if i % 4 == 3 else "train",
        }
        outcome = {
            "id": f"q{i:04}",
            "role": "weak",
            "metric": "right",
            "value": int(right),
            "source": "code",
        }
        yield query, outcome


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
