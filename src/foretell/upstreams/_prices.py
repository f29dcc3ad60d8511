"""What an answer costs."""

from __future__ import annotations

from foretell.config import Price
from foretell.records import MeteredUsage, Usage


def cost_usd(usage: Usage, price: Price | None) -> float | None:
    """Cost of an answer in US dollars; ``None`` when no price is known.

    Cached prompt tokens count in full: providers discount them differently, and a saving that
    routing did not make is not to be claimed for it.
    """
    if price is None:
        return None
    total = usage.prompt_tokens * price.input + usage.completion_tokens * price.output
    return total / 1_000_000


def metered_cost_usd(usage: MeteredUsage, price: Price) -> float:
    """What a provider charges for ``usage`` at a configured price, in US dollars.

    Cached prompt tokens cost ``cached_input`` where the price has one, else as much as others.
    """
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = usage.prompt_tokens - usage.cached_tokens
    total = (
        fresh * price.input
        + usage.cached_tokens * cached_price
        + usage.completion_tokens * price.output
    )
    return total / 1_000_000
