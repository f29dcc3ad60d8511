"""Change the queries and see which decisions flip; attack the probe and two baselines.

    python benchmarks/quality/robustness.py --data DATA --models MODELS --to .cache/quality \
        --results benchmarks/quality/results --sets smollm2-135m/geo

Every changed query is run through the real weak model; the baselines read its text.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from _data import Place, load, shown_command, splits
from _domains import load_domain

from foretell.config import LlamacppModel
from foretell.evaluation import engine_scorer, gather_robustness
from foretell.routers import ProbeRouter, make_router
from foretell.runtime import open_engine

sys.path.insert(0, str(Path(__file__).parents[1]))
from _machine import describe_machine

_ROUTERS = ("probe", "tfidf", "embedding")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--queries", type=int, default=120, help="that are measured on")
    parser.add_argument("--attacked", type=int, default=12, help="that strings are found on")
    parser.add_argument("--budget", type=int, default=1_200, help="prompts that a search scores")
    arguments = parser.parse_args()
    place = Place(arguments.to, arguments.data)
    started = time.perf_counter()
    sets: dict[str, Any] = {}
    strings: dict[str, Any] = {}
    for name in arguments.sets:
        sets[name], strings[name] = _measure(place, name, arguments)
    result = {
        "command": shown_command(sys.argv, arguments),
        "machine": describe_machine(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "seconds": round(time.perf_counter() - started),
        "routers": list(_ROUTERS),
        "attacked": arguments.attacked,
        "budget": arguments.budget,
        "sets": sets,
        "confounders": strings,
    }
    target = arguments.results / "robustness.json"
    target.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _measure(
    place: Place, name: str, arguments: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    weak, domain = name.split("/")
    train, test = splits(place, load(place, weak, domain))
    by_id = {query.id: query for query in load_domain(domain, place.data).queries}
    drawn = np.random.default_rng(4).permutation(len(test))
    queries = [by_id[test.ids[row]] for row in drawn[: arguments.queries + arguments.attacked]]
    rows: dict[str, Any] = {}
    strings: dict[str, Any] = {}
    engine = open_engine(
        LlamacppModel(engine="llamacpp", model=f"file:{arguments.models / weak}.gguf", parallel=8)
    )
    try:
        for router in _ROUTERS:
            unfitted = ProbeRouter(kinds=("linear",)) if router == "probe" else make_router(router)
            fitted = unfitted.fit(train, np.random.default_rng(5))
            points = fitted.probe.read_points if router == "probe" else ()
            score = engine_scorer(
                engine, fitted, sees=unfitted.sees, domain=domain, read_points=points
            )
            bar = float(np.median(fitted.p_success(test)))
            flips, confounder = gather_robustness(
                queries,
                score,
                bar,
                np.random.default_rng(6),
                attacked=arguments.attacked,
                budget=arguments.budget,
            )
            rows[router] = {row.kind: asdict(row.flips.flipped) for row in flips}
            strings[router] = confounder.text
            print(f"{name} {router}: {confounder.text!r}", flush=True)
    finally:
        engine.close()
    return rows, strings


if __name__ == "__main__":
    main()
