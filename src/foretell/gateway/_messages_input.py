"""A body of Anthropic's Messages API as the body of a chat completion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from foretell.gateway._chat_settings import (
    EFFORTS,
    LONGEST_MODEL_NAME,
    MOST_STOPS,
    MOST_TOKENS,
    same_settings,
)
from foretell.gateway._chat_turns import ChatTurns, content_of, image_part, text_part
from foretell.gateway._errors import quoted
from foretell.gateway._fields import Field, refuse_unknown

SAME_SETTINGS = (
    "frequency_penalty",
    "logit_bias",
    "presence_penalty",
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "user",
)
READ_HERE = (
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "output_config",
    "stop_sequences",
    "stream",
    "system",
    "tool_choice",
    "tools",
)
# They say how Anthropic may save work, or show what chat completions does not show; the answer
# asked for is the same without.
HINTS = ("cache_control", "context_management", "diagnostics", "service_tier", "thinking")
ROLES = ("user", "assistant", "system")
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}

_KNOWN = frozenset([*SAME_SETTINGS, *READ_HERE, *HINTS])
_LONGEST_USER = 64
_THINKING = ("thinking", "redacted_thinking")


def messages_to_chat(raw: dict[str, Any]) -> dict[str, Any]:
    """The chat completion that answers a body of ``/v1/messages``.

    Blocks of thinking are left out, since what is signed or redacted in them means something to
    one model alone (``provider_bound`` tells). A result of a tool that failed (``is_error``) gets
    "Error:" above its text, for chat completions has no other place to say so. A streamed answer
    is asked to report its tokens.

    What has no counterpart (Anthropic's own tools, documents, files) is refused, never dropped;
    but what only says how to save work, and ``thinking``, is passed over. Raises ``ApiError``
    (400) with the path in ``raw``.
    """
    body = Field(raw)
    refuse_unknown(body, _KNOWN, api="Messages API")
    chat: dict[str, Any] = {
        "model": body.need("model").text(longest=LONGEST_MODEL_NAME, empty=False),
        "messages": _messages(body),
        "max_tokens": body.need("max_tokens").integer(1, MOST_TOKENS),
    }
    if (stream := body.get("stream")) and stream.boolean():
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    if stops := _stops(body):
        chat["stop"] = stops
    chat |= same_settings(body, SAME_SETTINGS)
    chat |= _user(body)
    chat |= _tools(body)
    chat |= _output_settings(body)
    return chat


def provider_bound(raw: Mapping[str, Any]) -> bool:
    """Whether the conversation holds thinking that only the model which made it can read."""
    messages = raw.get("messages")
    return isinstance(messages, list) and any(
        block.get("type") == "redacted_thinking"
        or (block.get("type") == "thinking" and bool(block.get("signature")))
        for message in messages
        for block in _blocks(message)
    )


def _blocks(message: Any) -> Iterator[Mapping[str, Any]]:
    content = message.get("content") if isinstance(message, Mapping) else None
    return (b for b in content if isinstance(b, Mapping)) if isinstance(content, list) else iter(())


def _messages(body: Field) -> list[dict[str, Any]]:
    turns = ChatTurns()
    listed = body.need("messages")
    for message in listed.items():
        _add_message(turns, message)
    messages = turns.messages(at=listed)
    system = body.get("system")
    text = "" if system is None else _system_text(system)
    return [{"role": "system", "content": text}, *messages] if text else messages


def _system_text(system: Field) -> str:
    """Text, or blocks of it, which are paragraphs of their own."""
    if isinstance(system.value, str):
        return system.value
    return "\n\n".join(_text(block) for block in system.items())


def _text(block: Field) -> str:
    kind = block.need("type")
    if kind.text() != "text":
        raise kind.unsupported(f"{quoted(kind.text())}; send text")
    return block.need("text").text()


def _add_message(turns: ChatTurns, message: Field) -> None:
    role = message.need("role").one_of(ROLES)
    content = message.need("content")
    match role:
        case "system":
            turns.add("system", _system_text(content), at=message)
        case "user" if isinstance(content.value, str):
            turns.add("user", content.value, at=message)
        case "user":
            _add_user_blocks(turns, content, at=message)
        case _ if isinstance(content.value, str):
            turns.answer(content.value, at=message)
        case _:
            for block in content.items():
                _add_assistant_block(turns, block)


def _add_user_blocks(turns: ChatTurns, content: Field, *, at: Field) -> None:
    """Results of tools first, wherever they stand, and then what the user says himself."""
    said: list[dict[str, Any]] = []
    results = 0
    for block in content.items():
        if block.need("type").text() == "tool_result":
            results += 1
            _add_result(turns, block)
        else:
            said.append(_part(block))
    if said:
        turns.add("user", content_of(said), at=at)
    elif not results:
        raise content.wrong("must not be empty")


def _add_result(turns: ChatTurns, block: Field) -> None:
    call_id = block.need("tool_use_id")
    content = block.get("content")
    if content is None:
        parts = [text_part("")]
    elif isinstance(content.value, str):
        parts = [text_part(content.value)]
    else:
        parts = [_part(part) for part in content.items()]
    if (failed := block.get("is_error")) and failed.boolean():
        parts = [text_part("Error:"), *parts]
    turns.result(call_id.text(empty=False), parts, at=call_id)


def _add_assistant_block(turns: ChatTurns, block: Field) -> None:
    kind = block.need("type")
    match kind.text():
        case "text":
            turns.answer(block.need("text").text(), at=block)
        case "tool_use":
            given = block.get("input")
            arguments = {} if given is None else given.members()
            turns.call(
                block.need("id").text(empty=False),
                block.need("name").text(empty=False),
                json.dumps(arguments, ensure_ascii=False),
                at=block.need("id"),
            )
        case name if name in _THINKING:
            pass
        case other:
            raise kind.unsupported(
                f"{quoted(other)}; the assistant's blocks are text and calls of the caller's tools"
            )


def _part(block: Field) -> dict[str, Any]:
    kind = block.need("type")
    match kind.text():
        case "text":
            return text_part(block.need("text").text())
        case "image":
            return _image(block.need("source"))
        case other:
            raise kind.unsupported(f"{quoted(other)}; send text and images")


def _image(source: Field) -> dict[str, Any]:
    kind = source.need("type")
    match kind.text():
        case "base64":
            media_type = source.need("media_type").text(empty=False)
            return image_part(f"data:{media_type};base64,{source.need('data').text(empty=False)}")
        case "url":
            return image_part(source.need("url").text(empty=False))
        case other:
            raise kind.unsupported(f"{quoted(other)}; send an image as 'base64' or 'url'")


def _stops(body: Field) -> list[str]:
    stops = body.get("stop_sequences")
    if stops is None:
        return []
    texts = [stop.text(empty=False) for stop in stops.items()]
    if len(texts) > MOST_STOPS:
        raise stops.wrong(f"must have {MOST_STOPS} strings at most, got {len(texts)}")
    return texts


def _user(body: Field) -> dict[str, Any]:
    metadata = body.get("metadata")
    field = None if metadata is None else metadata.get("user_id")
    if field is None:
        return {}
    user = field.text()
    # OpenAI refuses longer ones, such as Claude Code sends; a hash tells users apart as well.
    if len(user) > _LONGEST_USER:
        user = hashlib.sha256(user.encode()).hexdigest()
    return {"user": user}


def _tools(body: Field) -> dict[str, Any]:
    """Tools, and what is only allowed beside them."""
    listed = body.get("tools")
    tools = [] if listed is None else [_tool(tool) for tool in listed.items()]
    choice = body.get("tool_choice")
    chosen = {} if choice is None else _tool_choice(choice, tools)
    return {"tools": tools, **chosen} if tools else {}


def _tool(tool: Field) -> dict[str, Any]:
    kind = tool.get("type")
    if kind is not None and kind.text() != "custom":
        raise kind.unsupported(
            f"{quoted(kind.text())}; tools here have an input_schema and are run by the caller"
        )
    function: dict[str, Any] = {"name": tool.need("name").text(empty=False)}
    if description := tool.get("description"):
        function["description"] = description.text()
    function["parameters"] = tool.need("input_schema").members()
    if strict := tool.get("strict"):
        function["strict"] = strict.boolean()
    return {"type": "function", "function": function}


def _tool_choice(choice: Field, tools: list[dict[str, Any]]) -> dict[str, Any]:
    mode = choice.need("type").one_of([*TOOL_CHOICES, "tool"])
    if mode == "tool":
        name = choice.need("name")
        if name.text() not in [tool["function"]["name"] for tool in tools]:
            raise name.wrong(f"is {quoted(name.text())}, which is not in tools")
        chosen: Any = {"type": "function", "function": {"name": name.text()}}
    else:
        chosen = TOOL_CHOICES[mode]
    if mode == "any" and not tools:
        raise choice.wrong("asks for a call, but there are no tools")
    single = choice.get("disable_parallel_tool_use")
    return {
        "tool_choice": chosen,
        **({"parallel_tool_calls": False} if single is not None and single.boolean() else {}),
    }


def _output_settings(body: Field) -> dict[str, Any]:
    config = body.get("output_config")
    if config is None:
        return {}
    settings: dict[str, Any] = {}
    if effort := config.get("effort"):
        settings["reasoning_effort"] = effort.one_of(EFFORTS)
    if form := config.get("format"):
        form.need("type").one_of(("json_schema",))
        schema = form.need("schema").members()
        settings["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    return settings
