from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from foretell.policy import Abilities, Needs, missing

tokens = st.none() | st.integers(0, 10_000)
words = st.frozensets(st.sampled_from(["n", "logprobs", "seed"]))
needs = st.builds(
    Needs,
    tools=st.booleans(),
    images=st.booleans(),
    audio=st.booleans(),
    json_schema=st.booleans(),
    prompt_tokens=tokens,
    answer_tokens=tokens,
    other=words,
)
abilities = st.builds(
    Abilities,
    tools=st.booleans(),
    images=st.booleans(),
    audio=st.booleans(),
    json_schema=st.booleans(),
    context_tokens=st.none() | st.integers(1, 10_000),
    other=st.none() | words,
)


def test_everything_that_is_missing_is_named_in_a_fixed_order():
    asked = Needs(
        tools=True,
        images=True,
        audio=True,
        json_schema=True,
        prompt_tokens=90,
        answer_tokens=11,
        other=frozenset({"seed", "n"}),
    )
    nothing = Abilities(
        tools=False,
        images=False,
        audio=False,
        json_schema=False,
        context_tokens=100,
        other=frozenset(),
    )
    assert missing(asked, nothing) == (
        "tools",
        "images",
        "audio",
        "json_schema",
        "context",
        "n",
        "seed",
    )


@given(needs)
def test_a_model_that_can_do_everything_misses_nothing(asked):
    assert missing(asked, Abilities()) == ()


@given(abilities)
def test_a_request_that_asks_for_nothing_goes_anywhere(able):
    assert missing(Needs(), able) == ()


@given(needs, abilities, abilities)
def test_a_model_that_can_do_more_never_misses_more(asked, one, other):
    both = Abilities(
        **{
            field.name: getattr(one, field.name) or getattr(other, field.name)
            for field in fields(Abilities)
            if field.name in ("tools", "images", "audio", "json_schema")
        },
        context_tokens=None
        if one.context_tokens is None or other.context_tokens is None
        else max(one.context_tokens, other.context_tokens),
        other=None if one.other is None or other.other is None else one.other | other.other,
    )
    assert set(missing(asked, both)) <= set(missing(asked, one)) & set(missing(asked, other))


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 200))
def test_a_prompt_and_its_answer_must_fit_together(prompt, answer, context):
    asked = Needs(prompt_tokens=prompt, answer_tokens=answer)
    fits = missing(asked, Abilities(context_tokens=context)) == ()
    assert fits == (prompt + answer <= context)


def test_a_length_that_nobody_counted_is_missed_only_by_what_is_known():
    short = Abilities(context_tokens=100)
    assert missing(Needs(answer_tokens=100), short) == ()
    assert missing(Needs(answer_tokens=101), short) == ("context",)
