from __future__ import annotations

import numpy as np
import pytest

from foretell.calibration import expected_calibration_error
from foretell.flywheel._calibration_drift import calibration_error


def names(n, copies=1):
    return [str(i // copies) for i in range(n)]


def judged(p, outcomes, *, weights=None, copies=1, seed=0, confidence=0.9):
    return calibration_error(
        p,
        outcomes,
        weights=np.ones(len(p)) if weights is None else weights,
        groups=names(len(p), copies),
        confidence=confidence,
        rng=np.random.default_rng(seed),
    )


@pytest.mark.parametrize("n", [60, 300])
def test_few_true_chances_do_not_look_wrong(n):
    # The plain error of 60 true chances is about 0.1 and never 0: that alone would alarm.
    rng = np.random.default_rng(0)
    looks, plain = [], []
    for i in range(20):
        p = rng.beta(0.7, 0.7, n)
        outcomes = (rng.random(n) < p).astype(float)
        looks.append(judged(p, outcomes, seed=i))
        plain.append(expected_calibration_error(p, outcomes, bins=10))
    assert sum(look.p_value <= 0.1 for look in looks) <= 6  # more: one case in 400
    assert np.mean([look.error for look in looks]) < np.mean(plain) / 3


def test_what_is_left_after_the_bias_is_the_error_of_the_calibration_room():
    # Of 4,000 chances the bias is next to nothing, and in the same bins the errors are the same.
    rng = np.random.default_rng(6)
    p = rng.random(4000)
    outcomes = (rng.random(4000) < p**2).astype(float)
    plain = expected_calibration_error(p, outcomes, bins=10)
    assert judged(p, outcomes).error == pytest.approx(plain, abs=0.02)
    assert judged(p, outcomes).error < plain


def test_chances_that_are_too_high_are_seen_and_measured():
    rng = np.random.default_rng(1)
    p = rng.uniform(0.3, 0.9, 500)
    outcomes = (rng.random(500) < p - 0.2).astype(float)
    found = judged(p, outcomes, confidence=0.99)
    assert found.p_value <= 0.01
    assert found.error == pytest.approx(0.2, abs=0.07)
    assert found.low < 0.2 < found.high


def test_weights_find_what_the_rule_hides():
    # Right above the bar, where nearly all are seen, and wrong below it, where few are.
    rng = np.random.default_rng(2)
    p = rng.random(6000)
    chance = np.where(p > 0.5, p, p / 4)
    outcomes = (rng.random(6000) < chance).astype(float)
    seen_with = np.where(p > 0.5, 1.0, 0.1)
    seen = rng.random(6000) < seen_with
    p, outcomes, weights = p[seen], outcomes[seen], 1 / seen_with[seen]
    # On average over all queries: half of them are off by 3/4 of a mean chance of a quarter.
    assert judged(p, outcomes, weights=weights).error == pytest.approx(0.094, abs=0.03)
    assert judged(p, outcomes).error < 0.04


def test_conversations_that_stand_or_fall_together_do_not_look_wrong():
    rng = np.random.default_rng(3)
    alarms = {1: 0, 6: 0}
    for i in range(15):
        p = np.repeat(rng.random(60), 6)
        outcomes = (np.repeat(rng.random(60), 6) < p).astype(float)
        for copies in alarms:
            alarms[copies] += judged(p, outcomes, copies=copies, seed=i).p_value <= 0.1
    assert alarms[6] <= 5
    assert alarms[1] > 7


def test_rates_count_in_part():
    rng = np.random.default_rng(4)
    p = rng.random(200)
    found = judged(p, p)
    assert found.error == 0
    assert found.low == 0
    assert found.p_value == 1


def test_too_few_independent_labels_say_nothing():
    rng = np.random.default_rng(5)
    p = rng.random(100)
    assert judged(p[:49], p[:49]) is None
    assert judged(p, p, copies=4) is None
    assert judged(p, p, weights=np.append(np.full(99, 1e-3), 1.0)) is None
