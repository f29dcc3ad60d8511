import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.records import MeteredUsage
from foretell.upstreams import metered_usage

counts = st.integers(0, 10**9)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
NAMES = [
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "input_tokens",
    "output_tokens",
    "input_tokens_details",
    "cache_read_input_tokens",
    "prompt_cache_hit_tokens",
]


def counted(prompt, completion, cached=0, reasoning=0) -> MeteredUsage:
    return MeteredUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        reasoning_tokens=reasoning,
    )


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (  # OpenAI chat completions
            {
                "prompt_tokens": 2006,
                "completion_tokens": 300,
                "total_tokens": 2306,
                "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 256},
            },
            counted(2006, 300, 1920, 256),
        ),
        (  # OpenAI responses
            {
                "input_tokens": 75,
                "input_tokens_details": {"cached_tokens": 32},
                "output_tokens": 1186,
                "output_tokens_details": {"reasoning_tokens": 1024},
                "total_tokens": 1261,
            },
            counted(75, 1186, 32, 1024),
        ),
        (  # Anthropic: 21 new tokens, 1,000 read from and 188 written to the cache
            {
                "input_tokens": 21,
                "cache_read_input_tokens": 1000,
                "cache_creation_input_tokens": 188,
                "output_tokens": 393,
            },
            counted(1209, 393, 1000),
        ),
        ({"input_tokens": 21, "output_tokens": 393}, counted(21, 393)),
        (  # xAI: reasoning beside the completion
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            counted(32, 103, 0, 94),
        ),
        (  # Google: thoughts only in the total
            {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 350},
            counted(10, 340, 0, 320),
        ),
        (  # DeepSeek
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "total_tokens": 105,
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 36,
            },
            counted(100, 5, 64),
        ),
        (  # vLLM, llama.cpp, older servers
            {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": None},
            counted(3, 4),
        ),
        ({"prompt_tokens": 3.0, "completion_tokens": 4}, counted(3, 4)),
    ],
)
def test_each_provider_is_understood_in_its_own_spelling(usage, expected):
    assert metered_usage(usage) == expected


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": 3},
        {"completion_tokens": 3},
        {"prompt_tokens": None, "completion_tokens": 3},
        {"prompt_tokens": -1, "completion_tokens": 3},
        {"prompt_tokens": 1.5, "completion_tokens": 3},
        {"prompt_tokens": True, "completion_tokens": 3},
        {"prompt_tokens": "3", "completion_tokens": 3},
        {"prompt_tokens": math.nan, "completion_tokens": 3},
        {"prompt_tokens": math.inf, "completion_tokens": 3},
        {"prompt_tokens": 10**400, "completion_tokens": 3},
        {"prompt_tokens": 3, "completion_tokens": 3, "prompt_tokens_details": 7},
        {"prompt_tokens": 3, "completion_tokens": 3, "cached_tokens": 4},
        {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
    ],
)
def test_what_cannot_be_understood_is_unknown_and_not_nothing(usage):
    assert metered_usage(usage) is None


@given(st.dictionaries(st.sampled_from(NAMES), anything | counts))
def test_no_usage_whatever_is_more_than_unknown(usage):
    metered = metered_usage(usage)
    if metered is not None:
        assert 0 <= metered.cached_tokens <= metered.prompt_tokens
        assert 0 <= metered.reasoning_tokens <= metered.completion_tokens


@given(counts, counts, counts, counts)
def test_chat_and_responses_say_the_same(prompt, completion, cached, reasoning):
    cached, reasoning = min(cached, prompt), min(reasoning, completion)
    chat = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    responses = {
        "input_tokens": prompt,
        "output_tokens": completion,
        "total_tokens": prompt + completion,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens_details": {"reasoning_tokens": reasoning},
    }
    assert metered_usage(chat) == metered_usage(responses)
    assert metered_usage(chat) == counted(prompt, completion, cached, reasoning)
