"""What a caller is told when a request cannot be served: a status and OpenAI's error object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foretell.errors import RoutingError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_LONGEST_QUOTE = 40

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Error",
    "description": "Why a request was not served.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code", "param"],
            "properties": {
                "message": {"type": "string", "description": "for people to read"},
                "type": {"type": "string", "description": "the kind of error"},
                "code": {"type": ["string", "null"], "description": "for programs to tell by"},
                "param": {
                    "type": ["string", "null"],
                    "description": "path of the field at fault, such as messages.0.role",
                },
            },
        }
    },
}
"""Every error body as JSON Schema 2020-12, which is OpenAPI 3.1's."""


class ApiError(RoutingError):
    """Ends a request; its ``body`` is what the caller gets.

    ``type`` follows from ``status`` when not given. ``code`` is a word that programs may rely on.
    ``param`` is the path of the field at fault in the body that the caller sent
    (``messages.0.role``), or the name of a header. ``headers`` are sent with it (``Retry-After``).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,  # noqa: A002 (the field's name in the body)
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or _type_of(status)
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The error as OpenAI shapes it."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "code": self.code,
                "param": self.param,
            }
        }


def quoted(text: str) -> str:
    """What a caller sent, fit for a message: one short line, whatever characters are in it."""
    return repr(text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…")


def _type_of(status: int) -> str:
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
