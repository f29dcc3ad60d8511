"""Settings that chat completions knows by the same name, checked as it checks them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from foretell.gateway._fields import Field

LONGEST_MODEL_NAME = 256
MOST_STOPS = 16
MOST_TOKENS = 2**31 - 1
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def _metadata(field: Field) -> dict[str, str]:
    metadata = field.members()
    if not all(isinstance(value, str) for value in metadata.values()):
        raise field.wrong("must hold strings only", code="invalid_type")
    return metadata


def _positive_share(field: Field) -> float:
    if share := field.number(0, 1):
        return share
    raise field.wrong("must be above 0")


_READERS: dict[str, Callable[[Field], Any]] = {
    "frequency_penalty": lambda field: field.number(-2, 2),
    "logit_bias": Field.members,
    "metadata": _metadata,
    "parallel_tool_calls": Field.boolean,
    "presence_penalty": lambda field: field.number(-2, 2),
    "prompt_cache_key": Field.text,
    "prompt_cache_retention": Field.text,
    "safety_identifier": Field.text,
    "seed": Field.integer,
    "service_tier": Field.text,
    "temperature": lambda field: field.number(0, 2),
    "top_k": lambda field: field.integer(0),
    "top_p": _positive_share,
    "user": Field.text,
}

_SCHEMAS: dict[str, dict[str, Any]] = {
    "frequency_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
    "logit_bias": {"type": ["object", "null"]},
    "metadata": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
    "parallel_tool_calls": {"type": ["boolean", "null"]},
    "presence_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
    "prompt_cache_key": {"type": ["string", "null"]},
    "prompt_cache_retention": {"type": ["string", "null"]},
    "safety_identifier": {"type": ["string", "null"]},
    "seed": {"type": ["integer", "null"]},
    "service_tier": {"type": ["string", "null"]},
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
    "top_k": {"type": ["integer", "null"], "minimum": 0},
    "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
    "user": {"type": ["string", "null"]},
}


def same_settings(body: Field, names: Collection[str]) -> dict[str, Any]:
    """Those of ``names`` that the body has, checked, to be passed on as they are."""
    return {name: _READERS[name](field) for name in names if (field := body.get(name))}


def settings_schema(names: Collection[str]) -> dict[str, Any]:
    """JSON Schema properties of ``names``."""
    return {name: _SCHEMAS[name] for name in names}
