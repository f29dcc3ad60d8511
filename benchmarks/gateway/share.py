"""How well the gateway keeps a share of strong calls while its traffic drifts.

python -m benchmarks.gateway.share [--requests 8000] [--share 0.3] [--json]

Requests go through the real gateway, over HTTP, to a route with the goal ``strong_share``; the weak
model is the tiny engine with a probe that was trained on a third of easy queries. The traffic is
first as in training, then easy alone, then hard alone, then bursts of either, then another mixture.
The share is counted over every 1,000 requests in a row, by who answered.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import uvloop
from benchmarks.gateway._processes import KEY, gateway, mock_upstream
from benchmarks.gateway._project import ENVIRONMENT, TEXT, config, make_project, write_config
from benchmarks.gateway._report import Row, report
from benchmarks.gateway.load import Connections, Reply, http_request

WINDOW = 1_000
GOAL = 0.02
PHASES = ("as in training", "easy alone", "hard alone", "bursts", "half and half")
_QUERIES = 240  # as many as the probe knows
_BURST = 150


def directions(requests: int, generator: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Phase and direction of each request."""
    for i in range(requests):
        phase = PHASES[i * len(PHASES) // requests]
        match phase:
            case "as in training":
                yield phase, str(generator.choice(["north", "south", "east"]))
            case "easy alone":
                yield phase, "north"
            case "hard alone":
                yield phase, str(generator.choice(["south", "east"]))
            case "bursts":
                yield phase, "north" if (i // _BURST) % 2 else "south"
            case _:
                yield phase, str(generator.choice(["north", "south"]))


def windows(strong: list[bool]) -> list[float]:
    """The share over each ``WINDOW`` requests in a row."""
    sums = np.cumsum([0, *strong])
    return list((sums[WINDOW:] - sums[:-WINDOW]) / WINDOW)


async def _ask_all(
    url: str, order: list[tuple[str, str]], callers: int, generator: np.random.Generator
) -> list[Reply]:
    connections = Connections(url)
    waiting = iter(order)
    replies: list[Reply] = []

    async def caller() -> None:
        for _, direction in waiting:
            number = int(generator.integers(_QUERIES))
            body: dict[str, Any] = {
                "model": "auto",
                "messages": [{"role": "user", "content": TEXT.format(direction, number)}],
                "max_tokens": 4,
            }
            replies.append(await connections.ask(http_request(url, body, key=KEY)))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return sorted(replies, key=lambda reply: reply.sent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=int, default=8_000)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--callers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        upstream = stack.enter_context(mock_upstream(folder))
        make_project(folder, upstream.url, queries=_QUERIES)
        write_config(folder, config(upstream.url, goal={"strong_share": options.share}))
        served = stack.enter_context(gateway(folder, environment=ENVIRONMENT))
        order = list(directions(options.requests, generator))
        replies = uvloop.run(_ask_all(served.url, order, options.callers, generator))
    strong = [reply.model == "large" for reply in replies]
    shares = windows(strong)
    off = max(abs(share - options.share) for share in shares)
    by_phase = {
        phase: float(np.mean([s for s, (p, _) in zip(strong, order, strict=True) if p == phase]))
        for phase in PHASES
    }
    failed = sum(reply.status != 200 for reply in replies)
    rows = [
        Row(
            what=f"strong share of {options.share:g} under drift, worst of {len(shares):,} windows "
            f"of {WINDOW:,}",
            measured=f"{100 * off:.2f} points off ({min(shares):.3f} to {max(shares):.3f}; "
            f"{failed} of {len(replies):,} requests failed)",
            goal="≤ 2 points",
            met=off <= GOAL and not failed,
        )
    ]
    details = {
        "options": vars(options),
        "share": float(np.mean(strong)),
        "by_phase": by_phase,
        "decisions": dict(Counter(reply.decision for reply in replies)),
    }
    report("gateway strong share", rows, details, as_json=options.json)


if __name__ == "__main__":
    main()
