"""One route: a weak model that is read, what foretells it, and the strong models behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.config import Price
from foretell.errors import InputError, RoutingError, UpstreamError
from foretell.policy import EarlyExitGate, GateStage, decide, early_exit_gate
from foretell.prefill import Prefill, PrefillEngine
from foretell.probes import FittedLinearProbe
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
from foretell.runtime._estimators import OutsideEstimator
from foretell.runtime._goals import Bar
from foretell.runtime._models import AnsweringModel, OnText, drain
from foretell.upstreams import cost_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEstimator:
    """A saved probe that fits the served model; ``name`` is ``id@version``.

    ``early`` holds weaker probes at lower layers, each with the bar below which a query is
    declined there and then.
    """

    probe: FittedLinearProbe
    name: str
    early: tuple[tuple[FittedLinearProbe, float], ...] = ()

    @property
    def read_points(self) -> tuple[ReadPoint, ...]:
        """Where the prefill must be read."""
        return (*(probe.read_point for probe, _ in self.early), self.probe.read_point)

    def gate(self, keep_at: float) -> EarlyExitGate:
        """A gate for one prefill that stops what is not to be kept; a bar of 0 stops nothing."""
        # Whatever an early look stops must be an escalation by the rule itself.
        early = [_stage(probe, min(bar, keep_at)) for probe, bar in self.early]
        return early_exit_gate([*early, _stage(self.probe, keep_at)])


def _stage(probe: FittedLinearProbe, stop_below: float) -> GateStage:
    def probed(vector: NDArray[np.float32]) -> tuple[float, float]:
        score = float(probe.score(vector))
        return score, float(probe.calibration.p(score))

    return GateStage(read_point=probe.read_point, probed=probed, stop_below=stop_below)


Estimator = ProbeEstimator | OutsideEstimator


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
        explores = draw is not None and draw < self._explore
        gate = estimator.gate(0.0 if explores else self.bar.keep_at)
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
        if reading is None:
            raise RoutingError(
                f"the engine never reached {estimator.probe.read_point}; this is a defect of it"
            )
        estimate = Estimate(
            score=reading.score, p_success=reading.p_success, router=f"probe {estimator.name}"
        )
        return replace(
            self._choose(estimate, draw),
            stopped_at=prefill.stopped_at,
            prefill_ms=prefill.seconds * 1e3,
            probe_ms=reading.seconds * 1e3,
        )

    def _choose(self, estimate: Estimate, draw: float | None) -> Decision:
        return decide(
            estimate,
            keep_at=self.bar.keep_at,
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
