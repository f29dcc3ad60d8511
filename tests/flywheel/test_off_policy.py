"""Estimates from traffic of which a rule, and chance, chose what is seen."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student_t

from foretell.calibration import auroc
from foretell.errors import InputError
from foretell.flywheel import (
    estimate_accuracy,
    estimate_cost,
    selected_auroc,
    weak_success_rate,
)
from foretell.policy import decide
from foretell.records import Estimate, TrafficLog

rates = st.floats(0.05, 0.95)
outcomes = st.sampled_from([0.0, 1.0])


def log_of(**columns: Any) -> TrafficLog:
    """A log of which only these columns matter."""
    n = len(columns["served_weak"])
    unknown, none = np.full(n, np.nan), ("",) * n
    texts = dict.fromkeys(
        ("key_ids", "actions", "causes", "probes", "shadow_probes", "weak_models"), none
    )
    numbers = dict.fromkeys(
        (
            "at",
            "p_success",
            "p_strong",
            "keep_at",
            "weak_chance",
            "pair_chance",
            "shadow_p_success",
            "cost_usd",
            "always_strong_usd",
            "weak",
            "strong",
        ),
        unknown,
    )
    given = {name: np.asarray(column) for name, column in columns.items()}
    return TrafficLog(ids=tuple(map(str, range(n))), **(texts | numbers | given))


def served(weak: Any, strong: Any, chance: Any, by_weak: Any, p_success: Any = None) -> TrafficLog:
    """What is seen once it is known who served."""
    by_weak = np.asarray(by_weak, dtype=bool)
    return log_of(
        weak=np.where(by_weak, weak, np.nan),
        strong=np.where(by_weak, np.nan, strong),
        weak_chance=np.asarray(chance, dtype=float),
        served_weak=by_weak,
        p_success=np.full(len(by_weak), np.nan) if p_success is None else np.asarray(p_success),
    )


def every_log(chance: Any) -> list[tuple[np.ndarray, float]]:
    """Who may have served, and how likely that was."""
    every: list[tuple[np.ndarray, float]] = []
    for picks in itertools.product([False, True], repeat=len(chance)):
        by_weak = np.array(picks)
        every.append((by_weak, float(np.prod(np.where(by_weak, chance, 1 - np.array(chance))))))
    return every


# Laws, by enumerating tiny worlds


@given(st.lists(st.tuples(outcomes, outcomes, rates, rates, rates), min_size=1, max_size=5))
@settings(max_examples=40)
def test_inverse_propensities_are_right_on_average_over_all_that_chance_may_do(world):
    weak, strong, chance, share, _ = (np.array(column) for column in zip(*world, strict=True))
    truth = np.mean(share * weak + (1 - share) * strong)
    expected = 0.0
    for by_weak, likely in every_log(chance):
        # What nobody answered is 0 of a sum, and its value is not asked for by itself.
        terms = np.where(by_weak, share * weak / chance, (1 - share) * strong / (1 - chance))
        value = estimate_accuracy(served(weak, strong, chance, by_weak), share).ips.value
        if 0 < by_weak.sum() < len(by_weak):
            assert value == pytest.approx(terms.mean())
        expected += likely * terms.mean()
    assert expected == pytest.approx(truth)


@given(st.lists(st.tuples(outcomes, outcomes, rates, rates), min_size=2, max_size=5))
@settings(max_examples=40)
def test_a_model_that_foretells_every_outcome_leaves_nothing_to_chance(world):
    weak, strong, chance, share = (np.array(column) for column in zip(*world, strict=True))
    truth = float(np.mean(share * weak + (1 - share) * strong))
    for by_weak, _ in every_log(chance):
        log = served(weak, strong, chance, by_weak)
        value = estimate_accuracy(log, share, p_success=weak, p_strong=strong).dr
        if 0 < by_weak.sum() < len(by_weak):
            assert value.value == pytest.approx(truth)


@given(st.lists(st.tuples(st.floats(0, 1), outcomes, rates), min_size=2, max_size=8))
def test_the_auroc_is_the_weighted_one_by_pairs(world):
    scores, outcome, chance = (np.array(column) for column in zip(*world, strict=True))
    found = selected_auroc(scores, outcome, chance).value
    plain = auroc(scores, outcome, 1 / chance)
    assert found == (None if plain is None else pytest.approx(plain))


@given(
    st.lists(
        st.tuples(st.integers(0, 3), outcomes, rates, rates, st.booleans()), min_size=2, max_size=8
    )
)
def test_the_doubly_robust_auroc_is_that_of_pseudo_outcomes_over_all_pairs(world):
    scores, outcome, chance, p_hat, seen = (np.array(c) for c in zip(*world, strict=True))
    found = selected_auroc(scores, np.where(seen, outcome, np.nan), chance, p_hat=p_hat)
    if not seen.any():
        assert found.value is None
        return
    weight = seen / chance
    weight /= weight.mean()
    a = p_hat + weight * (outcome - p_hat)
    pairs = [(i, j) for i in range(len(a)) for j in range(len(a)) if i != j]
    below = sum(a[i] * (1 - a[j]) for i, j in pairs)
    if below <= 1e-9:
        return
    above = sum(
        a[i] * (1 - a[j]) * (1.0 if scores[i] > scores[j] else 0.5 * (scores[i] == scores[j]))
        for i, j in pairs
    )
    assert found.value == pytest.approx(above / below)


@given(st.lists(st.tuples(outcomes, rates), min_size=4, max_size=9))
def test_an_interval_is_made_of_what_each_row_moves_the_estimate_by(world):
    outcome, chance = (np.array(column) for column in zip(*world, strict=True))
    n, step = len(outcome), 1e-5
    scores = np.arange(n, dtype=float)
    found = selected_auroc(scores, outcome, chance, confidence=0.5)
    if found.low is None or not 0 < found.low < found.high < 1:
        return
    if found.high - found.low < 1e-6:  # nothing moves it, but for rounding
        return
    moved = np.array(
        [
            auroc(scores, outcome, (1 + step * sign * (np.arange(n) == row)) / chance)
            for row in range(n)
            for sign in (1, -1)
        ]
    )
    squares = ((moved[::2] - moved[1::2]) / (2 * step)) ** 2
    freedom = max(1.0, squares.sum() ** 2 / (squares**2).sum() - 1)
    half = student_t.ppf(0.75, freedom) * math.sqrt(squares.sum() * n / (n - 1))
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-3)


def test_a_row_whose_chance_was_even_counts_as_two():
    log = served([1, 0, 0], [0, 0, 0], [0.5, 1.0, 1.0], [True, True, True])
    value = weak_success_rate(log)
    assert value.naive.value == pytest.approx(1 / 3)
    assert value.snips.value == pytest.approx(2 / 4)
    assert value.ips.value == pytest.approx(2 / 3)


def test_what_a_caller_or_a_conversation_chose_counts_for_nothing():
    ruled = served([1, 0, 1], [0, 0, 0], [0.5, 0.5, 0.5], [True, True, False])
    pinned = served([1, 0, 1, 0], [0] * 4, [0.5, 0.5, 0.5, math.nan], [True, True, False, True])
    assert weak_success_rate(pinned) == weak_success_rate(ruled)
    with_chance = served([1, 0, 1, 0], [0] * 4, [0.5] * 4, [True, True, False, True])
    assert weak_success_rate(with_chance) != weak_success_rate(ruled)
    scores, weak = np.arange(4.0), pinned.weak
    assert selected_auroc(scores, weak, pinned.weak_chance) == selected_auroc(
        scores[:3], weak[:3], ruled.weak_chance
    )


def test_what_the_log_never_tries_is_counted_and_left_out():
    log = served([1, 0, 1], [1, 1, 1], [1.0, 0.5, 0.0], [True, True, False])
    value = weak_success_rate(log)
    assert (value.unreached, value.snips.value) == (1, pytest.approx(1 / 3))
    # Without exploration a rule can be judged by what it did itself.
    own = estimate_accuracy(log.take(np.array([0, 2])), [1.0, 0.0])
    assert (own.unreached, own.ips.value, own.strong_share) == (0, 1.0, 0.5)


def test_nothing_is_known_of_a_model_that_was_never_seen():
    log = served([1, 0], [1, 1], [0.9, 0.9], [True, True])
    value = estimate_accuracy(log, 0.0)
    for one in (value.naive, value.ips, value.snips, value.dr):
        assert (one.value, one.low) == (None, None)
    nothing = weak_success_rate(log.take(np.array([], dtype=int)))
    assert (nothing.ips.value, nothing.strong_share) == (None, None)
    assert selected_auroc([1, 2], [1, 1], [0.5, 0.5]).value is None
    assert selected_auroc([1, 2], [1, 0], [0.0, math.nan]).n == 0


def test_labels_may_be_missing_by_chance():
    rng = np.random.default_rng(0)
    n = 20_000
    strong_if = rng.random(n)
    weak = (rng.random(n) < strong_if).astype(float)
    chance = np.where(strong_if > 0.5, 0.9, 0.1)
    log = served(weak, np.ones(n), chance, rng.random(n) < chance, p_success=strong_if)
    labelled = np.where(rng.random(n) < 0.3, log.weak, np.nan)
    value = weak_success_rate(log_of(**(columns_of(log) | {"weak": labelled})))
    for one in (value.ips, value.snips, value.dr):
        assert one.low < weak.mean() < one.high
    assert value.naive.low > weak.mean() + 0.05


@given(rates, st.floats(0, 0.9), st.floats(0, 0.9))
def test_both_answers_have_the_chance_that_the_two_of_them_leave(p_weak, weak_too, strong_too):
    """Enumerated: who serves, and whether the other one is asked afterwards."""
    weak_chance = p_weak + (1 - p_weak) * weak_too
    pair_chance = p_weak * strong_too + (1 - p_weak) * weak_too
    expected, truth = 0.0, 0.5 * 0.75 + 0.5 * 0.25
    for by_weak, again in itertools.product([True, False], repeat=2):
        asked = strong_too if by_weak else weak_too
        likely = (p_weak if by_weak else 1 - p_weak) * (asked if again else 1 - asked)
        log = log_of(
            weak=[0.75 if by_weak or again else np.nan],
            strong=[0.25 if again or not by_weak else np.nan],
            weak_chance=[weak_chance],
            pair_chance=[pair_chance],
            served_weak=[by_weak],
        )
        # Of a model that was not seen there is no value; in a sum it counts as 0.
        for share, outcome in ((0.0, 0.25), (1.0, 0.75)):
            value = estimate_accuracy(log, share)
            if value.snips.value is not None:
                chance = weak_chance if share else 1 - weak_chance + pair_chance
                expected += likely * 0.5 * outcome / chance
                assert value.snips.value == pytest.approx(outcome)
    assert expected == pytest.approx(truth)


def test_what_is_asked_afterwards_counts_where_its_chance_is_known():
    n = 4_000
    rng = np.random.default_rng(1)
    by_weak = rng.random(n) < 0.2
    again = rng.random(n) < np.where(by_weak, 0.5, 0.25)
    weak, strong = (rng.random(n) < 0.6).astype(float), (rng.random(n) < 0.8).astype(float)
    log = log_of(
        weak=np.where(by_weak | again, weak, np.nan),
        strong=np.where(~by_weak | again, strong, np.nan),
        weak_chance=np.full(n, 0.2 + 0.8 * 0.25),
        served_weak=by_weak,
    )
    truth = 0.5 * weak.mean() + 0.5 * strong.mean()
    pairs = np.full(n, 0.2 * 0.5 + 0.8 * 0.25)
    asked = replace(log, pair_chance=pairs)
    for value in (estimate_accuracy(asked, 0.5), estimate_accuracy(log, 0.5)):
        assert value.snips.low < truth < value.snips.high
    paired = estimate_accuracy(asked, 0.5)
    assert paired.ips.low < truth < paired.ips.high
    assert paired.snips.n > estimate_accuracy(log, 0.5).snips.n


def test_the_cost_of_another_policy_is_that_of_the_model_it_takes():
    by_weak = np.array([True, False, True, False])
    log = log_of(
        served_weak=by_weak, weak_chance=np.full(4, 0.5), cost_usd=np.where(by_weak, 0.01, 1.0)
    )
    value = estimate_cost(log, 0.75)
    for one in (value.ips, value.snips, value.dr):
        assert one.value == pytest.approx(0.75 * 0.01 + 0.25)
    assert value.strong_share == 0.25


def test_the_chances_of_both_models_are_those_of_decide():
    for p in (0.2, 0.8):
        seen = [
            decide(
                Estimate(score=0.0, p_success=p, router="probe"),
                keep_at=0.5,
                explore=0.1,
                draw=draw / 100,
            )
            for draw in range(100)
        ]
        assert np.mean([d.serve == "weak" for d in seen]) == pytest.approx(seen[0].p_weak)


def test_groups_widen_an_interval_and_leave_the_value():
    rng = np.random.default_rng(2)
    weak = np.repeat((rng.random(100) < 0.5).astype(float), 5)
    log = served(weak, weak, np.full(500, 0.5), np.repeat(rng.random(100) < 0.5, 5))
    alone = weak_success_rate(log)
    grouped = weak_success_rate(log, groups=[str(i // 5) for i in range(500)])
    assert grouped.snips.value == alone.snips.value
    width, wider = (v.snips.high - v.snips.low for v in (alone, grouped))
    assert wider > 1.8 * width  # sqrt(5), but for chance
    single = weak_success_rate(log, groups=["one"] * 500)
    assert (single.snips.value, single.snips.low) == (alone.snips.value, None)
    scores = rng.random(500)
    ours = selected_auroc(scores, log.weak, log.weak_chance, groups=["one"] * 500)
    assert ours.low is None


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_an_interval_holds_the_truth_as_often_as_it_says(confidence):
    """Three in a hundred explored, a rule that knows something, 400 logs of a made-up traffic."""
    rng = np.random.default_rng(3)
    held = dict.fromkeys(("naive", "ips", "snips", "dr", "auroc"), 0)
    scores = np.linspace(0.05, 0.95, 19)
    truth_auroc = _population_auroc(scores)
    for _ in range(400):
        p = rng.choice(scores, 3_000)
        weak = (rng.random(3_000) < p).astype(float)
        chance = np.where(p >= 0.5, 0.97, 0.03)
        log = served(weak, weak, chance, rng.random(3_000) < chance, p_success=p**2)
        value = weak_success_rate(log, confidence=confidence)
        for way in ("naive", "ips", "snips", "dr"):
            one = getattr(value, way)
            held[way] += one.low <= 0.5 <= one.high
        ranks = selected_auroc(p, log.weak, chance, p_hat=p**2, confidence=confidence)
        held["auroc"] += ranks.low <= truth_auroc <= ranks.high
    # Binomial: a standard deviation of at most 0.02; some more for 90 explored of 3,000.
    assert held.pop("naive") == 0
    for way, count in held.items():
        assert count / 400 >= confidence - 0.05, way
    assert held["snips"] / 400 <= confidence + 0.06


def _population_auroc(p: np.ndarray) -> float:
    above = (p[:, None] > p[None, :]) + 0.5 * (p[:, None] == p[None, :])
    pairs = p[:, None] * (1 - p[None, :])
    return float((pairs * above).sum() / pairs.sum())


def columns_of(log: TrafficLog) -> dict[str, Any]:
    return {
        name: getattr(log, name)
        for name in ("weak", "strong", "weak_chance", "served_weak", "p_success")
    }


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda log: estimate_accuracy(log, 1.5), "weak_share is no chance"),
        (lambda log: estimate_accuracy(log, 1.0, confidence=1.0), "confidence is 1.0"),
        (lambda log: estimate_accuracy(log, 1.0, groups=["a"]), "1 groups of 2 requests"),
        (lambda log: estimate_accuracy(log, 1.0, p_success=[0.5]), "1 chances are foretold of 2"),
        (lambda log: estimate_cost(log, 1.0, shadow_share=1.0), "shadow_share is 1.0"),
        (lambda _: selected_auroc([1.0], [1.0, 0.0], [1.0, 1.0]), r"have \[1, 2\] rows"),
    ],
)
def test_columns_that_do_not_fit_are_refused(call, says):
    log = served([1, 0], [1, 1], [0.5, 0.5], [True, True])
    with pytest.raises(InputError, match=says):
        call(log)
