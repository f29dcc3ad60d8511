"""Parts of a conversation that only the model that made them can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from foretell.records import Message

_BOUND_KEYS: Final = frozenset(
    {"signature", "encrypted_content", "thought_signature", "thoughtSignature"}
)
"""Signed or encrypted reasoning: Anthropic's thinking blocks, OpenAI's reasoning items, Gemini's
thoughts, and OpenRouter's ``reasoning_details`` around any of them."""

_BOUND_TYPES: Final = frozenset({"thinking", "redacted_thinking", "reasoning.encrypted"})

_CALLERS_OWN: Final = frozenset({"input", "arguments", "args", "output"})
"""What a tool is called with and answers: its keys are its author's, whatever they are called."""

_ENVELOPE: Final = frozenset({"role", "type", "id", "status", "name"})
"""A message of which only these are left says nothing."""


def has_bound_state(messages: Sequence[Message]) -> bool:
    """Whether a history holds reasoning that is signed or encrypted by its provider.

    Another model turns it down. Reasoning in plain text (``reasoning_content``) is not bound. Only
    what a model said is looked at, not what its user did. Messages are those of any of the APIs:
    chat completions, Anthropic's messages, or input items of the Responses API.
    """
    return any(_is_bound(message) for message in messages if _is_a_models(message))


def without_bound_state(messages: Sequence[Message]) -> list[Message]:
    """The same history as another model may read it: bound parts left out, the rest as it was.

    A message of which nothing is left goes, too.
    """
    kept: list[Message] = []
    for message in messages:
        if not (_is_a_models(message) and _is_bound(message)):
            kept.append(message)
        elif (left := _stripped_part(message)) is not None and not left.keys() <= _ENVELOPE:
            kept.append(left)
    return kept


def _is_a_models(message: Message) -> bool:
    # An item of the Responses API that is reasoning, or a call, has a type and no role.
    return message.get("role", "assistant") == "assistant"


def _is_bound(value: Any) -> bool:
    if isinstance(value, Mapping):
        part = cast("Mapping[str, Any]", value)
        return (
            part.get("type") in _BOUND_TYPES
            or any(part.get(key) for key in _BOUND_KEYS)
            or any(_is_bound(part[key]) for key in part if key not in _CALLERS_OWN)
        )
    if isinstance(value, list):
        return any(map(_is_bound, cast("list[Any]", value)))
    return False


def _stripped_part(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Without its bound parts; ``None`` where it was reasoning, or nothing else is left."""
    kind = part.get("type")
    if kind in _BOUND_TYPES or (isinstance(kind, str) and kind.startswith("reasoning")):
        return None
    left = {
        key: _stripped(value) if key not in _CALLERS_OWN and _is_bound(value) else value
        for key, value in part.items()
        if key not in _BOUND_KEYS
    }
    return {key: value for key, value in left.items() if value is not None or part[key] is None}


def _stripped(value: Any) -> Any:
    """A bound value without its bound parts; ``None`` where nothing else is left."""
    if isinstance(value, Mapping):
        return _stripped_part(cast("Mapping[str, Any]", value)) or None
    parts = (_stripped(inner) if _is_bound(inner) else inner for inner in cast("list[Any]", value))
    return [part for part in parts if part is not None] or None
