"""What the gateway adds to each piece of a streamed answer.

python -m benchmarks.gateway.streaming [--streams 200] [--seconds 5] [--rounds 5] [--json]

So many streams at once, each with a piece every second, fifth, tenth and twentieth of a second, at
moments of its own. Each piece holds the time it was sent by the mock upstream; callers note when it
came. The streams run directly and through the gateway in turns. *Added* is the quantile through the
gateway less the same quantile of the direct streams, a median over the rounds: what one more hop
costs, with the waiting for pieces of other streams.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from benchmarks.gateway._processes import KEY, Program, gateway, mock_upstream, run_load
from benchmarks.gateway._project import ENVIRONMENT, make_project
from benchmarks.gateway._report import Row, quantile, report
from benchmarks.gateway.load import Load, Loaded

EVERY_S = (1.0, 0.2, 0.1, 0.05)
GOAL_EVERY_S = 0.2
"""Five pieces a second is about as fast as people read; the goal is for that rate."""
GOAL_MS = 0.2
WAYS = {"direct": "mock-1", "bypass": "large", "route": "always"}
_WARM_UP_S = 2.0


def _streams(program: Program, model: str, every_s: float, options: argparse.Namespace) -> Loaded:
    chunks = ceil((_WARM_UP_S + options.seconds) / every_s) + 1
    return run_load(
        Load(
            url=program.url,
            model=model,
            callers=options.streams,
            seconds=options.seconds,
            warm_up_s=_WARM_UP_S,
            stream=True,
            order=f"chunks={chunks} every={every_s}",
            key=KEY,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each block")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    pieces: dict[tuple[float, str], list[list[float]]] = defaultdict(list)
    cpu_us: dict[tuple[float, str], list[float]] = defaultdict(list)
    broken = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        upstream = stack.enter_context(mock_upstream(folder))
        make_project(folder, upstream.url)
        served = stack.enter_context(gateway(folder, environment=ENVIRONMENT))
        for turn in range(options.rounds):
            for every_s in EVERY_S:
                for way, model in list(WAYS.items())[:: -1 if turn % 2 else 1]:
                    program = upstream if way == "direct" else served
                    before = program.cpu_s()
                    done = _streams(program, model, every_s, options)
                    n_sent = options.streams * (_WARM_UP_S + options.seconds) / every_s
                    cpu_us[every_s, way].append((program.cpu_s() - before) * 1e6 / n_sent)
                    pieces[every_s, way].append(done.pieces_ms)
                    broken += done.failed
    rows: list[Row] = []
    added: dict[str, dict[str, list[float]]] = {}
    for every_s in EVERY_S:
        for way in ("bypass", "route"):
            by_q = {
                name: [
                    quantile(through, q) - quantile(straight, q)
                    for through, straight in zip(
                        pieces[every_s, way], pieces[every_s, "direct"], strict=True
                    )
                ]
                for name, q in (("p50", 0.5), ("p99", 0.99))
            }
            added[f"{every_s:g} s, {way}"] = by_q
            p50, p99 = (float(np.median(by_q[name])) for name in ("p50", "p99"))
            whole = quantile([v for run in pieces[every_s, way] for v in run], 0.99)
            aimed = every_s == GOAL_EVERY_S
            cpu = np.median(cpu_us[every_s, way])
            rows.append(
                Row(
                    what=f"{way}, {options.streams} streams × {1 / every_s:g}/s, added p50 / p99",
                    measured=f"{p50:.3f} / {p99:.3f} ms (all of the way p99 {whole:.3f}; "
                    f"{cpu:.0f} µs of processor time a piece)",
                    goal=f"p99 ≤ {GOAL_MS:g} ms" if aimed else "",
                    met=p99 <= GOAL_MS if aimed else None,
                )
            )
    details = {
        "options": vars(options),
        "broken": broken,
        "added_ms": added,
        "pieces": {
            f"{every:g} s, {way}": sum(map(len, runs)) for (every, way), runs in pieces.items()
        },
        "direct_ms": {
            f"{every:g} s": {
                f"p{100 * q:g}": quantile([v for r in pieces[every, "direct"] for v in r], q)
                for q in (0.5, 0.99)
            }
            for every in EVERY_S
        },
    }
    report("gateway streaming", rows, details, as_json=options.json)


if __name__ == "__main__":
    main()
