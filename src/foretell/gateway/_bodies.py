"""JSON bodies: the caller's read with care, the upstream's handed on with one key more."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from foretell.errors import UpstreamError
from foretell.gateway._errors import ApiError

# UTF-8 cannot hold half a surrogate pair, so only an escape can bring one in.
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


def json_bytes(value: Any) -> bytes:
    """``value`` as compact JSON in UTF-8. Raises ``ValueError`` for NaN and infinities."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def parse_json(body: bytes, *, max_depth: int = 64) -> dict[str, Any]:
    """The object that a caller sent.

    Of a key that stands twice the last one counts, for all that follows: what is sent on is
    written anew from the object. Raises ``ApiError`` (400) for what is no UTF-8, no JSON (NaN and
    numbers too large for a float are none) or no object, for objects and lists nested deeper than
    ``max_depth``, and for half a surrogate pair, which could not be sent on.
    """
    document = _parsed(body)
    if not isinstance(document, dict):
        raise ApiError(
            400, f"the body must be a JSON object, got {described(document)}", code="invalid_json"
        )
    # As many brackets as levels are needed, and most bodies have fewer than that altogether.
    if body.count(b"{") + body.count(b"[") > max_depth and _is_deeper(document, max_depth):
        raise _too_deep(max_depth)
    if _SURROGATE_ESCAPE.search(body):
        _refuse_surrogates(document)
    return document


def spliced(body: bytes, foretell: Mapping[str, Any]) -> bytes:
    """The JSON object ``body`` with ``foretell`` as its last key, nothing else touched.

    A ``"foretell"`` that is there already (the upstream is another gateway of this kind) is
    replaced. Raises ``UpstreamError`` when ``body`` is no JSON object.
    """
    start, end = body.find(b"{"), body.rfind(b"}")
    if start < 0 or body[:start].strip() or body[end + 1 :].strip():
        raise UpstreamError("answered with something other than a JSON object")
    if b'"foretell"' in body:
        document = answer_json(body)
        if "foretell" in document:
            del document["foretell"]
            return json_bytes({**document, "foretell": foretell})
    comma = b"," if body[start + 1 : end].strip() else b""
    return b'%b%b"foretell":%b%b' % (body[:end], comma, json_bytes(foretell), body[end:])


def answer_json(body: bytes) -> dict[str, Any]:
    """The object that an upstream answered with; raises ``UpstreamError`` when it is none."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise UpstreamError("answered with something other than JSON") from None
    if not isinstance(document, dict):
        raise UpstreamError("answered with something other than a JSON object")
    return document


def described(value: Any) -> str:
    """What kind of JSON value this is, in words that repeat none of its text."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return "a string"
        case int() | float():
            text = repr(value)
            return text if len(text) <= 24 else "a long number"
        case list():
            return "a list"
        case _:
            return "an object"


def _parsed(body: bytes) -> Any:
    if not body.strip():
        raise ApiError(400, "the request has no body; send a JSON object", code="invalid_json")
    try:
        return json.loads(body.decode(), parse_constant=_no_number, parse_float=_finite)
    except UnicodeDecodeError as error:
        problem = f"the body is not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        problem = f"the body is not JSON at line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        problem = "the body is nested too deeply to be read"
    except ValueError:  # from the hooks, and from integers of thousands of digits
        problem = "the body holds a number that JSON does not have, or one that is too large"
    raise ApiError(400, problem, code="invalid_json")


def _no_number(_: str) -> NoReturn:
    raise ValueError


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _too_deep(max_depth: int) -> ApiError:
    return ApiError(400, f"the body is nested deeper than {max_depth} levels", code="invalid_json")


def _is_deeper(document: Any, max_depth: int) -> bool:
    level: list[Any] = [document]
    for _ in range(max_depth):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _refuse_surrogates(document: dict[str, Any]) -> None:
    open_values: list[tuple[str, Any]] = [("", document)]
    while open_values:
        path, value = open_values.pop()
        if isinstance(value, str):
            if not _is_encodable(value):
                raise _half_a_pair(path)
        elif isinstance(value, list):
            items: list[Any] = value
            open_values += [(_below(path, str(i)), item) for i, item in enumerate(items)]
        elif isinstance(value, dict):
            members: dict[str, Any] = value
            for key, member in members.items():
                if not _is_encodable(key):
                    raise _half_a_pair(path)
                open_values.append((_below(path, key), member))


def _half_a_pair(path: str) -> ApiError:
    return ApiError(
        400,
        f"{path or 'the body'} holds half of a surrogate pair, which is no character; "
        "escape characters beyond U+FFFF as two halves",
        code="invalid_json",
        param=path or None,
    )


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _below(path: str, key: str) -> str:
    # A caller's own key may be anything: one that is no plain name ends the path above it.
    if not _PLAIN_KEY.fullmatch(key):
        return path
    return f"{path}.{key}" if path else key
