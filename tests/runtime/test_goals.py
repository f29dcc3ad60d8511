from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.config import QualityGoal, RiskGoal, StrongShareGoal, ThresholdGoal
from foretell.errors import ConfigError
from foretell.probes import HeldOut
from foretell.runtime import bar_for, gain_ranks_better, share_within_budget

MONEY = st.floats(0, 1, allow_subnormal=False)


def held_out(
    p: Sequence[float], *, weak: Sequence[float] = (), strong: Sequence[float] = ()
) -> HeldOut:
    return HeldOut(
        p_success=np.array(p),
        weak=np.array(weak or [0.0] * len(p)),
        strong=np.array(strong or [np.nan] * len(p)),
    )


def calibrated(n: int = 2000) -> HeldOut:
    """Chances that are true to their word; the strong model is right nine times in ten."""
    rng = np.random.default_rng(0)
    p = rng.random(n)
    return HeldOut(
        p_success=p,
        weak=(rng.random(n) < p).astype(float),
        strong=(rng.random(n) < 0.9).astype(float),
    )


def test_a_threshold_is_taken_as_it_is():
    bar = bar_for(ThresholdGoal(threshold=0.6), held_out([0.1]))
    assert (bar.keep_at, bar.reason) == (0.6, "the configured threshold")


@given(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=1, max_size=50, unique=True))
def test_the_strong_share_is_that_of_the_held_out_queries(share, p):
    bar = bar_for(StrongShareGoal(strong_share=share), held_out(p))
    escalated = sum(chance < bar.keep_at for chance in p)
    assert abs(escalated - share * len(p)) <= 1


def test_the_reason_of_a_share_names_it():
    assert "40%" in bar_for(StrongShareGoal(strong_share=0.4), held_out([0.1, 0.9])).reason


@pytest.mark.parametrize("quality", [0.7, 0.9])
def test_a_quality_that_evidence_supports_is_held_on_it(quality):
    evidence = calibrated()
    bar = bar_for(QualityGoal(quality=quality, confidence=0.9), evidence)
    kept = evidence.p_success >= bar.keep_at
    routed = np.where(kept, evidence.weak, evidence.strong).mean()
    assert 0 < kept.mean() < 1
    assert routed >= quality * evidence.strong.mean()


def test_more_quality_never_keeps_more():
    evidence = calibrated()
    bars = [bar_for(QualityGoal(quality=q), evidence).keep_at for q in (0.6, 0.8, 0.9, 0.95, 1)]
    assert bars == sorted(bars)


def test_a_quality_without_enough_evidence_keeps_nothing_and_says_why():
    few = held_out([0.9, 0.8], weak=[1, 1], strong=[1, 1])
    bar = bar_for(QualityGoal(quality=0.99, confidence=0.99), few)
    assert not (few.p_success >= bar.keep_at).any()
    assert bar.reason


def test_queries_without_a_strong_label_are_no_evidence_of_quality():
    evidence = calibrated()
    half = np.arange(2000) % 2 == 0
    partly = HeldOut(
        p_success=evidence.p_success,
        weak=evidence.weak,
        strong=np.where(half, evidence.strong, np.nan),
    )
    known = HeldOut(
        p_success=evidence.p_success[half], weak=evidence.weak[half], strong=evidence.strong[half]
    )
    goal = QualityGoal(quality=0.8)
    assert bar_for(goal, partly) == bar_for(goal, known)


def test_quality_needs_labels_of_the_strong_model():
    with pytest.raises(ConfigError, match="collect --with-strong"):
        bar_for(QualityGoal(quality=0.9), held_out([0.5, 0.6], weak=[0, 1]))


@given(MONEY, MONEY, MONEY)
def test_a_budget_is_held_unless_the_weak_model_alone_exceeds_it(budget, weak, strong):
    share = share_within_budget(budget, weak_usd=weak, strong_usd=strong)
    assert 0 <= share <= 1
    assert weak + share * strong <= max(budget, weak) + 1e-9


def test_a_budget_between_the_two_buys_a_share():
    # 6 = 1 for the weak model, and half of the strong model's 10.
    assert share_within_budget(6, weak_usd=1, strong_usd=10) == 0.5


def test_a_strong_model_that_costs_nothing_may_answer_everything():
    assert share_within_budget(0, weak_usd=1, strong_usd=0) == 1


def half_hopeless(n: int = 4000) -> HeldOut:
    """Half of the queries are beyond both models; the weak model's chance does not tell which."""
    rng = np.random.default_rng(1)
    p = rng.random(n) * 0.5
    p_strong = np.where(rng.random(n) < 0.5, p, 0.98)
    return HeldOut(
        p_success=p,
        weak=(rng.random(n) < p).astype(float),
        strong=(rng.random(n) < p_strong).astype(float),
        p_strong=p_strong,
    )


def test_a_quality_is_held_by_gain_where_that_escalates_less():
    evidence = half_hopeless()
    goal = QualityGoal(quality=0.9, confidence=0.9)
    by_gain = bar_for(goal, evidence)
    by_chance = bar_for(goal, replace(evidence, p_strong=np.empty(0)))
    assert by_gain.least_gain is not None
    assert by_chance.least_gain is None
    kept = by_gain.keeps(evidence)
    assert kept.mean() > by_chance.keeps(evidence).mean() + 0.2
    routed = np.where(kept, evidence.weak, evidence.strong).mean()
    assert routed >= 0.9 * evidence.strong.mean()


def test_a_share_goes_to_those_that_gain_most_where_gain_is_foretold():
    evidence = half_hopeless()
    assert gain_ranks_better(evidence)
    bar = bar_for(StrongShareGoal(strong_share=0.3), evidence)
    escalated = ~bar.keeps(evidence)
    assert escalated.mean() == pytest.approx(0.3, abs=0.01)
    assert (evidence.p_strong[escalated] == 0.98).all()


def test_gain_that_ranks_no_better_is_not_used():
    evidence = calibrated()
    constant = replace(evidence, p_strong=np.full(len(evidence.weak), 0.9))
    assert not gain_ranks_better(constant)
    assert bar_for(StrongShareGoal(strong_share=0.3), constant).least_gain is None


def test_a_risk_is_held_on_the_evidence():
    evidence = calibrated()
    bar = bar_for(RiskGoal(risk=0.05), evidence)
    kept = evidence.p_success >= bar.keep_at
    lost = np.maximum(evidence.strong - evidence.weak, 0.0)
    assert 0.03 < (lost * kept).mean() <= 0.05


def test_queries_that_stand_together_promise_less():
    evidence = calibrated()
    together = replace(evidence, groups=np.repeat(np.arange(len(evidence.weak) // 20), 20) * 1.0)
    goal = QualityGoal(quality=0.8)
    assert bar_for(goal, together).keep_at > bar_for(goal, evidence).keep_at


def test_a_bar_is_chosen_as_if_no_rule_had_chosen_whose_answers_are_seen():
    """Half of all queries are hard, but of those only one in ten was seen: the share is of all."""
    n = 4000
    rng = np.random.default_rng(0)
    hard = rng.random(n) < 0.5
    seen = rng.random(n) < np.where(hard, 0.1, 1.0)
    p_success = np.where(hard, 0.4, 0.6) * rng.random(n)
    held_out = HeldOut(
        p_success=p_success[seen],
        weak=np.ones(seen.sum()),
        strong=np.full(seen.sum(), np.nan),
        weak_chance=np.where(hard, 0.1, 0.999)[seen],
    )
    naive = replace(held_out, weak_chance=np.empty(0))
    goal = StrongShareGoal(strong_share=0.4)
    assert (p_success < bar_for(goal, held_out).keep_at).mean() == pytest.approx(0.4, abs=0.05)
    assert (p_success < bar_for(goal, naive).keep_at).mean() > 0.47


def test_held_out_queries_are_taken_with_all_that_is_known_of_them():
    held_out = HeldOut(
        p_success=np.array([0.1, 0.2, 0.3]),
        weak=np.array([0.0, 1.0, 1.0]),
        strong=np.array([1.0, np.nan, 0.0]),
        weak_chance=np.array([1.0, 0.5, 0.25]),
        p_pool={"mid": np.array([0.4, 0.5, 0.6])},
        pool={"mid": np.array([1.0, 0.0, np.nan])},
    )
    taken = held_out.take(np.array([True, False, True]))
    assert taken.p_success.tolist() == [0.1, 0.3]
    assert taken.weak_chance.tolist() == [1.0, 0.25]
    assert taken.p_pool["mid"].tolist() == [0.4, 0.6]
    assert taken.pool["mid"][0] == 1.0
    assert not len(taken.p_strong)
    assert HeldOut.from_tensors(taken.tensors()).weak_chance.tolist() == [1.0, 0.25]
