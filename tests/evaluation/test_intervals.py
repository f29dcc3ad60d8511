"""Statistics under weights, and the bootstrap on top of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.calibration import auroc
from foretell.evaluation import Interval, apgr, cpt
from foretell.evaluation._intervals import Resamples, interval
from foretell.evaluation._statistics import apgr_of, auroc_of, cpt_of, mean_of

outcome = st.sampled_from([0.0, 0.25, 1.0])
rows = st.lists(
    st.tuples(st.integers(-3, 3), outcome, outcome, st.integers(0, 3)), min_size=1, max_size=12
)


def columns(rows):
    return tuple(np.array(column, dtype=float) for column in zip(*rows, strict=True))


def value(statistic, weights):
    found = float(statistic(weights[None, :])[0])
    return found if np.isfinite(found) else None


@given(rows)
def test_weighted_auroc_is_the_one_of_the_calibration_room(rows):
    score, weak, _, weight = columns(rows)
    expected = auroc(score, weak, weight) if weight.any() else None
    assert value(auroc_of(score, weak), weight) == pytest.approx(expected)


@given(rows)
def test_a_weight_is_that_many_rows(rows):
    score, weak, strong, weight = columns([*rows, (0, 0.0, 1.0, 1)])
    repeated = [np.repeat(column, weight.astype(int)) for column in (score, weak, strong)]
    assert value(apgr_of(score, weak, strong), weight) == pytest.approx(apgr(*repeated))
    assert value(cpt_of(score, weak, strong, 0.5), weight) == pytest.approx(
        cpt(*repeated, target=0.5)
    )
    assert value(mean_of(weak), weight) == pytest.approx(repeated[1].mean())


@given(rows)
def test_many_resamples_at_once_are_one_after_the_other(rows):
    score, weak, strong, weight = columns(rows)
    weights = np.stack([weight, weight[::-1], np.ones(len(weight))])
    weights[:, 0] += 1
    for statistic in (auroc_of(score, weak), apgr_of(score, weak, strong), mean_of(weak)):
        together = statistic(weights)
        alone = np.concatenate([statistic(one[None, :]) for one in weights])
        assert np.allclose(together, alone, equal_nan=True)


def test_a_bootstrap_of_a_mean_has_the_textbook_width():
    generator = np.random.default_rng(0)
    values = generator.normal(size=400)
    draws = Resamples.draw([str(i) for i in range(400)], generator, 4_000)
    found = interval(mean_of(values), draws, np.arange(400))
    # 1.96 standard errors on either side; 4,000 draws settle the ends to a few percent.
    width = 2 * 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(width, rel=0.08)
    assert found.n == 400


def test_copies_within_a_group_add_no_certainty():
    generator = np.random.default_rng(0)
    values = generator.normal(size=60)
    once = interval(
        mean_of(values), Resamples.draw([str(i) for i in range(60)], generator), np.arange(60)
    )
    copied = interval(
        mean_of(np.repeat(values, 9)),
        Resamples.draw([str(i // 9) for i in range(540)], generator),
        np.arange(540),
    )
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.15)


def test_weights_come_in_chunks_that_make_no_difference(monkeypatch):
    draws = Resamples.draw([str(i // 2) for i in range(30)], np.random.default_rng(0), 100)
    values = np.arange(30.0)
    whole = interval(mean_of(values), draws, np.arange(30))
    monkeypatch.setattr("foretell.evaluation._intervals._CHUNK_NUMBERS", 70)
    assert [len(chunk) for chunk in draws.weights(np.arange(30))] == [2] * 50
    assert interval(mean_of(values), draws, np.arange(30)) == whole


def test_an_undefined_value_has_no_interval():
    draws = Resamples.draw(["a", "b", "c"], np.random.default_rng(0), 50)
    one_class = auroc_of(np.arange(3.0), np.ones(3))
    assert interval(one_class, draws, np.arange(3)) == Interval(value=None, n=3)


def test_resamples_where_the_value_is_undefined_are_left_out():
    draws = Resamples.draw(["a", "b", "c"], np.random.default_rng(0), 200)
    found = interval(auroc_of(np.arange(3.0), np.array([0.0, 1.0, 1.0])), draws, np.arange(3))
    assert found == Interval(value=1.0, low=1.0, high=1.0, n=3)


def test_one_group_has_no_interval():
    draws = Resamples.draw(["a", "a"], np.random.default_rng(0), 50)
    assert interval(mean_of(np.array([0.0, 1.0])), draws, np.arange(2)) == Interval(value=0.5, n=2)
