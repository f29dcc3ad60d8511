"""One answer of somebody's log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from foretell.errors import InputError
from foretell.records import FinishReason, Message, Query, Usage, last_asked

_ID_LENGTH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedAnswer:
    """What was asked, and an answer to it. ``None`` is what the log does not say.

    ``rollout`` tells several answers to one query apart.
    """

    query: Query
    text: str
    model: str | None = None
    finish_reason: FinishReason = "stop"
    usage: Usage | None = None
    rollout: int = 0


def logged_query(
    messages: Sequence[Message], query_id: str | None = None, group: str | None = None
) -> Query:
    """A query as logs hold them: seldom with a name, and often the same one many times.

    One without an id is called by a hash of its messages. Those that ask the same belong to one
    group, so that they are all for training, or all for testing.
    """
    if group is None:
        group = _hash(" ".join(last_asked(messages).split()).casefold())
    return Query(
        id=query_id or f"log-{_hash(json.dumps(list(messages), sort_keys=True))}",
        messages=tuple(messages),
        group=group,
    )


def known_finish(reason: Any) -> FinishReason:
    """Why an answer ended, where nothing is said: by itself.

    Raises:
        InputError: It ended in a way that leaves no answer, such as for a tool's call.
    """
    if reason is None or reason == "stop" or reason == "length":
        return reason or "stop"
    raise InputError(f"the answer finished for the reason {reason!r}; wanted 'stop' or 'length'")


def counted_usage(counts: Mapping[str, Any] | None) -> Usage | None:
    """The tokens, if both numbers are there and make sense."""
    from foretell.upstreams import metered_usage

    metered = None if counts is None else metered_usage(counts)
    if metered is None:
        return None
    return Usage(
        prompt_tokens=metered.prompt_tokens,
        completion_tokens=metered.completion_tokens,
        cached_tokens=metered.cached_tokens,
    )


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_ID_LENGTH]
