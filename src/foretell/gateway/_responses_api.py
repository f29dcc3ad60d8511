"""OpenAI's Responses API in terms of chat completions: bodies in, answers and streams out."""

from __future__ import annotations

from foretell.gateway._responses_input import provider_bound, responses_to_chat
from foretell.gateway._responses_output import (
    ResponsesStream,
    chat_to_response,
    kept_messages,
    response_messages,
)
from foretell.gateway._responses_schema import RESPONSES_REQUEST_SCHEMA

__all__ = [
    "RESPONSES_REQUEST_SCHEMA",
    "ResponsesStream",
    "chat_to_response",
    "kept_messages",
    "provider_bound",
    "response_messages",
    "responses_to_chat",
]
