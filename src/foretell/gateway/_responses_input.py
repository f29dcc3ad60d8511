"""A body of OpenAI's Responses API as the body of a chat completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foretell.gateway._chat_settings import EFFORTS, LONGEST_MODEL_NAME, MOST_TOKENS, same_settings
from foretell.gateway._chat_turns import ChatTurns, content_of, image_part, text_part
from foretell.gateway._errors import quoted
from foretell.gateway._fields import Field, refuse_unknown

SAME_SETTINGS = (
    "frequency_penalty",
    "logit_bias",
    "metadata",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "seed",
    "service_tier",
    "temperature",
    "top_k",
    "top_p",
    "user",
)
SAME_WITH_TOOLS = ("parallel_tool_calls",)
READ_HERE = (
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "model",
    "previous_response_id",
    "reasoning",
    "store",
    "stream",
    "stream_options",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "truncation",
)
# They say how OpenAI may save work, and the answer asked for is the same without.
HINTS = ("context_management", "max_tool_calls", "prompt_cache_options")
ONLY_OFF = {
    "background": "answers are made while the caller waits",
    "conversation": "send the conversation in input, or name its last response in "
    "previous_response_id",
    "moderation": "ask a moderation API",
    "prompt": "send the prompt's text in instructions and input",
}
ROLES = ("user", "assistant", "system", "developer")
TOOL_CHOICES = ("none", "auto", "required")
TRUNCATIONS = ("auto", "disabled")
VERBOSITIES = ("low", "medium", "high")

_KNOWN = frozenset([*SAME_SETTINGS, *SAME_WITH_TOOLS, *READ_HERE, *HINTS, *ONLY_OFF])
_LOGPROBS = "message.output_text.logprobs"
_TEXT_PARTS = ("input_text", "output_text", "refusal")


def responses_to_chat(
    raw: dict[str, Any], *, earlier: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The chat completion that answers a body of ``/v1/responses``.

    ``earlier`` are the chat messages that ``previous_response_id`` stands for, without the
    instructions of then: those of ``raw`` go before them. Items of reasoning are left out, since
    what is encrypted in them means something to one model alone (``provider_bound`` tells). A
    streamed answer is asked to report its tokens.

    What has no counterpart (built-in tools, files, ``background``) is refused, never dropped; but
    ``truncation`` and what only says how to save work is passed over. Raises ``ApiError`` (400)
    with the path in ``raw``.
    """
    body = Field(raw)
    refuse_unknown(body, _KNOWN, api="Responses API")
    for name, instead in ONLY_OFF.items():
        if (field := body.get(name)) and field.value is not False:
            raise field.unsupported(instead)
    chat: dict[str, Any] = {
        "model": body.need("model").text(longest=LONGEST_MODEL_NAME, empty=False),
        "messages": _messages(body, earlier),
    }
    if (stream := body.get("stream")) and stream.boolean():
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    if limit := body.get("max_output_tokens"):
        chat["max_completion_tokens"] = limit.integer(1, MOST_TOKENS)
    chat |= same_settings(body, SAME_SETTINGS)
    chat |= _tools(body)
    chat |= _text_settings(body)
    chat |= _reasoning(body)
    chat |= _logprobs(body)
    _check_rest(body)
    return chat


def provider_bound(raw: Mapping[str, Any]) -> bool:
    """Whether the input holds reasoning that only the model which made it can read."""
    items = raw.get("input")
    return isinstance(items, list) and any(
        isinstance(item, Mapping)
        and item.get("type") == "reasoning"
        and bool(item.get("encrypted_content"))
        for item in items
    )


def _messages(body: Field, earlier: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    turns = ChatTurns(earlier)
    asked = body.need("input")
    if isinstance(asked.value, str):
        turns.add("user", asked.value, at=asked)
    elif isinstance(asked.value, list):
        for item in asked.items():
            _add_item(turns, item)
    else:
        raise asked.wrong("must be a string or a list of items", code="invalid_type")
    messages = turns.messages(at=asked)
    if len(messages) == len(earlier):
        raise asked.wrong("holds nothing to answer")
    instructions = body.get("instructions")
    if instructions is None or not instructions.text():
        return messages
    return [{"role": "system", "content": instructions.text()}, *messages]


def _add_item(turns: ChatTurns, item: Field) -> None:
    kind = item.get("type")
    if kind is None and item.get("role") is None:
        item.need("type")
    match "message" if kind is None else kind.text():
        case "message":
            _add_message(turns, item)
        case "function_call":
            turns.call(
                item.need("call_id").text(empty=False),
                item.need("name").text(empty=False),
                item.need("arguments").text(),
                at=item.need("call_id"),
            )
        case "function_call_output":
            call_id = item.need("call_id")
            turns.result(call_id.text(empty=False), _result(item.need("output")), at=call_id)
        case "reasoning":
            pass
        case other:
            raise (kind or item).unsupported(
                f"{quoted(other)}; items are messages, function calls and their outputs"
            )


def _add_message(turns: ChatTurns, item: Field) -> None:
    role = item.need("role").one_of(ROLES)
    content = item.need("content")
    if isinstance(content.value, str):
        said: str | list[dict[str, Any]] = content.value
    else:
        parts = [_part(part, images=role == "user") for part in content.items()]
        if not parts:
            raise content.wrong("must not be empty")
        said = content_of(parts)
    if role == "assistant":
        turns.answer(said, at=item)
    else:
        turns.add(role, said, at=item)


def _part(part: Field, *, images: bool) -> dict[str, Any]:
    kind = part.need("type")
    name = kind.text()
    if name in _TEXT_PARTS:
        return text_part(part.need("refusal" if name == "refusal" else "text").text())
    if name == "input_image" and images:
        if file := part.get("file_id"):
            raise file.unsupported("files are not kept; send the image in image_url")
        detail = part.get("detail")
        return image_part(
            part.need("image_url").text(empty=False), None if detail is None else detail.text()
        )
    raise kind.unsupported(
        f"{quoted(name)}; send text{', or images in input_image' if images else ''}"
    )


def _result(output: Field) -> list[dict[str, Any]]:
    if isinstance(output.value, str):
        return [text_part(output.value)]
    return [_part(part, images=True) for part in output.items()]


def _tools(body: Field) -> dict[str, Any]:
    """Tools, and what is only allowed beside them."""
    listed = body.get("tools")
    tools = [] if listed is None else [_tool(tool) for tool in listed.items()]
    choice = body.get("tool_choice")
    same = same_settings(body, SAME_WITH_TOOLS)
    names = [tool["function"]["name"] for tool in tools]
    chosen, allowed = ("auto", names) if choice is None else _tool_choice(choice, names)
    if not tools:
        return {}
    offered = [tool for tool in tools if tool["function"]["name"] in allowed]
    return {"tools": offered, **({} if choice is None else {"tool_choice": chosen}), **same}


def _tool(tool: Field) -> dict[str, Any]:
    kind = tool.need("type")
    if kind.text() != "function":
        raise kind.unsupported(
            f"{quoted(kind.text())}; tools here are functions that the caller runs"
        )
    function: dict[str, Any] = {"name": tool.need("name").text(empty=False)}
    if description := tool.get("description"):
        function["description"] = description.text()
    if parameters := tool.get("parameters"):
        function["parameters"] = parameters.members()
    if strict := tool.get("strict"):
        function["strict"] = strict.boolean()
    return {"type": "function", "function": function}


def _tool_choice(choice: Field, names: list[str]) -> tuple[Any, list[str]]:
    """The choice as chat completions has it, and the names of the tools that are offered.

    A set of allowed tools is made by offering no others: all upstreams know that.
    """
    if isinstance(choice.value, str):
        mode = choice.one_of(TOOL_CHOICES)
        if mode == "required" and not names:
            raise choice.wrong("asks for a call, but there are no tools")
        return mode, names
    kind = choice.need("type")
    match kind.text():
        case "function":
            name = _known_name(choice, names)
            return {"type": "function", "function": {"name": name}}, names
        case "allowed_tools":
            allowed = [_known_name(tool, names) for tool in choice.need("tools").items()]
            if not allowed:
                raise choice.need("tools").wrong("must not be empty")
            return choice.need("mode").one_of(("auto", "required")), allowed
        case other:
            raise kind.unsupported(f"{quoted(other)}; wanted 'function' or 'allowed_tools'")


def _known_name(tool: Field, names: list[str]) -> str:
    name = tool.need("name")
    if name.text() not in names:
        raise name.wrong(f"is {quoted(name.text())}, which is not in tools")
    return name.text()


def _text_settings(body: Field) -> dict[str, Any]:
    text = body.get("text")
    if text is None:
        return {}
    settings: dict[str, Any] = {}
    if verbosity := text.get("verbosity"):
        settings["verbosity"] = verbosity.one_of(VERBOSITIES)
    form = text.get("format")
    if form is None:
        return settings
    kind = form.need("type").one_of(("text", "json_object", "json_schema"))
    if kind == "json_object":
        settings["response_format"] = {"type": kind}
    if kind == "json_schema":
        schema: dict[str, Any] = {"name": form.need("name").text(empty=False)}
        if description := form.get("description"):
            schema["description"] = description.text()
        schema["schema"] = form.need("schema").members()
        if strict := form.get("strict"):
            schema["strict"] = strict.boolean()
        settings["response_format"] = {"type": kind, "json_schema": schema}
    return settings


def _reasoning(body: Field) -> dict[str, Any]:
    reasoning = body.get("reasoning")
    effort = None if reasoning is None else reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort.one_of(EFFORTS)}


def _logprobs(body: Field) -> dict[str, Any]:
    included = body.get("include")
    wanted = included is not None and _LOGPROBS in [name.text() for name in included.items()]
    most = body.get("top_logprobs")
    alternatives = 0 if most is None else most.integer(0, 20)
    if not wanted and not alternatives:
        return {}
    return {"logprobs": True, "top_logprobs": alternatives}


def _check_rest(body: Field) -> None:
    """What is read by the service or has no effect here still has a type."""
    if previous := body.get("previous_response_id"):
        previous.text(empty=False)
    if store := body.get("store"):
        store.boolean()
    if truncation := body.get("truncation"):
        truncation.one_of(TRUNCATIONS)
    if options := body.get("stream_options"):
        options.members()
