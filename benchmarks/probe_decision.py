"""How long one decision of a saved probe takes: score and calibrate one activation.

python benchmarks/probe_decision.py [--json] [--calls 100000] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import platform
import time

import numpy as np

from foretell.calibration import FittedPlatt
from foretell.probes import FittedLinearProbe
from foretell.records import ReadPoint

WIDTHS = (576, 896, 4096)
WARM_UP = 1_000


def time_decisions(width: int, calls: int, generator: np.random.Generator) -> dict[str, float]:
    """Microseconds of one decision: median and 99th percentile over ``calls`` activations."""
    probe = FittedLinearProbe(
        read_point=ReadPoint(20, "mean"),
        weight=generator.normal(size=width).astype(np.float32) / width,
        bias=0.1,
        projection=generator.normal(size=(width, 64)).astype(np.float32),
        offset=np.zeros(64, dtype=np.float32),
        calibration=FittedPlatt(slope=0.9, intercept=0.1),
    )
    # More activations than one, so that they are not all in the fastest cache.
    activations = generator.normal(size=(256, width)).astype(np.float32)
    nanoseconds = np.empty(calls, dtype=np.int64)
    for call in range(-WARM_UP, calls):
        activation = activations[call % len(activations)]
        start = time.perf_counter_ns()
        probe.p_success(activation)
        nanoseconds[call] = time.perf_counter_ns() - start
    p50, p99 = np.percentile(nanoseconds / 1000, [50, 99])
    return {"p50_us": round(float(p50), 2), "p99_us": round(float(p99), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    result = {
        "benchmark": "probe_decision",
        "calls": options.calls,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "widths": {str(width): time_decisions(width, options.calls, generator) for width in WIDTHS},
    }
    if options.json:
        print(json.dumps(result))
        return
    for width, times in result["widths"].items():
        print(
            f"width {width}: median {times['p50_us']} µs, 99th percentile {times['p99_us']} µs "
            f"over {options.calls:,} calls"
        )


if __name__ == "__main__":
    main()
