"""An answer that has begun: its bytes on to the caller, its tokens and cost for the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from foretell.errors import RoutingError, UpstreamError
from foretell.gateway._bodies import answer_json, spliced
from foretell.gateway._errors import ApiError
from foretell.gateway._exchange import Exchange, decision_block
from foretell.gateway._frames import AnswerFrames, error_frame
from foretell.gateway._members import Member, Source
from foretell.gateway._said import said_in, said_in_frames
from foretell.gateway._traces import TraceSpan
from foretell.records import MeteredUsage, ModelIdentity
from foretell.upstreams import PriceBook, UpstreamCallError, metered_usage

_DRAIN_S = 0.25
"""How long the end of a stream is waited for after ``[DONE]``, so that its connection is kept."""
_MOST_KEPT = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a request cost in USD; ``None`` where it is not known."""

    weak: float | None
    strong: float | None
    always_strong: float | None

    @property
    def total(self) -> float | None:
        """All of it."""
        return None if self.weak is None or self.strong is None else self.weak + self.strong


class Answering:
    """One answer: ``begin`` it, read it once, by ``body`` or by ``frames``, and close it.

    ``failed`` says what ended it before its time, once it is over; ``whole`` that nothing did.
    """

    def __init__(
        self,
        exchange: Exchange,
        source: Source,
        member: Member,
        prices: PriceBook,
        span: TraceSpan | None = None,
        *,
        keep_text: bool = False,
    ) -> None:
        """``span`` is that of the call, which ends with the answer.

        ``keep_text`` says that somebody will ask for the ``text`` of a streamed answer.
        """
        self.member = member.name
        self.usage: MeteredUsage | None = None
        self.finish_reason: str | None = None
        self.failed: ApiError | None = None
        self.whole = False
        self._exchange = exchange
        self._source = source
        self._without_secrets = member.without_secrets
        self._prices = prices
        self._span = span
        self._answered_by: str | None = None
        self._observed_as = member.observed_as
        self._raw = b""
        self._kept: bytearray | None = bytearray() if keep_text else None
        self._first: list[bytes] = []
        self._pieces = aiter(source)
        self._frames = AnswerFrames(
            foretell=self._noted, include_usage=exchange.request.include_usage
        )

    async def begin(self) -> None:
        """Wait for what the caller gets first: the whole answer, or the first events of a stream.

        Nothing has gone to the caller yet, so another model may still answer instead. Raises
        ``UpstreamError`` when this one broke off, or sent something else.
        """
        if self._exchange.request.stream:
            await self._begin_stream()
        else:
            self._raw = await self._source.read()
            answer = answer_json(self._raw)
            if not isinstance(answer.get("choices"), list):
                raise UpstreamError(f"model {self.member!r} answered without choices")
            self._note(answer.get("usage"), answer.get("model"), first_reason(answer))
        self._exchange.first_byte_s = perf_counter() - self._exchange.started

    def body(self) -> bytes:
        """The whole answer, with what was decided about it."""
        self.whole = True
        return spliced(self._raw, self._block())

    async def frames(self) -> AsyncGenerator[list[bytes]]:
        """Server-sent events as they come; the last one is an error when the answer broke off."""
        frames, pieces = self._frames, self._pieces
        try:
            if self._first:
                self._keep(self._first)
                yield self._first
            while not (frames.done or frames.broken):
                piece = await anext(pieces, None)
                if passed := frames.end() if piece is None else frames.feed(piece):
                    if frames.error is not None:  # the last frame is the upstream's error
                        passed[-1] = self._without_secrets(passed[-1].decode()).encode()
                    self._keep(passed)
                    yield passed
                if piece is None:
                    break
            if not frames.done:
                self.failed = broken(self._ended_early())
        except RoutingError as error:
            self.failed = broken(error)
            if passed := frames.end():
                yield passed
        if self.failed is None:
            self.whole = True
            with suppress(TimeoutError, RoutingError):
                async with asyncio.timeout(_DRAIN_S):
                    async for _ in pieces:
                        pass
            return
        self._noted()
        if frames.error is None:
            yield [error_frame(self.failed)]

    def observed_as(self) -> tuple[ModelIdentity | None, str]:
        """Who answered, as the store knows models."""
        return self._observed_as()

    def text(self) -> str:
        """What the first choice says; ``""`` where that is not known."""
        if not self._exchange.request.stream:
            return said_in(self._raw)
        return said_in_frames(bytes(self._kept)) if self._kept else ""

    async def close(self) -> None:
        """Give up what is unfinished and free all of it; safe to call twice."""
        if isinstance(self._pieces, AsyncGenerator):
            await self._pieces.aclose()
        await self._source.close()
        self._exchange.close_prefill()
        if self._span is not None:
            if self.failed is not None:
                self._span.failed(self.failed.code or "broke_off")
            self._span.end()

    def costs(self) -> Costs:
        """What it cost, by what the provider reported."""
        exchange = self._exchange
        config = exchange.snapshot.config
        model = config.models[self.member]
        answer_usd = (
            None
            if self.usage is None
            else self._prices.cost_usd(model, self._answered_by, self.usage)
        )
        route = exchange.route
        if route is None:
            return Costs(weak=0.0, strong=answer_usd, always_strong=None)
        first = route.strong[0]
        always = (
            answer_usd
            if first.name == self.member
            else None
            if self.usage is None
            else self._prices.cost_usd(first.config, None, self.usage)
        )
        if self.member == route.config.weak:
            return Costs(weak=answer_usd, strong=0.0, always_strong=always)
        prefill_usd = thrown_away_usd(exchange, self._prices)
        return Costs(weak=prefill_usd, strong=answer_usd, always_strong=always)

    async def _begin_stream(self) -> None:
        frames = self._frames
        while not self._first:
            piece = await anext(self._pieces, None)
            passed = frames.end() if piece is None else frames.feed(piece)
            if frames.broken or (piece is None and not frames.done):
                raise self._ended_early()
            self._first = passed

    def _ended_early(self) -> UpstreamError:
        what = self._frames.broken or "ended before its answer did"
        return UpstreamError(f"model {self.member!r} {what}")

    def _keep(self, passed: list[bytes]) -> None:
        if self._kept is not None and len(self._kept) < _MOST_KEPT:
            self._kept += b"".join(passed)

    def _noted(self) -> Mapping[str, Any]:
        frames = self._frames
        self._note(frames.usage, frames.model, frames.finish_reason)
        return self._block()

    def _note(self, usage: Any, model: Any, finish_reason: str | None) -> None:
        self.usage = metered_usage(usage) if isinstance(usage, dict) else None
        self._answered_by = model if isinstance(model, str) else None
        self.finish_reason = finish_reason

    def _block(self) -> dict[str, Any]:
        return decision_block(self._exchange, self.member, self.costs().total)


def thrown_away_usd(exchange: Exchange, prices: PriceBook) -> float | None:
    """What a prefill cost whose answer came from elsewhere, or from nobody; charged whole."""
    found, route = exchange.considered, exchange.route
    if found is None or found.prefill is None or route is None:
        return 0.0
    weak = exchange.snapshot.config.models[route.config.weak]
    tokens = len(found.prefill.prompt.tokens)
    return prices.cost_usd(weak, None, MeteredUsage(prompt_tokens=tokens, completion_tokens=0))


def broken(error: RoutingError) -> ApiError:
    """What a caller is told of an answer that broke off."""
    if isinstance(error, ApiError):
        return error
    timeout = isinstance(error, UpstreamCallError) and error.kind == "timeout"
    return ApiError(504 if timeout else 502, str(error), type="upstream_error", code="broke_off")


def first_reason(answer: Mapping[str, Any]) -> str | None:
    """Why the first choice ended, where the answer says so."""
    choices: Any = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    reason: Any = choices[0].get("finish_reason")
    return reason if isinstance(reason, str) else None
