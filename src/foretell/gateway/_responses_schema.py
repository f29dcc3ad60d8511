"""What ``/v1/responses`` takes, as JSON Schema."""

from __future__ import annotations

from typing import Any

from foretell.gateway._chat_settings import (
    EFFORTS,
    LONGEST_MODEL_NAME,
    MOST_TOKENS,
    settings_schema,
)
from foretell.gateway._responses_input import (
    HINTS,
    ONLY_OFF,
    ROLES,
    SAME_SETTINGS,
    SAME_WITH_TOOLS,
    TOOL_CHOICES,
    TRUNCATIONS,
    VERBOSITIES,
)


def _object(kind: str, *required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", *required],
        "properties": {"type": {"const": kind}, **properties},
    }


_TEXT = {"type": "string"}
_NAME = {"type": "string", "minLength": 1}
_MAYBE_TEXT = {"type": ["string", "null"]}
_MAYBE_OBJECT = {"type": ["object", "null"]}
_MAYBE_TRUE = {"type": ["boolean", "null"]}

_TEXT_PARTS = [
    _object("input_text", "text", text=_TEXT),
    _object("output_text", "text", text=_TEXT),
    _object("refusal", "refusal", refusal=_TEXT),
]
_PARTS = [
    *_TEXT_PARTS,
    _object(
        "input_image",
        "image_url",
        image_url=_NAME,
        detail=_MAYBE_TEXT,
        file_id={"type": "null"},
    ),
]


def _message(roles: list[str], parts: list[dict[str, Any]]) -> dict[str, Any]:
    content = {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": {"anyOf": parts}}]}
    return {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "type": {"enum": ["message", None]},
            "role": {"enum": roles},
            "content": content,
        },
    }


_ITEMS = [
    _message(["user"], _PARTS),
    _message([role for role in ROLES if role != "user"], _TEXT_PARTS),
    _object(
        "function_call", "call_id", "name", "arguments", call_id=_NAME, name=_NAME, arguments=_TEXT
    ),
    _object(
        "function_call_output",
        "call_id",
        "output",
        call_id=_NAME,
        output={"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": _PARTS}}]},
    ),
    _object("reasoning"),
]
_TOOL = _object(
    "function",
    "name",
    name=_NAME,
    description=_MAYBE_TEXT,
    parameters=_MAYBE_OBJECT,
    strict=_MAYBE_TRUE,
)
_TOOL_CHOICE = {
    "anyOf": [
        {"enum": [*TOOL_CHOICES, None]},
        _object("function", "name", name=_NAME),
        _object(
            "allowed_tools",
            "mode",
            "tools",
            mode={"enum": ["auto", "required"]},
            tools={
                "type": "array",
                "minItems": 1,
                "items": {"type": "object", "required": ["name"], "properties": {"name": _NAME}},
            },
        ),
    ]
}
_FORMAT = {
    "anyOf": [
        {"type": "null"},
        _object("text"),
        _object("json_object"),
        _object(
            "json_schema",
            "name",
            "schema",
            name=_NAME,
            schema={"type": "object"},
            description=_MAYBE_TEXT,
            strict=_MAYBE_TRUE,
        ),
    ]
}

RESPONSES_REQUEST_SCHEMA: dict[str, Any] = {
    "title": "ResponsesRequest",
    "description": "A body of OpenAI's Responses API, as far as chat completions can answer it.",
    "type": "object",
    "required": ["model", "input"],
    "additionalProperties": False,
    "properties": {
        "model": {"type": "string", "minLength": 1, "maxLength": LONGEST_MODEL_NAME},
        "input": {
            "anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": {"anyOf": _ITEMS}}],
            "description": "Outputs of functions follow their calls at once, and none is missing.",
        },
        "instructions": _MAYBE_TEXT,
        "stream": _MAYBE_TRUE,
        "max_output_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_TOKENS},
        "tools": {"type": ["array", "null"], "items": _TOOL},
        "tool_choice": _TOOL_CHOICE,
        "text": {
            "type": ["object", "null"],
            "properties": {"format": _FORMAT, "verbosity": {"enum": [*VERBOSITIES, None]}},
        },
        "reasoning": {
            "type": ["object", "null"],
            "properties": {"effort": {"enum": [*EFFORTS, None]}},
        },
        "include": {"type": ["array", "null"], "items": _TEXT},
        "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
        "previous_response_id": {"type": ["string", "null"], "minLength": 1},
        "store": _MAYBE_TRUE,
        "stream_options": _MAYBE_OBJECT,
        "truncation": {"enum": [*TRUNCATIONS, None]},
        **settings_schema([*SAME_SETTINGS, *SAME_WITH_TOOLS]),
        **{name: {"description": "Taken, without any effect here."} for name in HINTS},
        **{name: {"enum": [False, None], "description": "Off only."} for name in ONLY_OFF},
    },
}
"""The body of ``POST /v1/responses`` (JSON Schema 2020-12, OpenAPI 3.1's); but for the order of
items and for names that refer to each other, which a schema cannot say, this is what is taken."""
