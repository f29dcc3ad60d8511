"""The models of a configuration as the gateway asks them: behind an API, or in this process."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from foretell.config import ModelConfig, OpenAIModel
from foretell.gateway._chat_request import ChatRequest, upstream_body
from foretell.gateway._local import LocalSource
from foretell.gateway._local_answers import LocalAnswer
from foretell.policy import Abilities
from foretell.records import Answer, ModelIdentity, content_text
from foretell.runtime import AnsweringModel
from foretell.upstreams import Target, UpstreamCallError

OnAttempt = Callable[[str, int | None], None]
"""Told how each attempt ended: a word, and the HTTP status if there was one."""


class Source(Protocol):
    """An answer that has begun; always closed by whoever opened it."""

    @property
    def status(self) -> int: ...

    @property
    def attempts(self) -> int: ...

    async def read(self) -> bytes:
        """All of it, when it is not streamed."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Its bytes as they come, when it is streamed."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one request needs of whoever answers it.

    ``patience_s`` is how long an upstream is waited for that asks to be left alone. ``headers`` go
    with a call of one.
    """

    request: ChatRequest
    id: str
    created: int
    on_attempt: OnAttempt
    patience_s: float
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class Member(Protocol):
    """A model that may answer."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> ModelConfig: ...

    @property
    def abilities(self) -> Abilities: ...

    async def open(self, call: Call) -> Source:
        """Begin an answer; raises ``UpstreamCallError`` or another ``RoutingError``."""
        ...

    def without_secrets(self, text: str) -> str:
        """What it said, fit for a caller to read."""
        ...

    def observed_as(self) -> tuple[ModelIdentity | None, str]:
        """Its weights, where they are known, and the name its answers are stored under."""
        ...


class RemoteMember:
    """A model behind an API: its bytes are passed through as they are."""

    def __init__(self, name: str, config: OpenAIModel, target: Target) -> None:
        self.name = name
        self.config = config
        self.abilities = abilities_of(config)
        self.target = target

    async def open(self, call: Call) -> Source:
        """One call, with retries and breaker."""
        opened = await self.target.open(
            "/chat/completions",
            upstream_body(call.request, self.config.model),
            headers=call.headers,
            on_attempt=call.on_attempt,
            patience_s=call.patience_s,
        )
        if call.request.stream and opened.content_type != "text/event-stream":
            await opened.close()
            raise UpstreamCallError(
                f"model {self.name!r} answered with {opened.content_type[:40]!r} instead of a "
                "stream of events"
            )
        return opened

    def without_secrets(self, text: str) -> str:
        """Without the key that it is called with."""
        return self.target.without_key(text)

    def observed_as(self) -> tuple[ModelIdentity | None, str]:
        """By the name that the API knows it by, whichever version it says it is."""
        return None, self.config.model


class LocalMember:
    """A model in this process, asked on a worker thread; opened when it is first needed."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        open_model: Callable[[], AnsweringModel],
        executor: Executor,
        context_tokens: int | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.abilities = abilities_of(config, context_tokens)
        self._open_model = open_model
        self._opening = threading.Lock()
        self._executor = executor

    def load(self) -> AnsweringModel:
        """Open the model, once; may take long."""
        with self._opening:
            return self._open_model()

    async def open(self, call: Call) -> Source:
        """Make the answer here."""
        request = call.request

        def run(tell: Callable[[str], None]) -> Answer:
            return self.load().answer(request.messages, request.sampling, tell)

        return await LocalSource(
            run,
            LocalAnswer(
                id=call.id, created=call.created, model=self.name, given=_beginning(request)
            ),
            streamed=request.stream,
            include_usage=True,
            executor=self._executor,
        ).open()

    def without_secrets(self, text: str) -> str:
        """As it is: a model here knows none."""
        return text

    def observed_as(self) -> tuple[ModelIdentity | None, str]:
        """By its weights, or as what was recorded of it."""
        model = self.load()
        return model.identity, model.source


def _beginning(request: ChatRequest) -> str:
    """The beginning of the answer that the caller gave as a trailing assistant message."""
    last = request.messages[-1]
    return content_text(last) if last.get("role") == "assistant" else ""


def abilities_of(config: ModelConfig, context_tokens: int | None = None) -> Abilities:
    """What a model can take: everything behind an API, text alone here, unless it is configured.

    ``context_tokens`` is what its engine says; a configured limit counts before it.
    """
    told = config.capabilities
    remote = isinstance(config, OpenAIModel)

    def able(configured: bool | None) -> bool:
        return remote if configured is None else configured

    return Abilities(
        tools=able(told.tools),
        images=able(told.images),
        audio=able(told.audio),
        json_schema=able(told.json_schema),
        context_tokens=told.context_tokens or context_tokens,
        other=None if remote else frozenset(),
    )
