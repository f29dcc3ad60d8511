"""Conversations as the gateway keeps them: what the last turn says about this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from foretell.gateway._answering import Answering
from foretell.gateway._exchange import Exchange
from foretell.gateway._snapshot import ServedRoute
from foretell.policy import (
    Conversation,
    ConversationState,
    ConversationStates,
    TurnRule,
    after_turn,
    leaving_usd,
    next_turn,
    thread_of,
    turn_facts,
)
from foretell.records import MeteredUsage
from foretell.upstreams import PriceBook

_MOST_STATES = 20_000
_TTL_S = 3600.0
_ANSWER_TOKENS = 256
"""What an answer is taken to be long when the price of changing models is weighed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn: which conversation it belongs to, and what that changes."""

    conversation: Conversation
    state: ConversationState | None
    rule: TurnRule

    @property
    def session(self) -> str:
        """The conversation's name."""
        return self.conversation.id if self.state is None else self.state.session

    @property
    def thread(self) -> str | None:
        """What it shares with the turns before but the first; ``None`` for a first one."""
        return thread_of(self.conversation, self.state)


class Turns:
    """The states of conversations, each its caller's own; of one event loop."""

    def __init__(self, *, prices: PriceBook, clock: Callable[[], float]) -> None:
        self._prices = prices
        self._clock = clock
        self._states = ConversationStates(limit=_MOST_STATES, ttl_s=_TTL_S, clock=clock)

    def begin(self, exchange: Exchange, route: ServedRoute) -> Turn:
        """What the turns before this request say about it."""
        messages = exchange.request.messages
        conversation = Conversation.of(
            messages, header=exchange.control.session, previous=exchange.previous
        )
        state = self._states.find(exchange.tenant, conversation)
        if state is not None and self._clock() - state.at > route.config.conversation.ttl_s:
            state = None
        facts = turn_facts(messages)
        if exchange.bound and not facts.bound:
            facts = replace(facts, bound=True)
        rule = next_turn(
            state,
            facts,
            switch_margin=route.config.conversation.switch_margin,
            leaving_usd=None if state is None else self._leaving_usd(exchange, state),
            strong_premium_usd=None if state is None else self._premium_usd(exchange, route, state),
        )
        return Turn(conversation=conversation, state=state, rule=rule)

    def end(self, exchange: Exchange, answering: Answering) -> None:
        """Remember who answered."""
        turn, decision = exchange.turn, exchange.decision
        if turn is None or decision is None or decision.action == "bypass":
            return
        usage = answering.usage
        tokens = usage.prompt_tokens if usage is not None else exchange.prompt_tokens or 0
        state = after_turn(
            turn.state,
            turn.conversation,
            model=answering.member,
            role=decision.serve,
            prompt_tokens=tokens,
            at=self._clock(),
            bound=turn.rule.bound and not turn.rule.must_strip(answering.member),
            explored=decision.action == "explore",
        )
        # Nobody can go on from a chat completion or a message by its id.
        response_id = exchange.response_id if exchange.api == "responses" else None
        self._states.remember(exchange.tenant, turn.conversation, state, response_id=response_id)

    def _leaving_usd(self, exchange: Exchange, state: ConversationState) -> float | None:
        model = exchange.snapshot.config.models.get(state.model)
        return leaving_usd(state, None if model is None else model.price, now=self._clock())

    def _premium_usd(
        self, exchange: Exchange, route: ServedRoute, state: ConversationState
    ) -> float | None:
        """What this turn costs more at the first strong model than at the weak one."""
        usage = MeteredUsage(prompt_tokens=state.prompt_tokens, completion_tokens=_ANSWER_TOKENS)
        models = exchange.snapshot.config.models
        weak = self._prices.cost_usd(models[route.config.weak], None, usage)
        strong = self._prices.cost_usd(models[route.config.strong[0]], None, usage)
        return None if weak is None or strong is None else strong - weak
