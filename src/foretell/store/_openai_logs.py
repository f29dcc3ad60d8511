"""Logs in the shapes of OpenAI's chat completions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretell.errors import InputError
from foretell.records import Message
from foretell.store._files import parse_messages
from foretell.store._logged import LoggedAnswer, counted_usage, known_finish, logged_query

Object = Mapping[str, Any]


def load_inputs(path: Path) -> dict[str, Object]:
    """The Batch API's input: the body of each request by its ``custom_id``.

    Raises:
        InputError: The file cannot be read, or holds no such line.
    """
    found: dict[str, Object] = {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                entry = _parsed(line)
                if isinstance(custom_id := entry.get("custom_id"), str):
                    found[custom_id] = _object(entry.get("body"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not found:
        raise InputError(f"{path} is no input of the Batch API: no line has a custom_id")
    return found


def openai_answers(entry: Object, asked: Mapping[str, Object]) -> list[LoggedAnswer]:
    """The answers of one line; several where several were asked for.

    Args:
        entry: A request with its response, a line of the Batch API's output, a stored completion
            with its messages, or messages that end with the assistant's.
        asked: By ``custom_id`` what the Batch API's input held.

    Raises:
        InputError: None of these, a request that failed, or an answer that is no text.
    """
    if "request" in entry and "response" in entry:
        request = _body(entry["request"])
        query_id = _name(entry.get("id")) or _name(_body(entry["response"]).get("id"))
        return _completed(request, entry, query_id)
    if "custom_id" in entry and "response" in entry:
        query_id = _name(entry["custom_id"])
        if query_id is None or query_id not in asked:
            raise InputError(
                f"what was asked as {query_id!r} is not known: a line of the Batch API's output "
                "does not say; name its input file, too"
            )
        return _completed(asked[query_id], entry, query_id)
    if "choices" in entry and "messages" in entry:
        return _completed(entry, {"response": entry}, _name(entry.get("id")))
    if "messages" in entry:
        return [_told(entry)]
    raise InputError(
        "it has none of the known shapes: 'request' and 'response', 'custom_id' and 'response', "
        "'choices' and 'messages', or 'messages'"
    )


def _completed(request: Object, entry: Object, query_id: str | None) -> list[LoggedAnswer]:
    """Of a request's body and a line with its ``response``."""
    response = _object(entry.get("response"))
    status = response.get("status_code", 200)
    if entry.get("error") or (isinstance(status, int) and status >= 400):
        raise InputError(f"the request failed (status {status})")
    completion = _body(response)
    if "choices" not in completion:
        shape = "a body of the responses API" if "output" in completion else "no chat completion"
        raise InputError(f"the response is {shape}; wanted 'choices'")
    choices: Any = completion["choices"]
    if not isinstance(choices, list) or not choices:
        raise InputError("the response has no choices")
    query = logged_query(parse_messages({"messages": request.get("messages")}), query_id)
    usage = counted_usage(_object(completion.get("usage")))
    if len(choices) > 1:
        usage = None  # counted for all of them together
    model = _name(completion.get("model")) or _name(request.get("model"))
    return [
        LoggedAnswer(
            query=query,
            text=_text(_object(_object(choice).get("message"))),
            model=model,
            finish_reason=known_finish(_object(choice).get("finish_reason")),
            usage=usage,
            rollout=rollout,
        )
        for rollout, choice in enumerate(choices)
    ]


def _told(entry: Object) -> LoggedAnswer:
    """Of messages that end with the answer."""
    *before, last = parse_messages(entry)
    if last.get("role") != "assistant" or not before:
        raise InputError("the messages do not end with an answer of the assistant")
    return LoggedAnswer(
        query=logged_query(before, _name(entry.get("id"))),
        text=_text(last),
        model=_name(entry.get("model")),
    )


def _text(message: Message) -> str:
    content = message.get("content")
    if message.get("tool_calls") or not isinstance(content, str):
        raise InputError("the answer is no text")
    return content


def _body(value: Any) -> Object:
    """What was sent or came back, out of the envelope that some loggers put around it."""
    outer = _object(value)
    return _object(outer["body"]) if "body" in outer else outer


def _object(value: Any) -> Object:
    if isinstance(value, str):  # some log the text of the body
        return _parsed(value)
    return value if isinstance(value, dict) else {}


def _parsed(text: str) -> Object:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
