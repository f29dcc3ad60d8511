"""What ``/v1/messages`` takes, as JSON Schema."""

from __future__ import annotations

from typing import Any

from foretell.gateway._chat_settings import (
    EFFORTS,
    LONGEST_MODEL_NAME,
    MOST_STOPS,
    MOST_TOKENS,
    settings_schema,
)
from foretell.gateway._messages_input import HINTS, SAME_SETTINGS, TOOL_CHOICES


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def _list_of(*shapes: dict[str, Any], fewest: int = 0) -> dict[str, Any]:
    items = shapes[0] if len(shapes) == 1 else {"anyOf": list(shapes)}
    return {"type": "array", "items": items, "minItems": fewest}


_STRING = {"type": "string"}
_NAME = {"type": "string", "minLength": 1}
_MAYBE_TEXT = {"type": ["string", "null"]}
_MAYBE_TRUE = {"type": ["boolean", "null"]}

_TEXT = _object({"type": {"const": "text"}, "text": _STRING})
_IMAGE = _object(
    {
        "type": {"const": "image"},
        "source": {
            "anyOf": [
                _object({"type": {"const": "base64"}, "media_type": _NAME, "data": _NAME}),
                _object({"type": {"const": "url"}, "url": _NAME}),
            ]
        },
    }
)
_TOOL_RESULT = _object(
    {"type": {"const": "tool_result"}, "tool_use_id": _NAME},
    {
        "content": {"anyOf": [_STRING, _list_of(_TEXT, _IMAGE), {"type": "null"}]},
        "is_error": _MAYBE_TRUE,
    },
)
_TOOL_USE = _object(
    {"type": {"const": "tool_use"}, "id": _NAME, "name": _NAME},
    {"input": {"type": ["object", "null"]}},
)
_THINKING = _object({"type": {"enum": ["thinking", "redacted_thinking"]}})
_TEXTS = {"anyOf": [_STRING, _list_of(_TEXT)]}
_MESSAGES = [
    _object(
        {
            "role": {"const": "user"},
            "content": {"anyOf": [_STRING, _list_of(_TEXT, _IMAGE, _TOOL_RESULT, fewest=1)]},
        }
    ),
    _object(
        {
            "role": {"const": "assistant"},
            "content": {"anyOf": [_STRING, _list_of(_TEXT, _TOOL_USE, _THINKING)]},
        }
    ),
    _object({"role": {"const": "system"}, "content": _TEXTS}),
]
_TOOL = _object(
    {"name": _NAME, "input_schema": {"type": "object"}},
    {
        "type": {"enum": ["custom", None]},
        "description": _MAYBE_TEXT,
        "strict": _MAYBE_TRUE,
    },
)
_SINGLE = {"disable_parallel_tool_use": _MAYBE_TRUE}
_TOOL_CHOICE = {
    "anyOf": [
        {"type": "null"},
        _object({"type": {"enum": list(TOOL_CHOICES)}}, _SINGLE),
        _object({"type": {"const": "tool"}, "name": _NAME}, _SINGLE),
    ]
}
_FORMAT = _object({"type": {"const": "json_schema"}, "schema": {"type": "object"}})

MESSAGES_REQUEST_SCHEMA: dict[str, Any] = {
    "title": "MessagesRequest",
    "description": "A body of Anthropic's Messages API, as far as chat completions can answer it.",
    "type": "object",
    "required": ["model", "messages", "max_tokens"],
    "additionalProperties": False,
    "properties": {
        "model": {"type": "string", "minLength": 1, "maxLength": LONGEST_MODEL_NAME},
        "messages": {
            **_list_of(*_MESSAGES, fewest=1),
            "description": "Results of tools follow their calls at once, and none is missing.",
        },
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": MOST_TOKENS},
        "system": {"anyOf": [*_TEXTS["anyOf"], {"type": "null"}]},
        "stream": _MAYBE_TRUE,
        "stop_sequences": {"type": ["array", "null"], "maxItems": MOST_STOPS, "items": _NAME},
        "metadata": {"type": ["object", "null"], "properties": {"user_id": _MAYBE_TEXT}},
        "tools": {"type": ["array", "null"], "items": _TOOL},
        "tool_choice": _TOOL_CHOICE,
        "output_config": {
            "type": ["object", "null"],
            "properties": {
                "effort": {"enum": [*EFFORTS, None]},
                "format": {"anyOf": [{"type": "null"}, _FORMAT]},
            },
        },
        **settings_schema(SAME_SETTINGS),
        **{name: {"description": "Taken, without any effect here."} for name in HINTS},
    },
}
"""The body of ``POST /v1/messages`` (JSON Schema 2020-12, OpenAPI 3.1's); but for the order of
blocks and for names that refer to each other, which a schema cannot say, this is what is taken."""
