"""Configured prices, and the published ones of known providers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from types import ModuleType

from foretell.config import ModelConfig, OpenAIModel
from foretell.records import MeteredUsage
from foretell.upstreams._prices import metered_cost_usd

# Names that OpenTelemetry's GenAI conventions give to gen_ai.provider.name, where they differ.
_CONVENTIONAL_NAMES = {
    "aws": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshotai": "moonshot_ai",
    "x-ai": "x_ai",
}


class PriceBook:
    """Tells what answers cost: by the price in the configuration, else by the published one.

    Published prices are those that the installed ``genai-prices`` holds (``pip install
    'foretell[serve]'``); they are never fetched, and there are none without it. ``now`` is the
    time that prices which change with the date or the hour are taken at.
    """

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now

    def warm(self) -> None:
        """Load the published prices now (0.3 s), so that no answer has to wait for them."""
        _genai_prices()

    def cost_usd(
        self, model: ModelConfig, answered_by: str | None, usage: MeteredUsage
    ) -> float | None:
        """What ``usage`` costs in US dollars; ``None`` when no price is known: nothing is guessed.

        A published price is found by the provider that ``base_url`` belongs to, and among its
        models by the name that the answer gave, else by the configured one. A host that is no
        provider's has none, whatever its model is called.
        """
        if model.price is not None:
            return metered_cost_usd(usage, model.price)
        if not isinstance(model, OpenAIModel):
            return None
        for name in (answered_by, model.model):
            if name and (cost := self._published_usd(model.base_url, name, usage)) is not None:
                return cost
        return None

    def worst_usd(
        self, model: ModelConfig, *, prompt_tokens: int | None, completion_tokens: int | None
    ) -> float | None:
        """The most that so many tokens cost in US dollars, with no prompt token from a cache.

        ``None`` when a count or the price is not known.
        """
        if prompt_tokens is None or completion_tokens is None:
            return None
        usage = MeteredUsage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        return self.cost_usd(model, None, usage)

    def _published_usd(self, base_url: str, name: str, usage: MeteredUsage) -> float | None:
        prices = _genai_prices()
        if prices is None:
            return None
        counts = prices.Usage(
            input_tokens=usage.prompt_tokens,
            cache_read_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
        )
        try:
            found = prices.calc_price(
                counts, name, provider_api_url=base_url, genai_request_timestamp=self._now()
            )
        except (LookupError, ValueError):  # no such provider or model, or not priced by tokens
            return None
        price = found.model_price
        # What the table has no price for, it counts as free.
        if price.input_mtok is None or (usage.completion_tokens and price.output_mtok is None):
            return None
        return float(found.total_price)


@lru_cache(maxsize=256)
def provider_name(base_url: str) -> str | None:
    """Who serves ``base_url``, by the name for OpenTelemetry's ``gen_ai.provider.name``.

    ``None`` for a host that is no known provider's, and without ``genai-prices``.
    """
    if _genai_prices() is None:
        return None
    from genai_prices.data_snapshot import get_snapshot

    try:
        provider = get_snapshot().find_provider(None, None, base_url)
    except LookupError:
        return None
    if provider.id == "google" and "aiplatform" in base_url:
        return "gcp.vertex_ai"
    return _CONVENTIONAL_NAMES.get(provider.id, provider.id)


@lru_cache(maxsize=1)
def _genai_prices() -> ModuleType | None:
    try:
        import genai_prices
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return None
    get_snapshot()  # reads the table in
    return genai_prices
