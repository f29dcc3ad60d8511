"""The OpenAPI document: what the handlers take and give, said once for people and test tools."""

from __future__ import annotations

from typing import Any, Final, get_args

from fastapi import FastAPI

from foretell.gateway._chat_request import CHAT_REQUEST_SCHEMA
from foretell.gateway._errors import ERROR_SCHEMA
from foretell.gateway._feedback import FEEDBACK_QUERIES, FEEDBACK_SCHEMA
from foretell.gateway._messages_api import MESSAGES_REQUEST_SCHEMA
from foretell.gateway._responses_api import RESPONSES_REQUEST_SCHEMA
from foretell.records import Action

Schema = dict[str, Any]

_REFUSALS: Final = {
    "400": "the request cannot be used as it is; param names the field",
    "401": "the API key is missing or none of ours",
    "403": "the API key, or the host that was asked, may not do that",
    "404": "what the request names is not there",
    "408": "the body took too long",
    "413": "the body is too large",
    "429": "too fast, too many at a time, or a budget is used up",
    "500": "a defect of the gateway; its log says more",
    "502": "the model that should answer failed",
    "503": "too much to do, or the store cannot be used",
    "504": "the model that should answer took too long",
}
_OPEN: Final = ("/healthz", "/readyz", "/metrics")
"""Paths that ask for no key and refuse nothing."""

_STREAMED: Final = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
_ROUTED: Final = (*_STREAMED, "/v1/route")
_CONTROLS: Final = (
    ("x-foretell-route", {"enum": ["off", "weak", "strong", "shadow"]}),
    ("x-foretell-session", {"type": "string", "pattern": "^[ -~]{1,256}$"}),
    ("x-foretell-domain", {"type": "string", "pattern": "^[ -~]{1,256}$"}),
)
_BODIES: Final[dict[str, Schema]] = {
    "/v1/chat/completions": CHAT_REQUEST_SCHEMA,
    "/v1/responses": RESPONSES_REQUEST_SCHEMA,
    "/v1/messages": MESSAGES_REQUEST_SCHEMA,
    "/v1/route": CHAT_REQUEST_SCHEMA,
    "/v1/feedback": FEEDBACK_SCHEMA,
}
_HEADERS: Final = {
    "x-request-id": "names the request, for feedback and in the log",
    "x-foretell-model": "who answers",
    "x-foretell-decision": "what was decided",
    "x-foretell-reason": "and why",
    "x-foretell-overhead-ms": "what was neither the weak model nor an upstream",
}
_HEADERS_WITH_AN_ESTIMATE: Final = {
    "x-foretell-p-success": "chance that the weak model succeeds",
    "x-foretell-threshold": "chance from which it answers",
    "x-foretell-probe": "id@version of what foretold it",
    "x-foretell-cause": "one word for why there is no estimate, or why another model answered",
    "x-foretell-session": "the conversation",
}


def describe(app: FastAPI) -> None:
    """Have ``/openapi.json`` say all of it."""

    def document() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = openapi_document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def openapi_document(app: FastAPI) -> Schema:
    """OpenAPI 3.1 of the callers' side."""
    from fastapi.openapi.utils import get_openapi

    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            operation["responses"] = _responses(path, method)
            operation["parameters"] = _parameters(path, method)
            if path not in _OPEN:
                # A key is asked for where one is configured.
                operation["security"] = [{"bearer": []}, {"x-api-key": []}, {}]
            if method == "post" and path in _BODIES:
                operation["requestBody"] = {
                    "required": True,
                    "content": {"application/json": {"schema": _BODIES[path]}},
                }
    found["components"] = {
        "schemas": {
            "Error": ERROR_SCHEMA,
            "AnthropicError": _ANTHROPIC_ERROR,
            "Decision": _DECISION,
        },
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        },
    }
    return found


def _responses(path: str, method: str) -> Schema:
    if path == "/readyz":
        shown = _json(_ANSWERS[path, method])
        return {
            "200": {"description": "ready", "content": shown},
            "503": {"description": "loading, or draining", "content": shown},
        }
    content = (
        {"text/plain": {"schema": {"type": "string"}}}
        if path == "/metrics"
        else _json(_ANSWERS[path, method])
    )
    if path in _STREAMED:
        content["text/event-stream"] = {"schema": {"description": "when stream is true"}}
    done: Schema = {"description": "done", "content": content}
    if path in _ROUTED:
        done["headers"] = {
            name: {"description": words, "required": required, "schema": {"type": "string"}}
            for names, required in ((_HEADERS, True), (_HEADERS_WITH_AN_ESTIMATE, False))
            for name, words in names.items()
        }
    error = "AnthropicError" if path == "/v1/messages" else "Error"
    told = _json({"$ref": f"#/components/schemas/{error}"})
    refusals = {} if path in _OPEN else _REFUSALS
    return {
        "200": done,
        **{status: {"description": words, "content": told} for status, words in refusals.items()},
    }


def _parameters(path: str, method: str) -> list[Schema]:
    named: list[Schema] = []
    if path == "/v1/feedback" and method in ("get", "delete"):
        named += [
            {"name": name, "in": "query", "required": required, "schema": schema}
            for name, (required, schema) in FEEDBACK_QUERIES[method].items()
        ]
    if path == "/v1/models/{model}":
        named.append({"name": "model", "in": "path", "required": True, "schema": _WORD})
    if path in _ROUTED:
        named += [
            {"name": name, "in": "header", "required": False, "schema": schema}
            for name, schema in _CONTROLS
        ]
    return named


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _object(required: Schema, optional: Schema | None = None) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def _list_of(item: Schema) -> Schema:
    return _object({"object": {"const": "list"}, "data": {"type": "array", "items": item}})


_WORD: Final[Schema] = {"type": "string", "minLength": 1}
_TEXT: Final[Schema] = {"type": ["string", "null"]}
_NUMBER: Final[Schema] = {"type": ["number", "null"]}
_CHANCE: Final[Schema] = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_DECISION: Final[Schema] = {
    "title": "Decision",
    "description": "What was decided about a request, and the numbers that explain it.",
    **_object(
        {
            "request_id": _WORD,
            "route": _TEXT,
            "model": _WORD,
            "decision": {"enum": list(get_args(Action))},
            "reason": _WORD,
            "cause": _TEXT,
            "p_success": _CHANCE,
            "p_strong": _CHANCE,
            "gain": {"type": ["number", "null"], "minimum": -1, "maximum": 1},
            "threshold": _CHANCE,
            "probe": _TEXT,
            "router": _TEXT,
            "stopped_at": {"type": ["integer", "null"], "minimum": 0},
            "prefill_ms": _NUMBER,
            "probe_ms": _NUMBER,
            "overhead_ms": {"type": "number", "minimum": 0},
            "cost_usd": {"type": ["number", "null"], "minimum": 0},
            "session": _TEXT,
        },
        {"p_pool": {"type": "object", "additionalProperties": _CHANCE}},
    ),
}
_FORETELL: Final[Schema] = {"foretell": {"$ref": "#/components/schemas/Decision"}}
_MODEL: Final[Schema] = _object(
    {
        "id": _WORD,
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": _WORD,
        "foretell": _object({"kind": {"enum": ["route", "model"]}}),
    }
)
_ANTHROPIC_ERROR: Final[Schema] = {
    "title": "AnthropicError",
    "description": "Why a request was not served, as Anthropic shapes it.",
    **_object(
        {
            "type": {"const": "error"},
            "error": _object({"type": _WORD, "message": {"type": "string"}}),
        }
    ),
}
_GIVEN: Final[Schema] = {
    name: schema for name, schema in FEEDBACK_SCHEMA["properties"].items() if name != "dryrun"
}
_ANSWERS: Final[dict[tuple[str, str], Schema]] = {
    ("/v1/chat/completions", "post"): _object(
        {
            "id": _WORD,
            "object": {"const": "chat.completion"},
            "created": {"type": "integer"},
            "model": _WORD,
            "choices": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            **_FORETELL,
        },
        {"usage": {"type": ["object", "null"]}},
    ),
    ("/v1/responses", "post"): _object(
        {
            "id": _WORD,
            "object": {"const": "response"},
            "created_at": {"type": "number"},
            "status": {"enum": ["completed", "incomplete", "failed"]},
            "model": _WORD,
            "output": {"type": "array", "items": {"type": "object"}},
            **_FORETELL,
        }
    ),
    ("/v1/messages", "post"): _object(
        {
            "id": _WORD,
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": _WORD,
            "content": {"type": "array", "items": {"type": "object"}},
            "stop_reason": _TEXT,
            "usage": {"type": "object"},
            **_FORETELL,
        }
    ),
    ("/v1/route", "post"): {
        "allOf": [
            {"$ref": "#/components/schemas/Decision"},
            _object({"explanation": {"type": ["object", "null"]}}),
        ]
    },
    ("/v1/models", "get"): _list_of(_MODEL),
    ("/v1/models/{model}", "get"): _MODEL,
    ("/v1/feedback", "post"): _object(
        {
            "object": {"const": "feedback"},
            "status": {"enum": ["created", "replaced", "dryrun"]},
            **_GIVEN,
        }
    ),
    ("/v1/feedback", "get"): _list_of(_object(_GIVEN)),
    ("/v1/feedback", "delete"): _object(
        {"object": {"const": "feedback.deleted"}, "deleted": {"const": True}}
    ),
    ("/healthz", "get"): _object({"status": {"const": "ok"}}),
    ("/readyz", "get"): _object(
        {
            "status": {"enum": ["ready", "loading", "draining"]},
            "routes": {"type": "object"},
            "targets": {"type": "object"},
        }
    ),
}
