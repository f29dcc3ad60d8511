"""The messages of a chat completion: their shapes, their order, and what reading them takes."""

from __future__ import annotations

from typing import Any

from foretell.gateway._bodies import described
from foretell.gateway._errors import quoted
from foretell.gateway._fields import Field

MOST_MESSAGES = 10_000
ROLES = ("system", "developer", "user", "assistant", "tool", "function")

_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")
_FILE_PARTS = ("file", "input_file", "input_image")


class ChatMessages:
    """Reads the messages one after the other; ``ApiError`` (400) names the field that is wrong.

    A message of role ``tool`` must answer a tool call that an earlier message made. Parts of a
    type that is not known here are not looked into: an upstream may know them.

    Attributes:
        tools: Whether tools were called or answered in the conversation.
        images: Whether pictures or files are in it.
        audio: Whether sound is in it.
        unusual: Whether it has content that is neither text nor any of those, such as a refusal.
        attachments: Number of parts that are not text.
        characters: Characters of all text.
        text_bytes: UTF-8 bytes of all text: no tokeniser makes more tokens of it.
    """

    def __init__(self, messages: Field) -> None:
        self.tools = False
        self.images = False
        self.audio = False
        self.unusual = False
        self.attachments = 0
        self.characters = 0
        self.text_bytes = 0
        self._calls: set[str] = set()
        items = messages.items()
        if not messages.value:
            messages.refuse("must have at least one message")
        if len(messages.value) > MOST_MESSAGES:
            messages.refuse(f"must have {MOST_MESSAGES} at most, got {len(messages.value)}")
        for message in items:
            self._read(message)

    def _read(self, message: Field) -> None:
        match message.need("role").one_of(ROLES):
            case "assistant":
                self._assistant(message)
            case "tool":
                self.tools = True
                self._content(message.need("content"))
                call = message.need("tool_call_id")
                if call.text(empty=False) not in self._calls:
                    call.refuse(f"is {quoted(call.value)}, but no message before made that call")
            case "function":
                self.tools = True
                message.need("name").text(empty=False)
                if content := message.get("content"):
                    self._content(content)
            case _:
                self._content(message.need("content"))
        if name := message.get("name"):
            name.text()

    def _assistant(self, message: Field) -> None:
        if content := message.get("content"):
            self._content(content)
        elif not any(message.value.get(name) for name in _INSTEAD_OF_CONTENT):
            Field(None, f"{message.path}.content").refuse(
                f"is missing; only a message with {', '.join(_INSTEAD_OF_CONTENT)} may lack it",
                code="missing_required_parameter",
            )
        if calls := message.get("tool_calls"):
            for call in calls.items():
                self._call(call)
        if call := message.get("function_call"):
            self._function(call, "arguments")
        if refusal := message.get("refusal"):
            self._text(refusal.text())
            self.unusual = True
        if audio := message.get("audio"):
            audio.need("id").text(empty=False)
            self.audio = True

    def _call(self, call: Field) -> None:
        self._calls.add(call.need("id").text(empty=False))
        kind = call.get("type")
        if kind is not None and kind.one_of(("function", "custom")) == "custom":
            self._function(call.need("custom"), "input")
        else:
            self._function(call.need("function"), "arguments")

    def _function(self, function: Field, given: str) -> None:
        self.tools = True
        self._text(function.need("name").text(empty=False))
        self._text(function.need(given).text())

    def _content(self, content: Field) -> None:
        value = content.value
        if isinstance(value, str):
            self._text(value)
            return
        if not isinstance(value, list):
            content.refuse(
                f"must be a string or a list of parts, got {described(value)}", code="invalid_type"
            )
        if not value:
            content.refuse("must have at least one part")
        for part in content.items():
            self._part(part)

    def _part(self, part: Field) -> None:
        kind = part.need("type").text(empty=False)
        if kind == "text":
            self._text(part.need("text").text())
            return
        self.attachments += 1
        if kind == "image_url":
            image = part.need("image_url")
            # Some APIs take the URL itself where OpenAI's has an object around it.
            (image if isinstance(image.value, str) else image.need("url")).text(empty=False)
            self.images = True
        elif kind in _FILE_PARTS:
            self.images = True
        elif kind == "input_audio":
            audio = part.need("input_audio")
            audio.need("data").text(empty=False)
            audio.need("format").text(empty=False)
            self.audio = True
        elif kind == "refusal":
            self._text(part.need("refusal").text())
            self.unusual = True
        else:
            self.unusual = True

    def _text(self, text: str) -> None:
        self.characters += len(text)
        self.text_bytes += len(text) if text.isascii() else len(text.encode())


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


_TEXT = {"type": "string"}
_WORD = {"type": "string", "minLength": 1}
_NAME = {"name": {"type": ["string", "null"]}}
_PARTS: dict[str, dict[str, Any]] = {
    "text": {"text": _TEXT},
    "image_url": {"image_url": {"anyOf": [_WORD, _object({"url": _WORD})]}},
    "input_audio": {"input_audio": _object({"data": _WORD, "format": _WORD})},
    "refusal": {"refusal": _TEXT},
}
_PART: dict[str, Any] = {
    "anyOf": [
        *(_object({"type": {"const": kind}, **fields}) for kind, fields in _PARTS.items()),
        _object({"type": {**_WORD, "not": {"enum": list(_PARTS)}}}),
    ]
}
_CONTENT: dict[str, Any] = {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": _PART}]}
_OPTIONAL_CONTENT: dict[str, Any] = {"anyOf": [*_CONTENT["anyOf"], {"type": "null"}]}
_FUNCTION_CALL = _object({"name": _WORD, "arguments": _TEXT})
_TOOL_CALL: dict[str, Any] = {
    "anyOf": [
        _object(
            {"id": _WORD, "function": _FUNCTION_CALL},
            {"type": {"enum": ["function", None]}},
        ),
        _object(
            {
                "id": _WORD,
                "type": {"const": "custom"},
                "custom": _object({"name": _WORD, "input": _TEXT}),
            }
        ),
    ]
}
_ASSISTANT: dict[str, Any] = {
    **_object(
        {"role": {"const": "assistant"}},
        {
            **_NAME,
            "content": _OPTIONAL_CONTENT,
            "tool_calls": {"type": ["array", "null"], "items": _TOOL_CALL},
            "function_call": {"anyOf": [_FUNCTION_CALL, {"type": "null"}]},
            "refusal": {"type": ["string", "null"]},
            "audio": {"anyOf": [_object({"id": _WORD}), {"type": "null"}]},
        },
    ),
    "anyOf": [
        _object({"content": _CONTENT}),
        _object({"tool_calls": {"type": "array", "minItems": 1}}),
        _object({"function_call": {"type": "object"}}),
        _object({"refusal": _WORD}),
        _object({"audio": {"type": "object"}}),
    ],
}

MESSAGES_SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "maxItems": MOST_MESSAGES,
    "items": {
        "anyOf": [
            _object(
                {"role": {"enum": ["system", "developer", "user"]}, "content": _CONTENT}, _NAME
            ),
            _ASSISTANT,
            _object({"role": {"const": "tool"}, "content": _CONTENT, "tool_call_id": _WORD}, _NAME),
            _object({"role": {"const": "function"}, "name": _WORD}, {"content": _OPTIONAL_CONTENT}),
        ]
    },
}
"""What is accepted, save that JSON Schema cannot say which tool call a message answers."""
