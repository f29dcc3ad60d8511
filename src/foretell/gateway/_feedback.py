"""Feedback over HTTP: taken, shown and taken back, each caller's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from starlette.responses import Response

from foretell.errors import InputError
from foretell.gateway._callers import Caller
from foretell.gateway._errors import ApiError
from foretell.gateway._fields import Field, query_field, refuse_unknown
from foretell.gateway._http import json_response
from foretell.records import Feedback

if TYPE_CHECKING:
    from foretell.gateway._gateway import Gateway

_SOURCES: Final = ("human", "code", "judge", "client")
_LONGEST: Final = {"request_id": 128, "metric": 128, "source": 128, "author": 128, "note": 4096}
_FIELDS: Final = ("request_id", "metric", "value", "source", "author", "note", "dryrun")

_STORABLE: Final = {"pattern": "^[^\\u0000]*$"}  # no database takes the character NUL
_NAME: Final = {"type": "string", "minLength": 1, "maxLength": 128, **_STORABLE}
FEEDBACK_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Feedback",
    "description": "How an answer did by one metric; a later one replaces it.",
    "required": ["request_id", "metric", "value", "source"],
    "additionalProperties": False,
    "properties": {
        "request_id": _NAME,
        "metric": _NAME,
        "value": {
            "anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "boolean"}],
            "description": "1 or true for success, 0 or false for failure, or a rate in between",
        },
        "source": {"enum": list(_SOURCES)},
        "author": {"type": ["string", "null"], "maxLength": 128, **_STORABLE},
        "note": {"type": ["string", "null"], "maxLength": 4096, **_STORABLE},
        "dryrun": {"type": ["boolean", "null"], "description": "check it, keep nothing"},
    },
}


FEEDBACK_QUERIES: Final[dict[str, dict[str, tuple[bool, dict[str, Any]]]]] = {
    "get": {"request_id": (True, _NAME)},
    "delete": {
        "request_id": (True, _NAME),
        "metric": (True, _NAME),
        "source": (True, FEEDBACK_SCHEMA["properties"]["source"]),
        "author": (False, {"type": "string", "maxLength": 128, **_STORABLE}),
    },
}
"""What the query names, by method: whether it must, and its schema."""


async def put_feedback(gateway: Gateway, caller: Caller, raw: dict[str, Any]) -> Response:
    """Keep it; the answer comes once it is durable."""
    given, dryrun = _feedback(raw)
    await gateway.flushed(given.request_id, caller.key_id)
    if dryrun:
        await _require_own(gateway, caller, given.request_id)
        return json_response({"object": "feedback", "status": "dryrun", **asdict(given)})
    try:
        status = await gateway.with_store(
            lambda store: store.put_feedback(given, key_id=caller.key_id)
        )
    except InputError as error:
        raise ApiError(404, str(error), code="request_not_found", param="request_id") from None
    gateway.metrics.took_feedback(given.source)
    return json_response({"object": "feedback", "status": status, **asdict(given)})


async def list_feedback(gateway: Gateway, caller: Caller, query: Mapping[str, str]) -> Response:
    """All that was said about one request."""
    request_id = _named(query, "request_id")
    await gateway.flushed(request_id, caller.key_id)
    await _require_own(gateway, caller, request_id)
    found = await gateway.with_store(lambda store: store.feedback(request_id))
    return json_response({"object": "list", "data": [asdict(one) for one in found]})


async def delete_feedback(gateway: Gateway, caller: Caller, query: Mapping[str, str]) -> Response:
    """Take one piece of it back."""
    request_id, metric = _named(query, "request_id"), _named(query, "metric")
    source = Field(_named(query, "source"), "source").one_of(_SOURCES)
    author = _text(Field(query.get("author", ""), "author"), empty=True)
    deleted = await gateway.with_store(
        lambda store: store.delete_feedback(
            request_id, metric=metric, source=source, author=author, key_id=caller.key_id
        )
    )
    if not deleted:
        raise ApiError(404, "there is no such feedback", code="feedback_not_found")
    return json_response({"object": "feedback.deleted", "deleted": True})


async def _require_own(gateway: Gateway, caller: Caller, request_id: str) -> None:
    record = await gateway.with_store(lambda store: store.request(request_id))
    if record is None or caller.key_id not in ("", record.key_id):
        raise ApiError(
            404,
            "no such request is known; wanted the x-request-id of an answer to the same API key "
            "that was not erased since",
            code="request_not_found",
            param="request_id",
        )


def _feedback(raw: dict[str, Any]) -> tuple[Feedback, bool]:
    body = Field(raw)
    refuse_unknown(body, _FIELDS, api="feedback")
    texts = {name: _text(body.need(name), empty=False) for name in ("request_id", "metric")}
    for name in ("author", "note"):
        field = body.get(name)
        texts[name] = "" if field is None else _text(field, empty=True)
    value = body.need("value")
    if not isinstance(value.value, int | float) or not 0 <= value.value <= 1:
        value.refuse("must be a number from 0 to 1, or true or false")
    source = body.need("source").one_of(_SOURCES)
    dryrun = body.get("dryrun")
    given = Feedback(
        value=float(value.value),
        source=cast("Literal['human', 'code', 'judge', 'client']", source),
        **texts,
    )
    return given, dryrun is not None and dryrun.boolean()


def _text(field: Field, *, empty: bool) -> str:
    return field.storable(longest=_LONGEST[field.path], empty=empty)


def _named(query: Mapping[str, str], name: str) -> str:
    return _text(query_field(query, name), empty=False)
