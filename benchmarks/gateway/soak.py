"""Whether the gateway's memory, files and tasks stay as they are, over many requests of all kinds.

python -m benchmarks.gateway.soak [--requests 100000] [--json]

Kinds are mixed by chance (``KINDS``): whole answers and streams, by the model's name and by route,
the tiny engine's own, conversations that go on, refusals of many sorts, upstreams that fail or
break off, callers who hang up before the answer or in the middle of it. Keys are asked for, the
ledger is kept. After every tenth of the requests all is let finish, and the process is looked at.
The slope is fitted to what was seen after the first fifth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import uvloop
from benchmarks.gateway._processes import (
    KEY,
    OTHER_CORE,
    Program,
    gateway,
    get_json,
    mock_upstream,
    on_core,
)
from benchmarks.gateway._project import (
    ADMIN_TOKEN,
    ADMIN_VARIABLE,
    DIRECTIONS,
    ENVIRONMENT,
    TEXT,
    config,
    make_project,
    write_config,
)
from benchmarks.gateway._report import Row, report
from benchmarks.gateway.load import Connections, Reply, http_request

LOOKS = 20
GOAL_MB = 1.0
_PER = 10_000
_SETTLE_S = 10.0
_WORKERS = 16
_SHORT = "chunks=4 every=0.002"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The process between two requests; tasks and sizes are as the admin listener tells them."""

    requests: int
    resident_mb: float
    descriptors: int
    threads: int
    in_flight: int
    tasks: int | None


class Mixture:
    """Requests of all kinds, one after the other."""

    def __init__(self, url: str, generator: np.random.Generator) -> None:
        self._url = url
        self._connections = Connections(url)
        self._generator = generator
        self._number = 0
        names, weights = zip(*KINDS.items(), strict=True)
        self._names: tuple[str, ...] = names
        self._shares = np.array(weights) / sum(weights)
        self.statuses: Counter[str] = Counter()

    async def one(self) -> None:
        """A request of a kind drawn by chance."""
        self._number += 1
        kind = str(self._generator.choice(self._names, p=self._shares))
        reply = await _MAKERS[kind](self)
        self.statuses[f"{kind} {reply.status}"] += 1

    async def ask(
        self,
        model: str,
        order: str = "",
        *,
        messages: list[dict[str, Any]] | None = None,
        key: str | None = KEY,
        headers: tuple[str, ...] = (),
        **fields: Any,
    ) -> Reply:
        """One request and its whole answer."""
        request = self.request(model, order, messages=messages, key=key, headers=headers, **fields)
        return await self._connections.ask(request)

    def request(
        self,
        model: str,
        order: str = "",
        *,
        messages: list[dict[str, Any]] | None = None,
        key: str | None = KEY,
        headers: tuple[str, ...] = (),
        **fields: Any,
    ) -> bytes:
        """The bytes of a request whose text nobody has sent before."""
        text = f"{self.text()} [mock {order}]" if order else self.text()
        body = {
            "model": model,
            "messages": messages or [{"role": "user", "content": text}],
            "max_tokens": 4,
            **fields,
        }
        return http_request(self._url, body, key=key, headers=headers)

    def text(self) -> str:
        """What nobody has asked yet."""
        return TEXT.format(DIRECTIONS[self._number % 3], self._number)

    async def left(self, request: bytes, after_s: float) -> Reply:
        """A request whose caller hangs up."""
        with suppress(OSError):
            connection = await self._connections.take()
            asking = asyncio.ensure_future(connection.ask(request))
            await asyncio.wait({asking}, timeout=after_s)
            connection.close()
            return await asking
        return Reply()

    async def conversation(self) -> Reply:
        """One turn of one of a thousand conversations."""
        name = int(self._generator.integers(1000))
        messages = [
            {"role": "user", "content": TEXT.format("north", name)},
            {"role": "assistant", "content": "A town, nr 5."},
            {"role": "user", "content": self.text()},
        ]
        headers = (f"x-foretell-session: talk-{name}",)
        return await self.ask("always", messages=messages, headers=headers)

    async def bad_body(self) -> Reply:
        """Something that is no chat completion."""
        role = {"role": str(self._generator.choice(["tool", "robot"])), "content": self.text()}
        return await self.ask("large", messages=[role])


Maker = Callable[[Mixture], Awaitable[Reply]]

KINDS = {
    "whole": 40,
    "whole, route": 14,
    "stream": 12,
    "stream, route": 6,
    "probe": 3,
    "probe, stream": 1,
    "conversation": 6,
    "bad body": 4,
    "no such model": 3,
    "wrong key": 3,
    "upstream refuses": 2,
    "upstream fails": 1,
    "stream breaks off": 2,
    "leaves at once": 1.5,
    "leaves a stream": 1.5,
}
"""Kinds of requests and how many of them, in proportion."""

_MAKERS: dict[str, Maker] = {
    "whole": lambda mix: mix.ask("large"),
    "whole, route": lambda mix: mix.ask("always"),
    "stream": lambda mix: mix.ask("large", _SHORT, stream=True),
    "stream, route": lambda mix: mix.ask("always", _SHORT, stream=True),
    "probe": lambda mix: mix.ask("auto"),
    "probe, stream": lambda mix: mix.ask("auto", stream=True),
    "conversation": lambda mix: mix.conversation(),
    "bad body": lambda mix: mix.bad_body(),
    "no such model": lambda mix: mix.ask(f"model-{mix.text()[-4:]}"),
    "wrong key": lambda mix: mix.ask("large", key=f"sk-{abs(hash(mix.text())):x}"),
    "upstream refuses": lambda mix: mix.ask("large", "status=400"),
    "upstream fails": lambda mix: mix.ask("flaky", "status=500"),
    "stream breaks off": lambda mix: mix.ask("flaky", f"{_SHORT} cut=2", stream=True),
    "leaves at once": lambda mix: mix.left(mix.request("large", "after=0.05"), 0.01),
    "leaves a stream": lambda mix: mix.left(
        mix.request("always", "chunks=20 every=0.01", stream=True), 0.03
    ),
}


class Soak:
    """Sends requests and looks at the process in between."""

    def __init__(self, served: Program, admin: str, mixture: Mixture) -> None:
        self._served = served
        self._admin = admin
        self._mixture = mixture
        self.looks: list[Look] = []

    async def run(self, requests: int) -> None:
        """All requests, with a look after each ``LOOKS``-th part of them."""
        per_look = max(1, requests // LOOKS)
        for number in range(LOOKS):
            left = iter(range(per_look))

            async def worker(left: Any = left) -> None:
                for _ in left:
                    await self._mixture.one()

            await asyncio.gather(*(worker() for _ in range(_WORKERS)))
            self.looks.append(await self._settled((number + 1) * per_look))

    async def _settled(self, requests: int) -> Look:
        """A look once nothing is under way, or has been for too long."""
        give_up = time.monotonic() + _SETTLE_S
        while True:
            await asyncio.sleep(0.5)
            state = get_json(f"{self._admin}/admin/state", token=ADMIN_TOKEN)
            in_flight, tasks = state["in_flight"], state.get("tasks")
            assert isinstance(in_flight, int)
            if in_flight == 0 or time.monotonic() > give_up:
                return Look(
                    requests=requests,
                    resident_mb=self._served.resident_mb(),
                    descriptors=self._served.descriptors(),
                    threads=self._served.threads(),
                    in_flight=in_flight,
                    tasks=tasks if isinstance(tasks, int) else None,
                )


def slope_mb(looks: list[Look]) -> float:
    """MB of resident memory more for each 10,000 requests, after the first fifth."""
    later = looks[len(looks) // 5 :]
    at = [look.requests / _PER for look in later]
    return float(np.polyfit(at, [look.resident_mb for look in later], 1)[0])


def _settings(upstream: str) -> dict[str, Any]:
    settings = config(upstream)
    # Its own target, so that the breaker of the good one stays closed; tried once, left never.
    settings["models"]["flaky"] = {
        **settings["models"]["large"],
        "retries": {"attempts": 1},
        "breaker": {"failures": 1_000_000},
    }
    settings["server"]["admin"] = {"port": 0, "token_env": ADMIN_VARIABLE}
    return settings


def _admin_url(served: Program) -> str:
    for line in served.log.read_text().splitlines():
        if "admin listens on" in line:
            return str(json.loads(line)["event"]).rpartition(" ")[2]
    raise RuntimeError(f"no admin listener: {served.log.read_text()[:1000]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with ExitStack() as stack:
        stack.enter_context(on_core(OTHER_CORE))
        folder = Path(stack.enter_context(TemporaryDirectory()))
        upstream = stack.enter_context(mock_upstream(folder))
        make_project(folder, upstream.url)
        write_config(folder, _settings(upstream.url))
        served = stack.enter_context(gateway(folder, environment=ENVIRONMENT))
        mixture = Mixture(served.url, np.random.default_rng(options.seed))
        soak = Soak(served, _admin_url(served), mixture)
        began = time.monotonic()
        uvloop.run(soak.run(options.requests))
        seconds = time.monotonic() - began
        log_mb = served.log.stat().st_size / 1e6
    looks = soak.looks
    later = looks[len(looks) // 5 :]
    slope = slope_mb(looks)
    descriptors = [look.descriptors for look in later]
    tasks = [look.tasks for look in later if look.tasks is not None]
    rows = [
        Row(
            what=f"resident memory, more for each 10,000 of {options.requests:,} requests",
            measured=f"{slope:+.2f} MB ({looks[0].resident_mb:.0f} MB at the first look, "
            f"{looks[-1].resident_mb:.0f} at the last; {options.requests / seconds:.0f}/s)",
            goal="< 1 MB",
            met=slope < GOAL_MB,
        ),
        Row(
            what="open files and sockets, least and most after the first fifth",
            measured=f"{min(descriptors)} to {max(descriptors)}, {descriptors[-1]} at the end",
            goal="flat",
            met=descriptors[-1] <= descriptors[0] + 2 * _WORKERS,
        ),
        Row(
            what="asyncio tasks, least and most while nothing is under way",
            measured="not told" if not tasks else f"{min(tasks)} to {max(tasks)}",
            goal="flat",
            met=None if not tasks else tasks[-1] <= tasks[0] + 2 * _WORKERS,
        ),
    ]
    details = {
        "options": vars(options),
        "seconds": round(seconds, 1),
        "log_mb": round(log_mb, 1),
        "looks": [asdict(look) for look in looks],
        "statuses": dict(sorted(mixture.statuses.items())),
    }
    report("gateway soak", rows, details, as_json=options.json)


if __name__ == "__main__":
    main()
