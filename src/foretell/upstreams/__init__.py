"""Calling models through their OpenAI-compatible API: time limits, retries, streaming, prices."""

from foretell.upstreams._blocking import BlockingChat
from foretell.upstreams._breaker import Breaker, BreakerState
from foretell.upstreams._openai import OpenAIChatModel
from foretell.upstreams._opened import Opened
from foretell.upstreams._price_book import PriceBook, provider_name
from foretell.upstreams._prices import cost_usd
from foretell.upstreams._protocol import ChatModel, FailureKind, OnText, UpstreamCallError
from foretell.upstreams._retries import Deadlines, Retries
from foretell.upstreams._target import OnAttempt, Target
from foretell.upstreams._usage import metered_usage

__all__ = [
    "BlockingChat",
    "Breaker",
    "BreakerState",
    "ChatModel",
    "Deadlines",
    "FailureKind",
    "OnAttempt",
    "OnText",
    "OpenAIChatModel",
    "Opened",
    "PriceBook",
    "Retries",
    "Target",
    "UpstreamCallError",
    "cost_usd",
    "metered_usage",
    "provider_name",
]
