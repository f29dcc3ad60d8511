from __future__ import annotations

import numpy as np
import pytest

from foretell.flywheel import compare_vectors, top_drifting


def compared(reference, recent, *, seed=0, confidence=0.99, copies=1):
    return compare_vectors(
        reference,
        recent,
        reference_groups=[f"reference {i // copies}" for i in range(len(reference))],
        recent_groups=[f"recent {i // copies}" for i in range(len(recent))],
        confidence=confidence,
        rng=np.random.default_rng(seed),
    )


def normal(rng, n, *, width=10, shift=0.0):
    rows = rng.normal(size=(n, width))
    rows[:, 0] += shift
    return rows


def test_what_is_far_apart_is_told_apart_every_time():
    rng = np.random.default_rng(0)
    found = compared(normal(rng, 200), normal(rng, 100, shift=20.0))
    assert found.auc == 1.0
    assert found.p_value == pytest.approx(1 / 1000)
    assert found.low < 1.0 == found.high


@pytest.mark.parametrize("copies", [1, 4])
def test_chance_alone_alarms_no_more_often_than_it_may(copies):
    # One look in ten may; of 60 looks, more than 13 would be one case in 300.
    rng = np.random.default_rng(1)

    def drawn(n):
        middle = np.repeat(normal(rng, n), copies, axis=0)
        return middle + 0.1 * rng.normal(size=middle.shape)

    looks = [
        compared(drawn(100), drawn(60), seed=i, confidence=0.9, copies=copies) for i in range(60)
    ]
    assert sum(look.p_value <= 0.1 for look in looks) <= 13
    assert sum(look.low <= 0.5 <= look.high for look in looks) >= 47


def test_copies_that_are_not_said_to_be_copies_would_alarm():
    # The same draws as if every row stood for itself: what the groups are there for.
    rng = np.random.default_rng(2)

    def drawn(n):
        return np.repeat(normal(rng, n), 4, axis=0)

    alarms = [
        compared(drawn(100), drawn(60), seed=i, confidence=0.9).p_value <= 0.1 for i in range(20)
    ]
    assert sum(alarms) > 10


def test_a_few_strange_queries_among_many_ordinary_ones_are_seen_and_named():
    rng = np.random.default_rng(3)
    recent = normal(rng, 300)
    recent[:30] += 4.0
    found = compared(normal(rng, 600), recent)
    assert found.auc < 0.58  # no more than half of the share is to be had, and noise
    assert found.p_value <= 0.01
    named = top_drifting([str(i) for i in range(300)], found, limit=10)
    assert len(named) == 10
    assert sum(int(name) < 30 for name in named) >= 9


def test_a_shift_or_another_unit_of_all_vectors_changes_next_to_nothing():
    rng = np.random.default_rng(4)
    reference, recent = normal(rng, 150), normal(rng, 80, shift=0.5)
    plain, moved = compared(reference, recent), compared(reference * 7 + 3, recent * 7 + 3)
    assert moved.auc == pytest.approx(plain.auc, abs=1e-6)
    assert moved.p_value == plain.p_value


def test_vectors_that_are_all_the_same_say_nothing():
    found = compared(np.ones((60, 3)), np.ones((60, 3)))
    assert found.auc == 0.5
    assert found.p_value == 1.0


def test_fewer_groups_than_fifty_on_a_side_say_nothing():
    rng = np.random.default_rng(5)
    assert compared(normal(rng, 200), normal(rng, 49, shift=9.0)) is None
    assert compared(normal(rng, 200), normal(rng, 98, shift=9.0), copies=2) is None


def test_a_prompt_on_both_sides_is_held_out_from_both_at_once():
    # Otherwise a prompt would be learnt by heart on one side and be found on the other.
    rng = np.random.default_rng(6)
    rows = normal(rng, 120, width=60)
    names = [f"prompt {i}" for i in range(120)]
    found = compare_vectors(
        rows,
        rows,
        reference_groups=names,
        recent_groups=names,
        confidence=0.9,
        rng=np.random.default_rng(0),
    )
    assert found is not None
    assert found.auc == pytest.approx(0.5, abs=0.05)
