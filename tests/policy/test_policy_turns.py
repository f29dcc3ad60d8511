import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.config import Price
from foretell.errors import InputError
from foretell.policy import (
    Conversation,
    ConversationState,
    TurnFacts,
    TurnRule,
    after_turn,
    decide,
    leaving_usd,
    next_turn,
    turn_facts,
)
from foretell.records import Estimate

chances = st.floats(0, 1)
margins = st.floats(0, 1)
gains = st.floats(-1, 1)
costs = st.floats(0, 0.1)
premiums = st.none() | st.floats(-0.1, 0.1)


def state(role="strong", **changes):
    model = "large" if role == "strong" else "small"
    values = {"session": "s", "model": model, "role": role, "turns": 1, "prompt_tokens": 1000}
    return ConversationState(**(values | {"at": 0.0} | changes))


def estimate(p_success, p_strong=None):
    return Estimate(score=0.0, p_success=p_success, p_strong=p_strong, router="probe geo@1")


def user(content="hi"):
    return {"role": "user", "content": content}


def calling(*ids):
    calls = [{"id": id_, "type": "function", "function": {"name": "f"}} for id_ in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(id_):
    return {"role": "tool", "tool_call_id": id_, "content": "4"}


def anthropic_call(id_):
    return {"role": "assistant", "content": [{"type": "tool_use", "id": id_, "input": {}}]}


def anthropic_result(id_):
    return user([{"type": "tool_result", "tool_use_id": id_}, {"type": "text", "text": "so?"}])


LOOPS = {
    "the answer of a tool is last": [user(), calling("a"), result("a")],
    "a call is not answered": [user(), calling("a", "b"), result("a")],
    "a call is not answered, and the user went on": [user(), calling("a"), user("never mind")],
    "anthropic": [user(), anthropic_call("a"), anthropic_result("a")],
    "anthropic, not answered": [user(), anthropic_call("a"), user("never mind")],
    "responses": [
        user(),
        {"type": "function_call", "call_id": "a"},
        {"type": "function_call_output", "call_id": "a", "output": "4"},
    ],
    "responses, not answered": [user(), {"type": "function_call", "call_id": "a"}, user()],
    "before functions were tools": [user(), {"role": "function", "name": "f", "content": "4"}],
}
NO_LOOPS = {
    "nothing": [],
    "a question": [user()],
    "an answer before": [user(), {"role": "assistant", "content": "4"}, user()],
    "calls that were answered": [user(), calling("a"), result("a"), user("thanks")],
    "calls long ago": [user(), calling("a"), {"role": "assistant", "content": "4"}, user()],
}


@pytest.mark.parametrize("messages", LOOPS.values(), ids=LOOPS.keys())
def test_a_tool_loop_is_known_in_every_api(messages):
    assert turn_facts(messages) == TurnFacts(in_tool_loop=True)


@pytest.mark.parametrize("messages", NO_LOOPS.values(), ids=NO_LOOPS.keys())
def test_no_tool_loop_is_seen_where_none_is(messages):
    assert turn_facts(messages) == TurnFacts()


def test_bound_state_is_a_fact_of_the_turn():
    thought = {"type": "thinking", "thinking": "…", "signature": "c2ln"}
    assert turn_facts([user(), {"role": "assistant", "content": [thought]}, user()]).bound


def test_a_conversation_that_is_new_has_no_rule_but_to_strip_what_nobody_known_made():
    assert next_turn(None, TurnFacts(), switch_margin=0.1) == TurnRule()
    assert not TurnRule().must_strip("large")
    unknown = next_turn(None, TurnFacts(bound=True), switch_margin=0.1)
    assert unknown.pin is None
    assert unknown.must_strip("large")
    assert unknown.must_strip("small")


@given(chances, chances, margins)
def test_the_model_that_served_last_is_left_only_beyond_the_margin(p, bar, margin):
    stays_weak = next_turn(state("weak"), TurnFacts(), switch_margin=margin)
    stays_strong = next_turn(state("strong"), TurnFacts(), switch_margin=margin)
    after_weak = decide(estimate(p), keep_at=bar, turn=stays_weak)
    after_strong = decide(estimate(p), keep_at=bar, turn=stays_strong)
    if bar == 0:
        assert (after_weak.serve, after_strong.serve) == ("weak", "weak")
    else:
        assert (after_weak.serve == "strong") == (p < max(0.0, bar - margin))
        assert (after_strong.serve == "weak") == (p >= bar + margin)


@given(chances, chances, gains, margins)
def test_by_gain_the_margin_counts_the_same(p, p_strong, least_gain, margin):
    known = estimate(p, p_strong)
    rule = next_turn(state("weak"), TurnFacts(), switch_margin=margin)
    decision = decide(known, keep_at=0.5, least_gain=least_gain, turn=rule)
    if abs(least_gain) < 1:
        assert (decision.serve == "strong") == (p < max(0.0, p_strong - (least_gain + margin)))
    else:
        assert decision == decide(known, keep_at=0.5, least_gain=least_gain)


@given(chances, chances, margins, costs, premiums, st.booleans())
def test_a_conversation_never_goes_where_a_fresh_query_would_not(
    p, bar, margin, leaving, premium, in_loop
):
    fresh = decide(estimate(p), keep_at=bar).serve
    for role in ("weak", "strong"):
        rule = next_turn(
            state(role),
            TurnFacts(in_tool_loop=in_loop),
            switch_margin=margin,
            leaving_usd=leaving,
            strong_premium_usd=premium,
        )
        assert decide(estimate(p), keep_at=bar, turn=rule).serve in (fresh, role)


@given(chances, margins, costs, costs, st.floats(1e-6, 0.1))
def test_the_more_there_is_to_lose_the_harder_a_model_is_left(bar, margin, one, other, premium):
    def bar_after(role, leaving):
        rule = next_turn(
            state(role),
            TurnFacts(),
            switch_margin=margin,
            leaving_usd=leaving,
            strong_premium_usd=premium,
        )
        return rule.keep_at(bar)

    less, more = sorted([one, other])
    assert bar_after("weak", more) <= bar_after("weak", less)
    assert bar_after("strong", more) >= bar_after("strong", less)


def test_the_lost_prefix_is_weighed_at_the_price_that_the_bar_puts_on_success():
    # At a bar of 0.8, 0.2 of success is worth the 0.004 USD that a strong call costs more. With
    # 0.001 USD lost by going up it costs 0.005, which 0.25 is worth; by going down, 0.003: 0.15.
    def after(role):
        return next_turn(
            state(role),
            TurnFacts(),
            switch_margin=0.0,
            leaving_usd=0.001,
            strong_premium_usd=0.004,
        )

    assert after("weak").keep_at(0.8) == pytest.approx(0.75)
    assert after("strong").keep_at(0.8) == pytest.approx(0.85)
    assert after("weak").least_gain(0.2) == pytest.approx(0.25)
    assert after("strong").least_gain(0.2) == pytest.approx(0.15)


@given(chances.filter(bool), st.floats(0.001, 0.1))
def test_a_strong_model_that_is_the_cheaper_one_by_its_cache_is_kept_to(bar, premium):
    rule = next_turn(
        state("strong"),
        TurnFacts(),
        switch_margin=0.0,
        leaving_usd=premium * 1.5,
        strong_premium_usd=premium,
    )
    assert rule.keep_at(bar) >= 1


@given(st.sampled_from(["weak", "strong"]), margins, costs, premiums, st.sampled_from([0.0, 1.1]))
def test_a_bar_that_keeps_everything_or_nothing_is_a_limit_and_stays(
    role, margin, leaving, premium, bar
):
    rule = next_turn(
        state(role),
        TurnFacts(),
        switch_margin=margin,
        leaving_usd=leaving,
        strong_premium_usd=premium,
    )
    assert rule.keep_at(bar) == bar
    assert rule.least_gain(1.0) == 1.0


@given(st.none() | chances, chances, margins, st.floats(0, 1, exclude_max=True))
def test_inside_a_tool_loop_the_only_way_is_up(p, bar, margin, draw):
    known = None if p is None else estimate(p)
    loop = TurnFacts(in_tool_loop=True)
    rule = next_turn(state("strong"), loop, switch_margin=margin)
    decision = decide(known, keep_at=bar, on_decline="weak", explore=1, draw=draw, turn=rule)
    assert (decision.action, decision.serve, decision.target) == ("pinned", "strong", "large")
    rule = next_turn(state("weak"), loop, switch_margin=margin)
    assert (rule.pin, rule.only_up, rule.explores) == (None, True, False)


@given(st.none() | chances, chances, st.sampled_from(["weak", "strong"]), st.booleans())
def test_bound_state_stays_with_the_model_that_made_it(p, bar, role, in_loop):
    known = None if p is None else estimate(p)
    rule = next_turn(
        state(role, bound_to="thinker"),
        TurnFacts(in_tool_loop=in_loop),
        switch_margin=0.1,
    )
    decision = decide(known, keep_at=bar, turn=rule)
    assert (decision.action, decision.serve, decision.target) == ("pinned", "strong", "thinker")
    assert decision.reason == "the history holds reasoning that only thinker can read"
    assert not rule.must_strip("thinker")
    assert rule.must_strip("small")


def test_bound_state_in_the_messages_alone_is_the_strong_models_that_answered_before():
    rule = next_turn(state("strong"), TurnFacts(bound=True), switch_margin=0.1)
    assert (rule.pin, rule.bound_to) == ("large", "large")
    rule = next_turn(state("weak"), TurnFacts(bound=True), switch_margin=0.1)
    assert rule.pin is None
    assert rule.must_strip("small")
    assert rule.must_strip("large")


def test_a_model_that_chance_picked_is_not_favoured_but_its_tool_loop_is():
    explored = state("strong", explored=True)
    assert next_turn(explored, TurnFacts(), switch_margin=0.1).margin == 0
    loop = next_turn(explored, TurnFacts(in_tool_loop=True), switch_margin=0.1)
    assert loop.pin == "large"


def test_a_turn_leaves_a_state_behind():
    conversation = Conversation.of([user()], header="s")
    first = after_turn(None, conversation, model="small", role="weak", prompt_tokens=10, at=5.0)
    assert first == ConversationState(
        session="s", model="small", role="weak", turns=1, prompt_tokens=10, at=5.0
    )
    second = after_turn(
        first, conversation, model="large", role="strong", prompt_tokens=20, at=6.0, bound=True
    )
    assert (second.turns, second.bound_to) == (2, "large")
    # Who made the bound state is remembered while the history holds it.
    third = after_turn(
        second, conversation, model="other", role="strong", prompt_tokens=30, at=7.0, bound=True
    )
    assert (third.model, third.bound_to) == ("other", "large")
    fourth = after_turn(
        third,
        conversation,
        model="small",
        role="weak",
        prompt_tokens=40,
        at=8.0,
        explored=True,
    )
    assert (fourth.bound_to, fourth.explored) == (None, True)


def test_what_is_lost_is_what_the_cache_takes_off_the_last_prompt():
    price = Price(input=3.0, output=15.0, cached_input=0.3)
    # 1,000 tokens at 2.7 USD a million
    assert leaving_usd(state(), price, now=299.0) == pytest.approx(0.0027)
    assert leaving_usd(state(), price, now=301.0) == 0
    assert leaving_usd(state(), price, now=301.0, cache_s=400) == pytest.approx(0.0027)
    assert leaving_usd(state(), Price(input=3.0, output=15.0), now=0.0) == 0
    assert leaving_usd(state(), None, now=0.0) is None


@pytest.mark.parametrize("margin", [-0.1, 1.1, float("nan")])
def test_a_margin_that_is_no_difference_of_chances_is_refused(margin):
    with pytest.raises(InputError, match="switch_margin is"):
        next_turn(None, TurnFacts(), switch_margin=margin)
