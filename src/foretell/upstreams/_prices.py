"""What an answer costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foretell.errors import ConfigError
from foretell.records import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens, of the prompt (``input``) and of the answer (``output``)."""

    input: float
    output: float

    def __post_init__(self) -> None:
        for name, value in (("input", self.input), ("output", self.output)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(
                    f"the {name} price is {value}; wanted US dollars per million tokens, 0 or more"
                )


def cost_usd(usage: Usage, price: Price | None) -> float | None:
    """Cost of an answer in US dollars; ``None`` when no price is known.

    Cached prompt tokens count in full: providers discount them differently, and a saving that
    routing did not make is not to be claimed for it.
    """
    if price is None:
        return None
    total = usage.prompt_tokens * price.input + usage.completion_tokens * price.output
    return total / 1_000_000
