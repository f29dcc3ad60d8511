"""What is foretold and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foretell.records._models import Role
from foretell.records._queries import FinishReason, Usage

Action = Literal["keep", "escalate", "fallback", "pinned", "declined", "bypass", "explore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a router foretells of one query.

    ``score`` is the raw number (any range, higher means likelier to succeed), ``p_success`` the
    calibrated chance that the weak model succeeds. ``router`` names what made it
    (``probe geo@3``). ``p_strong`` is the chance that the strong model succeeds, when foretold.
    """

    score: float
    p_success: float
    router: str
    p_strong: float | None = None

    @property
    def gain(self) -> float | None:
        """Chance the strong model succeeds less the weak one's; ``None`` when not foretold."""
        return None if self.p_strong is None else self.p_strong - self.p_success


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided for one query, and the numbers that explain it.

    ``serve`` is the role that answers. Keep means ``p_success >= keep_at``. ``stopped_at`` is
    the layer after which the weak prefill was cut short, ``None`` when it ran to its end.
    """

    action: Action
    serve: Role
    reason: str
    keep_at: float
    p_success: float | None = None
    p_strong: float | None = None
    gain: float | None = None
    router: str | None = None
    stopped_at: int | None = None
    prefill_ms: float | None = None
    probe_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A routed answer. ``cost_usd`` is ``None`` when a price is not known."""

    text: str
    model: str
    decision: Decision
    usage: Usage
    finish_reason: FinishReason
    cost_usd: float | None = None
