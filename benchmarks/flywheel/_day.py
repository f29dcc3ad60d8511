"""One day: requests at simulated times through the real gateway, the flywheel's worker beside it."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np

from benchmarks.flywheel._world import Asked, World
from foretell.config import Config, parse_config
from foretell.flywheel import EventWatch, Worker
from foretell.flywheel._duties import work_on
from foretell.gateway import Gateway, make_app
from foretell.records import Outcome
from foretell.store import Store, model_key

ROUTE: Final = "auto"
DOMAIN: Final = "support"
METRIC: Final = "right"
MIDNIGHT: Final = 1_764_547_200.0  # 2025-12-01 00:00 UTC
HOUR: Final = 3600.0
NOON_H: Final = 12.0
SWAP_H: Final = 16.0
MIXED_IN: Final = 0.3
MOST_REPEATS: Final = 4
TICK_S: Final = 900.0
LABEL_DELAY_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request of the day: when it comes, and what it asks."""

    at: float
    asked: Asked
    first: bool


@dataclass(slots=True, kw_only=True)
class Served:
    """What became of it."""

    arrival: Arrival
    weak: str
    request_id: str
    decision: str
    cause: str | None
    by_weak: bool
    p_success: float | None
    step: str


def arrivals(world: World, requests: int, rng: np.random.Generator) -> list[Arrival]:
    """Requests over 24 hours, most in the afternoon; from noon on another kind mixes in.

    No query comes more than four times; which come, and when, is drawn.
    """
    hours = np.sort(_rhythm(requests, rng))
    decks = {name: _deck(queries, rng) for name, queries in world.queries.items()}
    seen: set[str] = set()
    found: list[Arrival] = []
    for hour in hours:
        other = hour >= NOON_H and rng.random() < MIXED_IN
        deck = decks["snips_field" if other else "geo"]
        asked = deck.pop()
        found.append(Arrival(at=MIDNIGHT + hour * HOUR, asked=asked, first=asked.key not in seen))
        seen.add(asked.key)
    return found


def _rhythm(n: int, rng: np.random.Generator):
    """Hours of the day with the density 1 + 0.6 cos(2 pi (h - 15) / 24)."""
    kept = np.empty(0)
    while len(kept) < n:
        hours = rng.uniform(0, 24, 2 * n)
        busy = 1 + 0.6 * np.cos(2 * math.pi * (hours - 15) / 24)
        kept = np.append(kept, hours[rng.uniform(0, 1.6, 2 * n) < busy])
    return kept[:n]


def _deck(queries: Sequence[Asked], rng: np.random.Generator) -> list[Asked]:
    """Every query four times, each round shuffled; drawn from the end."""
    rounds = [rng.permutation(len(queries)) for _ in range(MOST_REPEATS)]
    return [queries[index] for round_ in rounds for index in round_][::-1]


def config_of(world: World, folder: Path, weak: str, *, seed: int) -> Config:
    """The configuration of the day; the swap changes nothing but the weak model's recording."""
    small = {"engine": "recorded", "path": str(world.recordings[weak])}
    large = {"engine": "recorded", "path": str(world.recordings["strong"])}
    return parse_config(
        {
            "schema_version": 1,
            "models": {
                "small": {**small, "price": {"input": 0.02, "output": 0.08}},
                "large": {**large, "price": {"input": 2.5, "output": 10}},
            },
            "routes": {
                ROUTE: {
                    "weak": "small",
                    "strong": ["large"],
                    "router": "auto",
                    "domain": DOMAIN,
                    "goal": {"quality": 0.95, "confidence": 0.9},
                    "explore": {"start": 0.3, "floor": 0.02, "half_life": 800, "aimed": 0.5},
                    "shadow_runs": {"share": 0.1, "tokens_per_day": 50_000_000},
                    "deadline": {"floor_ms": 60_000},
                }
            },
            "store": {
                "url": f"sqlite:///{folder / 'foretell.db'}",
                "vectors": str(folder / "vectors"),
                "traffic": {"text": True, "vectors": "full"},
            },
            "probes": {"dir": str(folder / "probes")},
            "server": {"port": 0, "stored_keys": False},
            "flywheel": {
                "refit": {"every_h": 3, "new_labels": 400, "on_drift": True, "shadow_labels": 60},
                "drift": {"window": 300},
            },
        },
        where=f"day {seed}",
    )


class Verifier:
    """The application's own check, which knows each query's answer; it says so some minutes late.

    It judges what was really answered, by the weak model or by the strong one, and nothing else.
    """

    def __init__(self, world: World, weak: str) -> None:
        self._weak = weak
        self._done: set[tuple[str, str]] = set()

    def swap(self, weak: str) -> None:
        """Another weak model answers from now on."""
        self._weak = weak

    def label(self, store: Store, asked_by: Mapping[str, Served], until: float) -> int:
        """Judge every answer to requests up to a time that was not judged yet."""
        new = 0
        for role in ("weak", "strong"):
            by_model: dict[str, list[Outcome]] = {}
            for one in store.observations(DOMAIN, role):
                served = asked_by.get(one.query.id)
                if served is None or (one.query.id, role) in self._done:
                    continue
                if served.arrival.at > until:
                    continue
                who = served.weak if role == "weak" else "strong"
                key = model_key(one.model or one.answer.model)
                by_model.setdefault(key, []).append(
                    Outcome(
                        domain=DOMAIN,
                        query_id=one.query.id,
                        role=role,
                        metric=METRIC,
                        value=served.arrival.asked.right[who],
                        source="code",
                    )
                )
                self._done.add((one.query.id, role))
            for key, outcomes in by_model.items():
                store.put_outcomes(outcomes, model_key=key)
                new += len(outcomes)
        return new


@dataclass(slots=True)
class Clock:
    """Simulated time, seconds since 1970 (UTC)."""

    now: float = MIDNIGHT

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """All that happened: each request, each event of the flywheel, each change of an alarm."""

    served: list[Served]
    events: list[Mapping[str, Any]]
    refreshed: list[float]
    failures: list[str]


async def live(
    world: World, requests: Sequence[Arrival], folder: Path, *, seed: int, tell: Any = print
) -> Day:
    """Serve a day's requests in order, and turn the flywheel every simulated quarter of an hour."""
    folder.mkdir(parents=True, exist_ok=True)
    clock, weak = Clock(), "q8"
    gateway = Gateway(config_of(world, folder, weak, seed=seed), clock=clock)
    verifier = Verifier(world, weak)
    by_id: dict[str, Served] = {}
    served: list[Served] = []
    refreshed: list[float] = []
    failures: list[str] = []
    try:
        await gateway.load()
        store, recorder = gateway.store, gateway.recorder
        assert store is not None and recorder is not None
        worker = Worker(gateway.active.config, workplace=_here, clock=clock, open_store=_opens(gateway.active.config, clock))
        watch = EventWatch(store, now=clock())
        transport = httpx2.ASGITransport(make_app(gateway))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            next_tick = MIDNIGHT + TICK_S
            for number, arrival in enumerate(requests):
                while arrival.at >= next_tick:
                    clock.now = next_tick
                    await _quiet(gateway)
                    await asyncio.to_thread(recorder.flush, 60.0)
                    await asyncio.to_thread(verifier.label, store, by_id, next_tick - LABEL_DELAY_S)
                    jobs = await asyncio.to_thread(worker.tick)
                    failures += [f"{job.kind}: {job.message}" for job in jobs if job.state == "failed"]
                    if watch.news(clock()):
                        await gateway.refresh(by="flywheel")
                        refreshed.append(clock())
                    tell(_line(clock(), served, jobs))
                    next_tick += TICK_S
                clock.now = arrival.at
                if weak == "q8" and arrival.at >= MIDNIGHT + SWAP_H * HOUR:
                    weak = "q4"
                    changed = config_of(world, folder, weak, seed=seed)
                    await gateway.change(changed, by="operator")
                    worker.config = changed
                one = await _ask(client, arrival, weak, gateway)
                served.append(one)
                by_id[one.request_id] = one
        await _quiet(gateway)
        recorder.flush(60.0)
        events = [
            {"kind": e.kind, "subject": e.subject, "at": e.at, "by": e.by, "details": dict(e.details)}
            for e in reversed(store.events(limit=100_000))
        ]
    finally:
        await gateway.close()
    return Day(served=served, events=events, refreshed=refreshed, failures=failures)


def _opens(config: Config, clock: Clock) -> Callable[[], Store]:
    """The day's store, which tells the day's time."""
    return lambda: Store.open(config.store.url, config.store.vectors, clock=clock)


def _here(job: Any, config: Config, queue: Any, _: threading.Event) -> None:
    """Jobs in this very process, whose clock is the day's."""
    work_on(job, config, queue)


async def _ask(client: Any, arrival: Arrival, weak: str, gateway: Gateway) -> Served:
    reply = await client.post(
        "/v1/chat/completions",
        json={"model": ROUTE, "messages": list(arrival.asked.messages), "max_tokens": 256},
    )
    assert reply.status_code == 200, reply.text
    block = reply.json()["foretell"]
    return Served(
        arrival=arrival,
        weak=weak,
        request_id=reply.headers["x-request-id"],
        decision=block["decision"],
        cause=block["cause"],
        by_weak=block["model"] == "small",
        p_success=block["p_success"],
        step=block["router"] or "none",
    )


async def _quiet(gateway: Gateway) -> None:
    """Wait until the shadow runs are done."""
    while gateway.shadow_runs.waiting or gateway.shadow_runs.running:
        await asyncio.sleep(0.002)


def _line(now: float, served: Sequence[Served], jobs: Sequence[Any]) -> str:
    recent = served[-300:]
    hour = (now - MIDNIGHT) / HOUR
    if not recent:
        return f"{hour:5.2f} h"
    quality = [x.arrival.asked.right[x.weak if x.by_weak else "strong"] for x in recent]
    strong = [x.arrival.asked.right["strong"] for x in recent]
    share = np.mean([not x.by_weak for x in recent])
    done = ", ".join(f"{j.kind} {j.state}" for j in jobs if j.kind not in ("label", "drift"))
    words = next((str(j.result.get("words", ""))[:150] for j in jobs if j.kind in ("ladder", "refit", "promotion")), "")
    return (
        f"{hour:5.2f} h {len(served):5d} {recent[-1].step:12s} strong {share:.2f} "
        f"quality {np.mean(quality):.3f} / {np.mean(strong):.3f} {done} {words}"
    )
