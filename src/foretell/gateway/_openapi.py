"""The OpenAPI document: what the handlers take and give, said once for people and test tools."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from foretell.gateway._chat_request import CHAT_REQUEST_SCHEMA
from foretell.gateway._errors import ERROR_SCHEMA
from foretell.gateway._feedback import FEEDBACK_SCHEMA
from foretell.gateway._messages_api import MESSAGES_REQUEST_SCHEMA
from foretell.gateway._responses_api import RESPONSES_REQUEST_SCHEMA

_REFUSALS: Final = {
    "400": "the request cannot be used as it is; param names the field",
    "401": "the API key is missing or none of ours",
    "403": "the API key may not do that",
    "404": "what the request names is not there",
    "408": "the body took too long",
    "413": "the body is too large",
    "429": "too fast, too many at a time, or a budget is used up",
    "502": "the model that should answer failed",
    "503": "too much to do, or the store cannot be used",
    "504": "the model that should answer took too long",
}
_CONTROLS: Final = (
    ("x-foretell-route", {"enum": ["off", "weak", "strong", "shadow"]}),
    ("x-foretell-session", {"type": "string", "minLength": 1, "maxLength": 256}),
    ("x-foretell-domain", {"type": "string", "minLength": 1, "maxLength": 256}),
)
_BODIES: Final[dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": CHAT_REQUEST_SCHEMA,
    "/v1/responses": RESPONSES_REQUEST_SCHEMA,
    "/v1/messages": MESSAGES_REQUEST_SCHEMA,
    "/v1/route": CHAT_REQUEST_SCHEMA,
    "/v1/feedback": FEEDBACK_SCHEMA,
}
_STREAMED: Final = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
_WORD: Final = {"type": "string", "minLength": 1, "maxLength": 128}
_QUERIES: Final = {
    ("/v1/feedback", "get"): ("request_id",),
    ("/v1/feedback", "delete"): ("request_id", "metric", "source"),
}


def describe(app: FastAPI) -> None:
    """Have ``/openapi.json`` say all of it."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi_document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 of the callers' side."""
    from fastapi.openapi.utils import get_openapi

    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            operation["responses"] = _responses(path)
            operation["parameters"] = _parameters(path, method, operation)
            if method == "post" and path in _BODIES:
                operation["requestBody"] = {
                    "required": True,
                    "content": {"application/json": {"schema": _BODIES[path]}},
                }
    found["components"] = {
        "schemas": {"Error": ERROR_SCHEMA},
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    }
    return found


def _responses(path: str) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if path == "/metrics":
        content = {"text/plain": {"schema": {"type": "string"}}}
    if path in _STREAMED:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    told = {"$ref": "#/components/schemas/Error"}
    if path == "/v1/messages":
        told = {"type": "object", "required": ["type", "error"]}
    if path == "/readyz":
        return {
            "200": {"description": "ready", "content": content},
            "503": {"description": "loading, or draining", "content": content},
        }
    refusals = {} if path in ("/healthz", "/metrics") else _REFUSALS
    return {
        "200": {"description": "done", "content": content},
        **{
            status: {"description": words, "content": {"application/json": {"schema": told}}}
            for status, words in refusals.items()
        },
    }


def _parameters(path: str, method: str, operation: dict[str, Any]) -> list[dict[str, Any]]:
    named = [
        {"name": name, "in": "query", "required": True, "schema": _WORD}
        for name in _QUERIES.get((path, method), ())
    ]
    if (path, method) == ("/v1/feedback", "delete"):
        named.append({"name": "author", "in": "query", "required": False, "schema": _WORD})
    if path == "/v1/models/{model}":
        named.append({"name": "model", "in": "path", "required": True, "schema": _WORD})
    if path in (*_STREAMED, "/v1/route"):
        named += [
            {"name": name, "in": "header", "required": False, "schema": schema}
            for name, schema in _CONTROLS
        ]
    del operation
    return named
