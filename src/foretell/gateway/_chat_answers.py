"""A chat completion taken apart, whole or chunk by chunk, to be told in another API's words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foretell.errors import UpstreamError


@dataclass(frozen=True, slots=True)
class TextPiece:
    """More text; ``logprobs`` of its tokens, when they were asked for."""

    text: str
    logprobs: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class RefusalPiece:
    """More of the words in which the model declines."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A tool call begins."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPiece:
    """More of the arguments of the call that began last; JSON in the end."""

    text: str


Piece = TextPiece | RefusalPiece | CallPiece | ArgumentsPiece


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call, whole."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tokens of one answer. ``cached`` and ``written`` (to the cache) are part of ``prompt``."""

    prompt: int
    completion: int
    total: int
    cached: int
    written: int
    reasoning: int


class AnswerReader:
    """Pieces out of a chat completion, whole or streamed; of its choices the first counts.

    Text of reasoning has no place in what is made of the pieces, and is passed over; its tokens
    are in the usage.
    """

    def __init__(self, *, stem: str) -> None:
        """``stem`` makes ids of calls that came without one; unique to this answer."""
        self.finish_reason: str | None = None
        self.stop_sequence: str | None = None
        self.model: str | None = None
        self.refused = False
        self._usage: Mapping[str, Any] | None = None
        self._calls = _CallOrder(stem)
        self._texts: list[str] = []
        self._arguments: list[tuple[CallPiece, list[str]]] = []

    def feed(self, chunk: Mapping[str, Any]) -> list[Piece]:
        """The pieces that one chunk brings; raises ``UpstreamError`` when it is no chunk."""
        return self._read(chunk, "delta")

    def whole(self, completion: Mapping[str, Any]) -> list[Piece]:
        """The pieces of a completion that was not streamed; raises as ``feed`` does."""
        if not completion.get("choices"):
            raise UpstreamError("answered without any choices")
        return self._read(completion, "message")

    @property
    def counts(self) -> TokenCounts | None:
        """Tokens as the model counted them; ``None`` when it did not say."""
        return _counts(self._usage)

    @property
    def text(self) -> str:
        """What was said so far; the words of a refusal are part of it."""
        return "".join(self._texts)

    @property
    def calls(self) -> list[ToolCall]:
        """The tool calls so far."""
        return [ToolCall(c.id, c.name, "".join(pieces)) for c, pieces in self._arguments]

    def message(self) -> dict[str, Any]:
        """The answer so far as a message of a later request; a refusal is text there."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self._arguments:
            message["content"] = self.text or None
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.calls
            ]
        return message

    def _read(self, answer: Mapping[str, Any], where: str) -> list[Piece]:
        if answer.get("error"):
            raise UpstreamError("broke off with an error")
        if isinstance(model := answer.get("model"), str) and model:
            self.model = model
        if isinstance(usage := answer.get("usage"), Mapping):
            self._usage = usage
        for choice in _list(answer, "choices"):
            if _mapping(choice, "choices").get("index", 0) == 0:
                return self._choice(choice, where)
        return []

    def _choice(self, choice: Mapping[str, Any], where: str) -> list[Piece]:
        if isinstance(reason := choice.get("finish_reason"), str):
            self.finish_reason = reason
        if isinstance(stop := choice.get("stop_reason"), str):  # as vLLM tells which one it was
            self.stop_sequence = stop
        said = _mapping(choice.get(where) or {}, where)
        pieces: list[Piece] = []
        if text := _text(said.get("content"), "content"):
            pieces.append(TextPiece(text, _logprobs(choice)))
        if refusal := _text(said.get("refusal"), "refusal"):
            pieces.append(RefusalPiece(refusal))
            self.refused = True
        if pieces:
            self._calls.interrupt()
        for call in _list(said, "tool_calls"):
            pieces += self._calls.read(_mapping(call, "tool_calls"), whole=where == "message")
        self._keep(pieces)
        return pieces

    def _keep(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            match piece:
                case TextPiece(text) | RefusalPiece(text):
                    self._texts.append(text)
                case CallPiece():
                    self._arguments.append((piece, []))
                case ArgumentsPiece(text):
                    self._arguments[-1][1].append(text)


class _CallOrder:
    """Tells where one streamed call ends and the next begins, one after another.

    Models differ: some repeat the id in every chunk, some leave out the index or give each call
    the same one, some send whole calls. A call begins with an index or an id not seen before.
    """

    def __init__(self, stem: str) -> None:
        self._stem = stem
        self._seen: list[tuple[Any, str]] = []
        self._ids: set[str] = set()
        self._open = False

    def interrupt(self) -> None:
        """Something else came, so the last call has ended."""
        self._open = False

    def read(self, call: Mapping[str, Any], *, whole: bool) -> list[Piece]:
        """The pieces of one entry of ``tool_calls``."""
        function = _mapping(call.get("function") or {}, "function")
        index = call.get("index")
        sent_id = _text(call.get("id"), "id")
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping):  # as Ollama has them
            arguments = json.dumps(arguments)
        more = _text(arguments, "arguments")
        pieces: list[Piece] = []
        if whole or not any(_is_same(seen, index, sent_id) for seen in self._seen):
            name = _text(function.get("name"), "name")
            pieces.append(CallPiece(self._begin(index, sent_id, name), name))
        elif more and not (self._open and _is_same(self._seen[-1], index, sent_id)):
            raise UpstreamError("went back to a tool call that it had ended")
        if more:
            pieces.append(ArgumentsPiece(more))
        return pieces

    def _begin(self, index: Any, sent_id: str, name: str) -> str:
        if not name:
            raise UpstreamError("began a tool call without the tool's name")
        # The id ties a result to its call, so one that is missing or taken already is made up.
        free = sent_id and sent_id not in self._ids
        id = sent_id if free else f"call_{self._stem}_{len(self._seen)}"  # noqa: A001
        self._seen.append((index, sent_id))
        self._ids.add(id)
        self._open = True
        return id


def stem_of(id: str) -> str:  # noqa: A002
    """What is unique in an id such as ``resp_1a2b``, to make the ids of its parts from."""
    return id.partition("_")[2] or id


def event_bytes(event: str, data: Mapping[str, Any]) -> bytes:
    """One named server-sent event. Escapes all but ASCII, since streams may split a character."""
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def error_object(error: Mapping[str, Any]) -> Mapping[str, Any]:
    """The error itself, given alone or as the body that holds it (``{"error": {…}}``)."""
    inner = error.get("error")
    if isinstance(inner, str):  # as Ollama has it
        return {"message": inner}
    return inner if isinstance(inner, Mapping) else error


def _is_same(seen: tuple[Any, str], index: Any, sent_id: str) -> bool:
    return (index is None or index == seen[0]) and (not sent_id or sent_id == seen[1])


def _text(value: Any, name: str) -> str:
    """Text that may be absent, or in parts as some models send it."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list):
        parts: list[Any] = value
        return "".join(
            part["text"]
            for part in parts
            if isinstance(part, Mapping) and isinstance(part.get("text"), str)
        )
    raise UpstreamError(f"answered with a {name!r} that is no text")


def _list(answer: Mapping[str, Any], name: str) -> list[Any]:
    value = answer.get(name)
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise UpstreamError(f"answered with {name!r} that is no list")


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise UpstreamError(f"answered with something in {name!r} that is no object")


def _logprobs(choice: Mapping[str, Any]) -> Sequence[Any]:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    return content if isinstance(content, list) else ()


def _counts(usage: Mapping[str, Any] | None) -> TokenCounts | None:
    if usage is None:
        return None
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if prompt is None or completion is None:
        return None
    of_prompt, of_completion = (
        details if isinstance(details := usage.get(name), Mapping) else {}
        for name in ("prompt_tokens_details", "completion_tokens_details")
    )
    total = _count(usage, "total_tokens")
    return TokenCounts(
        prompt=prompt,
        completion=completion,
        total=prompt + completion if total is None else total,
        cached=_count(of_prompt, "cached_tokens") or 0,
        written=_count(of_prompt, "cache_write_tokens") or 0,
        reasoning=_count(of_completion, "reasoning_tokens") or 0,
    )


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
