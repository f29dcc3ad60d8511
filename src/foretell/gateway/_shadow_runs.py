"""One model's answers to some of what the other served: afterwards and on a budget."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from foretell.config import ShadowRunsConfig
from foretell.errors import RoutingError
from foretell.gateway._capture import Capture
from foretell.gateway._exchange import Exchange
from foretell.gateway._members import Call, Member
from foretell.gateway._snapshot import ServedRoute, WeakSide
from foretell.policy import missing
from foretell.records import Observation, Role
from foretell.runtime import drain
from foretell.upstreams import PriceBook

_logger = logging.getLogger(__name__)

_PATIENCE_S: Final = 20.0
"""How long a run waits for a moment in which no request is served."""
_LOOK_S: Final = 0.05
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowShares:
    """The chances, at one moment, that a model is asked again what the other one served."""

    weak: float = 0.0
    strong: float = 0.0


NO_SHADOWS: Final = ShadowShares()


@dataclass(frozen=True, slots=True)
class _Waiting:
    exchange: Exchange
    side: WeakSide
    domain: str


class ShadowRuns:
    """A queue of requests for the other model to answer when there is time; of one event loop.

    Args:
        executor: Where the weak model runs.
        prices: What strong calls cost.
        clock: Seconds since 1970 (UTC): a budget is for a day.
        idle: Whether no request is being served.
        keep: Told what was observed.
        on_run: Told how each ended: ``done``, ``failed``, ``dropped`` (no room) or ``budget``.
        release: Told each exchange once it is needed no more.
        rng: Draws.
    """

    def __init__(
        self,
        *,
        executor: Executor,
        prices: PriceBook,
        clock: Callable[[], float],
        idle: Callable[[], bool],
        keep: Callable[[Observation], None],
        on_run: Callable[[str], None],
        release: Callable[[Exchange], None],
        rng: np.random.Generator,
    ) -> None:
        self._executor = executor
        self._prices = prices
        self._clock = clock
        self._idle = idle
        self._keep = keep
        self._on_run = on_run
        self._release = release
        self._rng = rng
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._day = 0
        self._tokens: defaultdict[str, int] = defaultdict(int)
        self._usd: defaultdict[str, float] = defaultdict(float)
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def running(self) -> bool:
        """Whether one is under way."""
        return self._task is not None and not self._task.done()

    def shares(self, route: str, config: ShadowRunsConfig | None) -> ShadowShares:
        """The chances at this moment: none without room, or where a day's budget is spent."""
        if config is None or self._closed or len(self._waiting) >= config.max_waiting:
            return NO_SHADOWS
        self._begin_day()
        return ShadowShares(
            weak=config.share if self._tokens[route] < config.tokens_per_day else 0.0,
            strong=config.strong_share if self._usd[route] < config.usd_per_day else 0.0,
        )

    def draw(self, shares: ShadowShares, *, served: Role, config: ShadowRunsConfig | None) -> bool:
        """Whether a request that was served by one model is asked of the other."""
        if config is None or self._closed:
            return False
        share = shares.weak if served == "strong" else shares.strong
        wanted = config.share if served == "strong" else config.strong_share
        drawn = float(self._rng.random())
        if drawn < share:
            return True
        if drawn < wanted:
            full = len(self._waiting) >= config.max_waiting
            self._on_run("dropped" if full else "budget")
        return False

    def put(self, exchange: Exchange, side: WeakSide, domain: str) -> None:
        """Have a request answered; the snapshot it holds is given back by ``release``."""
        self._waiting.append(_Waiting(exchange, side, domain))
        if not self.running:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Forget what waits; what runs is waited for."""
        self._closed = True
        while self._waiting:
            self._release(self._waiting.popleft().exchange)
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while self._waiting:
            await self._wait_until_idle()
            if not self._waiting:
                return
            one = self._waiting.popleft()
            try:
                await self._ask(one)
            finally:
                self._release(one.exchange)

    async def _wait_until_idle(self) -> None:
        for _ in range(round(_PATIENCE_S / _LOOK_S)):
            if self._idle() or self._closed:
                return
            await asyncio.sleep(_LOOK_S)

    async def _ask(self, one: _Waiting) -> None:
        route, decision = one.exchange.route, one.exchange.decision
        capture = one.exchange.snapshot.capture
        if route is None or decision is None or capture is None:
            return
        try:
            observed = await (
                self._ask_weak(one, route, capture)
                if decision.serve == "strong"
                else self._ask_strong(one, route, capture)
            )
        except RoutingError as error:
            _logger.warning("a shadow run of route %r failed: %s", route.name, error)
            observed = None
        except Exception:
            _logger.exception("a shadow run of route %r failed", route.name)
            observed = None
        if observed is not None:
            self._keep(observed)
        self._on_run("failed" if observed is None else "done")

    async def _ask_weak(self, one: _Waiting, route: ServedRoute, capture: Capture) -> Observation:
        request, weak = one.exchange.request, one.side.route

        def work() -> Observation:
            with weak.prefill(
                request.messages, tools=request.tools, answer_tokens=request.sampling.max_tokens
            ) as prefill:
                room = weak.room(prefill.prompt, request.sampling.max_tokens)
                answer = drain(prefill.decode(replace(request.sampling, max_tokens=room)))
                return capture.asked_weak(one.exchange, one.side, one.domain, answer, prefill)

        observed = await asyncio.get_running_loop().run_in_executor(self._executor, work)
        usage = observed.answer.usage
        self._begin_day()
        self._tokens[route.name] += usage.prompt_tokens + usage.completion_tokens
        return observed

    async def _ask_strong(
        self, one: _Waiting, route: ServedRoute, capture: Capture
    ) -> Observation | None:
        """The first strong model's answer; ``None`` when it is no text, or nobody can take it."""
        exchange = one.exchange
        member = _first_able(route, exchange)
        if member is None:
            return None
        request = exchange.request
        whole = {key: value for key, value in request.raw.items() if key != "stream_options"}
        request = replace(request, raw={**whole, "stream": False}, stream=False)
        source = await member.open(
            Call(
                request=request,
                id=f"{exchange.id}-shadow",
                created=exchange.created,
                on_attempt=_not_counted,
                patience_s=0.0,
                headers={"x-request-id": f"{exchange.id}-shadow"},
            )
        )
        try:
            body = await source.read()
        finally:
            await source.close()
        found = capture.asked_strong(exchange, one.side, one.domain, body, member.observed_as())
        if found is None:
            return None
        observed, usage = found
        self._begin_day()
        self._usd[route.name] += self._prices.cost_usd(member.config, None, usage) or 0.0
        return observed

    def _begin_day(self) -> None:
        if (today := int(self._clock() // _DAY_S)) != self._day:
            self._day = today
            self._tokens.clear()
            self._usd.clear()


def _not_counted(outcome: str, status: int | None) -> None:
    """Attempts are counted for callers."""


def _first_able(route: ServedRoute, exchange: Exchange) -> Member | None:
    first = route.strong[0]
    return None if missing(exchange.request.needs, first.abilities) else first
