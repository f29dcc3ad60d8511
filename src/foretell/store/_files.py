"""Queries and outcomes from JSON Lines files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from foretell.errors import InputError
from foretell.records import Outcome, Query, Role
from foretell.store._splits import check_splits

_QUERY_KEYS = ("id", "messages", "prompt", "reference", "group", "split", "attributes")
_OUTCOME_KEYS = ("id", "role", "metric", "value", "source", "author", "note")
_SOURCES = ("human", "code", "judge", "client")


def load_queries(path: str | Path) -> list[Query]:
    """Read ``queries.jsonl``: one JSON object a line, blank lines skipped.

    Keys are ``id``, ``messages`` (or ``prompt``, a string that stands for one user message) and,
    optional, ``reference``, ``group``, ``split`` (``train`` or ``test``) and ``attributes``.

    Raises ``InputError`` with the line number for anything else, for an id that comes twice, for
    a file without queries, and for a group whose queries are on both sides of the split.
    """
    path = Path(path)
    queries: list[Query] = []
    first_lines: dict[str, int] = {}
    for number, entry in _lines(path):
        try:
            query = parse_query(entry)
            if query.id in first_lines:
                raise InputError(
                    f"id {query.id!r} was already used on line {first_lines[query.id]}"
                )
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        first_lines[query.id] = number
        queries.append(query)
    if not queries:
        raise InputError(f"{path} holds no queries; wanted one JSON object a line")
    try:
        check_splits(queries)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return queries


def load_outcomes(path: str | Path, domain: str) -> list[Outcome]:
    """Read ``outcomes.jsonl``: labels made elsewhere for queries of ``domain``.

    Keys are ``id`` (of the query), ``metric``, ``value`` (0 to 1, or null for "could not tell"),
    ``source`` and, optional, ``role`` (``weak`` unless said otherwise), ``author`` and ``note``.

    Raises ``InputError`` with the line number for anything else.
    """
    path = Path(path)
    outcomes: list[Outcome] = []
    for number, entry in _lines(path):
        try:
            outcomes.append(_outcome(entry, domain))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    if not outcomes:
        raise InputError(f"{path} holds no outcomes; wanted one JSON object a line")
    return outcomes


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1) and object of each line that is not blank."""
    try:
        # utf-8-sig: spreadsheets like to begin a file with a byte order mark
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _object(path, number, line)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry: Any = json.loads(line, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {number}: not valid JSON: {error}") from None
    if not isinstance(entry, dict):
        raise InputError(f"{path}, line {number}: wanted a JSON object, got {type(entry).__name__}")
    return entry


def refuse_constant(name: str) -> None:
    """For ``json.loads``: NaN and infinities are not JSON, though Python would read them."""
    raise ValueError(f"{name} is not a JSON number; write null for an unknown value")


def parse_query(entry: Mapping[str, Any]) -> Query:
    """A query of one line of ``queries.jsonl``; raises ``InputError`` for anything else."""
    _refuse_unknown(entry, _QUERY_KEYS)
    split = entry.get("split")
    if split not in (None, "train", "test"):
        raise InputError(f"split is {split!r}; wanted 'train' or 'test'")
    attributes = entry.get("attributes")
    if not isinstance(attributes, dict | None):
        raise InputError(f"attributes is {attributes!r}; wanted an object")
    return Query(
        id=parse_text(entry, "id"),
        messages=parse_messages(entry),
        reference=entry.get("reference"),
        group=parse_text(entry, "group") if entry.get("group") is not None else None,
        split=split,
        attributes=attributes or {},
    )


def parse_messages(entry: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Its ``messages``, or those that ``prompt`` stands for; raises ``InputError``."""
    if ("messages" in entry) == ("prompt" in entry):
        raise InputError("wanted either 'messages' or 'prompt', one of the two")
    if "prompt" in entry:
        return ({"role": "user", "content": parse_text(entry, "prompt")},)
    messages = entry["messages"]
    if not isinstance(messages, list) or not messages:
        raise InputError("messages must be a list of at least one message")
    for position, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError(
                f"messages[{position}] must be an object with a 'role', such as "
                '{"role": "user", "content": "..."}'
            )
    return tuple(messages)


def _outcome(entry: Mapping[str, Any], domain: str) -> Outcome:
    _refuse_unknown(entry, _OUTCOME_KEYS)
    if "value" not in entry:
        raise InputError("'value' is missing; wanted 0 to 1, or null")
    value = entry["value"]
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise InputError(f"value is {value!r}; wanted 0 to 1, or null")
    source = entry.get("source")
    if source not in _SOURCES:
        raise InputError(f"source is {source!r}; wanted one of {', '.join(_SOURCES)}")
    role = entry.get("role", "weak")
    if role not in get_args(Role):
        raise InputError(f"role is {role!r}; wanted 'weak' or 'strong'")
    return Outcome(
        domain=domain,
        query_id=parse_text(entry, "id"),
        role=role,
        metric=parse_text(entry, "metric"),
        value=None if value is None else float(value),
        source=source,
        author=parse_text(entry, "author", default=""),
        note=parse_text(entry, "note", default=""),
    )


def _refuse_unknown(entry: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise InputError(f"unknown key {unknown[0]!r}; wanted only {', '.join(known)}")


def parse_text(entry: Mapping[str, Any], key: str, *, default: str | None = None) -> str:
    """A text that must be there, and not empty, unless there is a default."""
    value = entry.get(key, default)
    if value is None:
        raise InputError(f"{key!r} is missing")
    if not isinstance(value, str):
        raise InputError(f"{key} is {value!r}; wanted a string")
    if not value and default is None:
        raise InputError(f"{key} is empty")
    return value
