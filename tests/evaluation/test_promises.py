"""What goals promise on training queries, what came on test queries, and what a gate declines."""

from dataclasses import replace

import numpy as np
import pytest

from foretell.config import QualityGoal
from foretell.errors import ConfigError, InputError
from foretell.evaluation._gate_evidence import gate_evidence
from foretell.evaluation._guarantees import guarantee_rows
from foretell.probes import HeldOut, fit_gate
from foretell.records import ReadPoint
from foretell.runtime import bar_for


def answered(n, *, seed, ranks_well=True):
    """Chances of the weak model, what it does, and a strong one that is right nine times in ten."""
    generator = np.random.default_rng(seed)
    p_success = generator.random(n)
    weak = (generator.random(n) < (p_success if ranks_well else 0.5)).astype(float)
    return p_success, weak, (generator.random(n) < 0.9).astype(float)


def held_out(n=2_000, **how):
    p_success, weak, strong = answered(n, seed=1, **how)
    return HeldOut(p_success=p_success, weak=weak, strong=strong)


def unseen(make_data, n=400):
    p_success, weak, strong = answered(n, seed=2)
    return replace(make_data(n), weak=weak, strong=strong), p_success


def rows_of(evidence, test, p_success, **options):
    return guarantee_rows(
        evidence, test, p_success, np.random.default_rng(0), resamples=50, **options
    )


def test_each_row_follows_the_rule_of_a_route_with_that_goal(make_data):
    evidence, (test, p_success) = held_out(), unseen(make_data)
    rows = rows_of(evidence, test, p_success)
    assert [row.quality for row in rows] == [0.9, 0.95, 1.0]
    for row in rows:
        bar = bar_for(QualityGoal(quality=row.quality, confidence=0.9), evidence)
        kept = p_success >= bar.keep_at
        assert (row.keep_at, row.promise) == (bar.keep_at, bar.reason)
        assert row.strong_share.value == pytest.approx(1 - kept.mean())
        routed = np.where(kept, test.weak, test.strong).mean()
        assert row.routed_accuracy.value == pytest.approx(routed)
        assert row.margin.value == pytest.approx(routed - row.quality * test.strong.mean())
        assert row.held is (row.margin.value >= -1e-12)


def test_a_higher_goal_never_sends_fewer_to_the_strong_model(make_data):
    shares = [row.strong_share.value for row in rows_of(held_out(), *unseen(make_data))]
    assert shares == sorted(shares)


def test_a_goal_that_labels_cannot_support_escalates_everything_and_says_how_many_would(make_data):
    (row,) = rows_of(held_out(25), *unseen(make_data), qualities=(0.95,))
    assert not row.guaranteed
    assert row.strong_share.value == 1
    assert row.held
    assert row.labels_needed is not None
    assert f"about {row.labels_needed} would" in row.promise


def test_a_rule_about_the_gain_needs_both_chances(make_data):
    test, _ = unseen(make_data)

    def half_hopeless(n, seed):
        """Every other query both models fail, and the strong one gets all others right."""
        p_success, weak, _ = answered(n, seed=seed)
        hopeless = np.arange(n) % 2 == 0
        p_success = np.where(hopeless, 0.01, p_success)
        return p_success, np.where(hopeless, 0.0, weak), 1.0 - hopeless

    p_success, weak, strong = half_hopeless(2_000, 1)
    of_training = HeldOut(p_success=p_success, weak=weak, strong=strong, p_strong=strong)
    of_test, weak, strong = half_hopeless(len(test), 2)
    test = replace(test, weak=weak, strong=strong)
    (by_gain,) = rows_of(of_training, test, of_test, p_strong=strong, qualities=(0.95,))
    (alone,) = rows_of(of_training, test, of_test, qualities=(0.95,))
    assert by_gain.by_gain
    assert not alone.by_gain
    assert by_gain.strong_share.value < alone.strong_share.value - 0.3


def test_queries_without_both_outcomes_do_not_count(make_data):
    test, p_success = unseen(make_data)
    half = replace(test, strong=np.where(np.arange(len(test)) % 2, np.nan, test.strong))
    rows = np.arange(len(test)) % 2 == 0
    some = rows_of(held_out(), half, p_success)
    alone = rows_of(held_out(), test.take(rows), p_success[rows])
    for one, other in zip(some, alone, strict=True):
        assert one.routed_accuracy.value == pytest.approx(other.routed_accuracy.value)
        assert one.margin.value == pytest.approx(other.margin.value)
        assert one.strong_share.n == other.strong_share.n == 200
    nothing = rows_of(held_out(), replace(test, strong=np.empty(0)), p_success)
    assert {row.held for row in nothing} == {None}
    assert {row.routed_accuracy.value for row in nothing} == {None}


def test_without_evidence_of_the_strong_model_there_is_no_promise(make_data):
    evidence = held_out()
    blind = replace(evidence, strong=np.full(len(evidence.strong), np.nan))
    with pytest.raises(ConfigError, match="collect --with-strong"):
        rows_of(blind, *unseen(make_data))


def test_chances_of_other_queries_are_refused(make_data):
    test, p_success = unseen(make_data)
    with pytest.raises(InputError, match=r"p_success has shape \(399,\) for 400 test queries"):
        rows_of(held_out(), test, p_success[1:])
    with pytest.raises(InputError, match="no test queries"):
        rows_of(held_out(), test.take(np.arange(0)), p_success[:0])
    with pytest.raises(InputError, match="p_strong has shape"):
        rows_of(held_out(), test, p_success, p_strong=p_success[1:])


POINT = ReadPoint(2)


@pytest.fixture
def gate(train):
    return fit_gate(train.activations[POINT], POINT, seed=0, components=4)


def test_a_gate_spares_its_own_domain_and_declines_another(gate, test_set, make_data):
    foreign = make_data(60, seed=5)
    foreign = replace(
        foreign,
        domain=("elsewhere",) * 60,
        activations={POINT: foreign.activations[POINT] + np.float32(200)},
    )
    found = gate_evidence(gate, test_set, np.random.default_rng(0), others=foreign, resamples=50)
    assert found.read_point == POINT
    assert found.asked == gate.settings.false_alarm
    outside = gate.outside(test_set.activations[POINT])
    assert found.own.value == pytest.approx(np.mean(outside))
    assert found.others["elsewhere"].value == 1
    assert found.others["elsewhere"].n == 60


def test_queries_of_its_own_domain_are_no_foreign_ones(gate, test_set, make_data):
    found = gate_evidence(
        gate, test_set, np.random.default_rng(0), others=make_data(30), resamples=20
    )
    assert found.others == {}


def test_a_gate_without_its_activations_is_refused(gate, test_set):
    bare = replace(test_set, activations={})
    with pytest.raises(InputError, match="layer 2, last, which was not collected"):
        gate_evidence(gate, bare, np.random.default_rng(0))
