"""What an upstream means by a status that is no success."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any

from foretell.upstreams._answer_stream import error_text
from foretell.upstreams._protocol import FailureKind

_TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error")
_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|prompt is too long|input is too long"
    r"|input token count.{0,40}exceeds|reduce the length of the (messages|prompt|input)",
    re.IGNORECASE,
)
_MAY_BE_TOO_LONG = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


def refusal_kind(status: int, body: bytes) -> FailureKind:
    """What kind of failure a response with this status is.

    That the prompt is too long has a status of its own nowhere, so its usual codes and words are
    looked for (OpenAI, Azure, vLLM, llama.cpp, Anthropic, Google, Bedrock).
    """
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return "unauthorised"
        case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.TOO_EARLY:
            return "busy"
        case HTTPStatus.REQUEST_TIMEOUT:
            return "timeout"
        case _ if status in _MAY_BE_TOO_LONG and _says_too_long(body):
            return "context_window"
        case _ if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return "refused"
        case _:
            return "error"


def is_worth_trying_again(status: int, body: bytes) -> bool:
    """Whether the same call may do better soon; not when the account has no money left."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return error_code(body) != "insufficient_quota"
    return status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY) or status >= 500


def blames_the_target(status: int) -> bool:
    """Whether the status says that the target is not well, rather than the request.

    403 does not: some send it for a prompt that their moderation does not like.
    """
    return status < 400 or status >= 500 or status in (401, 402, 407, 408, 425, 429)


def error_code(body: bytes) -> str | None:
    """``error.code``, else ``error.type``, of an OpenAI-shaped body."""
    error = (_parsed(body) or {}).get("error")
    if not isinstance(error, dict):
        return None
    code: Any = error.get("code") or error.get("type")
    return code if isinstance(code, str) else None


def error_message(body: bytes) -> str | None:
    """What an error body says, in one short line; ``None`` when it is no JSON object."""
    parsed = _parsed(body)
    return error_text(parsed) if parsed is not None else None


def _says_too_long(body: bytes) -> bool:
    if error_code(body) in _TOO_LONG_CODES:
        return True
    return _TOO_LONG.search(body.decode(errors="replace")) is not None


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
