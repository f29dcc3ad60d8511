"""The tokens of an answer, as its provider counted them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foretell.records import MeteredUsage

_MOST_TOKENS = 10**12  # more is no count; it would only overflow a price


def metered_usage(usage: Mapping[str, Any]) -> MeteredUsage | None:
    """A ``usage`` object in the spelling of chat completions, responses or Anthropic messages.

    ``None`` when it cannot be understood: a count that is missing, negative or no whole number,
    or parts that are more than their whole. Tokens beyond prompt and completion in
    ``total_tokens`` are reasoning that was left out of the completion, as xAI and Google do; they
    are billed as output, so they count as such. Anthropic's cache reads and writes stand beside
    ``input_tokens``; here they are part of the prompt, and the reads are its cached tokens.
    """
    try:
        if "prompt_tokens" in usage:
            return _from_chat(usage)
        if "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage:
            return _from_messages(usage)
        return _from_responses(usage)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _from_chat(usage: Mapping[str, Any]) -> MeteredUsage:
    prompt, completion = _count(usage["prompt_tokens"]), _count(usage["completion_tokens"])
    cached = _part(usage, "prompt_tokens_details", "cached_tokens")
    reasoning = _part(usage, "completion_tokens_details", "reasoning_tokens")
    left_out = _optional(usage.get("total_tokens")) - prompt - completion
    if left_out > 0:
        completion += left_out
        reasoning = reasoning or left_out
    if not cached:  # DeepSeek's and Moonshot's spellings
        cached = _optional(usage.get("prompt_cache_hit_tokens", usage.get("cached_tokens")))
    return _metered(prompt, completion, cached, reasoning)


def _from_responses(usage: Mapping[str, Any]) -> MeteredUsage:
    return _metered(
        _count(usage["input_tokens"]),
        _count(usage["output_tokens"]),
        _part(usage, "input_tokens_details", "cached_tokens"),
        _part(usage, "output_tokens_details", "reasoning_tokens"),
    )


def _from_messages(usage: Mapping[str, Any]) -> MeteredUsage:
    read = _optional(usage.get("cache_read_input_tokens"))
    written = _optional(usage.get("cache_creation_input_tokens"))
    prompt = _count(usage["input_tokens"]) + read + written
    return _metered(prompt, _count(usage["output_tokens"]), read, 0)


def _metered(prompt: int, completion: int, cached: int, reasoning: int) -> MeteredUsage:
    if cached > prompt or reasoning > completion:
        raise ValueError("parts are more than their whole")
    return MeteredUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        reasoning_tokens=reasoning,
    )


def _part(usage: Mapping[str, Any], details: str, name: str) -> int:
    return _optional((usage.get(details) or {}).get(name))


def _optional(value: Any) -> int:
    return 0 if value is None else _count(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("no number")
    if not 0 <= value <= _MOST_TOKENS or value != int(value):
        raise ValueError("no count")
    return int(value)
