"""The tools that a chat completion offers its model, in today's words and in the former ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foretell.gateway._bodies import described
from foretell.gateway._fields import Field

_CHOICES = ("none", "auto", "required")
_FORMER_CHOICES = ("none", "auto")


def check_tools(body: Field) -> None:
    """Refuse tools, and a choice among them, that no API would take; ``ApiError`` names the field.

    Kinds of tools that are not known here are not looked into: an upstream may know them.
    """
    for name, check in _CHECKS.items():
        if field := body.get(name):
            check(field)


def _tools(tools: Field) -> None:
    for tool in tools.items():
        kind = tool.need("type").text(empty=False)
        if kind in ("function", "custom"):
            _definition(tool.need(kind))


def _functions(functions: Field) -> None:
    for function in functions.items():
        _definition(function)


def _definition(function: Field) -> None:
    function.need("name").text(empty=False)
    if description := function.get("description"):
        description.text()
    if parameters := function.get("parameters"):
        parameters.members()
    if strict := function.get("strict"):
        strict.boolean()


def _tool_choice(choice: Field) -> None:
    if isinstance(choice.value, str):
        choice.one_of(_CHOICES)
        return
    if not isinstance(choice.value, dict):
        _refuse_choice(choice)
    kind = choice.need("type").text(empty=False)
    if kind in ("function", "custom"):
        choice.need(kind).need("name").text(empty=False)


def _function_call(choice: Field) -> None:
    if isinstance(choice.value, str):
        choice.one_of(_FORMER_CHOICES)
        return
    if not isinstance(choice.value, dict):
        _refuse_choice(choice)
    choice.need("name").text(empty=False)


def _refuse_choice(choice: Field) -> None:
    choice.refuse(
        f"must be a string or an object, got {described(choice.value)}", code="invalid_type"
    )


_CHECKS: dict[str, Callable[[Field], None]] = {
    "tools": _tools,
    "tool_choice": _tool_choice,
    "functions": _functions,
    "function_call": _function_call,
}

_WORD = {"type": "string", "minLength": 1}
_NAMED = {"type": "object", "required": ["name"], "properties": {"name": _WORD}}
_DEFINITION: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _WORD,
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"]},
        "strict": {"type": ["boolean", "null"]},
    },
}


def _either_kind(shape: dict[str, Any]) -> list[dict[str, Any]]:
    """A ``function`` or ``custom`` object with that shape inside, or one of another kind."""
    known = [
        {
            "type": "object",
            "required": ["type", kind],
            "properties": {"type": {"const": kind}, kind: shape},
        }
        for kind in ("function", "custom")
    ]
    other = {**_WORD, "not": {"enum": ["function", "custom"]}}
    return [*known, {"type": "object", "required": ["type"], "properties": {"type": other}}]


TOOL_SCHEMAS: dict[str, dict[str, Any]] = {
    "tools": {"type": ["array", "null"], "items": {"anyOf": _either_kind(_DEFINITION)}},
    "tool_choice": {"anyOf": [{"enum": [*_CHOICES, None]}, *_either_kind(_NAMED)]},
    "functions": {"type": ["array", "null"], "items": _DEFINITION},
    "function_call": {"anyOf": [{"enum": [*_FORMER_CHOICES, None]}, _NAMED]},
}
