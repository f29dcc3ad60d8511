"""What happens to a request, from the decision to the last byte of the answer."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any, Final

from foretell.config import OpenAIModel
from foretell.errors import ContextOverflowError, InputError, RoutingError
from foretell.gateway._answering import Answering
from foretell.gateway._errors import ApiError
from foretell.gateway._exchange import Exchange
from foretell.gateway._local import LocalSource
from foretell.gateway._local_answers import LocalAnswer
from foretell.gateway._members import Call, Member, Source
from foretell.gateway._purse import RoutePurse
from foretell.gateway._snapshot import NoSide, ServedRoute, WeakSide
from foretell.gateway._traces import TraceSpan
from foretell.gateway._turns import Turn, Turns
from foretell.gateway._weak import cause_of, considered, prefilled
from foretell.policy import missing, without_bound_state
from foretell.records import Action, Answer, Decision, MeteredUsage, Role
from foretell.runtime import Considered, PoolRule, Rule, drain
from foretell.upstreams import PriceBook, UpstreamCallError

OnAttempt = Callable[[str, str, int | None], None]
"""Target, how an attempt of it ended, HTTP status."""

_logger = logging.getLogger(__name__)

_VERBS: Final = {"declined": "decline"}
_PATIENCE_S: Final = 1.0
"""How long an upstream that asks to be left alone is waited for while another model may answer."""
_PATIENCE_ALONE_S: Final = 20.0


class Service:
    """Decides who answers, and has them answer; keeps nothing but what turns need."""

    def __init__(
        self, *, turns: Turns, prices: PriceBook, executor: Executor, on_attempt: OnAttempt
    ) -> None:
        self._turns = turns
        self._prices = prices
        self._executor = executor
        self._on_attempt = on_attempt

    async def decide(self, exchange: Exchange, *, look_only: bool = False) -> None:
        """Find who shall answer; afterwards the exchange has a decision."""
        name = exchange.request.model
        exchange.route = exchange.snapshot.routes.get(name)
        if exchange.route is None:
            if name not in exchange.snapshot.members:
                known = [*exchange.snapshot.routes, *exchange.snapshot.members]
                raise ApiError(
                    404,
                    f"no route or model is called {name!r}; known are {', '.join(known)}"
                    if len(name) <= 64
                    else f"no route or model has that name; known are {', '.join(known)}",
                    code="model_not_found",
                    param="model",
                )
            exchange.decision = Decision(
                action="bypass",
                serve="strong",
                reason="a model was asked for by its own name",
                keep_at=1.0,
            )
            return
        await self._decide_route(exchange, exchange.route, look_only=look_only)

    async def answer(self, exchange: Exchange) -> Answering:
        """Begin the answer that was decided on; the caller reads it and closes it."""
        try:
            return await self._begin(exchange)
        except BaseException:
            exchange.close_prefill()
            raise

    # Deciding

    async def _decide_route(
        self, exchange: Exchange, route: ServedRoute, *, look_only: bool
    ) -> None:
        exchange.domain = _domain(exchange, route)
        turn = exchange.turn = self._turns.begin(exchange, route)
        side = route.side(exchange.domain)
        if isinstance(side, WeakSide):
            exchange.side, exchange.domain = side, side.domain
        exchange.decision = self._without_asking(exchange, route, side, turn)
        asked = exchange.decision is None
        if asked and isinstance(side, WeakSide):
            await self._ask_probe(exchange, route, side, turn, look_only=look_only)
        exchange.declined = _declined_because(exchange.decision)
        if not look_only:
            self._book(exchange, side, asked=asked)

    def _without_asking(
        self, exchange: Exchange, route: ServedRoute, side: WeakSide | NoSide, turn: Turn
    ) -> Decision | None:
        """What is decided before any prefill; ``None`` when the probe is to be asked."""
        control = exchange.control.route
        keep_at = side.control.keep_at if isinstance(side, WeakSide) else 1.0

        def decided(
            action: Action, serve: Role, reason: str, *, cause: str | None = None
        ) -> Decision:
            return Decision(action=action, serve=serve, reason=reason, keep_at=keep_at, cause=cause)

        if control == "off":
            return decided("bypass", "strong", "the caller switched routing off")
        if control == "strong":
            return decided("pinned", "strong", "the caller asked for the strong model")
        # What the weak model cannot take, or cannot take yet, belongs to the conversation as well.
        if turn.rule.pin is not None and turn.rule.pin_role == "strong" and control != "weak":
            return replace(decided("pinned", "strong", turn.rule.reason), target=turn.rule.pin)
        if isinstance(side, NoSide):
            return decided("declined", "strong", side.reason, cause=side.cause)
        if lacking := self._weak_lacks(exchange, route):
            reason = f"the weak model cannot take this request: {', '.join(lacking)}"
            return decided("declined", "strong", reason, cause=lacking[0])
        if control == "weak":
            return decided("pinned", "weak", "the caller asked for the weak model")
        if turn.rule.pin is not None and turn.rule.pin_role == "weak":
            return replace(decided("pinned", "weak", turn.rule.reason), target=turn.rule.pin)
        if not exchange.ticket.may_escalate():
            reason = "the key has no escalations left for today"
            return decided("pinned", "weak", reason, cause="escalations")
        if route.purse is not None:
            worst = self._worst_usd(exchange, route.strong[0])
            if not route.purse.allows(worst):
                return decided("pinned", "weak", _no_money(worst), cause="budget")
        return None

    def _book(self, exchange: Exchange, side: WeakSide | NoSide, *, asked: bool) -> None:
        """Set the decision's money aside, and count it where the goal is kept."""
        decision, route = exchange.decision, exchange.route
        assert decision is not None and route is not None  # noqa: S101, PT018
        if route.purse is not None:
            decision = exchange.decision = self._set_aside(exchange, route, route.purse, decision)
        if isinstance(side, WeakSide):
            found = exchange.considered
            estimate = found.estimate if asked and found is not None else None
            side.control.observe(estimate, escalated=decision.serve == "strong")

    def _set_aside(
        self, exchange: Exchange, route: ServedRoute, purse: RoutePurse, decision: Decision
    ) -> Decision:
        """The decision, or another one where there is no money for it; raises when for none."""
        if not purse.is_open:
            raise ApiError(
                503,
                "what this route has spent today is not known yet; try again",
                code="overloaded",
                headers={"Retry-After": "1"},
            )
        if decision.serve == "strong":
            worst = self._worst_strong_usd(exchange, self._targets(exchange, decision))
            exchange.reservation = purse.reserve(worst, serve="strong")
            if exchange.reservation is not None:
                return decision
            decision = self._without_money(exchange, route, decision, worst)
        worst = self._worst_usd(exchange, self._weak_member(exchange, route))
        exchange.reservation = purse.reserve(worst, serve="weak")
        if exchange.reservation is None and worst is not None:
            raise _budget_used_up()
        return decision

    def _worst_strong_usd(self, exchange: Exchange, members: Sequence[Member]) -> float | None:
        """The most that any of them may cost, and the prefill before; ``None`` if not known."""
        worst = [self._worst_usd(exchange, member) for member in members]
        known = [usd for usd in worst if usd is not None]
        if len(known) < len(worst) or exchange.route is None:
            return None
        weak = self._weak_member(exchange, exchange.route)
        return max(known) + (self._worst_usd(exchange, weak, answer=False) or 0.0)

    def _without_money(
        self, exchange: Exchange, route: ServedRoute, decision: Decision, worst: float | None
    ) -> Decision:
        """The weak model answers what the budget has no strong call for; if it can."""
        if (
            exchange.side is None
            or exchange.control.route in ("off", "strong")
            or decision.cause in ("context", "prompt")
            or self._weak_lacks(exchange, route)
        ):
            raise _budget_used_up()
        exchange.close_prefill()
        exchange.considered = None
        return replace(
            decision,
            action="pinned",
            serve="weak",
            reason=_no_money(worst),
            cause="budget",
            target=None,
        )

    async def _ask_probe(
        self,
        exchange: Exchange,
        route: ServedRoute,
        side: WeakSide,
        turn: Turn,
        *,
        look_only: bool,
    ) -> None:
        rule = replace(side.control.rule(), turn=turn.rule, pool=self._pool(exchange, route, side))
        began = perf_counter()
        try:
            with exchange.span.prefill():
                found = await considered(
                    side.route,
                    exchange.request,
                    rule,
                    route.deadlines,
                    self._executor,
                    look_only=look_only,
                )
        except RoutingError as error:
            found = Considered(decision=rule.declined(cause_of(error), str(error)))
        finally:
            exchange.weak_s += perf_counter() - began
        found = self._decided_again(found, rule, side, turn)
        exchange.considered, decision = found, found.decision
        exchange.prompt_tokens = found.prompt_tokens
        if exchange.domain is None and found.estimate is not None:
            exchange.domain = found.estimate.domain
        if exchange.control.route == "shadow":
            decision = replace(
                decision,
                action="bypass",
                serve="strong",
                reason=f"shadow: would {_VERBS.get(decision.action, decision.action)}; "
                f"{decision.reason}",
                target=None,
            )
        exchange.decision = decision

    def _decided_again(
        self, found: Considered, rule: Rule, side: WeakSide, turn: Turn
    ) -> Considered:
        """The decision by the bar of this moment, where it moves.

        Others were decided while the prefill ran; a bar and its count belong together, or the share
        that is held loosens with every request under way. Where the older bar stopped a prefill
        that the newer one would have kept, the weak model reads the query again.
        """
        before, estimate = found.decision, found.estimate
        if not side.control.moves or estimate is None or before.cause is not None:
            return found
        # Chance has been asked once, before the prefill.
        newer = replace(side.control.rule(), turn=turn.rule, draw=rule.draw)
        pool = rule.pool and replace(rule.pool, goal=side.control.pool_goal())
        decision = replace(
            replace(newer, pool=pool).decide(estimate),
            expected_tokens=before.expected_tokens,
            stopped_at=before.stopped_at,
            prefill_ms=before.prefill_ms,
            probe_ms=before.probe_ms,
        )
        if decision.serve == "weak" and before.stopped_at is not None:
            if found.prefill is not None:
                found.prefill.close()
            return replace(found, decision=decision, prefill=None)
        return replace(found, decision=decision)

    def _weak_lacks(self, exchange: Exchange, route: ServedRoute) -> tuple[str, ...]:
        """What keeps the weak model from this request; its answer may be as short as it must."""
        needs = replace(exchange.request.needs, answer_tokens=None)
        return missing(needs, route.weak_abilities)

    def _pool(self, exchange: Exchange, route: ServedRoute, side: WeakSide) -> PoolRule | None:
        """Who else may be picked, as far as they can take the request."""
        needs = exchange.request.needs
        able = [name for name, member in route.pool.items() if not missing(needs, member.abilities)]
        if not able:
            return None
        models = exchange.snapshot.config.models
        order = (route.config.weak, route.config.strong[0], *able)
        expected = MeteredUsage(
            prompt_tokens=round(exchange.request.characters / 4),
            completion_tokens=min(exchange.request.most_answer_tokens, 256),
        )
        costs = {name: self._prices.cost_usd(models[name], None, expected) for name in order}
        return PoolRule(order=order, costs=costs, goal=side.control.pool_goal())

    def _worst_usd(
        self, exchange: Exchange, member: Member, *, answer: bool = True
    ) -> float | None:
        """The most that a model may cost; ``None`` when its price is not known.

        The weak model's tokens say nothing certain about another one's.
        """
        request, route = exchange.request, exchange.route
        counted = exchange.prompt_tokens
        if route is None or member.name != route.config.weak:
            counted = None
        return self._prices.cost_usd(
            member.config,
            None,
            MeteredUsage(
                prompt_tokens=counted or request.most_prompt_tokens,
                completion_tokens=request.most_answer_tokens if answer else 0,
            ),
        )

    def _weak_member(self, exchange: Exchange, route: ServedRoute) -> Member:
        return exchange.snapshot.members[route.config.weak]

    # Answering

    async def _begin(self, exchange: Exchange) -> Answering:
        decision = exchange.decision
        assert decision is not None  # noqa: S101 - decide() ran
        if exchange.route is None:
            return await self._ask(exchange, [self._named(exchange)], decision)
        if decision.serve == "weak":
            try:
                return await self._ask_weak(exchange, exchange.route, decision)
            except ApiError:
                raise
            except RoutingError as error:
                decision = self._after_weak(exchange, error, decision)
        exchange.close_prefill()  # its place is needed no more while another model answers
        chosen = exchange.control.route in ("off", "strong", "shadow")
        if decision.action in ("escalate", "explore") or chosen:
            exchange.ticket.escalate()
        return await self._ask(exchange, self._targets(exchange, decision), decision)

    def _named(self, exchange: Exchange) -> Member:
        """The model that was asked for by its own name."""
        member = exchange.snapshot.members[exchange.request.model]
        needs = replace(exchange.request.needs, answer_tokens=None)
        if lacking := missing(needs, member.abilities):
            raise _unsupported(f"model {member.name!r} cannot", lacking)
        return member

    def _after_weak(self, exchange: Exchange, error: RoutingError, decision: Decision) -> Decision:
        """The weak model failed before its first word: a strong one answers, if there is money."""
        cause = cause_of(error)
        if cause == "engine_failed":
            _logger.warning("the weak model failed: %s", error)
        exchange.ticket.settle(0.0)
        exchange.close_prefill()
        exchange.decision = decision = replace(
            decision,
            action="fallback",
            serve="strong",
            reason=f"the weak model failed: {error}",
            cause=cause,
            target=None,
        )
        exchange.settle_goal(0.0)
        purse = None if exchange.route is None else exchange.route.purse
        if purse is not None:
            worst = self._worst_strong_usd(exchange, self._targets(exchange, decision))
            exchange.reservation = purse.reserve(worst, serve="strong")
            if exchange.reservation is None:
                raise _budget_used_up()
        return decision

    def _targets(self, exchange: Exchange, decision: Decision) -> list[Member]:
        """Who may answer, in order; those that cannot take the request are left out.

        Those whose context the weak model's count of tokens exceeds come last: other models count
        otherwise.
        """
        route = exchange.route
        assert route is not None  # noqa: S101
        members = list(route.strong)
        picked = exchange.snapshot.members.get(decision.target or "")
        if picked is not None and picked in (*members, *route.pool.values()):
            members = [picked, *(member for member in members if member is not picked)]
        needs = exchange.request.needs
        able = [member for member in members if not missing(needs, member.abilities)]
        if not able:
            raise _unsupported(
                f"no model of route {route.name!r} can", missing(needs, members[0].abilities)
            )
        if route.purse is not None:  # what cannot be priced cannot be held to a budget
            priced = [m for m in able if self._worst_usd(exchange, m) is not None]
            able = priced or able
        counted = replace(needs, prompt_tokens=exchange.prompt_tokens)
        return sorted(able, key=lambda member: bool(missing(counted, member.abilities)))

    async def _ask_weak(
        self, exchange: Exchange, route: ServedRoute, decision: Decision
    ) -> Answering:
        side, request = exchange.side, exchange.request
        assert side is not None  # noqa: S101 - the weak model was decided on
        self._reserve(exchange, self._weak_member(exchange, route))
        began = perf_counter()
        try:
            found = exchange.considered
            prefill = None if found is None else found.prefill
            if prefill is None:
                with exchange.span.prefill():
                    prefill = await prefilled(side.route, request, self._executor)
                exchange.considered = Considered(
                    decision=decision, prefill=prefill, prompt=prefill.prompt
                )
                exchange.prompt_tokens = len(prefill.prompt.tokens)
            room = side.route.room(prefill.prompt, request.sampling.max_tokens)
            generation = prefill.decode(replace(request.sampling, max_tokens=room))

            def run(tell: Callable[[str], None]) -> Answer:
                return drain(generation, tell)

            source = await LocalSource(
                run,
                LocalAnswer(
                    id=exchange.id,
                    created=exchange.created,
                    model=route.config.weak,
                    given=prefill.prompt.answer_start,
                ),
                streamed=request.stream,
                include_usage=True,
                executor=self._executor,
                give_up=generation.close,
            ).open()
            return await self._begun(exchange, source, self._weak_member(exchange, route))
        finally:
            exchange.weak_s += perf_counter() - began

    async def _ask(
        self, exchange: Exchange, members: Sequence[Member], decision: Decision
    ) -> Answering:
        """The first of ``members`` that answers; the next is tried only before a first byte."""
        failures: list[RoutingError] = []
        waiting = list(members)
        while waiting:
            member = waiting.pop(0)
            began = perf_counter()
            span = _upstream_span(exchange, member)
            try:
                self._reserve(exchange, member)
                alone = not waiting and not self._has_last_resort(exchange, decision)
                source = await member.open(self._call(exchange, member, span, alone=alone))
                if failures:
                    exchange.decision = replace(
                        decision,
                        action="fallback",
                        reason=f"{failures[0]}; {member.name} answers instead",
                        cause=_kind(failures[0]),
                    )
                return await self._begun(exchange, source, member, span)
            except RoutingError as error:
                span.failed(_kind(error))
                span.end()
                _log_failure(member, error)
                if _is_the_callers(error) and not failures:
                    raise _as_api_error(error) from None
                failures.append(error)
                exchange.ticket.settle(0.0)
                if _kind(error) == "context_window":
                    waiting = [other for other in waiting if _may_hold_more(other, member)]
            except BaseException:
                span.end()
                raise
            finally:
                exchange.upstream_s += perf_counter() - began
        return await self._last_resort(exchange, decision, failures)

    def _has_last_resort(self, exchange: Exchange, decision: Decision) -> bool:
        """Whether the weak model may answer when no other does."""
        route = exchange.route
        return (
            route is not None
            and route.config.weak_as_last_resort
            and exchange.side is not None
            and exchange.control.route not in ("strong", "off")
            and decision.action != "fallback"
            and decision.cause not in ("context", "prompt")
            and not self._weak_lacks(exchange, route)
        )

    async def _last_resort(
        self, exchange: Exchange, decision: Decision, failures: list[RoutingError]
    ) -> Answering:
        route = exchange.route
        if route is not None and self._has_last_resort(exchange, decision):
            exchange.considered = None
            exchange.decision = replace(
                decision,
                action="fallback",
                serve="weak",
                reason=f"{failures[-1]}; the weak model answers instead",
                cause=_kind(failures[-1]),
                target=None,
            )
            try:
                return await self._ask_weak(exchange, route, exchange.decision)
            except RoutingError as error:
                _logger.warning("the weak model could not answer as the last resort: %s", error)
                exchange.close_prefill()
                exchange.decision = decision
        raise _no_answer(failures)

    async def _begun(
        self, exchange: Exchange, source: Source, member: Member, span: TraceSpan | None = None
    ) -> Answering:
        """The answer once its first bytes are there, which is when it is too late for another."""
        capture = exchange.snapshot.capture
        answering = Answering(
            exchange,
            source,
            member,
            self._prices,
            span,
            keep_text=capture is not None and capture.config.text,
        )
        try:
            await answering.begin()
        except BaseException:
            await answering.close()
            raise
        return answering

    def _call(self, exchange: Exchange, member: Member, span: TraceSpan, *, alone: bool) -> Call:
        request, turn = exchange.request, exchange.turn
        if turn is not None and turn.rule.must_strip(member.name):
            messages = without_bound_state(request.messages)
            request = replace(request, messages=messages, raw={**request.raw, "messages": messages})

        def tell(outcome: str, status: int | None) -> None:
            self._on_attempt(member.name, outcome, status)
            span.attempted(outcome, status)

        return Call(
            request=request,
            id=exchange.id,
            created=exchange.created,
            on_attempt=tell,
            patience_s=_PATIENCE_ALONE_S if alone else _PATIENCE_S,
            headers={"x-request-id": exchange.id, **(span.headers() or _carried(exchange))},
        )

    def _reserve(self, exchange: Exchange, member: Member) -> None:
        """Set the caller's money aside; raises ``ApiError`` when there is not enough."""
        worst, route = self._worst_usd(exchange, member), exchange.route
        if worst is not None and route is not None and member.name != route.config.weak:
            weak = self._weak_member(exchange, route)
            worst += self._worst_usd(exchange, weak, answer=False) or 0.0
        exchange.ticket.reserve(worst)


def _domain(exchange: Exchange, route: ServedRoute) -> str | None:
    """The domain that the request names, if any."""
    header = route.domain_header
    if exchange.control.domain is not None or header is None:
        return exchange.control.domain
    return exchange.headers.get(header.lower())


def _log_failure(member: Member, error: RoutingError) -> None:
    """Without the upstream's words, which may quote the request."""
    kind = _kind(error)
    if kind not in ("breaker_open", "refused", "context_window"):
        status = error.status if isinstance(error, UpstreamCallError) else None
        _logger.warning("model %r did not answer: %s, HTTP status %s", member.name, kind, status)


def _upstream_span(exchange: Exchange, member: Member) -> TraceSpan:
    model = member.config.model if isinstance(member.config, OpenAIModel) else member.name
    return exchange.span.upstream(member.name, model=model, provider=None)


def _carried(exchange: Exchange) -> dict[str, str]:
    """The caller's own trace, handed on as it came where none is recorded here."""
    return {
        name: value
        for name in ("traceparent", "tracestate")
        if (value := exchange.headers.get(name)) and value.isascii() and len(value) <= 512
    }


def _declined_because(decision: Decision | None) -> str | None:
    return decision.cause if decision is not None and decision.action == "declined" else None


def _no_money(worst: float | None) -> str:
    if worst is None:
        return "the goal is a budget, and what a strong model costs is not known; set its price"
    return "the goal's budget has too little left for what a strong model may cost"


def _budget_used_up() -> ApiError:
    return ApiError(
        429,
        "the budget of this route is used up",
        type="insufficient_quota",
        code="insufficient_quota",
    )


def _unsupported(whose: str, lacking: Sequence[str]) -> ApiError:
    return ApiError(
        400, f"{whose} take this request: {', '.join(lacking)}", code="unsupported_request"
    )


def _is_the_callers(error: RoutingError) -> bool:
    """Whether no other model would do better, since it is the request that is wrong."""
    return isinstance(error, ApiError) or (
        isinstance(error, UpstreamCallError) and error.kind == "refused"
    )


def _may_hold_more(member: Member, than: Member) -> bool:
    """Whether a request that was too long for a model may fit into another's context."""
    mine, other = member.abilities.context_tokens, than.abilities.context_tokens
    return mine is None or other is None or mine > other


def _kind(error: RoutingError) -> str:
    if isinstance(error, UpstreamCallError):
        return error.kind
    if isinstance(error, ContextOverflowError):
        return "context_window"
    return "refused" if isinstance(error, InputError) else "error"


def _no_answer(failures: Sequence[RoutingError]) -> ApiError:
    """Nobody answered: why, by the last failure that time may mend, or else the last."""
    mendable = [error for error in failures if _kind(error) != "context_window"]
    return _as_api_error((mendable or failures)[-1])


def _as_api_error(error: RoutingError) -> ApiError:
    """What a caller is told of a call that brought no answer."""
    if isinstance(error, ApiError):
        return error
    kind = _kind(error)
    if kind == "refused":
        return _refusal(error)
    if kind == "context_window":
        return ApiError(400, str(error), code="context_length_exceeded")
    headers: dict[str, str] = {}
    status = 504 if kind == "timeout" else 503 if kind == "breaker_open" else 502
    if isinstance(error, UpstreamCallError):
        if error.status == 429:
            status = 429
        if error.retry_after_s is not None and status in (429, 503):
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return ApiError(
        status, str(error), code="upstream_failed", type="upstream_error", headers=headers
    )


def _refusal(error: RoutingError) -> ApiError:
    """What is wrong with the request, in the words of the upstream where it has any."""
    body = error.body if isinstance(error, UpstreamCallError) else None
    status = error.status if isinstance(error, UpstreamCallError) else None
    said: Any = None
    with suppress(ValueError, RecursionError):
        said = json.loads(body or b"")
    told: Any = said.get("error") if isinstance(said, dict) else None
    fields: dict[str, Any] = told if isinstance(told, dict) else {}

    def word(name: str, otherwise: str | None) -> str | None:
        value: Any = fields.get(name)
        return value if isinstance(value, str) else otherwise

    return ApiError(
        status or 400,
        word("message", str(error)) or str(error),
        type=word("type", "invalid_request_error"),
        code=word("code", "upstream_refused"),
        param=word("param", None),
    )
