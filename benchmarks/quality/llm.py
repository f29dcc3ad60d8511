"""Ask a model how hard each query is: the LLM-as-classifier beside the other routers.

    python benchmarks/quality/llm.py --data DATA --models MODELS --to .cache/quality \
        --results benchmarks/quality/results --sets qwen-0.5b/geo

One call a query makes it the dearest router, so it is tried on part of the test queries, with the
probe's kind of interval.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from _data import Place, load, shown_command, splits

from foretell.config import LlamacppModel
from foretell.evaluation import evaluate_routers
from foretell.routers import LlmRouter
from foretell.runtime import asking, open_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from _machine import describe_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--ask", default="qwen-0.5b", help="the model that is asked")
    parser.add_argument("--training-calls", type=int, default=60)
    parser.add_argument("--queries", type=int, default=150, help="test queries asked about")
    arguments = parser.parse_args()
    place = Place(arguments.to, arguments.data)
    model = open_model(
        "asked",
        LlamacppModel(engine="llamacpp", model=f"file:{arguments.models / arguments.ask}.gguf"),
    )
    sets = {}
    for name in arguments.sets:
        weak, domain = name.split("/")
        started = time.perf_counter()
        train, test = splits(place, load(place, weak, domain, read_points=()))
        drawn = np.random.default_rng(7).permutation(len(test))[: arguments.queries]
        router = LlmRouter(ask=asking(model), training_calls=arguments.training_calls)
        evaluation = evaluate_routers(train, test.take(drawn), [router], np.random.default_rng(8))
        found = evaluation.router("llm")
        counts = evaluation.fitted["llm"].counts
        sets[name] = {
            "auroc": asdict(found.auroc),
            "counts": asdict(counts),
            "seconds_per_call": (time.perf_counter() - started)
            / (arguments.training_calls + arguments.queries),
        }
        print(f"{name}: {sets[name]}", flush=True)
        result = {
            "command": shown_command(sys.argv, arguments),
            "machine": describe_machine(),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "asked": arguments.ask,
            "sets": sets,
        }
        target = arguments.results / f"llm-{arguments.ask}.json"
        target.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    model.close()


if __name__ == "__main__":
    main()
