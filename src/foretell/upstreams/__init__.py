"""Calling models through their OpenAI-compatible API: time limits, retries, streaming, prices."""

from foretell.upstreams._blocking import BlockingChat
from foretell.upstreams._openai import OpenAIChatModel
from foretell.upstreams._prices import cost_usd
from foretell.upstreams._protocol import ChatModel, OnText, UpstreamCallError
from foretell.upstreams._retries import Deadlines, Retries

__all__ = [
    "BlockingChat",
    "ChatModel",
    "Deadlines",
    "OnText",
    "OpenAIChatModel",
    "Retries",
    "UpstreamCallError",
    "cost_usd",
]
