"""What of a served request goes into the store beside its record: answers, vectors, text."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.config import TrafficConfig
from foretell.gateway._answering import Answering, first_reason
from foretell.gateway._bodies import answer_json, json_bytes
from foretell.gateway._exchange import Exchange
from foretell.gateway._said import said_in
from foretell.gateway._snapshot import WeakSide
from foretell.prefill import Prefill
from foretell.records import (
    Answer,
    FinishReason,
    Message,
    MeteredUsage,
    ModelIdentity,
    Observation,
    Query,
    ReadPoint,
    Role,
    Usage,
    last_asked,
)
from foretell.upstreams import metered_usage

MOST_TEXT_BYTES: Final = 256_000
"""Longer prompts and answers are not kept: pictures, mostly."""

_WITHHELD: Final[tuple[Message, ...]] = ({"role": "user", "content": ""},)
_FINISHED: Final[Mapping[str, FinishReason]] = {"stop": "stop", "length": "length"}

Vectors = Mapping[ReadPoint, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Capture:
    """Turns requests into observations, keeping no more of them than ``config`` allows.

    ``salt`` is the key of the hashes that tell copies of a prompt whose text is not kept.
    """

    config: TrafficConfig
    salt: bytes

    def observations(
        self, exchange: Exchange, answering: Answering | None
    ) -> tuple[Observation, ...]:
        """What one request showed: at most one answer, with what the weak model's prefill held.

        Nothing where the domain is not known, or the answer did not come whole; nor of answers
        that are no text (tool calls), or several.
        """
        side = exchange.side
        if answering is None or not answering.whole or side is None or exchange.domain is None:
            return ()
        decision, usage = exchange.decision, answering.usage
        finished = _FINISHED.get(answering.finish_reason or "")
        if decision is None or usage is None or finished is None:
            return ()
        by_weak = decision.serve == "weak"
        found = exchange.considered
        prefill = None if found is None else found.prefill
        identity, model = answering.observed_as()
        answer = Answer(
            text=self._kept(answering.text()),
            model=model,
            finish_reason=finished,
            usage=_tokens(usage),
        )
        role: Role = "weak" if by_weak else "strong"
        return (
            self._observation(exchange, side, exchange.domain, answer, prefill, role, identity),
        )

    def asked_weak(
        self, exchange: Exchange, side: WeakSide, domain: str, answer: Answer, prefill: Prefill
    ) -> Observation:
        """What the weak model answered afterwards to a request that another one served."""
        answer = replace(answer, text=self._kept(answer.text))
        identity = side.route.weak_identity
        return self._observation(exchange, side, domain, answer, prefill, "weak", identity)

    def asked_strong(
        self,
        exchange: Exchange,
        side: WeakSide,
        domain: str,
        body: bytes,
        who: tuple[ModelIdentity | None, str],
    ) -> tuple[Observation, MeteredUsage] | None:
        """What a strong model answered afterwards to a request that the weak one served.

        ``body`` is its chat completion; ``None`` when that is no text that came to its end.
        """
        told = answer_json(body)
        usage = metered_usage(told["usage"]) if isinstance(told.get("usage"), dict) else None
        finished = _FINISHED.get(first_reason(told) or "")
        if usage is None or finished is None:
            return None
        answer = Answer(
            text=self._kept(said_in(body)),
            model=who[1],
            finish_reason=finished,
            usage=_tokens(usage),
        )
        return self._observation(exchange, side, domain, answer, None, "strong", who[0]), usage

    def _observation(
        self,
        exchange: Exchange,
        side: WeakSide,
        domain: str,
        answer: Answer,
        prefill: Prefill | None,
        role: Role,
        identity: ModelIdentity | None,
    ) -> Observation:
        read: Vectors = {} if prefill is None else prefill.activations
        vectors, subspace = side.watched.vectors(read)
        return Observation(
            domain=domain,
            query=Query(
                id=exchange.id,
                messages=self._messages(exchange),
                group=self._group(exchange),
            ),
            role=role,
            answer=answer,
            model=identity,
            activations=vectors,
            subspace=subspace,
            first_token=None if prefill is None else prefill.first_token,
            own_tokens=None if prefill is None else prefill.prompt.own_tokens,
            tenant=exchange.tenant,
            origin="traffic",
        )

    def _messages(self, exchange: Exchange) -> tuple[Message, ...]:
        messages = exchange.request.messages
        if not self.config.text or len(json_bytes(messages)) > MOST_TEXT_BYTES:
            return _WITHHELD
        return tuple(messages)

    def _group(self, exchange: Exchange) -> str:
        """One for the later turns of a conversation, and one for all that ask the same.

        Not for all that begin the same: examples in a prompt are common to every query.
        """
        thread = None if exchange.turn is None else exchange.turn.thread
        text = last_asked(exchange.request.messages) if thread is None else thread
        text = " ".join(text.split()).casefold()
        digest = hmac.new(self.salt, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return digest.hexdigest()[:32]

    def _kept(self, text: str) -> str:
        return text if self.config.text and len(text) <= MOST_TEXT_BYTES else ""


def _tokens(usage: MeteredUsage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )
