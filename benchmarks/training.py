"""How long training on many wide activations takes, and how much memory, in a process of its own.

python benchmarks/training.py [--json] [--queries 10000] [--width 4096] [--nested] [--seed 0]

One read point, the default grid, every kind that needs no torch. Making the data is not timed, but
it is in the peak: it is there while the probe is trained.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from _machine import describe_machine, show
from foretell.probes import select_probe
from foretell.records import ReadPoint, RoutingData

_LATENT = 64
"""Directions that carry most of the variance, as in real activations; the outcome lies in one."""


def made_up(queries: int, width: int, generator: np.random.Generator) -> RoutingData:
    """Activations of falling variance, and outcomes that a probe can foretell in part."""
    latent = generator.standard_normal((queries, _LATENT), dtype=np.float32)
    latent *= 1 / np.sqrt(np.arange(1, _LATENT + 1, dtype=np.float32))
    activations = latent @ generator.standard_normal((_LATENT, width), dtype=np.float32)
    for rows in np.array_split(activations, 16):  # views; the noise is never there all at once
        rows += generator.standard_normal(rows.shape, dtype=np.float32)
    log_odds = 8 * latent[:, 5] + generator.normal(size=queries)
    return RoutingData(
        domain=("made up",) * queries,
        ids=tuple(map(str, range(queries))),
        texts=("",) * queries,
        groups=tuple(map(str, range(queries))),
        lengths=generator.integers(10, 100, queries),
        attributes=({},) * queries,
        activations={ReadPoint(20, "mean"): activations},
        first_entropy=generator.gamma(2, size=queries),
        first_margin=generator.random(queries),
        weak=(log_odds > 0).astype(np.float64),
    )


def train(queries: int, width: int, *, nested: bool, seed: int) -> dict[str, Any]:
    """Seconds of one selection, and the peak resident set of this process."""
    data = made_up(queries, width, np.random.default_rng(seed))
    before, processor_before = time.perf_counter(), time.process_time()
    selection = select_probe(data, nested=nested, seed=seed)
    return {
        "queries": queries,
        "width": width,
        "nested": nested,
        "kind": selection.probe.kind,
        "auroc": selection.metrics["auroc"].value,
        "seconds": round(time.perf_counter() - before, 2),
        "processor_seconds": round(time.process_time() - processor_before, 2),
        "peak_rss_mib": _peak_rss_mib(),
    }


def _peak_rss_mib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=4_096)
    parser.add_argument("--nested", action="store_true", help="with the estimate of outer folds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        row = train(options.queries, options.width, nested=options.nested, seed=options.seed)
        print(json.dumps(row))
        return
    # The peak is the process's own only when nothing else has run in it.
    run = subprocess.run(
        [sys.executable, __file__, "--here", *sys.argv[1:]],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    show({"machine": describe_machine(), "training": json.loads(run.stdout)}, as_json=options.json)


if __name__ == "__main__":
    main()
