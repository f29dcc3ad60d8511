"""Which conversation a request goes on with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal, cast

from foretell.errors import InputError
from foretell.records import Message

ConversationSource = Literal["header", "previous", "opening"]

_LONGEST_ID: Final = 256
_DIGEST_BYTES: Final = 16

_MOVES_ABOUT: Final = frozenset({"cache_control"})
"""Clients put this mark on the newest message of each turn, and take it off the older ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """How a request says which conversation it belongs to.

    ``chain`` holds a hash for each message, of it and all before it, so that two histories are
    equal up to a message iff their chains are. ``answered`` are the lengths of history that
    an answer follows: where a state of an earlier turn may stand.
    """

    id: str
    source: ConversationSource
    chain: tuple[str, ...]
    answered: tuple[int, ...]

    @classmethod
    def of(
        cls, messages: Sequence[Message], *, header: str | None = None, previous: str | None = None
    ) -> Conversation:
        """Of a request with these messages; see ``conversation_id`` for the rest."""
        id_, source = conversation_id(header, previous, messages)
        return cls(
            id=id_,
            source=source,
            chain=prefix_chain(messages) if source == "opening" else (),
            answered=tuple(
                position
                for position, message in enumerate(messages)
                if position and message.get("role") == "assistant"
            ),
        )


def conversation_id(
    header: str | None, previous: str | None, messages: Sequence[Message]
) -> tuple[str, ConversationSource]:
    """A name for the conversation, and where it comes from.

    The caller's ``header`` wins, then the id of the ``previous`` response. Without either it is a
    hash of the opening, that is, of the messages up to and including the first of the user: they
    stay the same from turn to turn. Two chats that open alike (``hi``) share that name; what is
    known of them is told apart by the whole history, see ``ConversationStates``.

    Raises ``InputError`` for a header that is empty, or of more than 256 characters.
    """
    if header is not None:
        if not 0 < len(header) <= _LONGEST_ID:
            raise InputError(
                f"the session is named by {len(header)} characters; wanted 1 to {_LONGEST_ID}"
            )
        return header, "header"
    if previous is not None:
        return previous, "previous"
    first_asked = next(
        (n for n, message in enumerate(messages, 1) if message.get("role") == "user"),
        len(messages),
    )
    opening = prefix_chain(messages[:first_asked])
    return opening[-1] if opening else _digest(blake2b(digest_size=_DIGEST_BYTES)), "opening"


def prefix_chain(messages: Sequence[Message]) -> tuple[str, ...]:
    """For each message a hash of it and all before it.

    What clients write differently from turn to turn does not matter: the order of keys, fields that
    are null, a text alone or as the only part, and marks for the provider's cache.
    """
    hasher = blake2b(digest_size=_DIGEST_BYTES)
    chain: list[str] = []
    for message in messages:
        hasher.update(json.dumps(_plain(message), sort_keys=True).encode())
        hasher.update(b"\n")  # JSON of one line: no message can reach into the next
        chain.append(_digest(hasher))
    return tuple(chain)


def _digest(hasher: blake2b) -> str:
    return hasher.copy().hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        return {
            key: _plain(held)
            for key, held in fields.items()
            if held is not None and key not in _MOVES_ABOUT
        }
    if isinstance(value, list):
        parts = [_plain(held) for held in cast("list[Any]", value)]
        if len(parts) == 1 and isinstance(parts[0], dict):
            only = cast("dict[str, Any]", parts[0])
            if only.keys() == {"type", "text"} and only["type"] == "text":
                return only["text"]
        return parts
    return value
