"""One request under way: who asks, what for, and what has been decided and spent so far."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from foretell.gateway._admission import Ticket
from foretell.gateway._callers import Caller
from foretell.gateway._chat_request import ChatRequest, Control
from foretell.gateway._snapshot import ServedRoute, Snapshot, WeakSide
from foretell.gateway._traces import TraceSpan
from foretell.policy import Reservation
from foretell.records import Decision
from foretell.runtime import Considered

if TYPE_CHECKING:
    from foretell.gateway._turns import Turn

Api = Literal["chat", "responses", "messages"]


@dataclass(eq=False, slots=True, kw_only=True)
class Exchange:
    """A request, and what is known about it when.

    ``headers`` have lower-case names. ``previous`` is the response that this one goes on from, and
    ``response_id`` the one that a later one may; ``bound`` says that the caller's body held
    reasoning that only one model can read. ``declined`` says in a word why the probe's estimate was
    of no use, whoever answered in the end. Times are of ``perf_counter``, in seconds: ``weak_s``
    and ``upstream_s`` are how long it waited for a model of ours and for others, ``head_s`` is its
    overhead until the answer began. ``over`` is set once its books are closed.
    """

    id: str
    created: int
    request: ChatRequest
    control: Control
    caller: Caller
    ticket: Ticket
    snapshot: Snapshot
    headers: Mapping[str, str]
    span: TraceSpan
    response_id: str
    api: Api = "chat"
    started: float = field(default_factory=perf_counter)
    previous: str | None = None
    bound: bool = False
    route: ServedRoute | None = None
    side: WeakSide | None = None
    domain: str | None = None
    turn: Turn | None = None
    considered: Considered | None = None
    decision: Decision | None = None
    declined: str | None = None
    reservation: Reservation | None = None
    prompt_tokens: int | None = None
    weak_s: float = 0.0
    upstream_s: float = 0.0
    first_byte_s: float | None = None
    head_s: float | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def request_name(self) -> str:
        """The route or model that was asked for."""
        return self.request.model

    @property
    def tenant(self) -> str:
        """Whose conversations these are."""
        return self.caller.key_id

    @property
    def session(self) -> str | None:
        """The conversation's name, once it is known."""
        return None if self.turn is None else self.turn.session

    def close_prefill(self) -> None:
        """Free the prefill's place; safe to call twice."""
        if self.considered is not None and self.considered.prefill is not None:
            self.considered.prefill.close()

    def overhead_s(self) -> float:
        """Time so far that was spent neither by a model here nor by an upstream."""
        return max(0.0, perf_counter() - self.started - self.weak_s - self.upstream_s)

    def settle_goal(self, cost_usd: float | None) -> None:
        """Tell the route's purse what was spent of what it set aside."""
        reservation, self.reservation = self.reservation, None
        purse = None if self.route is None else self.route.purse
        if reservation is not None and purse is not None:
            serve = reservation.serve if self.decision is None else self.decision.serve
            purse.settle(reservation, cost_usd, serve=serve)


def decision_block(exchange: Exchange, model: str, cost_usd: float | None) -> dict[str, Any]:
    """The ``foretell`` object of a body; its keys are those of the headers, and the cost."""
    decision = exchange.decision
    if decision is None:
        raise RuntimeError("nothing was decided yet")
    return {
        "request_id": exchange.id,
        "route": None if exchange.route is None else exchange.route.name,
        "model": model,
        "decision": decision.action,
        "reason": decision.reason,
        "cause": decision.cause,
        "p_success": decision.p_success,
        "p_strong": decision.p_strong,
        "gain": decision.gain,
        **({"p_pool": dict(decision.p_pool)} if decision.p_pool else {}),
        "threshold": None if decision.p_success is None else min(decision.keep_at, 1.0),
        "probe": probe_name(decision),
        "router": decision.router,
        "stopped_at": decision.stopped_at,
        "prefill_ms": decision.prefill_ms,
        "probe_ms": decision.probe_ms,
        "overhead_ms": round(1e3 * (exchange.head_s or exchange.overhead_s()), 3),
        "cost_usd": cost_usd,
        "session": exchange.session,
    }


def probe_name(decision: Decision) -> str | None:
    """``id@version`` of the probe that made the estimate; ``None`` for another router."""
    router = decision.router or ""
    return router.removeprefix("probe ") if router.startswith("probe ") else None


def decision_headers(exchange: Exchange, model: str) -> dict[str, str]:
    """What the contract promises in headers; what is not known is left out."""
    decision = exchange.decision
    if decision is None:
        return {"x-request-id": exchange.id}
    headers = {
        "x-request-id": exchange.id,
        "x-foretell-model": _header_text(model),
        "x-foretell-decision": decision.action,
        "x-foretell-reason": _header_text(decision.reason),
        "x-foretell-overhead-ms": f"{exchange.overhead_s() * 1e3:.3f}",
    }
    if decision.p_success is not None:
        headers["x-foretell-p-success"] = f"{decision.p_success:.4f}"
        headers["x-foretell-threshold"] = f"{min(decision.keep_at, 1.0):.4f}"
    if probe := probe_name(decision):
        headers["x-foretell-probe"] = _header_text(probe)
    if decision.cause is not None:
        headers["x-foretell-cause"] = decision.cause
    if exchange.session is not None:
        headers["x-foretell-session"] = exchange.session
    return headers


def _header_text(text: str) -> str:
    """A sentence as a header may hold it: printable ASCII on one line."""
    plain = text.encode("ascii", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in plain)[:400]
