"""The ledger's record of a request that is over."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from foretell.gateway._answering import Answering, Costs, thrown_away_usd
from foretell.gateway._exchange import Exchange, probe_name
from foretell.gateway._shadow_runs import NO_SHADOWS, ShadowShares
from foretell.records import Action, Decision, RequestRecord
from foretell.upstreams import PriceBook

RULED: Final[frozenset[Action]] = frozenset(("keep", "escalate", "explore", "declined"))
"""What the route's own rule decided; the rest was decided by callers, turns and failures."""


def record_of(
    exchange: Exchange,
    answering: Answering | None,
    *,
    prices: PriceBook,
    status: int,
    at: float,
    shares: ShadowShares = NO_SHADOWS,
) -> RequestRecord:
    """All that is kept; ``answering`` is ``None`` when no answer began.

    ``at`` is the time now, in seconds since 1970 (UTC); the record has that of the request's start.
    ``shares`` are the chances that a model is asked afterwards what the other served.
    """
    decision = exchange.decision
    seconds = perf_counter() - exchange.started
    costs = (
        Costs(weak=thrown_away_usd(exchange, prices), strong=0.0, always_strong=None)
        if answering is None
        else answering.costs()
    )
    # What nothing here is called by is the caller's own text.
    asked = "" if decision is None else exchange.request.model
    found = exchange.considered
    prefill = None if found is None else found.prefill
    side = exchange.side
    tried = None if side is None else side.watched.tried(prefill)
    chances = _chances(exchange, shares)
    return RequestRecord(
        id=exchange.id,
        at=at - seconds,
        key_id=exchange.caller.key_id,
        route=None if exchange.route is None else exchange.route.name,
        domain=exchange.domain,
        model=asked if answering is None else answering.member,
        serve=None if decision is None or exchange.route is None else decision.serve,
        action="bypass" if decision is None else decision.action,
        cause=None if decision is None else decision.cause,
        status=status,
        streamed=exchange.request.stream,
        p_success=None if decision is None else decision.p_success,
        p_strong=None if decision is None else decision.p_strong,
        keep_at=None if decision is None else decision.keep_at,
        propensity=None if decision is None else decision.propensity,
        explored=decision is not None and decision.action == "explore",
        probe=None if decision is None else probe_name(decision),
        session=exchange.session,
        usage=None if answering is None else answering.usage,
        weak_usd=costs.weak,
        strong_usd=costs.strong,
        cost_usd=costs.total,
        always_strong_usd=costs.always_strong,
        seconds=seconds,
        first_byte_s=exchange.first_byte_s,
        prefill_s=None if prefill is None else prefill.seconds,
        overhead_s=exchange.overhead_s() if not exchange.request.stream else exchange.head_s,
        finish_reason=None if answering is None else answering.finish_reason,
        weak_model=None if side is None else side.weak_key,
        weak_chance=None if chances is None else chances[0],
        pair_chance=None if chances is None else chances[1],
        shadow_probe=None if tried is None else tried[0],
        shadow_p_success=None if tried is None else tried[1],
    )


def _chances(exchange: Exchange, shares: ShadowShares) -> tuple[float, float] | None:
    """``weak_chance`` and ``pair_chance``; see ``RequestRecord``."""
    decision = exchange.decision
    if decision is None or decision.p_weak is None or decision.action not in RULED:
        return None
    p_weak = decision.p_weak
    afterwards = (1 - p_weak) * (shares.weak if weak_could(decision) else 0.0)
    return p_weak + afterwards, p_weak * shares.strong + afterwards


def weak_could(decision: Decision) -> bool:
    """Whether the weak model could have answered what it did not."""
    return decision.cause not in ("context", "prompt")
