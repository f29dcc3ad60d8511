"""What a real small model's answers cost through the gateway, against its engine alone.

foretell demo                                   # once: makes foretell-demo/geo
python -m benchmarks.gateway.weak [--demo foretell-demo/geo] [--queries 120] [--json]

The demo's held-out queries, one after the other; three take turns at each, each with one thread for
the model, and free to use any core for the rest:

- *alone*: the engine in this process, nobody reading: prefill, then the first token;
- *routed*: ``Route.consider`` in this process, then the first token where it keeps;
- *HTTP*: the same through the gateway, streamed, until the first token's event is there.

Each has an engine of its own, so that none finds its prompt in its cache. The route's goal is the
demo's, half of the calls. *Kept* is the time to the first token, a ratio to *alone* for the same
query. *Escalated* is the prefill that was paid for, as a ratio to a whole one, and with HTTP all
that an escalated request waits before the strong model is asked. Both for the demo's probe, and for
one trained with ``--max-depth``, with the AUROC that its card states beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import uvloop
import yaml
from benchmarks._machine import paired_ratio
from benchmarks.gateway._processes import Program, foretell, gateway, mock_upstream
from benchmarks.gateway._report import Row, report
from benchmarks.gateway.load import Connection, Reply, http_request

from foretell import Foretell
from foretell.prefill import PrefillEngine
from foretell.records import Message, Sampling
from foretell.runtime import Route

KEEP_GOAL, ESCALATE_GOAL = 1.05, 0.65
_ANSWER_TOKENS = 8
_FIRST_TEXT = b'"content":'


@dataclass(slots=True)
class Pairs:
    """Seconds of the same queries: here, and by the engine alone."""

    here: list[float] = field(default_factory=list[float])
    alone: list[float] = field(default_factory=list[float])

    def add(self, here: float, alone: float) -> None:
        """One query."""
        self.here.append(here)
        self.alone.append(alone)

    def row(self, what: str, goal: float | None) -> Row:
        """The ratio beside its goal."""
        if len(self.here) < 2:
            return Row(what=what, measured=f"{len(self.here)} queries: too few")
        ratio = paired_ratio(self.here, self.alone)
        times = f"{1e3 * np.median(self.here):.1f} against {1e3 * np.median(self.alone):.1f} ms"
        return Row(
            what=what,
            measured=f"{ratio} ({times})",
            goal="" if goal is None else f"≤ {goal:g}",
            met=None if goal is None else ratio.value <= goal,
        )


@dataclass(slots=True)
class Measured:
    """What came of one probe."""

    kept: Pairs = field(default_factory=Pairs)
    kept_http: Pairs = field(default_factory=Pairs)
    escalated: Pairs = field(default_factory=Pairs)
    escalated_http: Pairs = field(default_factory=Pairs)
    waited_http: Pairs = field(default_factory=Pairs)
    stopped: int = 0
    declined: int = 0

    def rows(self, name: str) -> list[Row]:
        """A row for each."""
        return [
            self.kept.row(f"{name}: kept, first token", KEEP_GOAL),
            self.kept_http.row(f"{name}: kept, first token over HTTP", KEEP_GOAL),
            self.escalated.row(f"{name}: escalated, prefill paid for", ESCALATE_GOAL),
            self.escalated_http.row(f"{name}: escalated, the same in the gateway", ESCALATE_GOAL),
            self.waited_http.row(f"{name}: escalated, all that was waited over HTTP", None),
        ]


def _alone(engine: PrefillEngine, messages: Sequence[Message]) -> tuple[float, float]:
    """Seconds of a whole prefill, and until the first text."""
    began = time.perf_counter()
    prompt = engine.render(messages)
    with engine.prefill(prompt, answer_tokens=_ANSWER_TOKENS) as prefill:
        whole = prefill.seconds
        next(iter(prefill.decode(_sampling())))
        return whole, time.perf_counter() - began


def _routed(route: Route, messages: Sequence[Message]) -> tuple[str, float, float, bool]:
    """Who serves, the prefill's seconds, seconds to the first text, whether it was cut short."""
    began = time.perf_counter()
    found = route.consider(messages, answer_tokens=_ANSWER_TOKENS)
    prefill = found.prefill
    assert prefill is not None
    with prefill:
        if found.decision.serve == "weak":
            next(iter(prefill.decode(_sampling())))
        took = time.perf_counter() - began
        cut = prefill.stopped_at is not None
        return found.decision.action, prefill.seconds, took, cut


class _Caller:
    """Streams one query at a time through the gateway."""

    def __init__(self, served: Program) -> None:
        self._url = served.url
        self._runner = uvloop.new_event_loop()
        self._connection: Connection | None = None

    def ask(self, messages: Sequence[Message], number: int) -> Reply:
        """The whole answer."""
        return self._runner.run_until_complete(self._ask(messages, number))

    async def _ask(self, messages: Sequence[Message], number: int) -> Reply:
        if self._connection is None or not self._connection.open:
            host, _, port = self._url.partition("://")[2].partition("/")[0].partition(":")
            loop = self._runner
            _, self._connection = await loop.create_connection(
                lambda: Connection(mark=_FIRST_TEXT), host, int(port)
            )
        body: dict[str, Any] = {
            "model": "auto",
            "messages": list(messages),
            "max_tokens": _ANSWER_TOKENS,
            "stream": True,
        }
        # The demo's examples stand in every query as turns; these are no conversations.
        headers = (f"x-foretell-session: query-{number}",)
        return await self._connection.ask(http_request(self._url, body, headers=headers))


def _sampling() -> Sampling:
    return Sampling(max_tokens=_ANSWER_TOKENS)


def _project(demo: Path, folder: Path, upstream: str) -> Path:
    """The demo's store and probe, with the mock as its strong model."""
    folder.mkdir()
    for name in ("probes", "vectors"):
        shutil.copytree(demo / name, folder / name)
    for path in demo.glob("foretell.db*"):
        shutil.copy(path, folder)
    settings = yaml.safe_load((demo / "foretell.yaml").read_text())
    settings["models"]["small"]["threads"] = 1
    settings["models"]["large"] = {
        "engine": "openai",
        "base_url": upstream,
        "model": "mock-1",
        "price": settings["models"]["large"]["price"],
    }
    settings["store"] = {
        "url": f"sqlite:///{folder / 'foretell.db'}",
        "vectors": f"{folder}/vectors",
    }
    settings["probes"] = {"dir": str(folder / "probes")}
    (folder / "foretell.yaml").write_text(yaml.safe_dump(settings))
    return folder / "foretell.yaml"


def _auroc(folder: Path, domain: str) -> str:
    """What the card of the newest probe says."""
    probes = folder / "probes" / domain
    newest = max(int(path.name) for path in probes.iterdir() if path.name.isdigit())
    card = json.loads((probes / str(newest) / "card.json").read_text())
    found, points = card["metrics"]["auroc"], card["read_points"]
    layers = sorted({point["layer"] for point in points})
    return (
        f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}], n = {found['n']}; "
        f"layers {layers} of {card['model']['n_layers']}"
    )


def _measure(config: Path, folder: Path, queries: Sequence[Sequence[Message]]) -> Measured:
    """Alone, routed and over HTTP in turns."""
    measured = Measured()
    with ExitStack() as stack:
        alone = stack.enter_context(Foretell.from_config(config)).open_engine("small")
        route = stack.enter_context(Foretell.from_config(config)).open_route("auto")
        served = stack.enter_context(gateway(folder, core=None))
        caller = _Caller(served)
        generator = np.random.default_rng(0)
        for turn, messages in enumerate(queries):
            found: dict[str, Any] = {}
            for who in generator.permutation(["alone", "routed", "http"]):
                if who == "alone":
                    found[who] = _alone(alone, messages)
                elif who == "routed":
                    found[who] = _routed(route, messages)
                else:
                    found[who] = caller.ask(messages, turn)
            if turn >= 5:  # the first ones fill the caches with the examples all queries share
                _note(measured, found)
    return measured


def _note(measured: Measured, found: dict[str, Any]) -> None:
    whole, first = found["alone"]
    action, prefill, took, cut = found["routed"]
    measured.stopped += cut
    if action == "keep":
        measured.kept.add(took, first)
    elif action == "escalate":
        measured.escalated.add(prefill, whole)
    reply: Reply = found["http"]
    assert reply.status == 200, reply
    if reply.decision == "keep":
        measured.kept_http.add((reply.marked - reply.sent) / 1e9, first)
    elif reply.decision == "escalate":
        measured.escalated_http.add(reply.prefill_ms / 1e3, whole)
        measured.waited_http.add((reply.first_byte - reply.sent) / 1e9, whole)
    else:
        measured.declined += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--demo", type=Path, default=Path("foretell-demo/geo"))
    parser.add_argument("--queries", type=int, default=120)
    parser.add_argument("--max-depth", type=float, default=0.6)
    options = parser.parse_args()
    lines = (options.demo / "queries.jsonl").read_text().splitlines()
    held_out = [row["messages"] for row in map(json.loads, lines) if row["split"] == "test"]
    queries = held_out[: options.queries + 5]
    rows: list[Row] = []
    details: dict[str, Any] = {"options": {k: str(v) for k, v in vars(options).items()}}
    domain = options.demo.name
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        upstream = stack.enter_context(mock_upstream(folder))
        for name, train in (
            ("demo's probe", ()),
            (f"probe of --max-depth {options.max_depth:g}", ("--max-depth", options.max_depth)),
        ):
            place = folder / f"project-{len(rows)}"
            config = _project(options.demo, place, upstream.url)
            if train:
                depth = ("--domain", domain, "--no-nested", *map(str, train))
                foretell(place, "train", "-c", str(config), *depth)
            measured = _measure(config, place, queries)
            rows.append(Row(what=f"{name}: AUROC", measured=_auroc(place, domain)))
            rows += measured.rows(name)
            details[name] = {"cut short": measured.stopped, "declined": measured.declined}
    report("gateway weak model", rows, details, as_json=options.json)


if __name__ == "__main__":
    main()
