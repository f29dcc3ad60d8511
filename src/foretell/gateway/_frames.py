"""A streamed answer on its way to the caller: frames as they came, and a word at the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from foretell.errors import UpstreamError
from foretell.gateway._bodies import answer_json, json_bytes, spliced
from foretell.gateway._errors import ApiError

DONE_FRAME = b"data: [DONE]\n\n"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Atomic groups: the two bytes of one CRLF must not be taken for two line ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LONGEST_BLANK_LINE = 4
# What stands inside a text is escaped (\"usage\") and matches none of these.
_MATTERS = re.compile(rb'"(?:usage"\s*:\s*\{|finish_reason"\s*:\s*"|error"\s*:\s*[^n\s])')
_NO_OBJECT = "sent an event that is not a JSON object"


def frame(data: Mapping[str, Any]) -> bytes:
    """One server-sent event that carries a JSON object."""
    return b"data: %b\n\n" % json_bytes(data)


def error_frame(error: ApiError) -> bytes:
    """The event that ends a stream which broke; no ``[DONE]`` follows it."""
    return frame(error.body())


def frame_json(raw: bytes) -> dict[str, Any] | None:
    """The object that a frame carries; ``None`` for ``[DONE]`` and for what carries no data.

    Raises ``UpstreamError`` for other data.
    """
    data, _ = _data(raw)
    return answer_json(data) if data and data != b"[DONE]" else None


class AnswerFrames:
    """Passes a streamed chat completion on, frame by frame, byte for byte, however it was cut.

    A frame is everything up to and including a blank line. Three things are not passed through
    as they came:

    - The last frame before ``[DONE]`` gets ``"foretell"`` as one key more. So from the first
      ``finish_reason`` on, the newest frame with data is held back until the next one shows that
      it was not the last. ``foretell`` is called only then: what an answer cost is known late.
    - The frame that reports the tokens is left out unless the caller asked for it
      (``include_usage``). Where a provider reports them in a frame that has choices as well, the
      frame goes on whole: an extra key harms nobody, and the bytes stay as they were.
    - Nothing goes on after ``[DONE]``, or after the stream broke.

    A frame is parsed only when its bytes say that it may matter, or when it is not one plain
    ``data`` line. Nothing an upstream sends makes this raise; ``broken`` says what was wrong.

    Attributes:
        usage: The tokens as the provider reported them last; ``None`` until it does.
        model: Who answers, in the upstream's words; ``None`` before the first ``finish_reason``
            or report of tokens.
        finish_reason: Why the first choice ended, or else another; ``None`` until one does.
        done: Whether ``[DONE]`` came: the only sign that the answer is whole.
        broken: What the upstream did wrong, such as "sent an error"; ``None`` while all is well.
        error: The error that the upstream sent and that was passed on, as it was sent.
    """

    def __init__(
        self,
        *,
        foretell: Callable[[], Mapping[str, Any]],
        include_usage: bool,
        max_frame_bytes: int = 8 << 20,
    ) -> None:
        self.usage: Mapping[str, Any] | None = None
        self.model: str | None = None
        self.finish_reason: str | None = None
        self.done = False
        self.broken: str | None = None
        self.error: Mapping[str, Any] | None = None
        self._foretell = foretell
        self._include_usage = include_usage
        self._max_frame_bytes = max_frame_bytes
        self._unfinished = bytearray()
        self._at_start = True
        self._finishing = False
        self._held: bytes | None = None

    def feed(self, chunk: bytes) -> list[bytes]:
        """The frames that go on to the caller now."""
        passed: list[bytes] = []
        for raw in self._split(chunk):
            if self._ended:
                break
            passed += self._take(raw)
        if not self._ended and len(self._unfinished) > self._max_frame_bytes:
            passed += self._break(self._too_large())
        if self._ended:
            self._unfinished.clear()
        return passed

    def end(self) -> list[bytes]:
        """What is left once the upstream has nothing more to say, for whatever reason.

        An unfinished frame is not part of it, save a ``[DONE]`` that no blank line ended. Without
        ``[DONE]`` a frame held back goes on as it came, since it may hold text; ``done`` stays
        false, and the caller must be told.
        """
        rest, self._unfinished = bytes(self._unfinished), bytearray()
        if self._ended:
            return []
        if _data(rest)[0] == b"[DONE]":
            return self._take(DONE_FRAME)
        # A blank line may have waited for the second half of its CRLF.
        passed = self._take(rest) if _BLANK_LINE.search(rest) else []
        return passed if self._ended else [*passed, *self._release()]

    @property
    def _ended(self) -> bool:
        return self.done or self.broken is not None

    def _split(self, chunk: bytes) -> list[bytes]:
        """The frames that ``chunk`` finishes; the rest stays in ``_unfinished``."""
        buffer = self._unfinished
        search_from = max(0, len(buffer) - _LONGEST_BLANK_LINE)
        buffer += chunk
        frames: list[bytes] = []
        start = 0
        while (end := _end_of_frame(buffer, search_from)) is not None:
            frames.append(bytes(buffer[start:end]))
            start = search_from = end
        del buffer[:start]
        return frames

    def _take(self, raw: bytes) -> list[bytes]:
        """One frame in, those that go on now out."""
        if len(raw) > self._max_frame_bytes:
            return self._break(self._too_large())
        if self._at_start:
            self._at_start = False
            raw = raw.removeprefix(_BYTE_ORDER_MARK)
        data, plain = _data(raw)
        if not data:
            return [raw]  # a comment or the like: its place among the data means nothing
        if data == b"[DONE]":
            self.done = True
            return [*(_with_foretell(held, self._foretell()) for held in self._release()), raw]
        if not (data.startswith(b"{") and data.endswith(b"}")):
            return self._break(_NO_OBJECT)
        if not plain or self._finishing or _MATTERS.search(data):
            try:
                chunk = answer_json(data)
            except UpstreamError:
                return self._break(_NO_OBJECT)
            if chunk.get("error"):
                self.error = chunk
                return [*self._break("sent an error"), raw]
            self._note(chunk)
            if not self._include_usage and _only_usage(chunk):
                return []
        if not self._finishing:
            return [raw]
        released, self._held = self._release(), raw
        return released

    def _note(self, chunk: Mapping[str, Any]) -> None:
        model: Any = chunk.get("model")
        if isinstance(model, str):
            self.model = model
        usage: Any = chunk.get("usage")
        if isinstance(usage, dict) and usage:
            self.usage = usage
        choices: Any = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            reason: Any = choice.get("finish_reason") if isinstance(choice, dict) else None
            if isinstance(reason, str):
                self._finishing = True
                if self.finish_reason is None or choice.get("index") == 0:
                    self.finish_reason = reason

    def _release(self) -> list[bytes]:
        held, self._held = self._held, None
        return [] if held is None else [held]

    def _break(self, what: str) -> list[bytes]:
        self.broken = what
        return self._release()

    def _too_large(self) -> str:
        return f"sent an event larger than {self._max_frame_bytes} bytes"


def _end_of_frame(buffer: bytearray, search_from: int) -> int | None:
    """Where the first frame ends that has its blank line after ``search_from``."""
    if buffer.find(b"\r", search_from) < 0:  # nearly always, and a plain search is much faster
        found = buffer.find(b"\n\n", search_from)
        return None if found < 0 else found + 2
    blank = _BLANK_LINE.search(buffer, search_from)
    if blank is None:
        return None
    # A line feed may follow that belongs to a CR at the very end.
    return None if blank.end() == len(buffer) and buffer.endswith(b"\r") else blank.end()


def _data(raw: bytes) -> tuple[bytes, bool]:
    """The data of a frame, ``b""`` if it has none; and whether it is one plain ``data`` line."""
    if raw.startswith(b"data:"):
        data = raw[5:].strip()
        if b"\n" not in data and b"\r" not in data:
            return data, True
    values = [
        value.removeprefix(b" ")
        for line in _LINE_END.split(raw)
        for name, _, value in [line.partition(b":")]
        if name == b"data"
    ]
    return b"\n".join(values).strip(), False


def _only_usage(chunk: Mapping[str, Any]) -> bool:
    return bool(chunk.get("usage")) and not chunk.get("choices")


def _with_foretell(raw: bytes, foretell: Mapping[str, Any]) -> bytes:
    """A frame whose JSON object has one key more; other lines than its data stay."""
    data, plain = _data(raw)
    if plain:
        return raw.replace(data, spliced(data, foretell), 1)
    others = [line for line in _LINE_END.split(raw) if line and line.partition(b":")[0] != b"data"]
    return b"\n".join([*others, frame({**answer_json(data), "foretell": foretell})])
