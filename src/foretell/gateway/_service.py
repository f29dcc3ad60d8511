"""What happens to a request, from the decision to the last byte of the answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any, Final

from foretell.errors import RoutingError
from foretell.gateway._answering import Answering
from foretell.gateway._errors import ApiError
from foretell.gateway._exchange import Exchange
from foretell.gateway._local import LocalSource
from foretell.gateway._local_answers import LocalAnswer
from foretell.gateway._members import Call, Member, Source
from foretell.gateway._snapshot import NoSide, ServedRoute, WeakSide
from foretell.gateway._turns import Turn, Turns
from foretell.gateway._weak import cause_of, considered, prefilled
from foretell.policy import missing, without_bound_state
from foretell.records import Action, Answer, Decision, MeteredUsage, Role
from foretell.runtime import Considered, PoolRule, drain
from foretell.upstreams import PriceBook, UpstreamCallError

OnAttempt = Callable[[str, str, int | None], None]
"""Target, how an attempt of it ended, HTTP status."""

_VERBS: Final = {"declined": "decline"}


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
        if not isinstance(side, WeakSide):
            return
        asked = exchange.decision is None
        if asked:
            await self._ask_probe(exchange, route, side, turn, look_only=look_only)
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
        if isinstance(side, NoSide):
            return decided("declined", "strong", side.reason, cause=side.cause)
        if lacking := self._weak_lacks(exchange, route):
            reason = f"the weak model cannot take this request: {', '.join(lacking)}"
            return decided("declined", "strong", reason, cause=lacking[0])
        if control == "weak":
            return decided("pinned", "weak", "the caller asked for the weak model")
        if turn.rule.pin is not None and turn.rule.pin_role is not None:
            pinned = decided("pinned", turn.rule.pin_role, turn.rule.reason)
            return replace(pinned, target=turn.rule.pin)
        if not exchange.ticket.may_escalate():
            reason = "the key has no escalations left for today"
            return decided("pinned", "weak", reason, cause="escalations")
        if not side.control.may_spend(self._worst_usd(exchange, route.strong[0])):
            return decided("pinned", "weak", "the goal's budget is used up", cause="budget")
        return None

    def _book(self, exchange: Exchange, side: WeakSide, *, asked: bool) -> None:
        """Count the decision where the goal is kept, and set its money aside."""
        decision, route = exchange.decision, exchange.route
        assert decision is not None and route is not None  # noqa: S101, PT018
        control = side.control
        if control.has_budget:
            if decision.serve == "strong" and decision.action != "bypass":
                worst = self._worst_usd(exchange, route.strong[0])
                prefill = self._worst_usd(
                    exchange, self._weak_member(exchange, route), answer=False
                )
                worst = None if worst is None else worst + (prefill or 0.0)
                exchange.reservation = control.reserve(worst, serve="strong")
                if exchange.reservation is None:
                    decision = self._without_money(exchange, route, decision)
            if decision.serve == "weak":
                worst = self._worst_usd(exchange, self._weak_member(exchange, route))
                exchange.reservation = control.reserve(worst, serve="weak")
                if exchange.reservation is None and worst is not None:
                    raise _budget_used_up()
            exchange.decision = decision
        found = exchange.considered
        estimate = found.estimate if asked and found is not None else None
        control.observe(estimate, escalated=decision.serve == "strong")

    def _without_money(
        self, exchange: Exchange, route: ServedRoute, decision: Decision
    ) -> Decision:
        """The weak model answers what the budget has no strong call for; if it can."""
        if self._weak_lacks(exchange, route) or decision.cause == "context":
            raise _budget_used_up()
        exchange.close_prefill()
        exchange.considered = None
        return replace(
            decision,
            action="pinned",
            serve="weak",
            reason="the goal's budget is used up",
            cause="budget",
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
        exchange.considered, decision = found, found.decision
        exchange.prompt_tokens = found.prompt_tokens
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
        """The most that a model may cost; ``None`` when its price is not known."""
        request = exchange.request
        return self._prices.cost_usd(
            member.config,
            None,
            MeteredUsage(
                prompt_tokens=exchange.prompt_tokens or request.most_prompt_tokens,
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
            member = exchange.snapshot.members[exchange.request.model]
            return await self._ask(exchange, [member], decision)
        if decision.serve == "weak":
            self._reserve(exchange, self._weak_member(exchange, exchange.route))
            try:
                return await self._ask_weak(exchange, decision)
            except ApiError:
                raise
            except RoutingError as error:
                decision = replace(
                    decision,
                    action="fallback",
                    serve="strong",
                    reason=f"the weak model failed: {error}",
                    cause=cause_of(error),
                )
                exchange.decision = decision
        exchange.close_prefill()  # its place is needed no more while another model answers
        if decision.action in ("escalate", "explore"):
            exchange.ticket.escalate()
        return await self._ask(exchange, self._targets(exchange, decision), decision)

    def _targets(self, exchange: Exchange, decision: Decision) -> list[Member]:
        """Who may answer, in order; those that cannot take the request are left out."""
        route = exchange.route
        assert route is not None  # noqa: S101
        members = list(route.strong)
        picked = exchange.snapshot.members.get(decision.target or "")
        if picked is not None and picked in (*members, *route.pool.values()):
            members = [picked, *(member for member in members if member is not picked)]
        needs = replace(exchange.request.needs, prompt_tokens=exchange.prompt_tokens)
        able = [member for member in members if not missing(needs, member.abilities)]
        if able:
            return able
        lacking = ", ".join(dict.fromkeys(missing(needs, members[0].abilities)))
        raise ApiError(
            400,
            f"no model of route {route.name!r} can take this request: {lacking}",
            code="unsupported_request",
        )

    async def _ask_weak(self, exchange: Exchange, decision: Decision) -> Answering:
        side, route = exchange.side, exchange.route
        assert side is not None and route is not None  # noqa: S101, PT018
        request = exchange.request
        found = exchange.considered
        prefill = None if found is None else found.prefill
        if prefill is None:
            began = perf_counter()
            try:
                prefill = await prefilled(side.route, request, self._executor)
            finally:
                exchange.weak_s += perf_counter() - began
            exchange.considered = Considered(decision=decision, prefill=prefill)
            exchange.prompt_tokens = len(prefill.prompt.tokens)
        room = side.route.room(prefill.prompt, request.sampling.max_tokens)
        generation = prefill.decode(replace(request.sampling, max_tokens=room))

        def run(tell: Callable[[str], None]) -> Answer:
            return drain(generation, tell)

        began = perf_counter()
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
        exchange.weak_s += perf_counter() - began
        return self._answering(exchange, source, route.config.weak)

    async def _ask(
        self, exchange: Exchange, members: Sequence[Member], decision: Decision
    ) -> Answering:
        """The first of ``members`` that answers; the next is tried only before a first byte."""
        failures: list[RoutingError] = []
        for member in members:
            self._reserve(exchange, member)
            began = perf_counter()
            try:
                source = await member.open(self._call(exchange, member))
            except ApiError:
                raise
            except RoutingError as error:
                if isinstance(error, UpstreamCallError) and error.kind == "refused":
                    raise _refusal(error) from None
                failures.append(error)
                exchange.ticket.settle(0.0)
                continue
            finally:
                exchange.upstream_s += perf_counter() - began
            if failures:
                exchange.decision = replace(
                    decision,
                    action="fallback",
                    reason=f"{failures[0]}; {member.name} answers instead",
                    cause=_kind(failures[0]),
                )
            return self._answering(exchange, source, member.name)
        return await self._last_resort(exchange, decision, failures)

    async def _last_resort(
        self, exchange: Exchange, decision: Decision, failures: list[RoutingError]
    ) -> Answering:
        route = exchange.route
        if (
            route is not None
            and route.config.weak_as_last_resort
            and exchange.control.route not in ("strong", "off")
            and not self._weak_lacks(exchange, route)
            and decision.action != "fallback"
        ):
            side = route.side(exchange.domain)
            if isinstance(side, WeakSide):
                exchange.side = side
                exchange.considered = None
                exchange.decision = replace(
                    decision,
                    action="fallback",
                    serve="weak",
                    reason=f"{failures[-1]}; the weak model answers instead",
                    cause=_kind(failures[-1]),
                )
                try:
                    return await self._ask_weak(exchange, exchange.decision)
                except RoutingError as error:
                    exchange.close_prefill()
                    failures.append(error)
        raise _no_answer(failures)

    def _answering(self, exchange: Exchange, source: Source, member: str) -> Answering:
        return Answering(exchange, source, member, self._prices)

    def _call(self, exchange: Exchange, member: Member) -> Call:
        request, turn = exchange.request, exchange.turn
        if turn is not None and turn.rule.must_strip(member.name):
            messages = without_bound_state(request.messages)
            request = replace(request, messages=messages, raw={**request.raw, "messages": messages})

        def tell(outcome: str, status: int | None) -> None:
            self._on_attempt(member.name, outcome, status)

        return Call(request=request, id=exchange.id, created=exchange.created, on_attempt=tell)

    def _reserve(self, exchange: Exchange, member: Member) -> None:
        """Set the caller's money aside; raises ``ApiError`` when there is not enough."""
        exchange.ticket.reserve(self._worst_usd(exchange, member))


def _domain(exchange: Exchange, route: ServedRoute) -> str | None:
    """The domain that the request names, if any."""
    header = route.domain_header
    if exchange.control.domain is not None or header is None:
        return exchange.control.domain
    return exchange.headers.get(header.lower())


def _budget_used_up() -> ApiError:
    return ApiError(
        429,
        "the budget of this route is used up",
        type="insufficient_quota",
        code="insufficient_quota",
    )


def _refusal(error: UpstreamCallError) -> ApiError:
    """What an upstream says is wrong with the request, in its own words."""
    said: Any = None
    with suppress(ValueError, RecursionError):
        said = json.loads(error.body or b"")
    told: Any = said.get("error") if isinstance(said, dict) else None
    fields: dict[str, Any] = told if isinstance(told, dict) else {}

    def word(name: str, otherwise: str | None) -> str | None:
        value: Any = fields.get(name)
        return value if isinstance(value, str) else otherwise

    return ApiError(
        error.status or 400,
        word("message", str(error)) or str(error),
        type=word("type", "invalid_request_error"),
        code=word("code", "upstream_refused"),
        param=word("param", None),
    )


def _kind(error: RoutingError) -> str:
    return error.kind if isinstance(error, UpstreamCallError) else "error"


def _no_answer(failures: Sequence[RoutingError]) -> ApiError:
    """Nobody answered: what the last one said."""
    last = failures[-1]
    if isinstance(last, ApiError):
        return last
    if isinstance(last, UpstreamCallError) and last.kind == "context_window":
        return ApiError(
            400, str(last), code="context_length_exceeded", type="invalid_request_error"
        )
    status = 504 if isinstance(last, UpstreamCallError) and last.kind == "timeout" else 502
    if isinstance(last, UpstreamCallError) and last.status == 429:
        status = 429
    return ApiError(status, str(last), code="upstream_failed", type="upstream_error")
