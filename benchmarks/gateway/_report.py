"""One way to print: a JSON object, or tables of what was measured beside what was aimed for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from benchmarks._machine import Ratio, describe_machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure; ``goal`` is empty where there is none, ``met`` then ``None``."""

    what: str
    measured: str
    goal: str = ""
    met: bool | None = None


def report(
    name: str, rows: Sequence[Row], details: dict[str, Any], *, as_json: bool
) -> dict[str, Any]:
    """Print what was measured, as a table in Markdown or as JSON with all details."""
    machine = describe_machine()
    result = {
        "benchmark": name,
        "machine": machine,
        "rows": [asdict(row) for row in rows],
        **details,
    }
    if as_json:
        print(json.dumps(result, indent=1, default=_plain), flush=True)
        return result
    print(
        f"\n{name}: {machine['processor']}, {machine['cores']} cores, load {machine['load_1min']}"
    )
    print("\n| what | measured | goal | |\n|---|---|---|---|")
    for row in rows:
        verdict = "" if row.met is None else "met" if row.met else "missed"
        print(f"| {row.what} | {row.measured} | {row.goal} | {verdict} |")
    print(flush=True)
    return result


def quantile(values: Sequence[float], q: float) -> float:
    """The ``q``-quantile, which there must be values for."""
    assert values, "nothing was measured"
    return float(np.quantile(values, q))


def _plain(value: object) -> Any:
    """What JSON does not know: our ratios, and NumPy's own numbers."""
    if isinstance(value, Ratio):
        return asdict(value)
    return value.item() if isinstance(value, np.generic) else str(value)
