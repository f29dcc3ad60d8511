"""What every benchmark shares: the machine's description, paired ratios, one way to print."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Median of paired ratios, with a 95 % bootstrap interval over the ``n`` pairs."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n}"


def paired_ratio(numerator: ArrayLike, denominator: ArrayLike, *, seed: int = 0) -> Ratio:
    """How much the first is of the second, pair by pair: what slows both cancels."""
    ratios = np.asarray(numerator, dtype=float) / np.asarray(denominator, dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(ratios), (5_000, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return Ratio(value=float(np.median(ratios)), low=float(low), high=float(high), n=len(ratios))


def interleaved(
    runs: Sequence[Callable[[int], float]], *, pairs: int, warm_up: int = 2
) -> list[list[float]]:
    """What each of the ``runs`` returns, ``pairs`` times, in turns; the order changes each turn.

    A run is told the number of its turn, so that all runs of a turn can be given the same input.
    """
    results: list[list[float]] = [[] for _ in runs]
    for turn in range(-warm_up, pairs):
        order = range(len(runs)) if turn % 2 else reversed(range(len(runs)))
        for index in order:
            value = runs[index](turn + warm_up)
            if turn >= 0:
                results[index].append(value)
    return results


def describe_machine() -> dict[str, Any]:
    """Processor, cores this process may use, how busy they are, and the versions that matter."""
    from foretell.prefill.engines.llamacpp import describe_library

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "processor": _processor(),
        "cores": usable or os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "library": describe_library().split(",")[0],
    }


def show(result: dict[str, Any], *, as_json: bool) -> None:
    """Print a result as one JSON object, or as lines for people."""
    if as_json:
        print(json.dumps(result, indent=2, default=asdict))
        return
    for section, rows in result.items():
        print(section)
        for name, value in rows.items():
            print(f"  {name}: {value if not isinstance(value, float) else f'{value:.4g}'}")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
