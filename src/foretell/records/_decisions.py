"""What is foretold and what is done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from foretell.records._models import Role
from foretell.records._queries import FinishReason, Usage

Action = Literal["keep", "escalate", "fallback", "pinned", "declined", "bypass", "explore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a router foretells of one query.

    ``score`` is the raw number (any range, higher means likelier to succeed), ``p_success`` the
    calibrated chance that the weak model succeeds. ``router`` names what made it
    (``probe geo@3``). ``p_strong`` is the chance that the strong model succeeds, when foretold,
    and ``p_pool`` that of every other model of the route by its name.
    ``outside`` says that the query looks like nothing in training, so that the chances mean
    nothing; ``familiarity`` is the p-value behind it: the share of training-like queries that look
    at least as strange. ``domain`` is the one whose probe it is, where that is known.
    """

    score: float
    p_success: float
    router: str
    p_strong: float | None = None
    outside: bool = False
    familiarity: float | None = None
    p_pool: Mapping[str, float] = field(default_factory=dict[str, float])
    domain: str | None = None

    @property
    def gain(self) -> float | None:
        """Chance the strong model succeeds less the weak one's; ``None`` when not foretold."""
        return None if self.p_strong is None else self.p_strong - self.p_success


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided for one query, and the numbers that explain it.

    ``serve`` is the role that answers. Keep means ``p_success >= keep_at``; where the rule is
    about the gain of a strong call, ``keep_at`` is what that means for this query.
    ``stopped_at`` is the layer after which the weak prefill was cut short, ``None`` when it ran to
    its end. ``expected_tokens`` is how long the weak model's answer is likely to be.
    ``propensity`` is the chance with which a router that explores takes this action, ``None`` where
    chance had no part in it. ``p_weak`` is the chance with which the weak model serves such a query
    under the rule (0 or 1 where nothing is explored), ``None`` for what was pinned or bypassed, by
    which no rule can be judged. ``cause`` names in one word why a query was declined, from a short
    list (``probe_slow``, ``tools``); ``target`` names the model that was picked from a pool.
    """

    action: Action
    serve: Role
    reason: str
    keep_at: float
    p_success: float | None = None
    p_strong: float | None = None
    gain: float | None = None
    familiarity: float | None = None
    expected_tokens: float | None = None
    router: str | None = None
    stopped_at: int | None = None
    prefill_ms: float | None = None
    probe_ms: float | None = None
    p_pool: Mapping[str, float] = field(default_factory=dict[str, float])
    propensity: float | None = None
    p_weak: float | None = None
    cause: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A routed answer. ``cost_usd`` is ``None`` when a price is not known."""

    text: str
    model: str
    decision: Decision
    usage: Usage
    finish_reason: FinishReason
    cost_usd: float | None = None
