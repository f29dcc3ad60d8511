import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.policy import PrefillDeadlines

seconds = st.floats(0, 100)
lengths = st.integers(1, 100_000)


def test_nothing_is_known_before_the_first_prefill():
    deadlines = PrefillDeadlines(floor_s=0.15, times=3)
    assert deadlines.p95_s(100) is None
    assert deadlines.deadline_s(100) is None


@given(st.lists(seconds, min_size=1, max_size=300))
def test_the_percentile_is_that_of_the_last_128_of_its_length(taken):
    deadlines = PrefillDeadlines(floor_s=0.15, times=3)
    for each in taken:
        deadlines.observe(600, each)
    last = np.array(taken[-128:])
    expected = float(np.quantile(last, 0.95, method="inverted_cdf"))
    assert deadlines.p95_s(1000) == expected
    assert deadlines.deadline_s(512) == max(0.15, 3 * expected)


@given(lengths, seconds, lengths)
def test_a_deadline_is_never_below_the_floor(seen, taken, asked):
    deadlines = PrefillDeadlines(floor_s=0.15, times=3)
    deadlines.observe(seen, taken)
    deadline = deadlines.deadline_s(asked)
    assert deadline is not None
    assert deadline >= 0.15


def test_another_length_is_foretold_token_by_token_from_the_nearest_bucket():
    deadlines = PrefillDeadlines(floor_s=0.001, times=1)
    deadlines.observe(100, 1.0)  # 10 ms a token, 64 to 127
    deadlines.observe(1000, 20.0)  # 20 ms a token, 512 to 1,023
    assert deadlines.p95_s(50) == pytest.approx(0.5)
    assert deadlines.p95_s(200) == pytest.approx(2.0)
    assert deadlines.p95_s(300) == pytest.approx(6.0)
    assert deadlines.p95_s(4000) == pytest.approx(80.0)


def test_of_two_buckets_as_near_the_longer_one_is_asked():
    deadlines = PrefillDeadlines(floor_s=0.001, times=1)
    deadlines.observe(64, 0.64)
    deadlines.observe(256, 5.12)
    assert deadlines.p95_s(128) == pytest.approx(2.56)


def test_prefills_that_were_given_up_make_room_for_those_of_a_slower_machine():
    deadlines = PrefillDeadlines(floor_s=0.15, times=3)
    for _ in range(128):
        deadlines.observe(600, 0.1)
    true_s, given_up = 2.0, 0
    for _ in range(100):
        deadline = deadlines.deadline_s(600)
        deadlines.observe(600, min(deadline, true_s))
        given_up += deadline < true_s
    assert given_up < 20
    assert deadlines.deadline_s(600) >= true_s


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: PrefillDeadlines(floor_s=0, times=3), "floor_s is 0"),
        (lambda: PrefillDeadlines(floor_s=0.1, times=0.5), "times is 0.5"),
        (lambda: PrefillDeadlines(floor_s=0.1, times=3).observe(1, math.nan), "took nan seconds"),
        (lambda: PrefillDeadlines(floor_s=0.1, times=3).observe(0, 1.0), "a prefill of 0 tokens"),
        (lambda: PrefillDeadlines(floor_s=0.1, times=3).deadline_s(0), "a prefill of 0 tokens"),
    ],
)
def test_numbers_that_are_no_length_or_time_are_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()
