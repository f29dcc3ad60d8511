"""How well answers do by now, whoever was seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flywheel_log import log_of

from foretell.flywheel import live_quality


def traffic(n: int, seed: int, explore: float = 0.05) -> Any:
    """Half of the requests are easy for the weak model, which keeps them; the strong one is even.

    Weak: 0.9 of the easy ones, 0.2 of the others; strong: 0.8 of all.
    """
    rng = np.random.default_rng(seed)
    easy = rng.random(n) < 0.5
    chance = np.where(easy, 1 - explore, explore)
    by_weak = rng.random(n) < chance
    weak = (rng.random(n) < np.where(easy, 0.9, 0.2)).astype(float)
    strong = (rng.random(n) < 0.8).astype(float)
    return log_of(
        served_weak=by_weak,
        weak_chance=chance,
        p_success=np.where(easy, 0.9, 0.2),
        weak=np.where(by_weak, weak, np.nan),
        strong=np.where(by_weak, np.nan, strong),
    )


def test_each_policy_is_told_though_only_the_served_answer_was_seen():
    found = live_quality(traffic(20_000, seed=1))
    assert found.served.value == pytest.approx(0.5 * 0.9 + 0.5 * 0.8, abs=0.03)
    for interval, truth in ((found.always_weak, 0.55), (found.always_strong, 0.8)):
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < truth < interval.high
    assert found.unreached == 0
    # What was seen of the weak model alone would say far too much of it.
    assert found.always_weak.value is not None
    assert found.always_weak.value < 0.7
    assert "labels of 20000 requests" in found.words


def test_without_exploration_it_says_that_the_other_side_is_not_known():
    log = traffic(500, seed=2, explore=0.0)
    found = live_quality(log)
    assert found.unreached > 200
    assert found.served.value is not None


def test_nothing_labelled_is_not_known():
    nothing = np.full(10, np.nan)
    found = live_quality(log_of(served_weak=np.ones(10, dtype=bool), weak=nothing))
    assert found.served.value is None
    assert found.words == "no answer of recent traffic is labelled"


def test_what_a_caller_chose_counts_for_nothing():
    log = log_of(
        served_weak=np.ones(4, dtype=bool),
        weak_chance=np.array([1.0, 1.0, np.nan, np.nan]),
        weak=np.array([1.0, 1.0, 0.0, 0.0]),
    )
    assert live_quality(log).served.value == 1.0
