"""One route: a weak model that is read, what foretells it, and the strong models behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from foretell.config import Price
from foretell.errors import InputError, RoutingError, UpstreamError
from foretell.policy import EarlyExitGate, GateStage, decide, early_exit_gate
from foretell.prefill import Prefill, PrefillEngine, Prompt
from foretell.records import (
    Answer,
    Decision,
    Estimate,
    Message,
    ModelIdentity,
    Reply,
    Role,
    Sampling,
    Usage,
)
from foretell.runtime._estimators import OutsideEstimator, ProbeEstimator
from foretell.runtime._goals import Bar
from foretell.runtime._models import AnsweringModel, OnText, drain
from foretell.upstreams import cost_usd

Estimator = ProbeEstimator | OutsideEstimator


def _at_least(bar: float, estimate: Estimate) -> bool:
    return estimate.p_success >= bar


class Route:
    """Decides, and has the right model answer.

    Args:
        name: What callers know it by.
        weak_name: The weak model's name in replies.
        weak: Its engine.
        strong: In order: the later ones are asked when the earlier ones fail.
        estimator: What foretells the weak model's success; a string says why there is nothing to
            foretell it by, and every query is then declined with that reason.
        bar: The threshold and where it comes from.
        on_decline: Who serves without an estimate.
        explore: Share of decisions that is flipped, so that outcomes are known on both sides.
        weak_price: For costs; ``None`` when not known.
        rng: Draws for exploration.
    """

    def __init__(
        self,
        *,
        name: str,
        weak_name: str,
        weak: PrefillEngine,
        strong: Sequence[AnsweringModel],
        estimator: Estimator | str,
        bar: Bar,
        on_decline: Role = "strong",
        explore: float = 0.0,
        weak_price: Price | None = None,
        rng: np.random.Generator,
    ) -> None:
        self.name = name
        self.bar = bar
        self.strong = tuple(strong)
        self._weak_name = weak_name
        self._weak = weak
        self._estimator = estimator
        self._on_decline: Role = on_decline
        self._explore = explore
        self._weak_price = weak_price
        self._rng = rng

    @property
    def weak_identity(self) -> ModelIdentity:
        """The weak model, as it is served."""
        return self._weak.identity

    def decide(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Decision:
        """What would be done with this query; nothing is generated."""
        decision, prefill = self._decide(messages, tools, answer_tokens=1)
        if prefill is not None:
            prefill.close()
        return decision

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
        decision, prefill = self._decide(messages, tools, answer_tokens=sampling.max_tokens)
        with ExitStack() as stack:
            if prefill is None and decision.serve == "weak":
                decision, prefill = self._prefilled(decision, messages, tools, sampling.max_tokens)
            if prefill is not None:
                stack.callback(prefill.close)
            if on_decision is not None:
                on_decision(decision)
            if prefill is not None and decision.serve == "weak":
                answer = drain(prefill.decode(sampling), on_text)
                return self._reply(answer, self._weak_name, self._weak_price, decision)
            wasted = self._prefill_usd(prefill)
            if prefill is not None:
                prefill.close()  # its place is needed no more while the strong model answers
            model, answer = self._ask_strong(messages, sampling, on_text)
            reply = self._reply(answer, model.name, model.price, decision)
            total = None if reply.cost_usd is None or wasted is None else reply.cost_usd + wasted
            return replace(reply, cost_usd=total)

    def _decide(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        answer_tokens: int,
    ) -> tuple[Decision, Prefill | None]:
        estimator = self._estimator
        if isinstance(estimator, str):
            return self._declined(estimator), None
        # Drawn before the prefill: a query that is going to explore must not be stopped early.
        draw = float(self._rng.random()) if self._explore else None
        try:
            prompt = self._weak.render(messages, tools=tools)
        except InputError as error:
            return self._cannot_take(error), None
        if isinstance(estimator, OutsideEstimator):
            return self._choose(estimator.estimate(messages, prompt.own_tokens), draw), None
        gate = self._gate(estimator, prompt, draw)
        try:
            prefill = self._weak.prefill(
                prompt, estimator.read_points, gate, answer_tokens=answer_tokens
            )
        except InputError as error:
            return self._cannot_take(error), None
        try:
            return self._explained(estimator, gate, prefill, draw), prefill
        except BaseException:
            prefill.close()
            raise

    def _gate(self, estimator: ProbeEstimator, prompt: Prompt, draw: float | None) -> EarlyExitGate:
        """Stops a prefill as soon as it is certain that the weak model will not serve."""
        explores = draw is not None and draw < self._explore
        stages = [
            GateStage(
                read_point=probe.read_point,
                foretell=partial(estimator.early_estimate, probe),
                # What an early look stops must be an escalation by the rule itself.
                goes_on=partial(_at_least, 0.0 if explores else min(bar, self.bar.keep_at)),
            )
            for probe, bar in estimator.early
        ]
        if not estimator.needs_whole_prefill:
            stages.append(
                GateStage(
                    read_point=estimator.own_points[-1],
                    foretell=partial(estimator.estimate, own_tokens=prompt.own_tokens),
                    goes_on=lambda seen: explores or self._choose(seen, draw).serve == "weak",
                )
            )
        return early_exit_gate(stages)

    def _prefilled(
        self,
        decision: Decision,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        answer_tokens: int,
    ) -> tuple[Decision, Prefill | None]:
        """The prefill behind a decision for the weak model that was made without one."""
        try:
            prompt = self._weak.render(messages, tools=tools)
            return decision, self._weak.prefill(prompt, answer_tokens=answer_tokens)
        except InputError as error:
            declined = self._cannot_take(error)
            if declined.serve == "weak":
                raise
            return declined, None

    def _explained(
        self,
        estimator: ProbeEstimator,
        gate: EarlyExitGate,
        prefill: Prefill,
        draw: float | None,
    ) -> Decision:
        reading = gate.reading
        seconds = 0.0 if reading is None else reading.seconds
        if estimator.needs_whole_prefill and (reading is None or reading.passed):
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
        return replace(
            self._choose(estimate, draw),
            expected_tokens=estimator.expected_tokens(prefill.activations),
            stopped_at=prefill.stopped_at,
            prefill_ms=prefill.seconds * 1e3,
            probe_ms=seconds * 1e3,
        )

    def _choose(self, estimate: Estimate, draw: float | None) -> Decision:
        return decide(
            estimate,
            keep_at=self.bar.keep_at,
            least_gain=self.bar.least_gain,
            on_decline=self._on_decline,
            explore=self._explore,
            draw=draw,
        )

    def _cannot_take(self, error: InputError) -> Decision:
        return self._declined(f"the weak model cannot take this query: {error}")

    def _declined(self, reason: str) -> Decision:
        decision = decide(None, keep_at=self.bar.keep_at, on_decline=self._on_decline)
        return replace(decision, reason=reason)

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
