"""The text of an answer that went by as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from foretell.errors import UpstreamError
from foretell.gateway._bodies import answer_json
from foretell.gateway._frames import frame_json

_FRAME_END = b"\n\n"


def said_in(body: bytes) -> str:
    """What the first choice of a chat completion says; ``""`` where it says nothing."""
    with suppress(UpstreamError):
        return _text(answer_json(body), "message")
    return ""


def said_in_frames(stream: bytes) -> str:
    """The same of a streamed one, whose frames are whole."""
    pieces: list[str] = []
    for raw in stream.replace(b"\r\n", b"\n").split(_FRAME_END):
        with suppress(UpstreamError):
            if (event := frame_json(raw + _FRAME_END)) is not None:
                pieces.append(_text(event, "delta"))
    return "".join(pieces)


def _text(event: Mapping[str, Any], where: str) -> str:
    """The content of the choice with index 0."""
    choices: Any = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index", 0) == 0:
            said: Any = choice.get(where)
            content: Any = said.get("content") if isinstance(said, dict) else None
            return content if isinstance(content, str) else ""
    return ""
