"""What the turns before say about who should answer this one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from foretell.config import Price
from foretell.errors import InputError
from foretell.policy._bound_state import has_bound_state
from foretell.policy._conversation_states import ConversationState
from foretell.records import Message, Role

_CACHE_S: Final = 300.0
"""Providers keep a prefix for some minutes after its last use: five at Anthropic, five to ten at
OpenAI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFacts:
    """What the messages of a request say about the turn it is.

    ``in_tool_loop``: the model asked for tools and is about to read what they said. ``bound``: the
    history holds reasoning that only the model that made it can read.
    """

    in_tool_loop: bool = False
    bound: bool = False


def turn_facts(messages: Sequence[Message]) -> TurnFacts:
    """Of messages of any of the APIs: chat completions, Anthropic's, Responses items.

    A tool loop is one when a tool's answer is the last message, or calls of the last assistant
    message have not all been answered.
    """
    return TurnFacts(in_tool_loop=_in_tool_loop(messages), bound=has_bound_state(messages))


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRule:
    """How the turns before change the decision of this one; ``decide`` applies it.

    Without a turn before, nothing is changed. ``pin`` names the model that must answer, of role
    ``pin_role``. ``last`` served before, and ``last_role`` was its role: a member of a pool that
    served last is left like a weak model, by ``margin``. ``only_up`` says that the strong role may
    not be left for the weak one, and ``explores`` whether chance may have a part in this turn.

    The bar is about what a strong call must gain: ``least_gain``, or ``1 - keep_at`` where the
    strong model is taken to be certain of success. From the weak model to the strong one, or back,
    that is ``gain_factor`` times as much, and ``margin`` more (less, where it is negative).

    ``reason`` says why, in a sentence; ``""`` where nothing is changed.
    """

    pin: str | None = None
    pin_role: Role | None = None
    last: str | None = None
    last_role: Role | None = None
    only_up: bool = False
    margin: float = 0.0
    gain_factor: float = 1.0
    explores: bool = True
    bound: bool = False
    bound_to: str | None = None
    reason: str = ""

    def keep_at(self, bar: float) -> float:
        """The bar on ``p_success`` for this turn.

        One that keeps everything (0) or nothing (above 1) stands for a limit, and is not moved.
        """
        return bar if not 0 < bar <= 1 else max(0.0, bar - self._more(1 - bar))

    def least_gain(self, gain: float) -> float:
        """The gain that a strong call must bring in this turn.

        One that nothing has, or everything (1 or more either way), is not changed.
        """
        return gain if abs(gain) >= 1 else gain + self._more(gain)

    def must_strip(self, model: str) -> bool:
        """Whether the history holds bound state that ``model`` did not make.

        It goes to that model by ``without_bound_state``. Where nobody knows who made it, that is
        every model.
        """
        return self.bound and model != self.bound_to

    def _more(self, gain: float) -> float:
        # A gain that need not be one has no price: it is asked for whatever a call costs.
        return max(0.0, gain) * (self.gain_factor - 1) + self.margin


def next_turn(
    state: ConversationState | None,
    facts: TurnFacts,
    *,
    switch_margin: float,
    leaving_usd: float | None = None,
    strong_premium_usd: float | None = None,
) -> TurnRule:
    """The rule of a turn, from the state after the one before.

    In this order: a history with bound state is pinned to the model that made it; inside a tool
    loop only the way up is open, so that whatever is not the weak model is pinned; else the model
    that served last is left only when ``p_success`` lies beyond the bar by ``switch_margin``,
    unless chance had picked that model.

    A model that is left loses the prefix that its provider has in a cache, and with it what that
    saves on this turn: ``leaving_usd``, from the function of this name. A bar says what a gain in
    success is worth: at the bar, ``strong_premium_usd`` is just paid for ``least_gain``. From the
    weak model, a strong call costs ``leaving_usd`` more than that premium, and from the strong one,
    staying costs as much less; so the gain asked for changes in proportion, and turns negative
    where the strong model, cached, is the cheaper one. Where either is not known, or a strong call
    costs nothing more, the margin alone counts.
    """
    if not 0 <= switch_margin <= 1:
        raise InputError(f"switch_margin is {switch_margin}; wanted a number from 0 to 1")
    if state is None:
        return TurnRule(bound=facts.bound)
    bound_to = state.bound_to
    if facts.bound and bound_to is None and state.role == "strong":
        bound_to = state.model
    bound = facts.bound or bound_to is not None
    if bound_to is not None:
        return _pinned(
            state,
            bound_to,
            "strong" if bound_to != state.model else state.role,
            f"the history holds reasoning that only {bound_to} can read",
            bound_to,
        )
    if facts.in_tool_loop and state.role == "strong":
        reason = f"{state.model} called the tools, and goes on with what they said"
        return _pinned(state, state.model, state.role, reason, None)
    up = 1 if state.role == "weak" else -1
    margin = 0.0 if state.explored else up * switch_margin
    factor = 1.0
    if leaving_usd and strong_premium_usd is not None and strong_premium_usd > 0:
        factor = 1 + up * leaving_usd / strong_premium_usd
    changed = margin != 0 or factor != 1
    return TurnRule(
        last=state.model,
        last_role=state.role,
        only_up=facts.in_tool_loop,
        margin=margin,
        gain_factor=factor,
        explores=not facts.in_tool_loop,
        bound=bound,
        reason=f"moved in favour of {state.model}, which answered before" if changed else "",
    )


def leaving_usd(
    state: ConversationState, price: Price | None, *, now: float, cache_s: float = _CACHE_S
) -> float | None:
    """What the cached prefix would have saved on this turn, in USD, if the model is left.

    The last prompt's tokens, times what ``price`` (of ``state.model``) takes off one that is
    cached. 0 after ``cache_s`` seconds of silence, when providers have dropped it; ``None`` when
    the price is not known.
    """
    if price is None:
        return None
    if price.cached_input is None or now - state.at > cache_s:
        return 0.0
    return state.prompt_tokens * max(0.0, price.input - price.cached_input) / 1e6


def _pinned(
    state: ConversationState, model: str, role: Role, reason: str, bound_to: str | None
) -> TurnRule:
    return TurnRule(
        pin=model,
        pin_role=role,
        last=state.model,
        last_role=state.role,
        only_up=True,
        explores=False,
        bound=bound_to is not None,
        bound_to=bound_to,
        reason=reason,
    )


def _in_tool_loop(messages: Sequence[Message]) -> bool:
    if messages and _answered_calls(messages[-1]):
        return True
    for position in range(len(messages) - 1, -1, -1):
        if called := _called(messages[position]):
            later = messages[position + 1 :]
            return not called <= {call for message in later for call in _answered_calls(message)}
        if messages[position].get("role") == "assistant":
            return False
    return False


def _called(message: Message) -> set[str]:
    """The ids of the tool calls a message makes."""
    if message.get("type") == "function_call":
        return {str(message.get("call_id"))}
    if message.get("role") != "assistant":
        return set()
    calls = {str(call.get("id")) for call in _parts(message.get("tool_calls"))}
    parts = _parts(message.get("content"))
    return calls | {str(part.get("id")) for part in parts if part.get("type") == "tool_use"}


def _answered_calls(message: Message) -> set[str]:
    """The ids of the tool calls whose answers a message holds."""
    if message.get("role") in ("tool", "function"):
        return {str(message.get("tool_call_id"))}
    if message.get("type") == "function_call_output":
        return {str(message.get("call_id"))}
    return {
        str(part.get("tool_use_id"))
        for part in _parts(message.get("content"))
        if part.get("type") == "tool_result"
    }


def _parts(value: Any) -> Iterable[Mapping[str, Any]]:
    if not isinstance(value, list):
        return ()
    parts = cast("list[Any]", value)
    return [cast("Mapping[str, Any]", part) for part in parts if isinstance(part, Mapping)]
