"""Models that judge: as a function from messages to an answer, with what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from foretell.config import OpenAIModel
from foretell.records import Answer, Message, MeteredUsage, Sampling, Usage
from foretell.upstreams import OnText, PriceBook, Target, UpstreamCallError, metered_usage

Ask = Callable[[Sequence[Message], Sampling], Answer]
"""Answers messages; raises ``UpstreamError`` when there is no whole answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeModel:
    """Who judges.

    ``source`` tells models apart whatever they are called. ``cost_usd`` of tokens that it read and
    wrote is ``None`` when no price is known.
    """

    name: str
    source: str
    ask: Ask
    cost_usd: Callable[[Usage], float | None]


def price_of(config: OpenAIModel, book: PriceBook) -> Callable[[Usage], float | None]:
    """What tokens cost at a model behind an API."""

    def cost(usage: Usage) -> float | None:
        metered = MeteredUsage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
        )
        return book.cost_usd(config, None, metered)

    return cost


class StructuredChat:
    """A ``ChatModel`` whose answers a JSON Schema shapes, where its API can do that.

    Attempts, deadlines and the breaker are those of the model's configuration. Parameters that the
    API refuses are left out from then on: the schema, the temperature, or the name ``max_tokens``
    in favour of ``max_completion_tokens``. Within one event loop, closed there.
    """

    def __init__(self, name: str, config: OpenAIModel, schema: Mapping[str, Any]) -> None:
        self.name = name
        self._config = config
        self._target = Target(name=name, config=config)
        shape = {"name": "verdict", "strict": True, "schema": schema}
        self._extra: dict[str, Any] = {
            "response_format": {"type": "json_schema", "json_schema": shape}
        }
        self._refused = set[str]()

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, *, on_text: OnText | None = None
    ) -> Answer:
        """The whole answer, in one piece."""
        while True:
            body = self._body(messages, sampling)
            try:
                opened = await self._target.open("/chat/completions", json.dumps(body).encode())
            except UpstreamCallError as error:
                if not self._leaves_out(error, body):
                    raise
                continue
            try:
                answer = self._answer(await opened.read(), messages)
            finally:
                await opened.close()
            if on_text is not None:
                on_text(answer.text)
            return answer

    async def aclose(self) -> None:
        """Give up its connections."""
        await self._target.aclose()

    def _body(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        body = {
            "model": self._config.model,
            "messages": list(messages),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            **self._extra,
        }
        for name in self._refused:
            value = body.pop(name)
            if name == "max_tokens":
                body["max_completion_tokens"] = value
        return body

    def _leaves_out(self, error: UpstreamCallError, body: Mapping[str, Any]) -> bool:
        """Whether the refusal names a parameter that can be done without; it is, from now on."""
        if error.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            return False
        said = (error.body or b"").decode(errors="replace")
        for name in _DISPENSABLE:
            if name in body and name in said:
                self._refused.add(name)
                return True
        return False

    def _answer(self, body: bytes, messages: Sequence[Message]) -> Answer:
        try:
            said = json.loads(body)
            choice = said["choices"][0]
            text, finish = choice["message"].get("content"), choice.get("finish_reason")
            refusal = choice["message"].get("refusal")
            usage = metered_usage(said.get("usage") or {})
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise self._error("answered something that is no chat completion") from None
        if refusal or finish == "content_filter":
            raise self._error("refused to judge", refused=True)
        if not isinstance(text, str) or finish not in ("stop", "length"):
            raise self._error(f"gave no text (finish_reason {finish!r})")
        return Answer(
            text=text,
            model=str(said.get("model", self._config.model)),
            finish_reason=finish,
            # Without a count, the most that it can have been.
            usage=worst_usage(messages, len(text.encode(errors="replace")))
            if usage is None
            else Usage(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
            ),
        )

    def _error(self, what: str, *, refused: bool = False) -> UpstreamCallError:
        kind = "refused" if refused else "error"
        return UpstreamCallError(f"model {self.name!r} {what}", kind=kind)


_DISPENSABLE: Final = ("response_format", "temperature", "max_tokens")
_BYTES_AROUND: Final = 512
"""More than what a chat template puts around one message, the schema included."""


def worst_usage(messages: Sequence[Message], completion_tokens: int) -> Usage:
    """The most tokens that messages and an answer can be: no token is shorter than a byte."""
    sizes = (len(json.dumps(message).encode()) + _BYTES_AROUND for message in messages)
    return Usage(prompt_tokens=sum(sizes), completion_tokens=completion_tokens)
