"""One route: a weak model that is read, what foretells it, and the strong models behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from foretell.config import ExploreConfig, Price
from foretell.errors import ContextOverflowError, InputError, RoutingError, UpstreamError
from foretell.policy import (
    EarlyExitGate,
    Exploration,
    GateStage,
    early_exit_gate,
    exploration_rate,
)
from foretell.prefill import Prefill, PrefillEngine, Prompt
from foretell.probes import HeldOut, SavedProbe
from foretell.records import (
    Answer,
    Decision,
    Estimate,
    Message,
    ModelIdentity,
    ReadPoint,
    Reply,
    Role,
    Sampling,
    Usage,
)
from foretell.runtime._estimators import NearestEstimator, OutsideEstimator, ProbeEstimator
from foretell.runtime._goals import Bar
from foretell.runtime._models import AnsweringModel, OnText, answer_room, drain
from foretell.runtime._rules import Rule
from foretell.upstreams import cost_usd

Estimator = ProbeEstimator | NearestEstimator | OutsideEstimator


@dataclass(frozen=True, slots=True, kw_only=True)
class NoEstimator:
    """Why there is nothing to foretell by: a word for counters, and a sentence."""

    cause: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Considered:
    """A decision, and what it was made of.

    ``prefill`` is held in the cache and must be closed; ``None`` when none was made. ``prompt`` is
    ``None`` when the weak model could not even render the query.
    """

    decision: Decision
    prefill: Prefill | None = None
    estimate: Estimate | None = None
    prompt: Prompt | None = None

    @property
    def prompt_tokens(self) -> int | None:
        """Length of the prompt as the weak model reads it."""
        return None if self.prompt is None else len(self.prompt.tokens)


class Route:
    """Decides, and has the right model answer.

    Args:
        name: What callers know it by.
        weak_name: The weak model's name in replies.
        weak: Its engine.
        strong: In order: the later ones are asked when the earlier ones fail.
        estimator: What foretells the weak model's success, or why there is nothing to foretell it
            by: every query is then declined with that reason.
        bar: The threshold and where it comes from.
        bars: Those of the domains, where the nearest one decides.
        held_out: What the bar was chosen on, if anything.
        saved: The probe behind the estimator, as saved; ``None`` for another router.
        on_decline: Who serves without an estimate.
        explore: Share of decisions that is flipped, so that outcomes are known on both sides; a
            schedule falls with the rules that this object has given out.
        weak_price: For costs; ``None`` when not known.
        rng: Draws for exploration.

    Attributes:
        also_read: Read points of every whole prefill beside those that decide, for who keeps what
            is read; set before the route serves.
    """

    def __init__(
        self,
        *,
        name: str,
        weak_name: str,
        weak: PrefillEngine,
        strong: Sequence[AnsweringModel],
        estimator: Estimator | NoEstimator,
        bar: Bar,
        bars: Mapping[str, Bar] | None = None,
        held_out: HeldOut | None = None,
        saved: SavedProbe | None = None,
        on_decline: Role = "strong",
        explore: float | ExploreConfig = 0.0,
        weak_price: Price | None = None,
        rng: np.random.Generator,
    ) -> None:
        self.name = name
        self.bar = bar
        self.bars = dict(bars or {})
        self.held_out = held_out
        self.saved = saved
        self.strong = tuple(strong)
        self.also_read: tuple[ReadPoint, ...] = ()
        self._weak_name = weak_name
        self._weak = weak
        self._estimator = estimator
        self._on_decline: Role = on_decline
        self._explore = explore
        self._rules = 0
        self._weak_price = weak_price
        self._rng = rng

    @property
    def weak_identity(self) -> ModelIdentity:
        """The weak model, as it is served."""
        return self._weak.identity

    @property
    def engine(self) -> PrefillEngine:
        """The weak model's engine."""
        return self._weak

    @property
    def estimator(self) -> Estimator | NoEstimator:
        """What foretells, or why nothing does."""
        return self._estimator

    def rule(self, explore: Exploration | None = None) -> Rule:
        """The route's own rule for one query, with a draw of its own.

        ``explore`` is what is left to chance; where not given, what the route's own share or
        schedule says by now.
        """
        explore = explore or self._own_exploration()
        draw = float(self._rng.random()) if explore.rate else None

        def by(bar: Bar) -> Rule:
            return Rule(
                keep_at=bar.keep_at,
                least_gain=bar.least_gain,
                on_decline=self._on_decline,
                explore=explore,
                draw=draw,
            )

        own = {domain: by(bar) for domain, bar in self.bars.items()}
        return replace(by(self.bar), by_domain=own)

    def _own_exploration(self) -> Exploration:
        rate = exploration_rate(self._explore, self._rules)
        self._rules += 1
        aimed = self._explore.aimed if isinstance(self._explore, ExploreConfig) else 0.0
        return Exploration(rate=rate, aimed=aimed)

    def decide(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Decision:
        """What would be done with this query; nothing is generated."""
        looked = self.look(messages, tools=tools)
        if looked.prefill is not None:
            looked.prefill.close()
        return looked.decision

    def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        on_text: OnText | None = None,
        on_decision: Callable[[Decision], None] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Reply:
        """Decide, then answer: from the same prefill when kept, else from the strong model.

        ``on_decision`` is told before the first piece of text goes to ``on_text``. A weak model
        that cannot take the query (too long, for one) is no error: the query is declined.
        """
        considered = self.consider(messages, tools=tools, answer_tokens=sampling.max_tokens)
        decision, prefill = considered.decision, considered.prefill
        with ExitStack() as stack:
            if prefill is not None:
                stack.callback(prefill.close)
            if on_decision is not None:
                on_decision(decision)
            if prefill is not None and decision.serve == "weak":
                room = self.room(prefill.prompt, sampling.max_tokens)
                answer = drain(prefill.decode(replace(sampling, max_tokens=room)), on_text)
                return self._reply(answer, self._weak_name, self._weak_price, decision)
            wasted = self._prefill_usd(prefill)
            if prefill is not None:
                prefill.close()  # its place is needed no more while the strong model answers
            model, answer = self._ask_strong(messages, sampling, on_text)
            reply = self._reply(answer, model.name, model.price, decision)
            total = None if reply.cost_usd is None or wasted is None else reply.cost_usd + wasted
            return replace(reply, cost_usd=total)

    def consider(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        answer_tokens: int,
        rule: Rule | None = None,
        given_up: Callable[[], bool] | None = None,
        on_prompt: Callable[[Prompt], None] | None = None,
    ) -> Considered:
        """Decide by ``rule`` (the route's own when absent); the caller closes the prefill.

        When the weak model serves, the prefill is whole and its answer can be decoded from it.
        ``given_up`` is asked from time to time whether nobody waits any more; ``on_prompt`` is told
        the prompt before it is evaluated. Raises what the engine does, except that a query which
        the weak model cannot take is declined.
        """
        rule = rule or self.rule()
        looked = self.look(
            messages,
            tools=tools,
            answer_tokens=answer_tokens,
            rule=rule,
            given_up=given_up,
            on_prompt=on_prompt,
        )
        prompt = looked.prompt
        if looked.prefill is not None or looked.decision.serve == "strong" or prompt is None:
            return looked
        room = self.room(prompt, answer_tokens)
        try:
            prefill = self._weak.prefill(
                prompt, self.also_read, answer_tokens=room, given_up=given_up
            )
        except InputError as error:
            declined = _cannot_take(rule, error)
            if declined.serve == "weak":
                raise
            return replace(looked, decision=declined)
        return replace(looked, prefill=prefill)

    def look(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        answer_tokens: int = 1,
        rule: Rule | None = None,
        given_up: Callable[[], bool] | None = None,
        on_prompt: Callable[[Prompt], None] | None = None,
    ) -> Considered:
        """``consider`` with no more than what the decision takes: perhaps without a prefill."""
        rule = rule or self.rule()
        try:
            prompt = self._weak.render(messages, tools=tools)
        except InputError as error:
            if rule.on_decline == "weak":
                raise
            return Considered(decision=_cannot_take(rule, error))
        if on_prompt is not None:
            on_prompt(prompt)
        estimator = self._estimator
        if isinstance(estimator, NoEstimator):
            declined = rule.declined(estimator.cause, estimator.reason)
            return Considered(decision=declined, prompt=prompt)
        if isinstance(estimator, OutsideEstimator):
            if (too_long := self._too_long(prompt, answer_tokens)) is not None:
                return Considered(decision=_cannot_take(rule, too_long), prompt=prompt)
            estimate = estimator.estimate(messages, prompt.own_tokens)
            return Considered(decision=rule.decide(estimate), estimate=estimate, prompt=prompt)
        gate = self._gate(estimator, prompt, rule)
        answer_tokens = self.room(prompt, answer_tokens)
        try:
            prefill = self._weak.prefill(
                prompt,
                tuple(sorted({*estimator.read_points, *self.also_read})),
                gate,
                answer_tokens=answer_tokens,
                given_up=given_up,
            )
        except InputError as error:
            return Considered(decision=_cannot_take(rule, error), prompt=prompt)
        try:
            decision, estimate = self._explained(estimator, gate, prefill, rule)
        except BaseException:
            prefill.close()
            raise
        return Considered(decision=decision, prefill=prefill, estimate=estimate, prompt=prompt)

    def prefill(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        answer_tokens: int,
        given_up: Callable[[], bool] | None = None,
    ) -> Prefill:
        """A prefill that decides nothing, for a query that the weak model serves anyhow."""
        prompt = self._weak.render(messages, tools=tools)
        room = self.room(prompt, answer_tokens)
        return self._weak.prefill(prompt, self.also_read, answer_tokens=room, given_up=given_up)

    def room(self, prompt: Prompt, answer_tokens: int) -> int:
        """How long an answer the weak model can give; see ``answer_room``."""
        return answer_room(self._weak, prompt, answer_tokens)

    def _too_long(self, prompt: Prompt, answer_tokens: int) -> ContextOverflowError | None:
        """Known before a decision that no prefill comes before, or chance would have a part in it.

        What is escalated would count as a query that the weak model might have served.
        """
        wanted = len(prompt.tokens) + self.room(prompt, answer_tokens)
        if wanted <= self._weak.context_tokens:
            return None
        return ContextOverflowError(
            f"the prompt's {len(prompt.tokens)} tokens leave no room for an answer, since the "
            f"context holds {self._weak.context_tokens}; shorten the prompt"
        )

    def _gate(
        self, estimator: ProbeEstimator | NearestEstimator, prompt: Prompt, rule: Rule
    ) -> EarlyExitGate:
        """Stops a prefill as soon as it is certain that the weak model will not serve.

        What an early look finds hopeless is decided by that look, also when it explores: whether
        chance has the weak model serve must not depend on how far the prefill was read.
        """

        def serves(seen: Estimate) -> bool:
            return rule.decide(seen).serve == "weak"

        stages = [
            GateStage(
                read_point=look.read_point,
                foretell=look.estimate,
                goes_on=lambda seen, look=look: look.goes_on(seen, rule) or serves(seen),
                settles=lambda seen, look=look: not look.goes_on(seen, rule),
            )
            for look in estimator.early
        ]
        if not estimator.needs_whole_prefill:
            stages.append(
                GateStage(
                    read_point=estimator.own_points[-1],
                    foretell=partial(estimator.estimate, own_tokens=prompt.own_tokens),
                    goes_on=serves,
                )
            )
        return early_exit_gate(stages)

    def _explained(
        self,
        estimator: ProbeEstimator | NearestEstimator,
        gate: EarlyExitGate,
        prefill: Prefill,
        rule: Rule,
    ) -> tuple[Decision, Estimate]:
        reading = gate.reading
        seconds = 0.0 if reading is None else reading.seconds
        if estimator.needs_whole_prefill and (reading is None or not reading.settled):
            started = perf_counter()
            estimate = estimator.estimate(
                prefill.activations,
                own_tokens=prefill.prompt.own_tokens,
                first_token=prefill.first_token,
            )
            seconds += perf_counter() - started
        elif reading is not None:
            estimate = reading.estimate
        else:
            raise RoutingError(
                f"the engine never reached {estimator.own_points[-1]}; this is a defect of it"
            )
        decision = replace(
            rule.decide(estimate),
            expected_tokens=estimator.expected_tokens(prefill.activations),
            stopped_at=prefill.stopped_at,
            prefill_ms=prefill.seconds * 1e3,
            probe_ms=seconds * 1e3,
        )
        return decision, estimate

    def _ask_strong(
        self, messages: Sequence[Message], sampling: Sampling, on_text: OnText | None
    ) -> tuple[AnsweringModel, Answer]:
        """The first strong model that answers; the next is tried only before any text came."""
        started = False

        def tell(piece: str) -> None:
            nonlocal started
            started = True
            if on_text is not None:
                on_text(piece)

        for model in self.strong[:-1]:
            try:
                return model, model.answer(messages, sampling, tell)
            except UpstreamError:
                if started:
                    raise
        last = self.strong[-1]
        return last, last.answer(messages, sampling, tell)

    def _prefill_usd(self, prefill: Prefill | None) -> float | None:
        """What a weak prefill cost; charged whole, though part was cached or never computed."""
        if prefill is None:
            return 0.0
        usage = Usage(prompt_tokens=len(prefill.prompt.tokens), completion_tokens=0)
        return cost_usd(usage, self._weak_price)

    def _reply(self, answer: Answer, model: str, price: Price | None, decision: Decision) -> Reply:
        return Reply(
            text=answer.text,
            model=model,
            decision=decision,
            usage=answer.usage,
            finish_reason=answer.finish_reason,
            cost_usd=cost_usd(answer.usage, price),
        )


def _cannot_take(rule: Rule, error: InputError) -> Decision:
    cause = "context" if isinstance(error, ContextOverflowError) else "prompt"
    return rule.declined(cause, f"the weak model cannot take this query: {error}")
