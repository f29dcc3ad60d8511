"""A day of the flywheel: cold start, ladder, drift at noon, a swapped model, recovery.

    nice python -m benchmarks.flywheel --collections .cache/flywheel --work WORK --seeds 0 1 2

``WORK`` takes the recordings, which are made once, and each day's store. A seed whose result is
there is not run again, unless ``--again`` is given. ``--limit 500`` tries the first requests alone,
and writes nothing but what it prints.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import structlog
from benchmarks._machine import describe_machine
from benchmarks.flywheel._day import (
    NOON_H,
    SWAP_H,
    Day,
    Served,
    arrivals,
    live,
    seeded,
    static,
    ungated,
)
from benchmarks.flywheel._measures import baselines, log_of, summary, windows
from benchmarks.flywheel._pictures import draw
from benchmarks.flywheel._timeline import events_of, phases
from benchmarks.flywheel._world import World, make_world

RESULTS = Path("benchmarks/flywheel/results")
PARTS = {
    "whole day": (0.0, 24.0),
    "before noon": (0.0, NOON_H),
    "noon to swap": (NOON_H, SWAP_H),
    "after the swap": (SWAP_H, 24.0),
}
UNNOTICED = "static, swap unnoticed"
STATICS = {"static, swap noticed": True, UNNOTICED: False}


def main() -> None:
    arguments = _arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    world = make_world(arguments.collections, arguments.work / "recordings")
    for seed in arguments.seeds:
        path = arguments.results / f"seed-{seed}.json"
        if path.exists() and not arguments.again and arguments.limit is None:
            print(f"seed {seed}: {path} is there")
            continue
        result = run(world, arguments.work, seed, arguments.requests, arguments.limit)
        _show(result)
        if arguments.limit is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result, indent=1) + "\n")
    shown = arguments.results / f"seed-{arguments.seeds[0]}.json"
    if arguments.pictures is not None and shown.exists():
        for picture in draw(json.loads(shown.read_text()), arguments.pictures):
            print(picture)


def run(world: World, work: Path, seed: int, requests: int, limit: int | None) -> dict[str, Any]:
    """One day by one seed, with all that it is held against."""
    began = perf_counter()
    folder = work / f"seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    coming = arrivals(world, requests, np.random.default_rng(seed))[:limit]
    with seeded(seed, 1):
        day = asyncio.run(live(world, coming, folder, seed=seed))
    statics: dict[str, list[Served]] = {}
    if day.frozen is not None:
        for number, (name, notices) in enumerate(STATICS.items()):
            place = folder / f"static-{number}"
            with seeded(seed, 2 + number):
                statics[name] = asyncio.run(
                    static(world, coming, day.frozen, place, seed=seed, notices=notices)
                )
    return {
        "seed": seed,
        "machine": describe_machine(),
        "seconds": round(perf_counter() - began),
        "queries": {name: len(queries) for name, queries in world.queries.items()},
        **_measured(day, statics, seed),
    }


def _measured(day: Day, statics: dict[str, list[Served]], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, 2])
    mine = log_of(day.served)
    logs = {
        "flywheel": mine,
        **{name: log_of(served) for name, served in statics.items()},
        **baselines(day.served, float(mine.by_strong.mean()), rng),
    }
    if unnoticed := statics.get(UNNOTICED):
        logs["static, nothing checked"] = log_of(ungated(unnoticed))
    events = events_of(day)
    return {
        "parts": {
            part: {name: summary(log.between(*hours), rng) for name, log in logs.items()}
            for part, hours in PARTS.items()
        },
        "first_appearances": {
            name: summary(log.take(np.flatnonzero(log.first)), rng) for name, log in logs.items()
        },
        "phases": phases(mine, events),
        "served_by_step": _by_step(day.served),
        "shadow_usd_per_1k": round(1000 * float(np.mean([s.shadow_usd for s in day.served])), 4),
        "failures": day.failures,
        "events": events,
        "windows": {name: windows(log, rng) for name, log in logs.items() if name != "random"},
    }


def _by_step(served: Sequence[Served]) -> dict[str, int]:
    steps, counts = np.unique([one.step for one in served], return_counts=True)
    return {str(step): int(count) for step, count in zip(steps, counts, strict=True)}


def _show(result: dict[str, Any]) -> None:
    for part, rows in {**result["parts"], "first": result["first_appearances"]}.items():
        print(f"{part} (seed {result['seed']}, {result['seconds']} s)")
        for name, row in rows.items():
            print(f"  {name:24s} {json.dumps(row)}")
    print(json.dumps(result["phases"], indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--collections", type=Path, default=Path(".cache/flywheel"))
    parser.add_argument("--work", type=Path, default=Path(".cache/flywheel/day"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pictures", type=Path, help="folder for the pictures of the first seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--requests", type=int, default=9600)
    parser.add_argument("--limit", type=int, help="only the first requests, to try")
    parser.add_argument("--again", action="store_true", help="run seeds whose result is there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
