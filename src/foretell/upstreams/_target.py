"""A model behind an OpenAI-compatible API, called with bytes and answering with bytes."""

from __future__ import annotations

import asyncio
import io
import os
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from weakref import WeakSet

from foretell.config import OpenAIModel
from foretell.errors import ConfigError
from foretell.upstreams._breaker import Breaker
from foretell.upstreams._endpoint import api_key, checked_base_url, without_key
from foretell.upstreams._opened import Opened, Outcome
from foretell.upstreams._protocol import FailureKind, UpstreamCallError
from foretell.upstreams._refusals import (
    blames_the_target,
    error_message,
    is_worth_trying_again,
    refusal_kind,
)
from foretell.upstreams._retries import backoff_s, retry_after_s
from foretell.upstreams._retry_budget import RetryBudget

if TYPE_CHECKING:
    import aiohttp
    from multidict import CIMultiDict

OnAttempt = Callable[[str, int | None], object]
"""Told how each attempt ended, and its HTTP status if there was one.

The words are ``ok``, ``refused``, ``busy``, ``error``, ``unreachable``, ``timeout`` and
``breaker_open``.
"""

_LARGE_BODY_BYTES = 1 << 20  # aiohttp warns of more than that in one piece
_OUTCOMES: Mapping[FailureKind, str] = {"unauthorised": "refused", "context_window": "refused"}


class Target:
    """Calls one configured model; what it answers is passed on as it comes.

    Attempts, waits, deadlines and the breaker are those of ``config``. Attempts are made only
    until the first byte of an answer, and as long as the retry budget of all calls lasts. The key
    is read from the environment at every call. No error holds the key, a header or the URL.
    Redirects are not followed and no compression is asked for. Link-local addresses, at which
    clouds give away secrets, are not connected to.

    Any number of calls at once, within one event loop; closed there with ``aclose``.
    """

    def __init__(
        self,
        *,
        name: str,
        config: OpenAIModel,
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] = os.environ,
        draw: Callable[[], float] = random.random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``clock`` is the breaker's; ``draw``, from 0 to 1, spreads the waits out.

        Raises ``ConfigError`` for a URL that cannot be called safely.
        """
        self.name = name
        self.breaker = Breaker(
            failures=config.breaker.failures, open_s=config.breaker.open_s, clock=clock
        )
        self._base_url = checked_base_url(name, config.base_url)
        self._key_variable = config.api_key_env
        self._deadlines = config.deadlines
        self._retries = config.retries
        self._budget = RetryBudget(config.retries.budget)
        self._environment = environment
        self._draw = draw
        self._now = now
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._answers = WeakSet[Opened]()
        self._prepared: tuple[str | None, CIMultiDict[str]] | None = None

    async def open(
        self,
        path: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        on_attempt: OnAttempt | None = None,
        patience_s: float | None = None,
    ) -> Opened:
        """POST the JSON ``body`` to ``path`` (such as ``/chat/completions``) until it is answered.

        ``headers`` are sent along, but replace none of our own. A ``Retry-After`` is waited for
        when it fits the time left, and is no longer than ``patience_s``. Raises
        ``UpstreamCallError``, whose ``kind`` tells why there is no answer.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._deadlines.total_s
        tell = on_attempt or _tell_nobody
        self._budget.called()
        error: UpstreamCallError | None = None
        attempt = 0
        while True:
            if self._closed:
                raise error or self._error("was closed", kind="unreachable")
            if not self.breaker.allows():
                if error is None:
                    tell("breaker_open", None)
                raise error or self._left_alone()
            attempt += 1
            result = await self._attempt(path, body, headers, attempt, give_up_at)
            if isinstance(result, Opened):
                tell("ok", result.status)
                return result
            error = result
            tell(_OUTCOMES.get(error.kind, error.kind), error.status)
            wait_s = self._wait_s(error, attempt, give_up_at - loop.time(), patience_s)
            if wait_s is None:
                raise error
            await asyncio.sleep(wait_s)

    def without_key(self, text: str) -> str:
        """What an upstream said, fit for others to read: the API key is left out."""
        key = self._environment.get(self._key_variable) if self._key_variable else None
        return without_key(text, key)

    async def aclose(self) -> None:
        """Break off the answers under way and close its connections; safe to call twice."""
        self._closed = True
        session, self._session = self._session, None
        for opened in list(self._answers):
            await opened.close()
        if session is not None:
            await session.close()

    async def _attempt(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        attempt: int,
        give_up_at: float,
    ) -> Opened | UpstreamCallError:
        """One call up to its first byte; the breaker hears of it on every way out."""
        import aiohttp

        from foretell.upstreams._connections import connection_failure

        report = _Report(self.breaker)
        response: aiohttp.ClientResponse | None = None
        opened: Opened | None = None
        try:
            try:
                key = api_key(self.name, self._key_variable, self._environment)
            except ConfigError as problem:
                return UpstreamCallError(str(problem), kind="unauthorised")
            limit_s = min(
                self._deadlines.first_byte_s, give_up_at - asyncio.get_running_loop().time()
            )
            first = b""
            try:
                async with asyncio.timeout(limit_s):
                    response = await self._post(path, body, self._merged(headers, key))
                    answers = HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES
                    streams = answers and response.content_type == "text/event-stream"
                    if streams:
                        first = await response.content.readany()
            except (aiohttp.ClientError, OSError) as problem:
                report("failed")
                kind, what = connection_failure(
                    problem, connect_s=self._deadlines.connect_s, first_byte_s=limit_s
                )
                return self._error(what, kind=kind, retryable=True)
            if not answers:
                report("failed" if blames_the_target(response.status) else "gave_up")
                return await self._refusal(response, key)
            if streams and not first:
                report("failed")
                return self._error("ended its answer before it began", retryable=True)
            opened = Opened(
                response,
                name=self.name,
                first=first,
                attempts=attempt,
                idle_s=self._deadlines.idle_s,
                give_up_at=give_up_at,
                on_end=report.answered(),
            )
            self._answers.add(opened)
            return opened
        finally:
            if opened is None:
                if response is not None:
                    response.close()
                report("gave_up")

    async def _post(
        self, path: str, body: bytes, headers: CIMultiDict[str]
    ) -> aiohttp.ClientResponse:
        return await self._open_session().post(
            self._base_url + path,
            data=io.BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body,
            headers=headers,
            allow_redirects=False,
        )

    async def _refusal(
        self, response: aiohttp.ClientResponse, key: str | None
    ) -> UpstreamCallError:
        """The error that a status other than success means."""
        from foretell.upstreams._connections import beginning

        status = response.status
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            # What such a body says is left out: it often quotes part of the key.
            source = f"the API key in {self._key_variable}" if key else "a call without an API key"
            return self._error(
                f"refused {source} (HTTP {status})", kind="unauthorised", status=status
            )
        if status < HTTPStatus.BAD_REQUEST:
            return self._error(
                f"redirects (HTTP {status}), which is not followed; set base_url to where it leads",
                status=status,
            )
        body = await beginning(response)
        said = error_message(body) or response.reason
        return self._error(
            without_key(f"answered with HTTP {status}: {said}", key),
            kind=refusal_kind(status, body),
            status=status,
            retryable=is_worth_trying_again(status, body),
            retry_after_s=retry_after_s(response.headers.get("Retry-After"), now=self._now()),
            body=without_key(body.decode(errors="replace"), key).encode(),
        )

    def _left_alone(self) -> UpstreamCallError:
        seconds = self.breaker.opens_in_s
        until = f"for {seconds:.1f} s more" if seconds else "while another call tries it"
        return self._error(
            f"failed so often that it is left alone {until}",
            kind="breaker_open",
            retryable=True,
            retry_after_s=seconds,
        )

    def _error(
        self,
        what: str,
        *,
        kind: FailureKind = "error",
        status: int | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
        body: bytes | None = None,
    ) -> UpstreamCallError:
        return UpstreamCallError(
            f"model {self.name!r} {what}",
            kind=kind,
            status=status,
            retryable=retryable,
            retry_after_s=retry_after_s,
            body=body,
        )

    def _wait_s(
        self, error: UpstreamCallError, attempt: int, left_s: float, patience_s: float | None
    ) -> float | None:
        """How long to wait before the next attempt; ``None`` when there is none."""
        if not error.retryable or attempt >= self._retries.attempts or self.breaker.state == "open":
            return None
        asked_s = error.retry_after_s or 0.0
        wait_s = max(
            asked_s,
            backoff_s(
                attempt,
                first_wait_s=self._retries.first_wait_s,
                longest_wait_s=self._retries.longest_wait_s,
                draw=self._draw(),
            ),
        )
        if wait_s >= left_s or (patience_s is not None and asked_s > patience_s):
            return None
        return wait_s if self._budget.allows() else None

    def _merged(self, headers: Mapping[str, str] | None, key: str | None) -> CIMultiDict[str]:
        """Our own headers, prepared once for each key, and ``headers``."""
        if self._prepared is None or self._prepared[0] != key:
            self._prepared = key, _own_headers(key)
        own = self._prepared[1]
        if not headers:
            return own
        merged = own.copy()
        for name, value in headers.items():
            merged.setdefault(name, value)
        return merged

    def _open_session(self) -> aiohttp.ClientSession:
        from foretell.upstreams._connections import open_session

        if self._session is None:
            self._session = open_session(connect_s=self._deadlines.connect_s)
        return self._session


class _Report:
    """Tells the breaker how a call went, once, and as of when it was made."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._epoch = breaker.epoch
        self._told = False
        self._is_probe = breaker.state == "half_open"

    def __call__(self, outcome: Outcome) -> None:
        if not self._told:
            self._told = True
            getattr(self._breaker, outcome)(since=self._epoch)

    def answered(self) -> _Report:
        """The answer has begun; the report to make when it ends.

        A probe is not kept out as long as its answer lasts. Any other call has succeeded only
        with its last byte, or a target whose answers all break off would never be left alone.
        """
        if not self._is_probe:
            return self
        self("succeeded")
        return _Report(self._breaker)


def _own_headers(key: str | None) -> CIMultiDict[str]:
    from multidict import CIMultiDict

    headers = CIMultiDict(
        {
            "Accept": "application/json, text/event-stream",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "foretell",
        }
    )
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _tell_nobody(outcome: str, status: int | None) -> None:
    del outcome, status
