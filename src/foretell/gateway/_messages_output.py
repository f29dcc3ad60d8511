"""A chat completion, whole or streamed, as Anthropic's Messages API answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

from foretell.errors import UpstreamError
from foretell.gateway._chat_answers import (
    AnswerReader,
    ArgumentsPiece,
    CallPiece,
    Piece,
    RefusalPiece,
    TextPiece,
    error_object,
    event_bytes,
    stem_of,
)
from foretell.gateway._errors import ApiError

_STOP_REASONS = {
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def chat_to_message(
    chat: Mapping[str, Any],
    *,
    id: str,  # noqa: A002 (the field's name)
    request: Mapping[str, Any],
) -> dict[str, Any]:
    """The message that a chat completion amounts to; ``request`` is the caller's body.

    A refusal is text, and the stop reason says that it is one. Arguments that a limit cut short
    are an empty input. Tokens that the model did not report are 0, for the format knows no other
    way; those read from a cache are not among ``input_tokens``. A ``"foretell"`` in ``chat`` is
    taken over.

    Raises ``UpstreamError`` when ``chat`` is no chat completion, or calls a tool with arguments
    that are no JSON object.
    """
    reader = AnswerReader(stem=stem_of(id))
    reader.whole(chat)
    content: list[dict[str, Any]] = []
    if reader.text:
        content.append({"type": "text", "text": reader.text})
    for call in reader.calls:
        given = _input(call.arguments, cut_short=reader.finish_reason == "length")
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": given})
    message = {
        **_opened(id, model=reader.model or request.get("model")),
        "content": content,
        **_stop(reader, request),
        "usage": _usage(reader),
    }
    return message | ({"foretell": chat["foretell"]} if "foretell" in chat else {})


class MessagesStream:
    """A streamed chat completion as the events of a streamed message.

    ``start`` comes first; then ``feed`` takes each chunk; then comes either ``finish`` or, when
    the answer broke, ``failed``. Each returns whole server-sent events. ``model`` is who answers;
    by default what the request asked for, since the first event has to name somebody.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 (the field's name)
        request: Mapping[str, Any],
        model: str | None = None,
    ) -> None:
        self._id = id
        self._request = request
        self._model = model or request.get("model")
        self._reader = AnswerReader(stem=stem_of(id))
        self._index = 0
        self._open: Literal["text", "tool_use"] | None = None

    def start(self) -> list[bytes]:
        """The event that opens the stream; tokens are told at the end, when they are known."""
        opened = _opened(self._id, model=self._model)
        return [_event("message_start", message={**opened, "usage": _usage(self._reader)})]

    def feed(self, chunk: Mapping[str, Any]) -> list[bytes]:
        """The events that one chunk means, often none.

        Raises ``UpstreamError`` for what is no chunk of a completion; ``failed`` is next then.
        """
        return [event for piece in self._reader.feed(chunk) for event in self._take(piece)]

    def finish(self, *, foretell: Mapping[str, Any] | None) -> list[bytes]:
        """The events that end a whole answer; ``foretell`` is in the ``message_delta``.

        An answer that calls a tool with arguments that are no JSON object has failed, and ends so.
        """
        try:
            for call in self._reader.calls:
                _input(call.arguments, cut_short=self._reader.finish_reason == "length")
        except UpstreamError as error:
            return self.failed({"message": str(error)})
        told = {} if foretell is None else {"foretell": foretell}
        delta = _event(
            "message_delta",
            delta=_stop(self._reader, self._request),
            usage=_usage(self._reader),
            **told,
        )
        return [*self._close(), delta, _event("message_stop")]

    def failed(self, error: Mapping[str, Any]) -> list[bytes]:
        """The event that ends a broken answer.

        ``error`` is OpenAI's error object, or the body that holds it.
        """
        told = error_object(error)
        kind = told.get("type")
        known = kind in _ERROR_TYPES.values()
        message = str(told.get("message") or "the model broke off")
        return [_event("error", error={"type": kind if known else "api_error", "message": message})]

    def _take(self, piece: Piece) -> list[bytes]:
        match piece:
            case TextPiece(text) | RefusalPiece(text):
                opened = [] if self._open == "text" else self._begin({"type": "text", "text": ""})
                return [*opened, self._delta({"type": "text_delta", "text": text})]
            case CallPiece(call_id, name):
                return self._begin({"type": "tool_use", "id": call_id, "name": name, "input": {}})
            case ArgumentsPiece(text):
                return [self._delta({"type": "input_json_delta", "partial_json": text})]

    def _begin(self, block: dict[str, Any]) -> list[bytes]:
        closed = self._close()
        self._open = block["type"]
        return [
            *closed,
            _event("content_block_start", index=self._index, content_block=block),
        ]

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        stopped = _event("content_block_stop", index=self._index)
        self._open = None
        self._index += 1
        return [stopped]


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """The body that tells of ``error`` as Anthropic shapes it."""
    kind = _ERROR_TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "api_error"
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def _opened(id: str, *, model: Any) -> dict[str, Any]:  # noqa: A002
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _event(kind: str, **fields: Any) -> bytes:
    return event_bytes(kind, {"type": kind, **fields})


def _stop(reader: AnswerReader, request: Mapping[str, Any]) -> dict[str, Any]:
    """Why the answer ended.

    Chat completions says "stop" for all of a natural end, a stop sequence and a call that was
    asked for by name, so what the answer holds is looked at, too.
    """
    sequence = None
    reason = _STOP_REASONS.get(reader.finish_reason or "")
    if reader.refused:
        reason = "refusal"
    elif reason is None and reader.calls:
        reason = "tool_use"
    elif reason is None and reader.stop_sequence in (request.get("stop_sequences") or ()):
        reason, sequence = "stop_sequence", reader.stop_sequence
    return {"stop_reason": reason or "end_turn", "stop_sequence": sequence}


def _usage(reader: AnswerReader) -> dict[str, Any]:
    counts = reader.counts
    if counts is None:
        return {"input_tokens": 0, "output_tokens": 0}
    return {
        "input_tokens": max(0, counts.prompt - counts.cached - counts.written),
        "cache_read_input_tokens": counts.cached,
        "cache_creation_input_tokens": counts.written,
        "output_tokens": counts.completion,
        "output_tokens_details": {"thinking_tokens": counts.reasoning},
    }


def _input(arguments: str, *, cut_short: bool) -> dict[str, Any]:
    """A call's arguments, which are JSON as text, as the object that they must be here."""
    try:
        given: Any = json.loads(arguments or "{}", parse_constant=_no_number)
    except (ValueError, RecursionError):
        given = None
    if isinstance(given, dict):
        return given
    if cut_short:
        return {}
    raise UpstreamError("called a tool with arguments that are not a JSON object")


def _no_number(_: str) -> NoReturn:
    raise ValueError
