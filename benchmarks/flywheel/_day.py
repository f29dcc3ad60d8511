"""One day: requests at simulated times through the real gateway, the worker beside it."""

from __future__ import annotations

import asyncio
import math
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from unittest import mock
from uuid import UUID

import httpx2
import numpy as np
from benchmarks.flywheel._world import Asked, Weak, World
from numpy.typing import NDArray

from foretell.config import Config, parse_config
from foretell.flywheel import EventWatch, Worker
from foretell.flywheel._duties import work_on
from foretell.gateway import Gateway, make_app
from foretell.records import Outcome, RequestRecord
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
QUALITY: Final = 0.95
CONFIDENCE: Final = 0.9
PRICES: Final = {
    "weak": {"input": 0.02, "output": 0.08},
    "strong": {"input": 2.5, "output": 10.0},
}
"""USD for a million tokens."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request of the day: when it comes, and what it asks."""

    at: float
    asked: Asked
    first: bool

    @property
    def hour(self) -> float:
        """Of the day, 0 to 24."""
        return (self.at - MIDNIGHT) / HOUR


@dataclass(slots=True, kw_only=True)
class Served:
    """What became of it; ``weak`` is the weak model of the moment, ``step`` what decided.

    ``cost_usd`` is the request's own, ``shadow_usd`` what asking the other model afterwards cost.
    ``above_bar`` says whether it would be kept if no gate declined what looks like nothing in
    training.
    """

    arrival: Arrival
    weak: Weak
    request_id: str
    decision: str
    cause: str | None
    by_weak: bool
    step: str
    cost_usd: float = 0.0
    shadow_usd: float = 0.0
    above_bar: bool = False

    @property
    def right(self) -> float:
        """Whether the answer that was served was right."""
        return self.arrival.asked.right[self.weak if self.by_weak else "strong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """All that happened: each request, and each event of the flywheel.

    ``frozen`` is where store and probes of noon lie, ``None`` where the day ended before noon.
    """

    served: list[Served]
    events: list[Mapping[str, Any]]
    failures: list[str]
    frozen: Path | None = None


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
        asked = decks["snips_field" if other else "geo"].pop()
        found.append(Arrival(at=MIDNIGHT + hour * HOUR, asked=asked, first=asked.key not in seen))
        seen.add(asked.key)
    return found


def _rhythm(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Hours of the day with the density 1 + 0.6 cos(2 pi (h - 15) / 24)."""
    kept = np.empty(0)
    while len(kept) < n:
        hours = rng.uniform(0, 24, 2 * n)
        busy = 1 + 0.6 * np.cos(2 * math.pi * (hours - 15) / 24)
        kept = np.append(kept, hours[rng.uniform(0, 1.6, 2 * n) < busy])
    return kept[:n]


def _deck(queries: Sequence[Asked], rng: np.random.Generator) -> list[Asked]:
    """Every query four times, shuffled."""
    return [queries[index] for index in rng.permutation(len(queries) * MOST_REPEATS) % len(queries)]


def config_of(world: World, folder: Path, weak: str, *, seed: int, learns: bool = True) -> Config:
    """The configuration; the swap changes nothing but the weak model's recording.

    What does not learn has neither exploration nor shadow runs.
    """
    small = {"engine": "recorded", "path": str(world.recordings[weak])}
    large = {"engine": "recorded", "path": str(world.recordings["strong"])}
    learning: dict[str, Any] = {
        "explore": {"start": 0.05, "floor": 0.02, "half_life": 1000, "aimed": 0.5},
        "shadow_runs": {
            "share": 1.0,
            "tokens_per_day": 50_000_000,
            "strong_share": 0.3,
            "usd_per_day": 10.0,
        },
    }
    return parse_config(
        {
            "schema_version": 1,
            "models": {
                "small": {**small, "price": PRICES["weak"]},
                "large": {**large, "price": PRICES["strong"]},
            },
            "routes": {
                ROUTE: {
                    "weak": "small",
                    "strong": ["large"],
                    "router": "auto",
                    "domain": DOMAIN,
                    "goal": {"quality": QUALITY, "confidence": CONFIDENCE},
                    "deadline": {"floor_ms": 60_000},
                    **(learning if learns else {}),
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
                "refit": {"every_h": 3, "new_labels": 800, "on_drift": True, "shadow_labels": 60},
                "drift": {"window": 300},
            },
        },
        where=f"day {seed}",
    )


class Verifier:
    """The application's own check, which knows each query's answer; it says so some minutes late.

    It judges what was really answered, by the weak model or by the strong one, and nothing else.
    """

    def label(self, store: Store, asked_by: Mapping[str, Served], until: float) -> None:
        """Judge every answer to requests up to a time that was not judged yet."""
        for role in ("weak", "strong"):
            waiting = store.unlabelled(DOMAIN, METRIC, role)
            by_model: dict[str, list[Outcome]] = {}
            for one in store.observations(DOMAIN, role) if waiting else ():
                if one.query.id not in waiting:
                    continue
                served = asked_by[one.query.id]
                if served.arrival.at > until:
                    continue
                who = served.weak if role == "weak" else "strong"
                by_model.setdefault(model_key(one.model or one.answer.model), []).append(
                    Outcome(
                        domain=DOMAIN,
                        query_id=one.query.id,
                        role=role,
                        metric=METRIC,
                        value=served.arrival.asked.right[who],
                        source="code",
                    )
                )
            for key, outcomes in by_model.items():
                store.put_outcomes(outcomes, model_key=key)


@dataclass(slots=True)
class Clock:
    """Simulated time, seconds since 1970 (UTC)."""

    now: float = MIDNIGHT

    def __call__(self) -> float:
        return self.now


@contextmanager
def seeded(seed: int, run: int) -> Iterator[None]:
    """All that the gateway draws, its ids and the store's salt follow from the seed.

    Each ``run`` of a seed has draws, and ids, of its own.
    """
    real, spring = np.random.default_rng, np.random.default_rng([seed, run])

    def generator(given: Any = None) -> np.random.Generator:
        return real(int(spring.integers(2**63)) if given is None else given)

    def unique() -> UUID:
        return UUID(bytes=spring.bytes(16))

    with (
        mock.patch.object(np.random, "default_rng", generator),
        mock.patch("foretell.gateway._gateway.uuid4", unique),
        mock.patch("foretell.store._facts.secrets.token_hex", lambda n: spring.bytes(n).hex()),
    ):
        yield


@dataclass(slots=True)
class _Flywheel:
    """The worker and those who tell it things, each quarter of an hour."""

    gateway: Gateway
    clock: Clock
    by_id: Mapping[str, Served]
    worker: Worker = field(init=False)
    watch: EventWatch = field(init=False)
    failures: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        config, store = self.gateway.active.config, self.gateway.store
        assert store is not None
        self.watch = EventWatch(store, now=self.clock())
        self.worker = Worker(
            config,
            workplace=_here,
            clock=self.clock,
            open_store=lambda: Store.open(config.store.url, config.store.vectors, clock=self.clock),
        )

    async def tick(self) -> str:
        """Label what may be known by now, do what is due; returns what was done, in words."""
        gateway, now = self.gateway, self.clock()
        assert gateway.store is not None
        assert gateway.recorder is not None
        await asyncio.to_thread(gateway.recorder.flush, 60.0)
        label = Verifier().label
        await asyncio.to_thread(label, gateway.store, self.by_id, now - LABEL_DELAY_S)
        jobs = await asyncio.to_thread(self.worker.tick)
        self.failures += [f"{job.kind}: {job.message}" for job in jobs if job.state == "failed"]
        if self.watch.news(now):
            await gateway.refresh(by="flywheel")
        told = ("ladder", "refit", "promotion")
        return "; ".join(f"{j.kind}: {j.result.get('words', '')}" for j in jobs if j.kind in told)


async def live(
    world: World, requests: Sequence[Arrival], folder: Path, *, seed: int, tell: Tell = print
) -> Day:
    """Serve a day's requests in order, and turn the flywheel every simulated quarter of an hour."""
    folder.mkdir(parents=True, exist_ok=True)
    clock, by_id = Clock(), dict[str, Served]()
    weak: Weak = "q8"
    frozen: Path | None = None
    gateway = Gateway(config_of(world, folder, weak, seed=seed), clock=clock)
    try:
        await gateway.load()
        assert gateway.store is not None
        flywheel = _Flywheel(gateway, clock, by_id)
        async with _client(gateway) as client:
            next_tick = MIDNIGHT + TICK_S
            for arrival in requests:
                while arrival.at >= next_tick:
                    clock.now = next_tick
                    words = await flywheel.tick()
                    tell(_line(clock(), list(by_id.values()), words))
                    next_tick += TICK_S
                if frozen is None and arrival.hour >= NOON_H:
                    frozen = _freeze(folder)
                clock.now = arrival.at
                if weak == "q8" and arrival.hour >= SWAP_H:
                    weak = "q4"
                    changed = config_of(world, folder, weak, seed=seed)
                    await gateway.change(changed, by="operator")
                    flywheel.worker.config = changed
                one = await _ask(client, arrival, weak)
                by_id[one.request_id] = one
                await _quiet(gateway)
        assert gateway.recorder is not None
        gateway.recorder.flush(60.0)
        _account(gateway.store, by_id)
        events = [
            {"kind": e.kind, "subject": e.subject, "at": e.at, "details": dict(e.details)}
            for e in reversed(gateway.store.events(limit=100_000))
        ]
    finally:
        await gateway.close()
    return Day(
        served=list(by_id.values()), events=events, failures=flywheel.failures, frozen=frozen
    )


async def static(
    world: World,
    requests: Sequence[Arrival],
    frozen: Path,
    folder: Path,
    *,
    seed: int,
    notices: bool,
) -> list[Served]:
    """Serve the requests from noon on with the probe and the bar of noon; nothing learns on.

    With ``notices``, the swapped model comes under its own name, and foretell declines to use a
    probe that was fitted on another; without, it comes under the name of the one before.
    """
    shutil.copytree(frozen, folder)
    clock, by_id = Clock(), dict[str, Served]()
    weak: Weak = "q8"
    gateway = Gateway(config_of(world, folder, weak, seed=seed, learns=False), clock=clock)
    try:
        await gateway.load()
        async with _client(gateway) as client:
            for arrival in requests:
                clock.now = arrival.at
                if arrival.hour < NOON_H:
                    continue
                if weak == "q8" and arrival.hour >= SWAP_H:
                    weak, name = "q4", "q4" if notices else "mute"
                    changed = config_of(world, folder, name, seed=seed, learns=False)
                    await gateway.change(changed, by="operator")
                one = await _ask(client, arrival, weak)
                by_id[one.request_id] = one
        assert gateway.recorder is not None
        assert gateway.store is not None
        gateway.recorder.flush(60.0)
        _account(gateway.store, by_id)
    finally:
        await gateway.close()
    return list(by_id.values())


def ungated(served: Sequence[Served]) -> list[Served]:
    """The same requests by the bar alone, whatever looks like nothing in training."""
    return [
        replace(
            one,
            by_weak=one.above_bar,
            cost_usd=usd(one.arrival.asked, one.weak if one.above_bar else "strong"),
        )
        for one in served
    ]


def usd(asked: Asked, who: str) -> float:
    """What a model's answer to a query costs, prompt and all."""
    price, used = PRICES["strong" if who == "strong" else "weak"], asked.tokens[who]
    paid = used.prompt_tokens * price["input"] + used.completion_tokens * price["output"]
    return paid / 1e6


def _freeze(folder: Path) -> Path:
    """A copy of store and probes as they are, for those who stop the flywheel here."""
    kept = folder / "noon"
    kept.mkdir()
    with (
        closing(sqlite3.connect(folder / "foretell.db")) as store,
        closing(sqlite3.connect(kept / "foretell.db")) as copy,
    ):
        store.backup(copy)
    for name in ("vectors", "probes"):
        if (folder / name).is_dir():
            shutil.copytree(folder / name, kept / name)
    return kept


def _account(store: Store, by_id: Mapping[str, Served]) -> None:
    """What each request cost, and what was asked of the other model afterwards."""
    for record in store.requests(limit=len(by_id)):
        served = by_id[record.id]
        served.cost_usd = record.cost_usd or 0.0
        served.above_bar = _above_bar(record)
    for role in ("weak", "strong"):
        for one in store.observations(DOMAIN, role):
            served = by_id.get(one.query.id)
            if served is None:  # of before noon
                continue
            if served.by_weak != (role == "weak"):
                who = served.weak if role == "weak" else "strong"
                served.shadow_usd += usd(served.arrival.asked, who)


def _above_bar(record: RequestRecord) -> bool:
    p_success, p_strong, bar = record.p_success, record.p_strong, record.keep_at
    if p_success is None or bar is None:
        return False
    if record.action == "declined" and p_strong is not None:
        # Noted is the bar for an estimate without p_strong: 1 less the least gain.
        bar = p_strong - (1 - bar)
    return p_success >= bar


def _here(job: Any, config: Config, queue: Any, _: threading.Event) -> None:
    """Jobs in this very process, whose clock is the day's."""
    work_on(job, config, queue)


def _client(gateway: Gateway) -> Any:
    transport = httpx2.ASGITransport(make_app(gateway))
    return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1")


async def _ask(client: Any, arrival: Arrival, weak: Weak) -> Served:
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
        step=block["router"] or "none",
    )


async def _quiet(gateway: Gateway) -> None:
    """Wait until the shadow runs are done."""
    while gateway.shadow_runs.waiting or gateway.shadow_runs.running:
        await asyncio.sleep(0.0005)


def _line(now: float, served: Sequence[Served], words: str) -> str:
    recent = served[-300:]
    if not recent:
        return f"{(now - MIDNIGHT) / HOUR:5.2f} h"
    quality = np.mean([one.right for one in recent])
    strong = np.mean([one.arrival.asked.right["strong"] for one in recent])
    share = np.mean([not one.by_weak for one in recent])
    return (
        f"{(now - MIDNIGHT) / HOUR:5.2f} h {len(served):5d} {recent[-1].step:10s} "
        f"strong {share:.2f} quality {quality / strong:.3f} {words[:230]}"
    )
