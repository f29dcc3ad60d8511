import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import foretell.upstreams
from foretell.config import Price
from foretell.errors import ConfigError, UpstreamError
from foretell.records import Usage
from foretell.upstreams import Deadlines, Retries, UpstreamCallError, cost_usd
from foretell.upstreams._retries import backoff_hook, retry_after_s

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
counts = st.integers(0, 10**9)


def test_a_cost_is_tokens_times_their_price():
    # 2,000 x 2.5 + 500 x 10 = 10,000 millionths of a dollar
    usage = Usage(prompt_tokens=2_000, completion_tokens=500, cached_tokens=1_500)
    assert cost_usd(usage, Price(input=2.5, output=10)) == pytest.approx(0.01)


def test_without_a_price_the_cost_is_unknown_not_nothing():
    assert cost_usd(Usage(prompt_tokens=1, completion_tokens=1), None) is None


@given(counts, counts)
def test_a_model_that_is_free_costs_nothing(prompt, completion):
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
    assert cost_usd(usage, Price(input=0, output=0)) == 0


@given(counts, counts, counts, counts)
def test_the_costs_of_two_answers_add_up(a, b, c, d):
    price = Price(input=0.5, output=2)
    parts = [
        cost_usd(Usage(prompt_tokens=prompt, completion_tokens=completion), price)
        for prompt, completion in ((a, b), (c, d))
    ]
    whole = cost_usd(Usage(prompt_tokens=a + c, completion_tokens=b + d), price)
    assert sum(parts) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Tue, 01 Jan 2030 12:00:30 GMT", 30.0),
        ("Tue, 01 Jan 2030 11:00:00 GMT", 0.0),
        ("Tue, 01 Jan 2030 12:00:30 -0000", 30.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(header, seconds):
    assert retry_after_s(header, now=NOW) == seconds


def test_only_what_may_do_better_later_is_tried_again():
    hook = backoff_hook(lambda: 10.0)
    assert hook(UpstreamCallError("busy", retryable=True)) is True
    assert hook(UpstreamCallError("bad request")) is False
    assert hook(UpstreamError("broke off")) is False


def test_a_wait_is_as_long_as_asked_unless_it_outlasts_the_time_left():
    hook = backoff_hook(lambda: 10.0)
    asked = UpstreamCallError("busy", retryable=True, retry_after_s=4.0)
    assert hook(asked) == timedelta(seconds=4)
    too_long = UpstreamCallError("busy", retryable=True, retry_after_s=11.0)
    assert hook(too_long) is False


@pytest.mark.parametrize("name", ["total_s", "connect_s", "idle_s"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_a_deadline_must_lie_ahead(name, value):
    with pytest.raises(ConfigError, match=f"{name} is"):
        Deadlines(**{name: value})


def test_retries_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="attempts is 0"):
        Retries(attempts=0)
    with pytest.raises(ConfigError, match="must not be negative"):
        Retries(first_wait_s=-1, longest_wait_s=1, jitter_s=0)


def test_the_room_offers_exactly_what_it_lists():
    listed = foretell.upstreams.__all__
    assert list(listed) == sorted(listed)
    assert set(listed) == {name for name in vars(foretell.upstreams) if not name.startswith("_")}
