"""The chunks of a streamed chat completion, put together to an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from foretell.errors import UpstreamError
from foretell.records import Answer, FinishReason, Usage

DONE = "[DONE]"


class AnswerStream:
    """Collects ``chat.completion.chunk`` objects; the answer exists once the stream says so."""

    def __init__(self, *, model: str) -> None:
        self._model = model
        self._pieces: list[str] = []
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    def take(self, data: str) -> str:
        """One event's data; the piece of text it carries, ``""`` when it carries none.

        Raises ``UpstreamError`` for what is no chunk, and for an error sent instead of one.
        """
        try:
            chunk = json.loads(data)
        except ValueError:
            raise UpstreamError("sent an event that is not JSON") from None
        if not isinstance(chunk, dict):
            raise UpstreamError("sent an event that is not a JSON object")
        if chunk.get("error"):
            raise UpstreamError(f"broke off with an error: {error_text(chunk)}")
        try:
            return self._take_chunk(chunk)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UpstreamError("sent a chunk that is not shaped like a completion") from None

    def answer(self) -> Answer:
        """The finished answer.

        Raises ``UpstreamError`` when the stream ended before the answer did, when it ended for a
        reason that leaves no whole answer, or when the tokens were not reported: an unknown cost
        must not pass for none.
        """
        if self._finish_reason is None:
            raise UpstreamError("broke off before the answer was finished")
        if self._usage is None:
            raise UpstreamError(
                "did not report the tokens used; it must support stream_options.include_usage"
            )
        return Answer(
            text="".join(self._pieces),
            model=self._model,
            finish_reason=_known_reason(self._finish_reason),
            usage=self._usage,
        )

    def _take_chunk(self, chunk: Mapping[str, Any]) -> str:
        self._model = chunk.get("model") or self._model
        if usage := chunk.get("usage"):
            self._usage = _usage(usage)
        piece = ""
        for choice in chunk.get("choices") or ():
            piece += (choice.get("delta") or {}).get("content") or ""
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        if piece:
            self._pieces.append(piece)
        return piece


def error_text(body: Any) -> str:
    """What an error body says, in one short line, even if that is nothing.

    Read in OpenAI's shape, else as the plain ``message`` or ``detail`` of other servers.
    """
    fields: dict[str, Any] = body if isinstance(body, dict) else {}
    error: Any = fields.get("error") or fields.get("message") or fields.get("detail")
    message: Any = error.get("message") if isinstance(error, dict) else error
    line = " ".join(message.split()) if isinstance(message, str) else ""
    return (line if len(line) <= 200 else line[:199] + "…") or "no reason given"


def _usage(usage: Mapping[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=int(usage["prompt_tokens"]),
        completion_tokens=int(usage["completion_tokens"]),
        cached_tokens=int(details.get("cached_tokens") or 0),
    )


def _known_reason(reason: str) -> FinishReason:
    if reason == "stop" or reason == "length":
        return reason
    raise UpstreamError(f"finished for the reason {reason!r}; wanted 'stop' or 'length'")
