"""Chat messages put together from the finer pieces of which the other APIs make a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foretell.gateway._chat_messages import MOST_MESSAGES
from foretell.gateway._errors import quoted
from foretell.gateway._fields import Field

_IMAGE_FOLLOWS = "(an image, shown in the next message)"


class ChatTurns:
    """Collects messages in order; what one turn of the assistant holds becomes one message.

    Chat completions knows one order for tools: the calls of a turn stand in one message of the
    assistant, and the results of all of them follow at once. Whatever breaks it is refused here
    with the path of the field that did, since upstreams refuse it with a path that the caller
    never sent.

    A tool's result holds text alone there, so its images follow in a message of the user, after
    the last result of that turn.
    """

    def __init__(self, earlier: Sequence[Mapping[str, Any]] = ()) -> None:
        """``earlier``: messages that go before, whose last calls may still want their results."""
        self._messages: list[dict[str, Any]] = [dict(message) for message in earlier]
        self._unanswered = _unanswered_calls(self._messages)
        self._turn: dict[str, Any] | None = None
        self._images: list[dict[str, Any]] = []

    def add(self, role: str, content: str | list[dict[str, Any]], *, at: Field) -> None:
        """A message of the user, or of who set up the conversation."""
        self._end_results(at)
        self._turn = None
        self._messages.append({"role": role, "content": content})

    def answer(self, content: str | list[dict[str, Any]], *, at: Field) -> None:
        """Text of the assistant."""
        if self._turn is None:
            self._begin_turn(content, at=at)
        else:
            self._turn["content"] = content_of([*_parts(self._turn["content"]), *_parts(content)])

    def call(self, id: str, name: str, arguments: str, *, at: Field) -> None:  # noqa: A002
        """A call that the assistant made; ``at`` is where its ``id`` stands."""
        turn = self._turn or self._begin_turn(None, at=at)
        if id in self._unanswered:
            raise at.wrong(f"names the call {quoted(id)} for the second time")
        turn.setdefault("tool_calls", []).append(
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        )
        self._unanswered[id] = at

    def result(self, id: str, parts: list[dict[str, Any]], *, at: Field) -> None:  # noqa: A002
        """What a call brought; ``at`` is where the ``id`` of the call stands."""
        if id not in self._unanswered:
            raise at.wrong(
                f"is {quoted(id)}, but the turn before has no call of that name that waits for "
                "its result"
            )
        del self._unanswered[id]
        self._turn = None
        texts = [part["text"] if part["type"] == "text" else _IMAGE_FOLLOWS for part in parts]
        self._images += [part for part in parts if part["type"] != "text"]
        self._messages.append({"role": "tool", "tool_call_id": id, "content": "\n".join(texts)})

    def messages(self, *, at: Field) -> list[dict[str, Any]]:
        """The whole conversation; ``at`` is the field that it came from."""
        self._end_results(at)
        if not self._messages:
            raise at.wrong("holds nothing to answer")
        if len(self._messages) >= MOST_MESSAGES:  # so that there is room for instructions
            raise at.wrong(f"makes a conversation of {MOST_MESSAGES} messages or more")
        return self._messages

    def _begin_turn(
        self, content: str | list[dict[str, Any]] | None, *, at: Field
    ) -> dict[str, Any]:
        self._end_results(at)
        self._turn = {"role": "assistant", "content": content}
        self._messages.append(self._turn)
        return self._turn

    def _end_results(self, at: Field) -> None:
        """Results are over: none may be missing, and their images come now."""
        for id, call in self._unanswered.items():  # noqa: A001
            if call is None:
                raise at.wrong(f"comes before the result of the call {quoted(id)}")
            raise call.wrong(f"is {quoted(id)}, but the call's result does not follow")
        if self._images:
            self._messages.append({"role": "user", "content": self._images})
            self._images = []


def text_part(text: str) -> dict[str, Any]:
    """A part of a message that is text."""
    return {"type": "text", "text": text}


def image_part(url: str, detail: str | None = None) -> dict[str, Any]:
    """A part of a message that is an image; ``url`` may hold its data."""
    image = {"url": url} if detail is None else {"url": url, "detail": detail}
    return {"type": "image_url", "image_url": image}


def content_of(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Parts as a message holds them: a single text as it is, which every upstream reads."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts


def _parts(content: str | list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    if content is None:
        return []
    if isinstance(content, str):
        return [text_part(content)] if content else []
    return content


def _unanswered_calls(messages: Sequence[Mapping[str, Any]]) -> dict[str, Field | None]:
    """Calls of the last assistant's turn that nothing has answered yet."""
    answered: set[Any] = set()
    for message in reversed(messages):
        if message.get("role") != "tool":
            calls: list[dict[str, Any]] = message.get("tool_calls") or []
            return {call["id"]: None for call in calls if call["id"] not in answered}
        answered.add(message.get("tool_call_id"))
    return {}
