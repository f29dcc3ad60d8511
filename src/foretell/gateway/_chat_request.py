"""What a caller asks: the body of a chat completion, and the headers that steer its routing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from foretell.gateway._bodies import json_bytes
from foretell.gateway._chat_messages import MESSAGES_SCHEMA, ChatMessages
from foretell.gateway._chat_options import OPTION_SCHEMAS, check_options
from foretell.gateway._chat_settings import LONGEST_MODEL_NAME
from foretell.gateway._chat_tools import TOOL_SCHEMAS, check_tools
from foretell.gateway._errors import ApiError, quoted
from foretell.gateway._fields import Field
from foretell.policy import Needs
from foretell.records import Sampling

RouteControl = Literal["off", "weak", "strong", "shadow"]

DEFAULT_ANSWER_TOKENS = 512
"""Room for an answer of a model here, when the caller sets no limit."""

_UNLIMITED_ANSWER_TOKENS = 16_384  # what a call without a limit is taken to cost at most
_ATTACHMENT_TOKENS = 5_000  # a picture at full size costs less with the providers we know
_MESSAGE_TOKENS = 16  # what a chat template writes around one message
_SEEDS = 2**31  # models here know no others, and none below 0
_PREFIX = "x-foretell-"
_CONTROLS = ("x-foretell-route", "x-foretell-session", "x-foretell-domain")
_ROUTE_CONTROLS: tuple[RouteControl, ...] = ("off", "weak", "strong", "shadow")
_LONGEST_HEADER_VALUE = 256
_PRINTABLE = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChatRequest:
    """The checked body of a chat completion.

    ``raw`` is the body as it was sent, fields unknown here included. ``sampling`` is how a model
    in this process decodes: without a ``temperature`` greedily (OpenAI's default is 1), because a
    probe foretells the greedy answers that it was trained on; without a limit up to
    ``DEFAULT_ANSWER_TOKENS``. ``characters`` counts those of all text that becomes the prompt,
    tools included. ``most_prompt_tokens`` and ``most_answer_tokens`` are what it may cost at the
    worst: no tokeniser makes more tokens of a text than it has bytes; what a picture, or an answer
    without a limit, comes to at most is a guess on the high side.
    """

    raw: dict[str, Any]
    model: str
    messages: list[dict[str, Any]]
    stream: bool
    include_usage: bool
    tools: list[dict[str, Any]]
    needs: Needs
    sampling: Sampling
    characters: int
    most_prompt_tokens: int
    most_answer_tokens: int


def chat_request(raw: dict[str, Any]) -> ChatRequest:
    """Check what ``parse_json`` read.

    Only what every API would refuse is refused; fields that are not known here are left as they
    are. Raises ``ApiError`` (400) whose ``param`` is the path of the field at fault.
    """
    body = Field(raw)
    model = body.need("model").text(longest=LONGEST_MODEL_NAME, empty=False)
    messages = ChatMessages(body.need("messages"))
    check_tools(body)
    check_options(body)
    stream = bool(raw.get("stream"))
    options = body.get("stream_options")
    if options is not None and not stream:
        options.refuse("may be given only when stream is true")
    limit = raw.get("max_completion_tokens") or raw.get("max_tokens")
    tools: list[dict[str, Any]] = raw.get("tools") or []
    definitions = [part for part in (tools, raw.get("functions")) if part]
    definition_bytes = len(json_bytes(definitions)) if definitions else 0
    return ChatRequest(
        raw=raw,
        model=model,
        messages=raw["messages"],
        stream=stream,
        include_usage=options is not None and bool(options.value.get("include_usage")),
        tools=tools,
        needs=_needs(raw, messages, limit),
        sampling=_sampling(raw, limit),
        characters=messages.characters + definition_bytes,
        most_prompt_tokens=messages.text_bytes
        + definition_bytes
        + messages.attachments * _ATTACHMENT_TOKENS
        + len(raw["messages"]) * _MESSAGE_TOKENS,
        most_answer_tokens=(limit or _UNLIMITED_ANSWER_TOKENS) * (raw.get("n") or 1),
    )


def upstream_body(request: ChatRequest, model: str) -> bytes:
    """The body for an upstream that knows the model as ``model``.

    A stream is asked to report its tokens, whoever wants to know; all else is as it was sent.
    """
    body = {**request.raw, "model": model}
    if request.stream:
        options: dict[str, Any] = request.raw.get("stream_options") or {}
        body["stream_options"] = {**options, "include_usage": True}
    return json_bytes(body)


def _needs(raw: Mapping[str, Any], messages: ChatMessages, limit: int | None) -> Needs:
    """What only some models can do.

    Of the fields that a model in this process does not heed, those that merely hint, or change
    nothing in the answer, need nothing: ``reasoning_effort``, ``verbosity``, ``prediction``,
    ``service_tier``, ``store``, ``metadata``, ``user``, ``parallel_tool_calls``, the keys for
    caching and safety, and whatever is not known here.
    """
    modalities: list[str] = raw.get("modalities") or []
    form: dict[str, Any] = raw.get("response_format") or {"type": "text"}
    other = {
        "content": messages.unusual,
        "frequency_penalty": raw.get("frequency_penalty"),
        "logit_bias": raw.get("logit_bias"),
        "logprobs": raw.get("logprobs") or raw.get("top_logprobs"),
        "n": (raw.get("n") or 1) > 1,
        "presence_penalty": raw.get("presence_penalty"),
        "web_search": raw.get("web_search_options") is not None,
    }
    return Needs(
        tools=messages.tools or bool(raw.get("tools")) or bool(raw.get("functions")),
        images=messages.images or any(m not in ("text", "audio") for m in modalities),
        audio=messages.audio or "audio" in modalities or bool(raw.get("audio")),
        json_schema=form["type"] != "text",
        answer_tokens=limit,
        other=frozenset(name for name, needed in other.items() if needed),
    )


def _sampling(raw: Mapping[str, Any], limit: int | None) -> Sampling:
    stop: str | list[str] = raw.get("stop") or []
    seed: int | None = raw.get("seed")
    top_p: float | None = raw.get("top_p")
    return Sampling(
        max_tokens=limit or DEFAULT_ANSWER_TOKENS,
        temperature=float(raw.get("temperature") or 0),
        top_p=1.0 if top_p is None else float(top_p),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=None if seed is None else seed % _SEEDS,
    )


CHAT_REQUEST_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "ChatCompletionRequest",
    "description": "A chat completion; fields that are not listed are passed on as they are.",
    "required": ["model", "messages"],
    "properties": {
        "model": {
            "type": "string",
            "minLength": 1,
            "maxLength": LONGEST_MODEL_NAME,
            "description": "a route, or a model by its name",
        },
        "messages": MESSAGES_SCHEMA,
        **TOOL_SCHEMAS,
        **OPTION_SCHEMAS,
    },
    # Options of streaming, only where there is streaming.
    "anyOf": [
        {"properties": {"stream_options": {"type": "null"}}},
        {"required": ["stream"], "properties": {"stream": {"const": True}}},
    ],
}
"""What ``chat_request`` accepts as JSON Schema 2020-12, which is OpenAPI 3.1's.

It cannot say that a tool's message must answer a call made before, and it takes 1.0 for a whole
number.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What the caller's headers say about routing; ``None`` where they say nothing."""

    route: RouteControl | None = None
    session: str | None = None
    domain: str | None = None


def control_headers(headers: Mapping[str, str], *, also: Collection[str] = ()) -> Control:
    """Read ``x-foretell-route``, ``x-foretell-session`` and ``x-foretell-domain``.

    ``also`` names further headers that something here reads (a route may take its domain from any
    header), in lower case. Raises ``ApiError`` (400) for a value that means nothing, for a header
    that is given twice, and for any other ``x-foretell-`` header: nobody should believe to have
    set what nothing reads.
    """
    given: dict[str, str] = {}
    for written, value in headers.items():
        name = written.lower()
        if not name.startswith(_PREFIX) or (name in also and name not in _CONTROLS):
            continue
        if name not in _CONTROLS:
            raise _bad_header(name, f"is not known; known are {', '.join(_CONTROLS)}")
        if name in given:
            raise _bad_header(name, "is given twice")
        if len(value) > _LONGEST_HEADER_VALUE or not _PRINTABLE.fullmatch(value):
            raise _bad_header(
                name, f"must be 1 to {_LONGEST_HEADER_VALUE} printable ASCII characters"
            )
        given[name] = value
    route = given.get("x-foretell-route")
    if route is not None and route not in _ROUTE_CONTROLS:
        raise _bad_header(
            "x-foretell-route",
            f"must be one of {', '.join(_ROUTE_CONTROLS)}; got {quoted(route)}",
        )
    return Control(
        route=route,
        session=given.get("x-foretell-session"),
        domain=given.get("x-foretell-domain"),
    )


def _bad_header(name: str, problem: str) -> ApiError:
    name = name if len(name) <= 64 else f"{name[:63]}…"
    return ApiError(400, f"header {name} {problem}", code="invalid_header", param=name)
