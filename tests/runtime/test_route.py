from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from foretell.config import ExploreConfig, Price
from foretell.errors import ContextOverflowError, InputError, RoutingError, UpstreamError
from foretell.prefill import Prefill, PrefillEngine
from foretell.probes import FittedLinearProbe
from foretell.records import Answer, Message, ReadPoint, Sampling, Usage
from foretell.runtime import Bar, EarlyLook, NoEstimator, ProbeEstimator, Route
from foretell.runtime._estimators import OutsideEstimator

ASKED = [{"role": "user", "content": "Which town is it?"}]
TOO_LONG = [{"role": "user", "content": "long " * 500}]
FOUR = Sampling(max_tokens=4)
CHEAP, DEAR = Price(input=1, output=2), Price(input=10, output=20)


@dataclass
class QueuedModel:
    """A strong model whose replies are a queue: texts to say, errors to raise."""

    name: str
    replies: list[str | Exception]
    price: Price | None = DEAR
    asked: list[Sequence[Message]] = field(default_factory=list)
    identity: None = None
    source: str = "queued"
    description: str = "a queue"
    half: str = ""

    def can_answer(self, messages: Sequence[Message]) -> bool:
        return bool(messages)

    def answer(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        self.asked.append(messages)
        if self.half and on_text:
            on_text(self.half)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        if on_text:
            on_text(reply)
        usage = Usage(prompt_tokens=5, completion_tokens=min(3, sampling.max_tokens))
        return Answer(text=reply, model=self.name, finish_reason="stop", usage=usage)

    def close(self) -> None:
        """Nothing to free."""


@dataclass
class Watched:
    """An engine that counts the prefills it handed out, and which of them were closed."""

    engine: PrefillEngine
    opened: list[Prefill] = field(default_factory=list)
    closed: list[Prefill] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def prefill(self, *args: Any, **options: Any) -> Prefill:
        prefill = self.engine.prefill(*args, **options)
        close = prefill.close

        def closing() -> None:
            self.closed.append(prefill)
            close()

        prefill.close = closing
        self.opened.append(prefill)
        return prefill

    @property
    def leaked(self) -> int:
        return sum(prefill not in self.closed for prefill in self.opened)


def probe(chance: float, layer: int = 3) -> FittedLinearProbe:
    """Foretells the same chance for everything: no weight, and the chance's log-odds as bias."""
    return FittedLinearProbe(
        read_point=ReadPoint(layer, "last"),
        weight=np.zeros(32),
        bias=float(np.log(chance / (1 - chance))),
        projection=np.zeros((32, 1)),
        offset=np.zeros(1),
    )


def route(engine: Any, chance: float | str, strong: Sequence[QueuedModel], **options: Any) -> Route:
    options = {"weak_price": CHEAP, "rng": np.random.default_rng(0)} | options
    early = options.pop("early", ())
    estimator = (
        NoEstimator(cause="test", reason=chance)
        if isinstance(chance, str)
        else ProbeEstimator(probe=probe(chance), name="toy@1", early=early)
    )
    return Route(
        name="auto",
        weak_name="small",
        weak=engine,
        strong=strong,
        estimator=estimator,
        bar=Bar(keep_at=0.5, reason="for the test"),
        **options,
    )


def test_a_keep_decodes_from_the_very_prefill_that_was_read(engine):
    def plainly() -> str:
        with engine.prefill(engine.render(ASKED), answer_tokens=4) as prefill:
            return prefill.decode(FOUR).answer().text

    def work(answer: Callable[[], str]) -> tuple[str, int]:
        before = engine.layer_tokens
        return answer(), engine.layer_tokens - before

    plainly()  # from here on the shared prefix is in the cache
    keeping = route(engine, 0.9, [QueuedModel("large", [])])
    assert work(lambda: keeping.chat(ASKED, FOUR).text) == work(plainly)


def test_an_escalation_stops_at_the_layer_that_says_no(engine):
    strong = QueuedModel("large", ["a town"])
    early = (EarlyLook(probe=probe(0.1, layer=1), bar=0.3),)
    reply = route(engine, 0.1, [strong], early=early).chat(ASKED, FOUR)
    assert (reply.text, reply.model) == ("a town", "large")
    assert reply.decision.action == "escalate"
    assert reply.decision.stopped_at == 1
    assert reply.decision.p_success == pytest.approx(0.1)
    assert strong.asked == [ASKED]


def test_an_early_probe_never_stops_what_the_bar_would_keep(engine):
    # Its own bar of 0.8 is above the route's 0.5, and its chance of 0.6 lies between them.
    early = (EarlyLook(probe=probe(0.6, layer=1), bar=0.8),)
    decision = route(engine, 0.9, [QueuedModel("large", [])], early=early).decide(ASKED)
    assert (decision.action, decision.stopped_at) == ("keep", None)


def test_deciding_generates_nothing_and_frees_the_prefill(engine):
    watched = Watched(engine)
    strong = QueuedModel("large", [])
    decision = route(watched, 0.9, [strong]).decide(ASKED)
    assert decision.serve == "weak"
    assert decision.probe_ms < decision.prefill_ms
    assert (len(watched.opened), watched.leaked, strong.asked) == (1, 0, [])


def test_a_query_too_long_for_the_weak_model_is_declined(engine):
    reply = route(engine, 0.9, [QueuedModel("large", ["a town"])]).chat(TOO_LONG, FOUR)
    assert (reply.decision.action, reply.model) == ("declined", "large")
    assert "the context holds 512" in reply.decision.reason
    assert reply.decision.p_success is None


def test_on_decline_weak_lets_the_weak_model_try(engine):
    watched = Watched(engine)
    reply = route(watched, "no probe", [QueuedModel("large", [])], on_decline="weak").chat(
        ASKED, FOUR
    )
    assert (reply.decision.action, reply.model) == ("declined", "small")
    assert reply.decision.reason == "no probe"
    assert watched.leaked == 0


def test_on_decline_weak_is_told_what_the_weak_model_cannot_do(engine):
    weak_first = route(engine, 0.9, [QueuedModel("large", [])], on_decline="weak")
    with pytest.raises(ContextOverflowError, match="the context holds 512"):
        weak_first.chat(TOO_LONG, FOUR)


def test_without_an_estimator_everything_is_declined_with_the_reason(engine):
    decision = route(engine, "the probe is of other weights", [QueuedModel("large", [])]).decide(
        ASKED
    )
    assert (decision.action, decision.serve) == ("declined", "strong")
    assert (decision.reason, decision.cause) == ("the probe is of other weights", "test")


def test_the_next_strong_model_answers_when_the_first_fails(engine):
    first = QueuedModel("first", [UpstreamError("busy")])
    second = QueuedModel("second", ["a town"])
    reply = route(engine, 0.1, [first, second]).chat(ASKED, FOUR)
    assert (reply.model, len(first.asked)) == ("second", 1)


def test_no_other_model_takes_over_once_text_was_given_out(engine):
    first = QueuedModel("first", [UpstreamError("broke off")], half="a to")
    second = QueuedModel("second", ["a town"])
    heard: list[str] = []
    with pytest.raises(UpstreamError, match="broke off"):
        route(engine, 0.1, [first, second]).chat(ASKED, FOUR, on_text=heard.append)
    assert (heard, second.asked) == (["a to"], [])


def test_the_last_strong_model_has_the_last_word(engine):
    models = [QueuedModel(name, [UpstreamError(name)]) for name in ("first", "second")]
    with pytest.raises(UpstreamError, match="second"):
        route(engine, 0.1, models).chat(ASKED, FOUR)


def test_an_error_that_is_not_the_upstreams_is_not_papered_over(engine):
    models = [QueuedModel("first", [InputError("no")]), QueuedModel("second", ["a town"])]
    with pytest.raises(InputError, match="no"):
        route(engine, 0.1, models).chat(ASKED, FOUR)


@pytest.mark.parametrize(("chance", "served"), [(0.9, "large"), (0.1, "small")])
def test_exploring_flips_the_decision(engine, chance, served):
    strong = QueuedModel("large", ["a town"])
    reply = route(engine, chance, [strong], explore=1.0).chat(ASKED, FOUR)
    assert (reply.decision.action, reply.model) == ("explore", served)


@pytest.mark.parametrize("chance", [0.1, 0.9])
def test_what_an_early_look_finds_hopeless_explores_by_that_look(engine, chance):
    """Whatever the whole prefill would have shown: only so is ``p_weak`` the same either way."""
    early = (EarlyLook(probe=probe(0.2, layer=1), bar=0.3),)
    some = route(engine, chance, [QueuedModel("large", [])], explore=0.25, early=early)
    decisions = [some.decide(ASKED) for _ in range(60)]
    assert {d.p_weak for d in decisions} == {0.25}
    assert [d.p_success for d in decisions] == pytest.approx([0.2] * 60)
    # What explores is read to the end, the rest no further than the look.
    assert {(d.action, d.serve, d.stopped_at) for d in decisions} == {
        ("explore", "weak", None),
        ("escalate", "strong", 1),
    }


def test_a_schedule_falls_with_the_decisions(engine):
    schedule = ExploreConfig(start=0.4, floor=0.1, half_life=1, aimed=0.5)
    some = route(engine, 0.9, [QueuedModel("large", [])], explore=schedule)
    # Far from the bar of 0.5 the half of it that is aimed adds nothing.
    rates = [1 - some.decide(ASKED).p_weak for _ in range(3)]
    assert rates == pytest.approx([0.2, 0.125, 0.0875])


def test_what_a_router_decides_by_the_text_is_not_explored_where_it_does_not_fit(engine):
    keyword = Route(
        name="auto",
        weak_name="small",
        weak=engine,
        strong=[QueuedModel("large", [])],
        estimator=OutsideEstimator.constant("keyword", 0.1, "toy"),
        bar=Bar(keep_at=0.5, reason="for the test"),
        explore=0.5,
        rng=np.random.default_rng(0),
    )
    decision = keyword.decide(TOO_LONG)
    assert (decision.action, decision.cause, decision.p_weak) == ("declined", "context", 0.0)
    assert keyword.decide(ASKED).p_weak == 0.5


def test_about_as_many_explore_as_was_asked_for(engine):
    some = route(engine, 0.9, [QueuedModel("large", [])], explore=0.25)
    explored = sum(some.decide(ASKED).action == "explore" for _ in range(200))
    # Binomial: mean 50, standard deviation 6.1; the generator's seed is fixed besides.
    assert 30 < explored < 70


def test_a_kept_answer_costs_the_weak_models_tokens(engine):
    reply = route(engine, 0.9, [QueuedModel("large", [])]).chat(ASKED, FOUR)
    prompt = len(engine.render(ASKED).tokens)
    assert reply.cost_usd == pytest.approx((prompt * 1 + 4 * 2) / 1e6)


def test_an_escalation_costs_the_strong_answer_and_the_weak_prefill(engine):
    reply = route(engine, 0.1, [QueuedModel("large", ["a town"])]).chat(ASKED, FOUR)
    prompt = len(engine.render(ASKED).tokens)
    assert reply.cost_usd == pytest.approx((5 * 10 + 3 * 20 + prompt * 1) / 1e6)
    assert reply.usage == Usage(prompt_tokens=5, completion_tokens=3)


@pytest.mark.parametrize(("weak_price", "strong_price"), [(None, DEAR), (CHEAP, None)])
def test_a_cost_of_which_a_part_is_unknown_is_unknown(engine, weak_price, strong_price):
    strong = QueuedModel("large", ["a town"], price=strong_price)
    reply = route(engine, 0.1, [strong], weak_price=weak_price).chat(ASKED, FOUR)
    assert reply.cost_usd is None


def test_a_decline_without_a_prefill_costs_only_the_strong_answer(engine):
    declining = route(engine, "no probe", [QueuedModel("large", ["a town"])], weak_price=None)
    assert declining.chat(ASKED, FOUR).cost_usd == pytest.approx((5 * 10 + 3 * 20) / 1e6)


def test_the_decision_is_told_before_the_first_piece(engine):
    told: list[str] = []
    route(engine, 0.9, [QueuedModel("large", [])]).chat(
        ASKED,
        FOUR,
        on_text=lambda piece: told.append(piece),
        on_decision=lambda decision: told.append(decision.action),
    )
    assert told[0] == "keep"
    assert len(told) > 1


def fails(*_: object) -> None:
    raise ValueError("the caller is gone")


@pytest.mark.parametrize("told", ["on_text", "on_decision"])
@pytest.mark.parametrize("chance", [0.1, 0.9])
def test_the_prefill_is_freed_when_the_caller_is_gone(engine, chance, told):
    watched = Watched(engine)
    with pytest.raises(ValueError, match="gone"):
        route(watched, chance, [QueuedModel("large", ["a town"])]).chat(
            ASKED, FOUR, **{told: fails}
        )
    assert (len(watched.opened), watched.leaked) == (1, 0)


def test_the_prefill_is_freed_before_the_strong_model_is_asked(engine):
    watched = Watched(engine)
    left: list[int] = []

    class Looking(QueuedModel):
        def answer(self, *args: Any, **options: Any) -> Answer:
            left.append(watched.leaked)
            return super().answer(*args, **options)

    route(watched, 0.1, [Looking("large", ["a town"])]).chat(ASKED, FOUR)
    assert left == [0]


def test_the_prefill_is_freed_when_the_strong_model_fails(engine):
    watched = Watched(engine)
    with pytest.raises(UpstreamError):
        route(watched, 0.1, [QueuedModel("large", [UpstreamError("down")])]).chat(ASKED, FOUR)
    assert watched.leaked == 0


def test_an_engine_that_reads_nothing_is_named_as_the_culprit(engine):
    class Blind(Watched):
        def prefill(self, prompt: Any, *_: Any, **options: Any) -> Prefill:
            return super().prefill(prompt, **options)

    watched = Blind(engine)
    with pytest.raises(RoutingError, match="never reached layer 3, last"):
        route(watched, 0.9, [QueuedModel("large", [])]).decide(ASKED)
    assert watched.leaked == 0


def test_tools_reach_the_prompt_of_the_weak_model(engine):
    watched = Watched(engine)
    tool = {"type": "function", "function": {"name": "look_up"}}
    keeping = route(watched, 0.9, [QueuedModel("large", [])])
    keeping.decide(ASKED, tools=[tool])
    keeping.chat(ASKED, FOUR, tools=[tool])
    keeping.decide(ASKED)
    with_tools, chatted, without = (len(prefill.prompt.tokens) for prefill in watched.opened)
    assert with_tools == chatted > without


def test_many_threads_may_use_a_route_at_once(engine):
    keeping = route(engine, 0.9, [QueuedModel("large", [])])
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: keeping.chat(ASKED, FOUR).text, range(16)))
    assert len({*replies}) == 1
