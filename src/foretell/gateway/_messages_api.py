"""Anthropic's Messages API in terms of chat completions: bodies in, answers and streams out."""

from __future__ import annotations

from foretell.gateway._messages_input import messages_to_chat, provider_bound
from foretell.gateway._messages_output import MessagesStream, anthropic_error, chat_to_message
from foretell.gateway._messages_schema import MESSAGES_REQUEST_SCHEMA

__all__ = [
    "MESSAGES_REQUEST_SCHEMA",
    "MessagesStream",
    "anthropic_error",
    "chat_to_message",
    "messages_to_chat",
    "provider_bound",
]
