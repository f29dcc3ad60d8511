"""The weak model's side of a request, on a worker thread, within a deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from foretell.errors import ContextOverflowError, EngineBusyError, InputError, RoutingError
from foretell.gateway._chat_request import ChatRequest
from foretell.gateway._local import foreseen
from foretell.policy import PrefillDeadlines
from foretell.prefill import Prefill, Prompt
from foretell.runtime import Considered, Route, Rule

_Found = TypeVar("_Found", Considered, Prefill)

_FIRST_DEADLINE_S = 5.0
"""Before any prefill was timed, so that a cold start is not taken for a slow probe."""
_CHARACTERS_A_TOKEN = 3.0


class TooSlowError(RoutingError):
    """The decision was not there in time."""


@dataclass(eq=False)
class _Limit:
    """When a decision is too late; moved once the length of the prompt is known."""

    at: float
    given_up: threading.Event
    tokens: int | None = None


async def considered(
    route: Route,
    request: ChatRequest,
    rule: Rule,
    deadlines: PrefillDeadlines,
    executor: Executor,
    *,
    look_only: bool = False,
    clock: Callable[[], float] = perf_counter,
) -> Considered:
    """The decision, with the prefill behind it.

    Raises ``TooSlowError`` when it takes longer than the deadline for a prompt of that length; the
    prefill is then given up. Raises whatever the engine does.
    """
    started = clock()

    def allowed_s(tokens: float) -> float:
        return deadlines.deadline_s(max(1, round(tokens))) or _FIRST_DEADLINE_S

    limit = _Limit(started + allowed_s(request.characters / _CHARACTERS_A_TOKEN), threading.Event())

    def know_length(prompt: Prompt) -> None:
        limit.tokens = len(prompt.tokens)
        limit.at = started + allowed_s(limit.tokens)

    def work() -> Considered:
        if look_only:
            return route.look(
                request.messages,
                tools=request.tools,
                rule=rule,
                given_up=limit.given_up.is_set,
                on_prompt=know_length,
            )
        return route.consider(
            request.messages,
            tools=request.tools,
            answer_tokens=request.sampling.max_tokens,
            rule=rule,
            given_up=limit.given_up.is_set,
            on_prompt=know_length,
        )

    try:
        found = await _before(limit, work, executor, clock)
    except TooSlowError:
        # Were it left out, a machine that became slow for good would never be given more time.
        if limit.tokens is not None:
            deadlines.observe(limit.tokens, clock() - started)
        raise
    prefill = found.prefill
    if prefill is not None and prefill.stopped_at is None:
        deadlines.observe(len(prefill.prompt.tokens), prefill.seconds)
    return found


async def prefilled(route: Route, request: ChatRequest, executor: Executor) -> Prefill:
    """A prefill that nobody reads; it takes as long as it takes."""
    limit = _Limit(float("inf"), threading.Event())
    return await _before(
        limit,
        lambda: route.prefill(
            request.messages,
            tools=request.tools,
            answer_tokens=request.sampling.max_tokens,
            given_up=limit.given_up.is_set,
        ),
        executor,
        perf_counter,
    )


async def _before(
    limit: _Limit, work: Callable[[], _Found], executor: Executor, clock: Callable[[], float]
) -> _Found:
    def sound_work() -> _Found:
        with foreseen():
            return work()

    job = asyncio.get_running_loop().run_in_executor(executor, sound_work)
    try:
        while not job.done():
            left = limit.at - clock()
            if left <= 0:
                raise TooSlowError("the weak model's prefill and the probe took too long")
            await asyncio.wait({job}, timeout=None if left == float("inf") else left)
        return job.result()
    except BaseException:
        limit.given_up.set()
        job.add_done_callback(lambda done: _release(done))
        raise


def _release(job: asyncio.Future[_Found]) -> None:
    """Free what came too late."""
    if job.cancelled() or job.exception() is not None:
        return
    late = job.result()
    prefill = late.prefill if isinstance(late, Considered) else late
    if prefill is not None:
        prefill.close()


def cause_of(error: RoutingError) -> str:
    """One word for what went wrong with the weak model."""
    if isinstance(error, TooSlowError):
        return "probe_slow"
    if isinstance(error, InputError):
        return "context" if isinstance(error, ContextOverflowError) else "prompt"
    return "engine_busy" if isinstance(error, EngineBusyError) else "engine_failed"
