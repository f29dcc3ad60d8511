"""A chat completion, whole or streamed, as OpenAI's Responses API answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from foretell.gateway._chat_answers import (
    AnswerReader,
    TokenCounts,
    error_object,
    event_bytes,
    stem_of,
)
from foretell.gateway._responses_items import EndStatus, Event, OutputItems

_CUT_SHORT = {"length": "max_output_tokens", "content_filter": "content_filter"}
# Settings that a response repeats, and what it says where the request was silent.
_REPEATED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": None,
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


def chat_to_response(
    chat: Mapping[str, Any],
    *,
    id: str,  # noqa: A002 (the field's name)
    created: int,
    request: Mapping[str, Any],
) -> dict[str, Any]:
    """The response that a chat completion amounts to.

    ``request`` is the caller's body, whose settings a response repeats; ``created`` is in seconds
    since 1970. An answer cut short by a limit or a filter is ``incomplete`` and says why; tokens
    that the model did not report are ``null``. A ``"foretell"`` in ``chat`` is taken over.

    Raises ``UpstreamError`` when ``chat`` is no chat completion.
    """
    reader, items = AnswerReader(stem=stem_of(id)), OutputItems(stem=stem_of(id))
    for piece in reader.whole(chat):
        items.take(piece)
    items.end(_end_status(reader))
    header = _header(request, id=id, created=created, model=None)
    return _finished(header, reader, items, foretell=chat.get("foretell"))


class ResponsesStream:
    """A streamed chat completion as the events of a streamed response.

    ``start`` comes first; then ``feed`` takes each chunk; then comes either ``finish`` or, when
    the answer broke, ``failed``. Each returns whole server-sent events. ``model`` is named by
    events before the first chunk tells who answers; by default as the request has it.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 (the field's name)
        created: int,
        request: Mapping[str, Any],
        model: str | None = None,
    ) -> None:
        self._header = _header(request, id=id, created=created, model=model)
        self._reader = AnswerReader(stem=stem_of(id))
        self._items = OutputItems(stem=stem_of(id))
        self._sequence = 0

    def start(self) -> list[bytes]:
        """The events that open the stream."""
        response = _response(self._header, "in_progress")
        return self._told(
            {"type": "response.created", "response": response},
            {"type": "response.in_progress", "response": response},
        )

    def feed(self, chunk: Mapping[str, Any]) -> list[bytes]:
        """The events that one chunk means, often none.

        Raises ``UpstreamError`` for what is no chunk of a completion; ``failed`` is next then.
        """
        return self._told(*[e for p in self._reader.feed(chunk) for e in self._items.take(p)])

    def finish(self, *, foretell: Mapping[str, Any] | None) -> list[bytes]:
        """The events that end a whole answer; the last one holds the response with ``foretell``."""
        status = _end_status(self._reader)
        ended = self._items.end(status)
        response = _finished(self._header, self._reader, self._items, foretell=foretell)
        return self._told(*ended, {"type": f"response.{status}", "response": response})

    def failed(self, error: Mapping[str, Any]) -> list[bytes]:
        """The event that ends a broken answer; items that were not finished are not in it.

        ``error`` is OpenAI's error object, or the body that holds it.
        """
        started = [] if self._sequence else self.start()
        response = _response(
            self._header,
            "failed",
            error=_error(error_object(error)),
            output=self._items.finished,
            usage=_usage(self._reader.counts),
        )
        return [*started, *self._told({"type": "response.failed", "response": response})]

    def output_messages(self) -> list[dict[str, Any]]:
        """The answer so far as chat messages, for ``kept_messages``."""
        return [self._reader.message()]

    def _told(self, *events: Event) -> list[bytes]:
        frames: list[bytes] = []
        for event in events:
            frames.append(event_bytes(event["type"], event | {"sequence_number": self._sequence}))
            self._sequence += 1
        return frames


def response_messages(chat: Mapping[str, Any], *, id: str) -> list[dict[str, Any]]:  # noqa: A002
    """The answer of a chat completion as chat messages; ``id`` is the response's, as given there.

    Raises ``UpstreamError`` when ``chat`` is no chat completion.
    """
    reader = AnswerReader(stem=stem_of(id))
    reader.whole(chat)
    return [reader.message()]


def kept_messages(
    raw: Mapping[str, Any], chat: Mapping[str, Any], answer: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """What a later ``previous_response_id`` stands for: the conversation with its answer.

    ``chat`` is what ``responses_to_chat`` made of ``raw``. The instructions are left out, since
    they hold for one response only.
    """
    instructed = 1 if raw.get("instructions") else 0
    return [*chat["messages"][instructed:], *answer]


def _header(
    request: Mapping[str, Any],
    *,
    id: str,  # noqa: A002
    created: int,
    model: str | None,
) -> dict[str, Any]:
    """What is the same in all responses that one stream tells of."""
    repeated = {
        name: default if request.get(name) is None else request[name]
        for name, default in _REPEATED.items()
    }
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "background": False,
        "model": model or request.get("model"),
        **repeated,
    }


def _response(
    header: Mapping[str, Any],
    status: Literal["in_progress", "completed", "incomplete", "failed"],
    *,
    output: Sequence[dict[str, Any]] = (),
    error: Mapping[str, Any] | None = None,
    incomplete: str | None = None,
    usage: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        **header,
        "status": status,
        "error": error,
        "incomplete_details": None if incomplete is None else {"reason": incomplete},
        "output": list(output),
        "usage": usage,
    }


def _finished(
    header: Mapping[str, Any],
    reader: AnswerReader,
    items: OutputItems,
    *,
    foretell: Mapping[str, Any] | None,
) -> dict[str, Any]:
    response = _response(
        {**header, "model": reader.model or header["model"]},
        _end_status(reader),
        output=items.finished,
        incomplete=_CUT_SHORT.get(reader.finish_reason or ""),
        usage=_usage(reader.counts),
    )
    return response if foretell is None else response | {"foretell": foretell}


def _end_status(reader: AnswerReader) -> EndStatus:
    return "incomplete" if reader.finish_reason in _CUT_SHORT else "completed"


def _usage(counts: TokenCounts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {
            "cached_tokens": counts.cached,
            "cache_write_tokens": counts.written,
        },
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.total,
    }


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    """The error as a response holds it, whose codes are fewer than those of other errors."""
    kind, code = error.get("type"), error.get("code")
    if "rate_limit_error" in (kind, code) or code == "rate_limit_exceeded":
        told = "rate_limit_exceeded"
    else:
        told = "invalid_prompt" if kind == "invalid_request_error" else "server_error"
    return {
        "code": told,
        "message": str(error.get("message") or "the model broke off"),
        "type": kind,
        "param": error.get("param"),
    }
