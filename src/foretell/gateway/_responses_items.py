"""The output of a response, item by item, with the events that tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from foretell.gateway._chat_answers import (
    ArgumentsPiece,
    CallPiece,
    Piece,
    RefusalPiece,
    TextPiece,
)

EndStatus = Literal["completed", "incomplete"]
Event = dict[str, Any]


class OutputItems:
    """Builds the items out of the pieces of an answer; one is open at a time.

    Text and refusal that follow each other are parts of one message, and a call is an item of its
    own. An item is named after ``stem`` and its place. What each step returns are its events in
    order, still without ``sequence_number``.
    """

    def __init__(self, *, stem: str) -> None:
        self.finished: list[dict[str, Any]] = []
        self._stem = stem
        self._open: _Message | _Call | None = None

    def take(self, piece: Piece) -> list[Event]:
        """Add one piece."""
        match piece:
            case TextPiece(text, logprobs):
                return self._say("output_text", text, logprobs)
            case RefusalPiece(text):
                return self._say("refusal", text)
            case CallPiece():
                ended = self.end()
                self._open = _Call(self._stem, len(self.finished), piece)
                return [*ended, self._open.added()]
            case ArgumentsPiece(text):
                return self._open.more(text) if isinstance(self._open, _Call) else []

    def end(self, status: EndStatus = "completed") -> list[Event]:
        """Finish the open item, if there is one."""
        if self._open is None:
            return []
        events = self._open.end(status)
        self.finished.append(self._open.item)
        self._open = None
        return events

    def _say(self, kind: _Kind, text: str, logprobs: Sequence[Any] = ()) -> list[Event]:
        if isinstance(self._open, _Message):
            return self._open.more(kind, text, logprobs)
        events = self.end()
        self._open = _Message(self._stem, len(self.finished))
        return [*events, self._open.added(), *self._open.more(kind, text, logprobs)]


class _Item:
    """What messages and calls have in common: an id and a place."""

    def __init__(self, id: str, index: int, **fields: Any) -> None:  # noqa: A002
        self.item: dict[str, Any] = {"id": id, "status": "in_progress", **fields}
        self._index = index

    def added(self) -> Event:
        item = {k: list(v) if isinstance(v, list) else v for k, v in self.item.items()}
        return {"type": "response.output_item.added", "output_index": self._index, "item": item}

    def _done(self, status: EndStatus) -> Event:
        self.item["status"] = status
        return {
            "type": "response.output_item.done",
            "output_index": self._index,
            "item": self.item,
        }

    def _event(self, event: str, **fields: Any) -> Event:
        return {
            "type": f"response.{event}",
            "item_id": self.item["id"],
            "output_index": self._index,
            **fields,
        }


class _Call(_Item):
    def __init__(self, stem: str, index: int, call: CallPiece) -> None:
        super().__init__(
            f"fc_{stem}_{index}",
            index,
            type="function_call",
            call_id=call.id,
            name=call.name,
            arguments="",
        )
        self._pieces: list[str] = []

    def more(self, text: str) -> list[Event]:
        self._pieces.append(text)
        return [self._event("function_call_arguments.delta", delta=text)]

    def end(self, status: EndStatus) -> list[Event]:
        self.item["arguments"] = arguments = "".join(self._pieces)
        done = self._event(
            "function_call_arguments.done", name=self.item["name"], arguments=arguments
        )
        return [done, self._done(status)]


_Kind = Literal["output_text", "refusal"]


class _Message(_Item):
    def __init__(self, stem: str, index: int) -> None:
        super().__init__(f"msg_{stem}_{index}", index, type="message", role="assistant", content=[])
        self._kind: _Kind | None = None
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []

    def more(self, kind: _Kind, text: str, logprobs: Sequence[Any]) -> list[Event]:
        events: list[Event] = []
        if kind != self._kind:
            events = self._end_part()
            self._kind = kind
            events.append(self._part_event("content_part.added", part=self._part()))
        self._pieces.append(text)
        self._logprobs += logprobs
        told = {"logprobs": list(logprobs)} if kind == "output_text" else {}
        return [*events, self._part_event(f"{kind}.delta", delta=text, **told)]

    def end(self, status: EndStatus) -> list[Event]:
        return [*self._end_part(), self._done(status)]

    def _end_part(self) -> list[Event]:
        if self._kind is None:
            return []
        part = self._part()
        told = {name: part[name] for name in ("text", "refusal", "logprobs") if name in part}
        events = [
            self._part_event(f"{self._kind}.done", **told),
            self._part_event("content_part.done", part=part),
        ]
        self.item["content"].append(part)
        self._kind, self._pieces, self._logprobs = None, [], []
        return events

    def _part(self) -> dict[str, Any]:
        text = "".join(self._pieces)
        if self._kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {
            "type": "output_text",
            "text": text,
            "annotations": [],
            "logprobs": self._logprobs,
        }

    def _part_event(self, event: str, **fields: Any) -> Event:
        return self._event(event, content_index=len(self.item["content"]), **fields)
