"""What an answer costs."""

from __future__ import annotations

from foretell.config import Price
from foretell.records import Usage


def cost_usd(usage: Usage, price: Price | None) -> float | None:
    """Cost of an answer in US dollars; ``None`` when no price is known.

    Cached prompt tokens count in full: providers discount them differently, and a saving that
    routing did not make is not to be claimed for it.
    """
    if price is None:
        return None
    total = usage.prompt_tokens * price.input + usage.completion_tokens * price.output
    return total / 1_000_000
