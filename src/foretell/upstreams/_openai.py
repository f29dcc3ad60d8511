"""A model behind an OpenAI-compatible HTTP API."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import stamina

from foretell.errors import InputError, UpstreamError
from foretell.records import Answer, Message, Sampling
from foretell.upstreams._answer_stream import DONE, AnswerStream
from foretell.upstreams._endpoint import api_key, checked_base_url, without_key
from foretell.upstreams._protocol import FailureKind, OnText, UpstreamCallError
from foretell.upstreams._refusals import error_message, is_worth_trying_again, refusal_kind
from foretell.upstreams._retries import Deadlines, Retries, backoff_hook, retry_after_s
from foretell.upstreams._sse import EventParser

if TYPE_CHECKING:
    import aiohttp


class OpenAIChatModel:
    """Speaks ``POST {base_url}/chat/completions``, streamed; a ``ChatModel``.

    The key is read from the environment variable ``api_key_env`` at every call, so it can be
    changed without a restart, and appears in no error. Redirects are not followed: they would
    carry it elsewhere. Proxy settings of the environment are not used.

    Must be used within one event loop, and closed there with ``aclose``.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        deadlines: Deadlines | None = None,
        retries: Retries | None = None,
        environment: Mapping[str, str] = os.environ,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Raises ``ConfigError`` for a URL that cannot be called safely."""
        self._name = name
        self._url = f"{checked_base_url(name, base_url)}/chat/completions"
        self._model = model
        self._api_key_env = api_key_env
        self._deadlines = deadlines or Deadlines()
        self._retries = retries or Retries()
        self._environment = environment
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """What routes and logs call it."""
        return self._name

    async def __aenter__(self) -> OpenAIChatModel:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections; safe to call twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, *, on_text: OnText | None = None
    ) -> Answer:
        """The whole answer; its pieces go to ``on_text`` as they arrive.

        A trailing assistant message is dropped. Unreachable, 429 and 5xx are tried again, until
        the answer's first byte. Raises ``UpstreamCallError``, or ``ConfigError`` when the API key
        is not set.
        """
        key = api_key(self._name, self._api_key_env, self._environment)
        body = _request_body(self._model, messages, sampling)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._deadlines.total_s
        limit = asyncio.timeout_at(give_up_at)
        attempts = stamina.retry_context(
            on=backoff_hook(lambda: give_up_at - loop.time()),
            attempts=self._retries.attempts,
            timeout=None,
            wait_initial=self._retries.first_wait_s,
            wait_max=self._retries.longest_wait_s,
            wait_jitter=self._retries.jitter_s,
        )
        try:
            async with limit:
                async for attempt in attempts:
                    with attempt:
                        return await self._attempt(body, key, on_text)
        except TimeoutError:
            if not limit.expired():
                raise
        raise self._error(
            f"gave no whole answer within {self._deadlines.total_s:g} s", key, kind="timeout"
        )

    async def _attempt(
        self, body: Mapping[str, Any], key: str | None, on_text: OnText | None
    ) -> Answer:
        stream = AnswerStream(model=self._model)
        async with aclosing(self._events(body, key)) as events:
            async for data in events:
                with self._named(key):
                    piece = stream.take(data)
                if piece and on_text is not None:
                    on_text(piece)
        with self._named(key):
            return stream.answer()

    async def _events(self, body: Mapping[str, Any], key: str | None) -> AsyncGenerator[str, None]:
        """Data of the events that answer one request, up to the closing one."""
        import aiohttp

        parser = EventParser()
        answering = False
        try:
            async with self._open_session().post(
                self._url, data=json.dumps(body), headers=_headers(key), allow_redirects=False
            ) as response:
                if response.status != HTTPStatus.OK:
                    raise await self._refusal(response, key)
                if response.content_type != "text/event-stream":
                    raise self._error(
                        f"answered with {response.content_type!r}; wanted 'text/event-stream'", key
                    )
                async for chunk in response.content.iter_any():
                    answering = True
                    for data in self._parsed(parser, chunk, key):
                        if data == DONE:
                            return
                        yield data
        except aiohttp.ServerTimeoutError:
            waited = "broke off: silent for too long" if answering else "did not answer in time"
            raise self._error(
                waited,
                key,
                kind="broke_off" if answering else "timeout",
                retryable=not answering,
            ) from None
        except aiohttp.ClientError as error:
            # The cause is cut off: it may hold the request with its headers, so the key.
            failed = "broke off" if answering else "could not be reached"
            raise self._error(
                f"{failed}: {error}",
                key,
                kind="broke_off" if answering else "unreachable",
                retryable=not answering,
            ) from None

    def _parsed(self, parser: EventParser, chunk: bytes, key: str | None) -> list[str]:
        try:
            return parser.feed(chunk)
        except ValueError as error:
            raise self._error(f"broke the protocol: {error}", key) from None

    async def _refusal(
        self, response: aiohttp.ClientResponse, key: str | None
    ) -> UpstreamCallError:
        """The error that a status other than 200 means."""
        from foretell.upstreams._connections import beginning

        status = response.status
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            # What such a body says is left out: it often quotes part of the key.
            source = f"the API key in {self._api_key_env}" if key else "a call without an API key"
            return self._error(
                f"refused {source} (HTTP {status})", key, kind="unauthorised", status=status
            )
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            return self._error(
                f"redirects (HTTP {status}), which is not followed; set base_url to where it leads",
                key,
                status=status,
            )
        body = await beginning(response)
        return self._error(
            f"answered with HTTP {status}: {error_message(body) or response.reason}",
            key,
            kind=refusal_kind(status, body),
            status=status,
            retryable=is_worth_trying_again(status, body),
            retry_after_s=retry_after_s(response.headers.get("Retry-After"), now=self._now()),
        )

    def _error(
        self,
        what: str,
        key: str | None,
        *,
        kind: FailureKind = "error",
        status: int | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> UpstreamCallError:
        message = f"model {self._name!r} at {self._url} {what}"
        return UpstreamCallError(
            without_key(message, key),
            kind=kind,
            status=status,
            retryable=retryable,
            retry_after_s=retry_after_s,
        )

    @contextmanager
    def _named(self, key: str | None) -> Generator[None]:
        """Errors about the stream, with whose stream it was."""
        try:
            yield
        except UpstreamError as error:
            raise self._error(str(error), key) from None

    def _open_session(self) -> aiohttp.ClientSession:
        from foretell.upstreams._connections import open_session

        if self._session is None:
            self._session = open_session(
                connect_s=self._deadlines.connect_s, idle_s=self._deadlines.idle_s
            )
        return self._session


def _request_body(model: str, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
    asked = [dict(message) for message in messages]
    if asked and asked[-1].get("role") == "assistant":
        asked.pop()
    if not asked:
        raise InputError("there is nothing to answer: no message but the beginning of an answer")
    body: dict[str, Any] = {
        "model": model,
        "messages": asked,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
    }
    # Some APIs refuse parameters that they do not know, so what changes nothing is not sent.
    if sampling.top_p != 1:
        body["top_p"] = sampling.top_p
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    return body


def _headers(key: str | None) -> dict[str, str]:
    headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
    return headers | ({"Authorization": f"Bearer {key}"} if key else {})
