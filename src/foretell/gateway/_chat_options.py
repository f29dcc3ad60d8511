"""The options of a chat completion: how the answer is made, and what is told about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foretell.gateway._bodies import described
from foretell.gateway._chat_settings import MOST_STOPS, same_settings, settings_schema
from foretell.gateway._fields import Field

_MOST_TOKENS = 2**31 - 1
_MOST_ANSWERS = 128

_SETTINGS = (
    "frequency_penalty",
    "logit_bias",
    "metadata",
    "parallel_tool_calls",
    "presence_penalty",
    "prompt_cache_key",
    "safety_identifier",
    "seed",
    "service_tier",
    "temperature",
    "top_p",
    "user",
)


def check_options(body: Field) -> None:
    """Refuse values that no API would take; ``ApiError`` (400) names the field."""
    same_settings(body, _SETTINGS)
    for name, check in _CHECKS.items():
        if field := body.get(name):
            check(field)


def _tokens(field: Field) -> None:
    field.integer(1, _MOST_TOKENS)


def _stop(stop: Field) -> None:
    if isinstance(stop.value, str):
        stop.text(empty=False)
        return
    if not isinstance(stop.value, list):
        stop.refuse(
            f"must be a string or a list of strings, got {described(stop.value)}",
            code="invalid_type",
        )
    if len(stop.value) > MOST_STOPS:
        stop.refuse(f"must have {MOST_STOPS} strings at most, got {len(stop.value)}")
    for text in stop.items():
        text.text(empty=False)


def _response_format(form: Field) -> None:
    if form.need("type").text(empty=False) == "json_schema":
        form.need("json_schema").members()


def _stream_options(options: Field) -> None:
    if include_usage := options.get("include_usage"):
        include_usage.boolean()


def _modalities(modalities: Field) -> None:
    for modality in modalities.items():
        modality.text(empty=False)


_CHECKS: dict[str, Callable[[Field], object]] = {
    "audio": Field.members,
    "logprobs": Field.boolean,
    "max_completion_tokens": _tokens,
    "max_tokens": _tokens,
    "modalities": _modalities,
    "n": lambda field: field.integer(1, _MOST_ANSWERS),
    "prediction": Field.members,
    "reasoning_effort": Field.text,
    "response_format": _response_format,
    "stop": _stop,
    "store": Field.boolean,
    "stream": Field.boolean,
    "stream_options": _stream_options,
    "top_logprobs": lambda field: field.integer(0, 20),
    "verbosity": Field.text,
    "web_search_options": Field.members,
}

_WORD = {"type": "string", "minLength": 1}
_LIMIT = {"type": ["integer", "null"], "minimum": 1, "maximum": _MOST_TOKENS}
_BOOLEAN = {"type": ["boolean", "null"]}
_OBJECT = {"type": ["object", "null"]}
_OPTIONAL_TEXT = {"type": ["string", "null"]}

OPTION_SCHEMAS: dict[str, dict[str, Any]] = {
    **settings_schema(_SETTINGS),
    "audio": _OBJECT,
    "logprobs": _BOOLEAN,
    "max_completion_tokens": _LIMIT,
    "max_tokens": _LIMIT,
    "modalities": {"type": ["array", "null"], "items": _WORD},
    "n": {"type": ["integer", "null"], "minimum": 1, "maximum": _MOST_ANSWERS},
    "prediction": _OBJECT,
    "reasoning_effort": _OPTIONAL_TEXT,
    "response_format": {
        "anyOf": [
            {"type": "null"},
            {
                "type": "object",
                "required": ["type", "json_schema"],
                "properties": {
                    "type": {"const": "json_schema"},
                    "json_schema": {"type": "object"},
                },
            },
            {
                "type": "object",
                "required": ["type"],
                "properties": {"type": {**_WORD, "not": {"const": "json_schema"}}},
            },
        ]
    },
    "stop": {
        "anyOf": [
            {"type": "null"},
            _WORD,
            {"type": "array", "maxItems": MOST_STOPS, "items": _WORD},
        ]
    },
    "store": _BOOLEAN,
    "stream": _BOOLEAN,
    "stream_options": {**_OBJECT, "properties": {"include_usage": _BOOLEAN}},
    "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
    "verbosity": _OPTIONAL_TEXT,
    "web_search_options": _OBJECT,
}
