from __future__ import annotations

import numpy as np
import pytest
from flywheel_log import log_of
from scipy.stats import fisher_exact

from foretell.flywheel._escalation import escalation_change, promised_share, would_escalate
from foretell.probes import HeldOut


def names(n, copies=1):
    return [str(i // copies) for i in range(n)]


def shares(escalated, n):
    return np.arange(n) < escalated


def test_the_test_is_fishers():
    found = escalation_change(
        shares(60, 100), 0.4, promised_by=200.0, groups=names(100), confidence=0.95
    )
    assert found is not None
    assert found.p_value == pytest.approx(fisher_exact([[60, 40], [80, 120]]).pvalue)
    assert found.change == pytest.approx(0.2)
    assert found.low < 0.2 < found.high


def test_newcombes_interval_of_his_own_example():
    # Newcombe (1998), table II, case (a), method 10: 56/70 against 48/80, 0.0524 to 0.3339.
    found = escalation_change(
        shares(56, 70), 48 / 80, promised_by=80.0, groups=names(70), confidence=0.95
    )
    assert found is not None
    assert found.low == pytest.approx(0.0524, abs=1e-4)
    assert found.high == pytest.approx(0.3339, abs=1e-4)


def test_a_share_that_was_set_has_no_noise_of_its_own():
    found = escalation_change(
        shares(50, 100), 0.5, promised_by=np.inf, groups=names(100), confidence=0.95
    )
    assert found is not None
    assert found.p_value == 1
    assert found.high == pytest.approx(0.096, abs=1e-3)  # Wilson's


def test_chance_alone_goes_as_far_no_more_often_than_the_p_value_says():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(500):
        promised = float((rng.random(300) < 0.3).mean())
        found = escalation_change(
            rng.random(100) < 0.3, promised, promised_by=300.0, groups=names(100), confidence=0.95
        )
        assert found is not None
        p_values.append(found.p_value)
    assert sum(p <= 0.05 for p in p_values) <= 40


def test_turns_of_a_conversation_count_once():
    escalated = np.repeat(shares(33, 60), 10)
    alone, together = (
        escalation_change(
            escalated, 0.4, promised_by=1000.0, groups=names(600, copies), confidence=0.95
        )
        for copies in (1, 10)
    )
    assert alone is not None
    assert together is not None
    assert alone.p_value < 1e-6
    assert together.p_value > 0.02


def test_fewer_than_fifty_requests_say_nothing():
    assert (
        escalation_change(shares(40, 49), 0.1, promised_by=900.0, groups=names(49), confidence=0.95)
        is None
    )


def test_what_chance_flipped_counts_as_the_rule_would_have_it():
    log = log_of(
        actions=("keep", "escalate", "explore", "explore", "declined", "declined", "escalate"),
        p_success=(0.8, 0.2, 0.8, 0.2, 0.9, np.nan, 0.7),
        keep_at=(0.5,) * 7,
        served_weak=(True, False, False, True, False, True, False),
    )
    early = np.array([False] * 6 + [True])
    assert would_escalate(log, early).tolist() == [False, True, False, True, True, False, True]


def held_out(**columns):
    n = len(columns["p_success"])
    return HeldOut(
        **{"weak": np.ones(n), "strong": np.ones(n)}
        | {name: np.asarray(values, dtype=float) for name, values in columns.items()}
    )


def test_the_promise_is_the_share_below_each_requests_bar():
    # Bars at 0.5 (two of four queries below it) and at 0.3 (one of four): 0.375 on average.
    trained = held_out(p_success=[0.2, 0.4, 0.6, 0.8])
    log = log_of(keep_at=(0.5, 0.3), p_success=(0.9, 0.9))
    assert promised_share(trained, log) == (pytest.approx(0.375), pytest.approx(4))


def test_a_query_at_its_bar_is_kept():
    trained = held_out(p_success=[0.2, 0.5, 0.5, 0.8])
    log = log_of(keep_at=(0.5,), p_success=(0.9,))
    assert promised_share(trained, log)[0] == pytest.approx(0.25)


def test_the_promise_weighs_what_was_rarely_seen():
    trained = held_out(p_success=[0.2, 0.8], weights=[3.0, 1.0])
    log = log_of(keep_at=(0.5,), p_success=(0.9,))
    assert promised_share(trained, log) == (pytest.approx(0.75), pytest.approx(1.6))


def test_a_bar_on_the_gain_is_told_by_what_keeps_still():
    # A strong call must gain more than 0.1. Of the trained, the first and the last gain 0.3.
    trained = held_out(p_success=[0.6, 0.2, 0.85, 0.5], p_strong=[0.9, 0.2, 0.9, 0.8])
    p_strong = np.array([0.9, 0.5, 0.7, 0.6])
    log = log_of(keep_at=p_strong - 0.1, p_strong=p_strong, p_success=(0.5,) * 4)
    assert promised_share(trained, log)[0] == pytest.approx(0.5)
