"""The weak model's answers to some of what others served: afterwards and on a budget."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from foretell.config import ShadowRunsConfig
from foretell.errors import RoutingError
from foretell.gateway._exchange import Exchange
from foretell.gateway._snapshot import WeakSide
from foretell.records import Observation
from foretell.runtime import drain

_logger = logging.getLogger(__name__)

_PATIENCE_S: Final = 20.0
"""How long a run waits for a moment in which no request is served."""
_LOOK_S: Final = 0.05
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    exchange: Exchange
    side: WeakSide
    domain: str


class ShadowRuns:
    """A queue of requests for the weak model to answer when there is time; of one event loop.

    Args:
        executor: Where the model runs.
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
        clock: Callable[[], float],
        idle: Callable[[], bool],
        keep: Callable[[Observation], None],
        on_run: Callable[[str], None],
        release: Callable[[Exchange], None],
        rng: np.random.Generator,
    ) -> None:
        self._executor = executor
        self._clock = clock
        self._idle = idle
        self._keep = keep
        self._on_run = on_run
        self._release = release
        self._rng = rng
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._tokens: dict[str, tuple[int, int]] = {}
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def share(self, route: str, config: ShadowRunsConfig | None) -> float:
        """The chance with which a request of a route would be asked again at this moment."""
        if config is None or self._closed:
            return 0.0
        if len(self._waiting) >= config.max_waiting:
            return 0.0
        return config.share if self._left(route, config) > 0 else 0.0

    def draw(self, share: float) -> bool:
        """Whether a request that has this chance is asked again."""
        return share > 0 and float(self._rng.random()) < share

    def refused(self, config: ShadowRunsConfig | None) -> None:
        """Count what a queue that is full, or a budget that is spent, kept from being drawn."""
        if config is not None and not self._closed:
            full = len(self._waiting) >= config.max_waiting
            self._on_run("dropped" if full else "budget")

    def put(self, exchange: Exchange, side: WeakSide, domain: str) -> None:
        """Have a request answered; the snapshot it holds is given back by ``release``."""
        self._waiting.append(_Waiting(exchange, side, domain))
        if self._task is None or self._task.done():
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
        route, request = one.exchange.route, one.exchange.request
        capture = one.exchange.snapshot.capture
        if route is None or capture is None:
            return

        def work() -> Observation:
            weak = one.side.route
            with weak.prefill(
                request.messages, tools=request.tools, answer_tokens=request.sampling.max_tokens
            ) as prefill:
                room = weak.room(prefill.prompt, request.sampling.max_tokens)
                answer = drain(prefill.decode(replace(request.sampling, max_tokens=room)))
                return capture.shadow_run(one.exchange, one.side, one.domain, answer, prefill)

        try:
            observed = await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except RoutingError as error:
            _logger.warning("a shadow run of route %r failed: %s", route.name, error)
            self._on_run("failed")
            return
        except Exception:
            _logger.exception("a shadow run of route %r failed", route.name)
            self._on_run("failed")
            return
        usage = observed.answer.usage
        self._spend(route.name, usage.prompt_tokens + usage.completion_tokens)
        self._keep(observed)
        self._on_run("done")

    def _left(self, route: str, config: ShadowRunsConfig) -> int:
        day, spent = self._tokens.get(route, (0, 0))
        return config.tokens_per_day - (spent if day == self._day() else 0)

    def _spend(self, route: str, tokens: int) -> None:
        day, spent = self._tokens.get(route, (0, 0))
        today = self._day()
        self._tokens[route] = (today, (spent if day == today else 0) + tokens)

    def _day(self) -> int:
        return int(self._clock() // _DAY_S)
