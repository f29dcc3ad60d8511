from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.evaluation import Interval
from foretell.flywheel import (
    judge_honesty,
    judge_quality,
    prediction_powered,
    rogan_gladen,
)
from foretell.records import Outcome

verdicts = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def outcome(query_id, value, source, *, author="", role="weak"):
    return Outcome(
        domain="geo",
        query_id=str(query_id),
        role=role,
        metric="judge",
        value=value,
        source=source,
        author=author,
    )


def outcomes(values, source):
    return [outcome(i, value, source) for i, value in enumerate(values)]


def exactly(value, n):
    return Interval(value=value, low=value, high=value, n=n)


def test_sensitivity_and_specificity_are_shares_of_what_people_call_success_and_failure():
    judge = outcomes([1, 1, 0, 1, 0, 0, 1], "judge")
    human = outcomes([1, 1, 1, 0, 0, 0, None], "human")
    quality = judge_quality(judge, human)
    assert (quality.sensitivity.value, quality.sensitivity.n) == (2 / 3, 3)
    assert (quality.specificity.value, quality.specificity.n) == (2 / 3, 3)
    assert (quality.agreement.value, quality.agreement.n) == (4 / 6, 6)
    assert quality.disagreements == ("2", "3")
    assert quality.left_out == 1
    # Clopper and Pearson for 2 of 3
    assert quality.sensitivity.low == pytest.approx(0.0943, abs=1e-4)
    assert quality.sensitivity.high == pytest.approx(0.9916, abs=1e-4)


def test_several_people_are_averaged_and_a_tie_is_undecided():
    judge = outcomes([1, 1], "judge")
    human = [
        outcome(0, 1, "human", author="a"),
        outcome(0, 1, "human", author="b"),
        outcome(0, 0, "human", author="c"),
        outcome(1, 1, "human", author="a"),
        outcome(1, 0, "human", author="b"),
    ]
    quality = judge_quality(judge, human)
    assert (quality.agreement.n, quality.left_out) == (1, 1)


def test_what_nobody_has_judged_is_undefined_and_not_zero():
    quality = judge_quality(outcomes([1, 0], "judge"), [])
    assert quality.sensitivity == Interval(value=None, n=0)
    honesty = judge_honesty(outcomes([1, 0], "judge"), [])
    assert honesty.apparent.value == 0.5
    assert honesty.rogan_gladen.value is None
    assert honesty.prediction_powered.value is None
    honesty = judge_honesty([], outcomes([1], "human"))
    assert honesty.apparent == Interval(value=None, n=0)


def test_outcomes_of_several_kinds_are_refused():
    both = [outcome(1, 1, "judge"), outcome(1, 1, "judge", role="strong")]
    with pytest.raises(InputError, match="strong of 'geo', weak of 'geo'; compare one by one"):
        judge_quality(both, [])


@given(verdicts)
def test_the_rows_order_does_not_matter(pairs):
    judge = outcomes([float(one) for one, _ in pairs], "judge")
    human = outcomes([float(other) for _, other in pairs], "human")
    assert judge_honesty(judge, human) == judge_honesty(judge[::-1], human[::-1])


@given(st.floats(0, 1), st.floats(0.5, 1), st.floats(0.51, 1))
def test_rogan_and_gladen_undo_what_a_known_judge_does(rate, se, sp):
    n = 10**9
    apparent = rate * se + (1 - rate) * (1 - sp)
    found = rogan_gladen(
        round(apparent * n), n, sensitivity=exactly(se, n), specificity=exactly(sp, n)
    )
    assert found.value == pytest.approx(rate, abs=1e-6)
    assert found.low <= found.value <= found.high


def test_a_perfect_judge_needs_no_correction():
    found = rogan_gladen(70, 100, sensitivity=exactly(1.0, 50), specificity=exactly(1.0, 50))
    assert found.value == pytest.approx(0.7)
    assert found.low < 0.7 < found.high


def test_a_judge_no_better_than_chance_corrects_nothing():
    known = exactly(0.5, 10)
    assert rogan_gladen(5, 10, sensitivity=known, specificity=known).value is None
    nothing = Interval(value=None, n=0)
    assert rogan_gladen(5, 10, sensitivity=nothing, specificity=known).value is None
    assert rogan_gladen(0, 0, sensitivity=exactly(1.0, 9), specificity=exactly(1.0, 9)).n == 0


@given(verdicts)
def test_without_more_answers_the_rate_is_peoples(pairs):
    judge, human = [one for one, _ in pairs], [other for _, other in pairs]
    found = prediction_powered(judge, human, [])
    assert found.value == pytest.approx(sum(human) / len(human))
    assert found.low <= found.value <= found.high
    assert found.n == len(pairs)


@given(verdicts, st.lists(st.booleans(), max_size=40))
def test_a_judge_that_says_the_opposite_helps_as_little_as_one_that_says_nothing(pairs, more):
    human = [other for _, other in pairs]
    opposite = prediction_powered([not other for other in human], human, more)
    assert opposite.value == pytest.approx(sum(human) / len(human))


def test_a_perfect_judge_extends_peoples_verdicts_to_all_answers():
    human = [True] * 30 + [False] * 20
    found = prediction_powered(human, human, [True] * 900 + [False] * 100)
    # 50 labels of 1,050: weight 1 / (1 + 50 / 1000)
    assert found.value == pytest.approx(0.6 + (0.9 - 0.6) / 1.05)
    alone = prediction_powered([True] * 50, human, [])
    assert found.high - found.low < alone.high - alone.low


def test_verdicts_must_be_of_the_same_answers():
    with pytest.raises(InputError, match="1 verdicts of the judge, but 2 of people"):
        prediction_powered([True], [True, False], [])


@pytest.mark.parametrize(
    ("n", "more", "rate", "se", "sp"),
    [(20, 300, 0.7, 0.9, 0.8), (100, 500, 0.3, 0.8, 0.95), (15, 300, 0.9, 0.95, 0.7)],
)
def test_intervals_hold_the_truth_as_often_as_they_say(n, more, rate, se, sp):
    rng = np.random.default_rng(n)
    runs, held = 300, {"judge": 0, "people": 0}
    bias = []
    for _ in range(runs):
        truth = rng.random(n + more) < rate
        said = np.where(truth, rng.random(n + more) < se, rng.random(n + more) >= sp)
        honesty = judge_honesty(
            outcomes([float(one) for one in said], "judge"),
            outcomes([float(one) for one in truth[:n]], "human"),
        )
        corrected, powered = honesty.rogan_gladen, honesty.prediction_powered
        # Without both successes and failures by people, nothing is claimed.
        held["judge"] += corrected.low is None or corrected.low <= rate <= corrected.high
        held["people"] += powered.low <= rate <= powered.high
        bias.append(powered.value - rate)
    assert held["judge"] / runs > 0.92
    assert held["people"] / runs > 0.92
    assert abs(np.mean(bias)) < 0.02
